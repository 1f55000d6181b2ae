//! After the death of an earlier share: nodes and open files as the guest's kernel knows them, by the same numbers.

use super::open::file_flags;
use super::FileSystem;
use crate::handles::{Folder, Handle};
use crate::reply::inode_number;
use crate::sys::{self, Errno};
use podvm_share_wire::bytes::u64_at;
use podvm_share_wire::restore::{HandleRecord, NodeRecord, END, HANDLES, NODES};
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Mutex;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    pub nodes: usize,
    pub handles: usize,
    /// Nodes and handles that are stale: removed, or replaced by another file, on the host.
    pub lost: usize,
}

impl FileSystem {
    /// One message of the agent. True: it was the last. EPROTO where it is none of them.
    pub fn restore(&self, opcode: u32, body: &[u8], done: &mut Restored) -> Result<bool, Errno> {
        let mut rest = body;
        match opcode {
            NODES => {
                while !rest.is_empty() {
                    let (record, after) = NodeRecord::parse(rest).ok_or(libc::EPROTO)?;
                    match self.restore_node(&record) {
                        Ok(true) => done.nodes += 1,
                        Ok(false) | Err(_) => done.lost += 1,
                    }
                    rest = after;
                }
                Ok(false)
            }
            HANDLES => {
                while !rest.is_empty() {
                    let (record, after) = HandleRecord::parse(rest).ok_or(libc::EPROTO)?;
                    match self.restore_handle(&record) {
                        Ok(()) => done.handles += 1,
                        Err(_) => done.lost += 1,
                    }
                    rest = after;
                }
                Ok(false)
            }
            END => {
                self.nodes.reserve(u64_at(body, 0).ok_or(libc::EPROTO)?);
                self.handles.reserve(u64_at(body, 8).ok_or(libc::EPROTO)?);
                Ok(true)
            }
            _ => Err(libc::EPROTO),
        }
    }

    fn restore_node(&self, record: &NodeRecord) -> Result<bool, Errno> {
        let parent = self.nodes.get(record.parent)?;
        let name = sys::cstring(record.name)?;
        let fd = self.open_again(parent.raw(), &name)?;
        let stat = sys::stat(fd.as_raw_fd())?;
        Ok(inode_number(&stat) == record.inode && self.nodes.restore(record.node, fd, &stat, record.lookups))
    }

    fn open_again(&self, parent: i32, name: &CStr) -> Result<std::os::fd::OwnedFd, Errno> {
        sys::open_entry(parent, name, libc::O_PATH | libc::O_NOFOLLOW, 0)
    }

    fn restore_handle(&self, record: &HandleRecord) -> Result<(), Errno> {
        let node = self.nodes.get(record.node)?;
        let handle = if record.directory {
            let fd = self.reopen(&node, libc::O_RDONLY | libc::O_DIRECTORY)?;
            Handle::Folder(Mutex::new(Folder { fd, at: Some(0) }))
        } else {
            // What O_TRUNC was to do is done.
            let flags = file_flags(record.flags & !(libc::O_TRUNC as u32));
            Handle::File(File::from(self.reopen(&node, flags)?))
        };
        self.handles.restore(record.handle, handle);
        Ok(())
    }
}
