//! OPEN, CREATE, TMPFILE.

use super::{FileSystem, Request};
use crate::credentials::As;
use crate::handles::Handle;
use crate::reply::Reply;
use crate::sys::{self, Errno};
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

impl FileSystem {
    pub(super) fn open(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let node = self.node(request)?;
        if node.kind == libc::S_IFDIR {
            return Err(libc::EISDIR);
        }
        let file = self.reopen(&node, file_flags(request.u32(0)?))?;
        self.answer_open(file, reply)
    }

    pub(super) fn create(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let (flags, mode, name) = (request.u32(0)?, request.u32(4)? & 0o7777, request.name(16)?);
        let parent = self.parent(request.header.node)?;
        let exclusive = flags & libc::O_EXCL as u32 != 0 && !request.resent();
        let made = {
            let _user = As::user(request.header.uid, request.header.gid)?;
            let flags = file_flags(flags) | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
            sys::open_entry(parent.raw(), name, flags, mode)
        };
        match made {
            Ok(file) => {
                let number = self.answer_entry(parent.raw(), name, reply)?;
                self.or_forget(number, |fs| fs.answer_open(file, reply))
            }
            // Made on the host since the guest looked, or by an earlier share.
            Err(libc::EEXIST) if !exclusive => self.open_existing(parent.raw(), name, flags, reply),
            Err(errno) => Err(errno),
        }
    }

    fn open_existing(&self, parent: i32, name: &CStr, flags: u32, reply: &mut Reply) -> Result<(), Errno> {
        let number = self.answer_entry(parent, name, reply)?;
        self.or_forget(number, |fs| {
            let file = fs.reopen(&*fs.nodes.get(number)?, file_flags(flags))?;
            fs.answer_open(file, reply)
        })
    }

    /// When the work fails, the answer that counted the node is not given.
    fn or_forget(&self, number: u64, work: impl FnOnce(&Self) -> Result<(), Errno>) -> Result<(), Errno> {
        work(self).inspect_err(|_| self.nodes.forget(number, 1))
    }

    pub(super) fn tmpfile(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let (flags, mode) = (request.u32(0)?, request.u32(4)? & 0o7777);
        let parent = self.parent(request.header.node)?;
        let file = {
            let _user = As::user(request.header.uid, request.header.gid)?;
            let flags = file_flags(flags) | libc::O_TMPFILE | (flags as libc::c_int & libc::O_EXCL);
            sys::open_entry(parent.raw(), c".", flags, mode)?
        };
        let name = super::descriptor_name(file.as_raw_fd());
        // SAFETY: name is closed by a zero.
        let path = sys::check(unsafe {
            libc::openat(
                self.descriptors.as_raw_fd(),
                name.as_ptr(),
                libc::O_PATH | libc::O_CLOEXEC,
            )
        })?;
        // SAFETY: just made, nobody else's.
        let number = self.answer_found(unsafe { OwnedFd::from_raw_fd(path) }, reply)?;
        self.or_forget(number, |fs| fs.answer_open(file, reply))
    }

    /// struct fuse_open_out. Without KEEP_CACHE: pages of the guest are dropped, so that who opens a file sees what the host has written.
    pub(super) fn answer_open(&self, file: OwnedFd, reply: &mut Reply) -> Result<(), Errno> {
        let handle = self.handles.add(Handle::File(File::from(file)))?;
        reply.u64(handle);
        reply.zeroes(8);
        Ok(())
    }
}

/// Of the guest's flags those that mean something on the host. O_DIRECT does not: it is the guest's cache that is gone around, and the host has
/// rules of its own for the buffers' place and length. Nothing of the host may make a worker wait: O_NONBLOCK.
pub(super) fn file_flags(flags: u32) -> libc::c_int {
    let kept = libc::O_ACCMODE | libc::O_APPEND | libc::O_TRUNC | libc::O_SYNC | libc::O_DSYNC | libc::O_NOATIME;
    (flags as libc::c_int & kept) | libc::O_NONBLOCK | libc::O_NOCTTY
}
