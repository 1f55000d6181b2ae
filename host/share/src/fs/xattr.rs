//! Extended attributes. `trusted.*` belongs to the host's administrator (overlayfs keeps its whiteouts there): the guest's are kept beside it,
//! under a name that means nothing to the host's kernel. Of `security.*` only file capabilities are the guest's to set.

use super::{descriptor_name, FileSystem, Request};
use crate::nodes::Node;
use crate::reply::Reply;
use crate::sys::{self, Errno};
use podvm_share_wire::bytes::text_at;
use podvm_share_wire::ROOT;
use std::ffi::CString;
use std::sync::Arc;

const TRUSTED: &[u8] = b"trusted.";
const KEPT: &[u8] = b"user.podvm.trusted.";
/// XATTR_SIZE_MAX and XATTR_LIST_MAX.
const MOST: usize = 64 << 10;

impl FileSystem {
    pub(super) fn set_xattr(&self, request: &Request) -> Result<(), Errno> {
        let (size, flags) = (request.u32(0)? as usize, request.u32(4)? as libc::c_int);
        let name = text_at(request.body, 8).ok_or(libc::EINVAL)?;
        let value = request.body.get(8 + name.len() + 1..).ok_or(libc::EINVAL)?;
        if value.len() != size || size > MOST {
            return Err(libc::EINVAL);
        }
        let name = host_name(name)?;
        let (_node, file) = self.changeable(request)?;
        // SAFETY: names are closed by zeroes, value has its length.
        let set =
            sys::check(unsafe { libc::setxattr(file.as_ptr(), name.as_ptr(), value.as_ptr().cast(), size, flags) });
        match set {
            Err(libc::EEXIST) if request.resent() => Ok(()),
            set => set.map(drop),
        }
    }

    pub(super) fn get_xattr(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let size = request.u32(0)? as usize;
        let node = self.node(request)?;
        let (file, name) = (
            descriptor_name(node.raw()),
            host_name(text_at(request.body, 8).ok_or(libc::EINVAL)?)?,
        );
        let get = |buffer: &mut [u8]| {
            // SAFETY: names are closed by zeroes, buffer has its length.
            sys::check_long(unsafe {
                libc::getxattr(file.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
            } as libc::c_long)
        };
        if size == 0 {
            let length = get(&mut [])?;
            reply.u32(length as u32);
            reply.u32(0);
            return Ok(());
        }
        reply.fill(size.min(MOST), get).map(drop)
    }

    pub(super) fn list_xattr(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let size = request.u32(0)? as usize;
        let node = self.node(request)?;
        let file = descriptor_name(node.raw());
        let mut names = vec![0u8; MOST];
        // SAFETY: file is closed by a zero, names has its length.
        let length = sys::check_long(
            unsafe { libc::listxattr(file.as_ptr(), names.as_mut_ptr().cast(), names.len()) } as libc::c_long,
        )?;
        let mut shown = Vec::with_capacity(length);
        for name in names[..length].split_inclusive(|b| *b == 0) {
            if let Some(rest) = name.strip_prefix(KEPT) {
                shown.extend_from_slice(TRUSTED);
                shown.extend_from_slice(rest);
            } else if !name.starts_with(TRUSTED)
                && (!name.starts_with(b"security.") || name.starts_with(b"security.capability\0"))
            {
                shown.extend_from_slice(name);
            }
        }
        if size == 0 {
            reply.u32(shown.len() as u32);
            reply.u32(0);
        } else if shown.len() > size {
            return Err(libc::ERANGE);
        } else {
            reply.bytes(&shown);
        }
        Ok(())
    }

    pub(super) fn remove_xattr(&self, request: &Request) -> Result<(), Errno> {
        let name = host_name(text_at(request.body, 0).ok_or(libc::EINVAL)?)?;
        let (_node, file) = self.changeable(request)?;
        // SAFETY: both are closed by zeroes.
        let removed = sys::check(unsafe { libc::removexattr(file.as_ptr(), name.as_ptr()) });
        match removed {
            Err(libc::ENODATA) if request.resent() => Ok(()),
            removed => removed.map(drop),
        }
    }

    /// The node, to be held while its name is used: a guest that forgets it meanwhile must not have the descriptor's number given to another.
    fn changeable(&self, request: &Request) -> Result<(Arc<Node>, CString), Errno> {
        if request.header.node == ROOT {
            return Err(libc::EROFS);
        }
        let node = self.node(request)?;
        let name = descriptor_name(node.raw());
        Ok((node, name))
    }
}

fn host_name(name: &[u8]) -> Result<CString, Errno> {
    if let Some(rest) = name.strip_prefix(TRUSTED) {
        return sys::cstring(&[KEPT, rest].concat());
    }
    if name.starts_with(b"user.") || name == b"security.capability" {
        return sys::cstring(name);
    }
    Err(libc::EOPNOTSUPP)
}
