//! OPENDIR, READDIR, READDIRPLUS.

use super::{FileSystem, Request};
use crate::handles::{Folder, Handle};
use crate::reply::{folder_entry_kind, Reply};
use crate::sys::{self, Errno};
use podvm_share_wire::{DIRENT, ENTRY_OUT, MAX_DATA};
use std::ffi::CStr;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};

/// Bytes of entries read from the host at once.
const CHUNK: usize = 32 << 10;
/// In linux_dirent64: inode 8, offset 8, length 2, kind 1, then the name.
const HOST_HEAD: usize = 19;

struct HostEntry<'a> {
    inode: u64,
    /// Where the next one is.
    next: u64,
    kind: u8,
    name: &'a CStr,
}

impl FileSystem {
    pub(super) fn open_folder(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let node = self.node(request)?;
        let fd = self.reopen(&node, libc::O_RDONLY | libc::O_DIRECTORY)?;
        let folder = Folder { fd, at: Some(0) };
        reply.u64(self.handles.add(Handle::Folder(Mutex::new(folder)))?);
        reply.zeroes(8);
        Ok(())
    }

    pub(super) fn read_folder(&self, request: &Request, reply: &mut Reply, plus: bool) -> Result<(), Errno> {
        let (offset, room) = (request.u64(8)?, request.u32(16)? as usize);
        let handle = self.handles.get(request.u64(0)?)?;
        let Handle::Folder(folder) = &*handle else {
            return Err(libc::ENOTDIR);
        };
        let mut folder = folder.lock().unwrap_or_else(PoisonError::into_inner);
        self.list(&mut folder, offset, room.min(MAX_DATA), reply, plus)
    }

    fn list(&self, folder: &mut Folder, offset: u64, room: usize, reply: &mut Reply, plus: bool) -> Result<(), Errno> {
        if folder.at != Some(offset) {
            // SAFETY: takes numbers.
            let at = unsafe { libc::lseek(folder.fd.as_raw_fd(), offset as libc::off_t, libc::SEEK_SET) };
            sys::check_long(at)?;
        }
        folder.at = None;
        // Entries that do not fit are read again: as little too much as can be.
        let mut chunk = vec![0u8; room.clamp(1024, CHUNK)];
        let mut at = offset;
        loop {
            // SAFETY: chunk has room for its length.
            let read = unsafe {
                libc::syscall(
                    libc::SYS_getdents64,
                    folder.fd.as_raw_fd(),
                    chunk.as_mut_ptr(),
                    chunk.len(),
                )
            };
            let read = match sys::check_long(read) {
                Err(_) if !reply.is_empty() => 0,
                // Buffer too small for one entry, as no name is: or the folder is gone, and so it is empty.
                Err(libc::ENOENT) => 0,
                read => read?,
            };
            if read == 0 {
                folder.at = Some(at);
                return Ok(());
            }
            let mut rest = &chunk[..read];
            while let Some((entry, after)) = next_entry(rest) {
                match self.put_entry(folder, &entry, room, reply, plus) {
                    Ok(true) => {}
                    Ok(false) => return Ok(()),
                    Err(_) if !reply.is_empty() => return Ok(()),
                    Err(errno) => return Err(errno),
                }
                at = entry.next;
                rest = after;
            }
            // What is still to come would hardly fit.
            if reply.len() + room / 8 > room {
                folder.at = Some(at);
                return Ok(());
            }
        }
    }

    /// False where it does not fit.
    fn put_entry(
        &self,
        folder: &Folder,
        entry: &HostEntry,
        room: usize,
        reply: &mut Reply,
        plus: bool,
    ) -> Result<bool, Errno> {
        let name = entry.name.to_bytes();
        let size = (DIRENT + name.len()).next_multiple_of(8) + if plus { ENTRY_OUT } else { 0 };
        if reply.len() + size > room {
            return Ok(false);
        }
        let begin = reply.len();
        let (mut inode, mut kind) = (entry.inode, u32::from(entry.kind));
        if plus {
            if name == b"." || name == b".." {
                reply.zeroes(ENTRY_OUT); // node 0: not looked up
            } else {
                match self.look(folder, entry.name) {
                    Ok((fd, stat)) => {
                        (inode, kind) = (crate::reply::inode_number(&stat), folder_entry_kind(&stat));
                        let node = self.nodes.found(fd, &stat)?;
                        reply.entry(node, &stat);
                    }
                    // Gone meanwhile: it is listed, and who looks it up is told.
                    Err(libc::ENOENT) => reply.zeroes(ENTRY_OUT),
                    Err(errno) => return Err(errno),
                }
            }
        }
        reply.u64(inode);
        reply.u64(entry.next);
        reply.u32(name.len() as u32);
        reply.u32(kind);
        reply.bytes(name);
        reply.zeroes(begin + size - reply.len());
        Ok(true)
    }

    fn look(&self, folder: &Folder, name: &CStr) -> Result<(std::os::fd::OwnedFd, libc::statx), Errno> {
        let fd = sys::open_entry(folder.fd.as_raw_fd(), name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
        let stat = sys::stat(fd.as_raw_fd())?;
        Ok((fd, stat))
    }
}

/// The first entry of getdents64's bytes, and what follows it.
fn next_entry(bytes: &[u8]) -> Option<(HostEntry<'_>, &[u8])> {
    use podvm_share_wire::bytes::u64_at;
    let length = usize::from(u16::from_le_bytes(bytes.get(16..18)?.try_into().ok()?));
    let entry = HostEntry {
        inode: u64_at(bytes, 0)?,
        next: u64_at(bytes, 8)?,
        kind: *bytes.get(18)?,
        name: CStr::from_bytes_until_nul(bytes.get(HOST_HEAD..length)?).ok()?,
    };
    Some((entry, &bytes[length..]))
}
