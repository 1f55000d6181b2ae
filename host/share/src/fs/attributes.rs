//! GETATTR, SETATTR, STATFS.

use super::{descriptor_name, FileSystem, Request};
use crate::handles::Handle;
use crate::reply::Reply;
use crate::sys::{self, Errno};
use podvm_share_wire::ROOT;
use std::os::fd::AsRawFd;

/// Bits of fuse_setattr_in.valid.
mod valid {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const HANDLE: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
}

impl FileSystem {
    pub(super) fn get_attributes(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let node = self.node(request)?;
        reply.attributes_valid(&sys::stat(node.raw())?);
        Ok(())
    }

    pub(super) fn set_attributes(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        if request.header.node == ROOT {
            return Err(libc::EROFS);
        }
        let node = self.node(request)?;
        let what = request.u32(0)?;
        let name = descriptor_name(node.raw());
        let folder = self.descriptors.as_raw_fd();
        if what & valid::MODE != 0 {
            if node.kind == libc::S_IFLNK {
                return Err(libc::EOPNOTSUPP);
            }
            let mode = request.u32(68)? & 0o7777;
            // SAFETY: name is closed by a zero.
            sys::check(unsafe { libc::fchmodat(folder, name.as_ptr(), mode, 0) })?;
        }
        if what & (valid::UID | valid::GID) != 0 {
            let unchanged = u32::MAX;
            let uid = if what & valid::UID != 0 {
                request.u32(76)?
            } else {
                unchanged
            };
            let gid = if what & valid::GID != 0 {
                request.u32(80)?
            } else {
                unchanged
            };
            let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
            // SAFETY: the empty name means the descriptor itself.
            sys::check(unsafe { libc::fchownat(node.raw(), c"".as_ptr(), uid, gid, flags) })?;
        }
        if what & valid::SIZE != 0 {
            self.set_size(request, &node, what & valid::HANDLE != 0)?;
        }
        if what & (valid::ATIME | valid::MTIME) != 0 {
            let time = |set: u32, now: u32, seconds: usize, nanoseconds: usize| -> Result<libc::timespec, Errno> {
                let (tv_sec, tv_nsec) = if what & set == 0 {
                    (0, libc::UTIME_OMIT)
                } else if what & now != 0 {
                    (0, libc::UTIME_NOW)
                } else {
                    let nsec = libc::c_long::from(request.u32(nanoseconds)?);
                    if nsec >= 1_000_000_000 {
                        return Err(libc::EINVAL);
                    }
                    (request.u64(seconds)?.cast_signed(), nsec)
                };
                Ok(libc::timespec { tv_sec, tv_nsec })
            };
            let times = [
                time(valid::ATIME, valid::ATIME_NOW, 32, 56)?,
                time(valid::MTIME, valid::MTIME_NOW, 40, 60)?,
            ];
            // SAFETY: two timespecs, and the empty name, which means the descriptor itself.
            sys::check(unsafe { libc::utimensat(node.raw(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH) })?;
        }
        reply.attributes_valid(&sys::stat(node.raw())?);
        Ok(())
    }

    fn set_size(&self, request: &Request, node: &crate::nodes::Node, by_handle: bool) -> Result<(), Errno> {
        let size = libc::off_t::try_from(request.u64(16)?).map_err(|_| libc::EFBIG)?;
        if by_handle {
            if let Ok(handle) = self.handles.get(request.u64(8)?) {
                if let Handle::File(file) = &*handle {
                    // SAFETY: takes numbers.
                    return sys::check(unsafe { libc::ftruncate(file.as_raw_fd(), size) }).map(drop);
                }
            }
        }
        let file = self.reopen(node, libc::O_WRONLY | libc::O_NONBLOCK)?;
        // SAFETY: takes numbers.
        sys::check(unsafe { libc::ftruncate(file.as_raw_fd(), size) }).map(drop)
    }

    /// struct fuse_kstatfs.
    pub(super) fn statfs(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let node = self.node(request)?;
        // SAFETY: all zeroes is a valid statvfs, and it outlives the call.
        let stat = unsafe {
            let mut stat: libc::statvfs = std::mem::zeroed();
            sys::check(libc::fstatvfs(node.raw(), &raw mut stat))?;
            stat
        };
        for number in [stat.f_blocks, stat.f_bfree, stat.f_bavail, stat.f_files, stat.f_ffree] {
            reply.u64(number);
        }
        reply.u32(stat.f_bsize as u32);
        reply.u32(stat.f_namemax as u32);
        reply.u32(stat.f_frsize as u32);
        reply.zeroes(4 * 7);
        Ok(())
    }
}
