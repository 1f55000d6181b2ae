//! The file system: one FUSE request in, one reply out. Every field of a request is the guest's to choose; what keeps it in its volumes is that each
//! node is a descriptor of a file that was reached from the root by single names (openat2 without links), in a mount namespace that holds
//! nothing else.

mod attributes;
mod data;
mod entries;
mod folders;
mod init;
mod open;
mod restore;
mod xattr;

pub use restore::Restored;

use crate::handles::Handles;
use crate::nodes::{Node, Nodes};
use crate::reply::Reply;
use crate::sys::{self, Errno};
use podvm_share_wire::bytes::{is_name, text_at, u32_at, u64_at, InHeader};
use podvm_share_wire::{op, IN_HEADER, RESENT, ROOT};
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

pub struct FileSystem {
    nodes: Nodes,
    handles: Handles,
    /// /proc/self/fd, and nothing else of /proc: what opens a node for reading and writing.
    descriptors: OwnedFd,
}

/// One request.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub header: InHeader,
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// A whole message. None where it is none.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let header = InHeader::parse(message)?;
        let body = message.get(IN_HEADER..)?;
        (header.len == message.len()).then_some(Request { header, body })
    }

    fn u32(&self, at: usize) -> Result<u32, Errno> {
        u32_at(self.body, at).ok_or(libc::EINVAL)
    }

    fn u64(&self, at: usize) -> Result<u64, Errno> {
        u64_at(self.body, at).ok_or(libc::EINVAL)
    }

    /// The name of an entry, closed by a zero, at `at` of the body.
    fn name(&self, at: usize) -> Result<&'a CStr, Errno> {
        let name = text_at(self.body, at).ok_or(libc::EINVAL)?;
        if name.len() > podvm_share_wire::MAX_NAME {
            return Err(libc::ENAMETOOLONG);
        }
        if !is_name(name) {
            return Err(libc::EINVAL);
        }
        CStr::from_bytes_with_nul(&self.body[at..=at + name.len()]).map_err(|_| libc::EINVAL)
    }

    /// An earlier share may have carried it out.
    fn resent(&self) -> bool {
        self.header.unique & RESENT != 0
    }
}

impl FileSystem {
    /// `root`: the folder of the volumes (O_PATH). `descriptors`: /proc/self/fd, which must also be the working folder.
    pub fn new(root: OwnedFd, descriptors: OwnedFd, most_nodes: usize) -> Result<Self, Errno> {
        Ok(FileSystem {
            nodes: Nodes::new(root, most_nodes.min(crate::nodes::MOST))?,
            handles: Handles::default(),
            descriptors,
        })
    }

    /// Carries one request out. False: it gets no answer.
    pub fn handle(&self, request: &Request, reply: &mut Reply) -> Result<bool, Errno> {
        match request.header.opcode {
            op::FORGET => {
                self.nodes.forget(request.header.node, request.u64(0).unwrap_or(0));
                return Ok(false);
            }
            op::BATCH_FORGET => {
                self.forget_many(request);
                return Ok(false);
            }
            op::INTERRUPT => return Ok(false),
            op::INIT => init::init(request, reply)?,
            op::DESTROY => {}
            op::LOOKUP => self.lookup(request, reply)?,
            op::GETATTR => self.get_attributes(request, reply)?,
            op::SETATTR => self.set_attributes(request, reply)?,
            op::STATFS => self.statfs(request, reply)?,
            op::READLINK => self.readlink(request, reply)?,
            op::SYMLINK => self.symlink(request, reply)?,
            op::MKNOD => self.mknod(request, reply)?,
            op::MKDIR => self.mkdir(request, reply)?,
            op::UNLINK => self.unlink(request, 0)?,
            op::RMDIR => self.unlink(request, libc::AT_REMOVEDIR)?,
            op::RENAME => self.rename(request, 8, 0)?,
            op::RENAME2 => self.rename(request, 16, request.u32(8)?)?,
            op::LINK => self.link(request, reply)?,
            op::OPEN => self.open(request, reply)?,
            op::CREATE => self.create(request, reply)?,
            op::TMPFILE => self.tmpfile(request, reply)?,
            op::READ => self.read(request, reply)?,
            op::WRITE => self.write(request, reply)?,
            op::FLUSH => self.flush(request)?,
            op::FSYNC | op::FSYNCDIR => self.fsync(request)?,
            op::RELEASE | op::RELEASEDIR => self.handles.remove(request.u64(0)?),
            op::FALLOCATE => self.fallocate(request)?,
            op::LSEEK => self.lseek(request, reply)?,
            op::COPY_FILE_RANGE => self.copy_file_range(request, reply)?,
            op::SYNCFS => self.syncfs(request)?,
            op::OPENDIR => self.open_folder(request, reply)?,
            op::READDIR => self.read_folder(request, reply, false)?,
            op::READDIRPLUS => self.read_folder(request, reply, true)?,
            op::SETXATTR => self.set_xattr(request)?,
            op::GETXATTR => self.get_xattr(request, reply)?,
            op::LISTXATTR => self.list_xattr(request, reply)?,
            op::REMOVEXATTR => self.remove_xattr(request)?,
            // Among them ACCESS, which the guest's kernel decides itself, and locks, which are local to the guest.
            _ => return Err(libc::ENOSYS),
        }
        Ok(true)
    }

    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    fn forget_many(&self, request: &Request) {
        let count = request.u32(0).unwrap_or(0) as usize;
        for i in 0..count {
            let at = 8 + i * 16;
            match (request.u64(at), request.u64(at + 8)) {
                (Ok(node), Ok(times)) => self.nodes.forget(node, times),
                _ => return,
            }
        }
    }

    fn node(&self, request: &Request) -> Result<Arc<Node>, Errno> {
        self.nodes.get(request.header.node)
    }

    /// A folder in which the guest may make and remove: any but the root, whose entries are the volumes.
    fn parent(&self, number: u64) -> Result<Arc<Node>, Errno> {
        if number == ROOT {
            return Err(libc::EROFS);
        }
        self.nodes.get(number)
    }

    /// Finds `name` and answers it as an entry, counted.
    fn answer_entry(&self, parent: RawFd, name: &CStr, reply: &mut Reply) -> Result<u64, Errno> {
        let fd = sys::open_entry(parent, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
        self.answer_found(fd, reply)
    }

    fn answer_found(&self, fd: OwnedFd, reply: &mut Reply) -> Result<u64, Errno> {
        let stat = sys::stat(fd.as_raw_fd())?;
        let node = self.nodes.found(fd, &stat)?;
        reply.entry(node, &stat);
        Ok(node)
    }

    /// Opens the very file of a node. Only files and folders: to open a device or FIFO of the host would act on the host.
    fn reopen(&self, node: &Node, flags: libc::c_int) -> Result<OwnedFd, Errno> {
        match node.kind {
            libc::S_IFREG | libc::S_IFDIR => {}
            libc::S_IFLNK => return Err(libc::ELOOP),
            _ => return Err(libc::ENXIO),
        }
        let name = descriptor_name(node.raw());
        let flags = flags & !(libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_DIRECT) | libc::O_CLOEXEC;
        // SAFETY: name is closed by a zero.
        let fd = sys::check(unsafe { libc::openat(self.descriptors.as_raw_fd(), name.as_ptr(), flags) })?;
        // SAFETY: just made, nobody else's.
        Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) })
    }
}

/// Name of a descriptor in /proc/self/fd: as a path relative to the working folder it is the very file, which calls that take no descriptor
/// opened with O_PATH need.
fn descriptor_name(fd: RawFd) -> CString {
    CString::new(fd.to_string()).unwrap_or_default()
}
