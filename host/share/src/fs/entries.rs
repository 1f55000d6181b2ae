//! Names in folders: LOOKUP, and what makes, moves and removes them.
//!
//! A request that is sent again after a share's death may have been carried out by it: then what it would make is there already, what it would
//! remove is gone, and that is its success.

use super::{descriptor_name, FileSystem, Request};
use crate::credentials::As;
use crate::reply::Reply;
use crate::sys::{self, Errno};
use podvm_share_wire::bytes::text_at;
use podvm_share_wire::{op, ROOT};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, RawFd};

impl FileSystem {
    pub(super) fn lookup(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let parent = self.node(request)?;
        self.answer_entry(parent.raw(), request.name(0)?, reply).map(drop)
    }

    pub(super) fn mkdir(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let (mode, name) = (request.u32(0)? & 0o7777, request.name(8)?);
        self.make(request, name, reply, |parent| {
            // SAFETY: name is closed by a zero.
            unsafe { libc::mkdirat(parent, name.as_ptr(), mode) }
        })
    }

    /// Files, FIFOs and sockets; of devices only overlay's whiteout, 0:0, which is no device.
    pub(super) fn mknod(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let (mode, device, name) = (request.u32(0)?, request.u32(4)?, request.name(16)?);
        match mode & libc::S_IFMT {
            0 | libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK => {}
            libc::S_IFCHR if device == 0 => {}
            _ => return Err(libc::EPERM),
        }
        self.make(request, name, reply, |parent| {
            // SAFETY: name is closed by a zero.
            unsafe { libc::mknodat(parent, name.as_ptr(), mode, 0) }
        })
    }

    pub(super) fn symlink(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let name = request.name(0)?;
        let target = text_at(request.body, name.to_bytes_with_nul().len()).ok_or(libc::EINVAL)?;
        let target = sys::cstring(target)?;
        self.make(request, name, reply, |parent| {
            // SAFETY: both are closed by zeroes.
            unsafe { libc::symlinkat(target.as_ptr(), parent, name.as_ptr()) }
        })
    }

    pub(super) fn link(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let (node, name) = (self.nodes.get(request.u64(0)?)?, request.name(8)?);
        let parent = self.parent(request.header.node)?;
        let from = descriptor_name(node.raw());
        // SAFETY: both names are closed by zeroes. The magic link leads to the node, also where that is a symbolic link itself.
        let made = sys::check(unsafe {
            libc::linkat(
                self.descriptors.as_raw_fd(),
                from.as_ptr(),
                parent.raw(),
                name.as_ptr(),
                libc::AT_SYMLINK_FOLLOW,
            )
        });
        done_before(request, made, libc::EEXIST)?;
        self.answer_entry(parent.raw(), name, reply).map(drop)
    }

    pub(super) fn unlink(&self, request: &Request, flags: libc::c_int) -> Result<(), Errno> {
        let (parent, name) = (self.parent(request.header.node)?, request.name(0)?);
        // SAFETY: name is closed by a zero.
        let removed = sys::check(unsafe { libc::unlinkat(parent.raw(), name.as_ptr(), flags) });
        done_before(request, removed, libc::ENOENT)
    }

    /// `names`: where in the body they begin.
    pub(super) fn rename(&self, request: &Request, names: usize, flags: u32) -> Result<(), Errno> {
        let (from, to) = (self.parent(request.header.node)?, self.parent(request.u64(0)?)?);
        let name = request.name(names)?;
        let new_name = request.name(names + name.to_bytes_with_nul().len())?;
        // SAFETY: both names are closed by zeroes. musl has no renameat2.
        let renamed = sys::check(unsafe {
            libc::syscall(
                libc::SYS_renameat2,
                from.raw(),
                name.as_ptr(),
                to.raw(),
                new_name.as_ptr(),
                flags,
            )
        } as libc::c_int);
        match renamed {
            Err(libc::ENOENT) if request.resent() && exists(to.raw(), new_name) => Ok(()),
            renamed => renamed.map(drop),
        }
    }

    pub(super) fn readlink(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let node = self.node(request)?;
        let read = reply.fill(libc::PATH_MAX as usize, |buffer| {
            // SAFETY: the empty name means the descriptor itself: readlink(2). buffer has room for its length.
            sys::check_long(unsafe {
                libc::readlinkat(node.raw(), c"".as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
            } as libc::c_long)
        })?;
        debug_assert!(read <= libc::PATH_MAX as usize);
        Ok(())
    }

    /// Makes `name` as the user who asks, and answers it.
    fn make(
        &self,
        request: &Request,
        name: &CStr,
        reply: &mut Reply,
        call: impl FnOnce(RawFd) -> libc::c_int,
    ) -> Result<(), Errno> {
        let parent = self.parent(request.header.node)?;
        let made = {
            let _user = As::user(request.header.uid, request.header.gid)?;
            sys::check(call(parent.raw()))
        };
        done_before(request, made, libc::EEXIST)?;
        self.answer_entry(parent.raw(), name, reply).map(drop)
    }
}

/// Whether an error means that an earlier share had done it.
fn done_before(request: &Request, result: Result<libc::c_int, Errno>, means_done: Errno) -> Result<(), Errno> {
    debug_assert!(request.header.opcode != op::LOOKUP && request.header.node != ROOT);
    match result {
        Err(errno) if errno == means_done && request.resent() => Ok(()),
        result => result.map(drop),
    }
}

fn exists(parent: RawFd, name: &CStr) -> bool {
    sys::open_entry(parent, name, libc::O_PATH | libc::O_NOFOLLOW, 0).is_ok()
}
