//! What answers one request, put together in a buffer that the worker keeps.

use crate::sys::{self, Errno};
use podvm_share_wire::{OUT_HEADER, TRAILER};
use std::time::Duration;

/// How long the guest's kernel takes names and attributes for true without asking. What the host changes is seen after at most this time;
/// an open() asks at once, and data is dropped when the asked size or time of the file has changed.
pub const VALID: Duration = Duration::from_secs(1);

pub struct Reply {
    bytes: Vec<u8>,
}

impl Reply {
    pub fn new() -> Self {
        Reply {
            bytes: vec![0; OUT_HEADER],
        }
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(OUT_HEADER, 0);
    }

    /// Bytes after the head.
    pub fn len(&self) -> usize {
        self.bytes.len() - OUT_HEADER
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(OUT_HEADER + len);
    }

    pub fn u16(&mut self, number: u16) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    pub fn u32(&mut self, number: u32) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    pub fn u64(&mut self, number: u64) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn zeroes(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }

    /// `count` bytes as `fill` puts them there; it tells how many.
    pub fn fill(&mut self, count: usize, fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) -> Result<usize, Errno> {
        let start = self.bytes.len();
        self.bytes.resize(start + count, 0);
        let filled = fill(&mut self.bytes[start..]);
        let n = *filled.as_ref().unwrap_or(&0);
        self.bytes.truncate(start + n.min(count));
        filled
    }

    /// struct fuse_attr.
    pub fn attributes(&mut self, stat: &libc::statx) {
        self.u64(inode_number(stat));
        self.u64(stat.stx_size);
        self.u64(stat.stx_blocks);
        for time in [&stat.stx_atime, &stat.stx_mtime, &stat.stx_ctime] {
            self.u64(time.tv_sec as u64);
        }
        for time in [&stat.stx_atime, &stat.stx_mtime, &stat.stx_ctime] {
            self.u32(time.tv_nsec);
        }
        self.u32(u32::from(stat.stx_mode));
        self.u32(stat.stx_nlink);
        self.u32(stat.stx_uid);
        self.u32(stat.stx_gid);
        self.u32((stat.stx_rdev_major << 8) | (stat.stx_rdev_minor & 0xff) | ((stat.stx_rdev_minor & !0xff) << 12));
        self.u32(stat.stx_blksize);
        self.u32(0);
    }

    /// struct fuse_attr_out.
    pub fn attributes_valid(&mut self, stat: &libc::statx) {
        self.u64(VALID.as_secs());
        self.u32(VALID.subsec_nanos());
        self.u32(0);
        self.attributes(stat);
    }

    /// struct fuse_entry_out.
    pub fn entry(&mut self, node: u64, stat: &libc::statx) {
        self.u64(node);
        self.u64(0); // numbers are never used again, so one generation does
        self.u64(VALID.as_secs());
        self.u64(VALID.as_secs());
        self.u32(VALID.subsec_nanos());
        self.u32(VALID.subsec_nanos());
        self.attributes(stat);
    }

    /// The whole message.
    pub fn finish(&mut self, unique: u64, result: Result<(), Errno>, trailer: &[u8; TRAILER]) -> &[u8] {
        if result.is_err() {
            self.truncate(0);
        }
        let len = self.bytes.len() as u32;
        let error = result.err().map_or(0, |errno| -errno);
        self.bytes[..4].copy_from_slice(&len.to_le_bytes());
        self.bytes[4..8].copy_from_slice(&error.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&unique.to_le_bytes());
        self.bytes.extend_from_slice(trailer);
        &self.bytes
    }
}

impl Default for Reply {
    fn default() -> Self {
        Self::new()
    }
}

/// Volumes of several file systems are one in the guest: the device goes into the number's high bits, which file systems leave free, or two
/// files with the same number would be taken for hard links of each other.
pub fn inode_number(stat: &libc::statx) -> u64 {
    let device = (u64::from(stat.stx_dev_major) << 20) ^ u64::from(stat.stx_dev_minor);
    let mixed = device.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    stat.stx_ino ^ (mixed << 48)
}

pub fn folder_entry_kind(stat: &libc::statx) -> u32 {
    sys::kind(stat) >> 12
}
