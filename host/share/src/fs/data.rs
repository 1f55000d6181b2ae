//! The contents of open files.

use super::{FileSystem, Request};
use crate::handles::Handle;
use crate::reply::Reply;
use crate::sys::{self, Errno};
use podvm_share_wire::MAX_DATA;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::FileExt;

impl FileSystem {
    pub(super) fn read(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let (offset, size) = (request.u64(8)?, request.u32(16)? as usize);
        self.with_file(request, 0, |file| {
            reply.fill(size.min(MAX_DATA), |buffer| read_all(file, buffer, offset))
        })
        .map(drop)
    }

    pub(super) fn write(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let (offset, size) = (request.u64(8)?, request.u32(16)? as usize);
        let data = request.body.get(40..).ok_or(libc::EINVAL)?;
        if data.len() != size || size > MAX_DATA {
            return Err(libc::EINVAL);
        }
        self.with_file(request, 0, |file| {
            // One that appends must not be carried out twice; the guest's offset is where the first time put it, unless somebody else
            // appended in between.
            if request.resent() && appends(file.as_raw_fd()) && holds(file, data, offset) {
                return Ok(());
            }
            write_all(file, data, offset)
        })?;
        reply.u32(size as u32);
        reply.u32(0);
        Ok(())
    }

    /// A close() in the guest: so that errors of a network file system are told to who closes.
    pub(super) fn flush(&self, request: &Request) -> Result<(), Errno> {
        self.with_file(request, 0, |file| {
            // SAFETY: takes numbers; the copy is closed once, and is nobody else's.
            unsafe {
                let copy = sys::check(libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0))?;
                sys::check(libc::close(copy)).map(drop)
            }
        })
    }

    pub(super) fn fsync(&self, request: &Request) -> Result<(), Errno> {
        let data_only = request.u32(8)? & 1 != 0;
        self.with_descriptor(request, 0, |fd| {
            // SAFETY: takes numbers.
            sys::check(unsafe {
                if data_only {
                    libc::fdatasync(fd)
                } else {
                    libc::fsync(fd)
                }
            })
            .map(drop)
        })
    }

    /// The whole of the file system that the node lies on is the host's, not the guest's to flush: files are, by fsync.
    pub(super) fn syncfs(&self, _: &Request) -> Result<(), Errno> {
        Ok(())
    }

    pub(super) fn fallocate(&self, request: &Request) -> Result<(), Errno> {
        let (offset, length, mode) = (request.u64(8)?, request.u64(16)?, request.u32(24)?);
        self.with_file(request, 0, |file| {
            // SAFETY: takes numbers.
            sys::check(unsafe {
                libc::fallocate(
                    file.as_raw_fd(),
                    mode as libc::c_int,
                    offset as libc::off_t,
                    length as libc::off_t,
                )
            })
            .map(drop)
        })
    }

    pub(super) fn lseek(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let (offset, whence) = (request.u64(8)?, request.u32(16)? as libc::c_int);
        if whence != libc::SEEK_DATA && whence != libc::SEEK_HOLE {
            return Err(libc::EINVAL);
        }
        self.with_file(request, 0, |file| {
            // SAFETY: takes numbers. Reads and writes give their own offsets, so the file's own is free for this.
            let at = unsafe { libc::lseek(file.as_raw_fd(), offset as libc::off_t, whence) };
            reply.u64(sys::check_long(at)? as u64);
            Ok(())
        })
    }

    pub(super) fn copy_file_range(&self, request: &Request, reply: &mut Reply) -> Result<(), Errno> {
        let (mut from, mut to) = (request.u64(8)? as libc::loff_t, request.u64(32)? as libc::loff_t);
        let (length, flags) = (request.u64(40)?, request.u64(48)?);
        if flags != 0 {
            return Err(libc::EINVAL);
        }
        // The answer has 32 bits, and a worker must come back: the guest asks again for the rest.
        let length = length.min(64 << 20) as usize;
        let copied = self.with_file(request, 0, |source| {
            self.with_file(request, 24, |target| {
                // SAFETY: both offsets outlive the call.
                let n = unsafe {
                    libc::syscall(
                        libc::SYS_copy_file_range,
                        source.as_raw_fd(),
                        &raw mut from,
                        target.as_raw_fd(),
                        &raw mut to,
                        length,
                        0,
                    )
                };
                sys::check_long(n)
            })
        })?;
        reply.u32(copied as u32);
        reply.u32(0);
        Ok(())
    }

    /// The file whose handle stands at `at` of the body.
    fn with_file<T>(
        &self,
        request: &Request,
        at: usize,
        work: impl FnOnce(&File) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match &*self.handles.get(request.u64(at)?)? {
            Handle::File(file) => work(file),
            Handle::Folder(_) => Err(libc::EISDIR),
        }
    }

    fn with_descriptor(
        &self,
        request: &Request,
        at: usize,
        work: impl FnOnce(RawFd) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        match &*self.handles.get(request.u64(at)?)? {
            Handle::File(file) => work(file.as_raw_fd()),
            Handle::Folder(folder) => {
                let fd = folder
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .fd
                    .as_raw_fd();
                // SAFETY: takes numbers. A copy, so that nobody waits for the lock meanwhile.
                let copy = sys::check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) })?;
                // SAFETY: just made, nobody else's.
                let copy = unsafe { std::os::fd::OwnedFd::from_raw_fd(copy) };
                work(copy.as_raw_fd())
            }
        }
    }
}

/// Until the end of the file or of the buffer.
fn read_all(file: &File, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) if filled > 0 => break,
            Err(e) => return Err(e.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
    Ok(filled)
}

fn write_all(file: &File, data: &[u8], offset: u64) -> Result<(), Errno> {
    let mut written = 0;
    while written < data.len() {
        match file.write_at(&data[written..], offset + written as u64) {
            Ok(0) => return Err(libc::EIO),
            Ok(n) => written += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
    Ok(())
}

fn appends(fd: RawFd) -> bool {
    // SAFETY: takes numbers.
    unsafe { libc::fcntl(fd, libc::F_GETFL) & libc::O_APPEND != 0 }
}

/// Whether the file has just this at that place. A file that is open only for writing cannot tell, and is written.
fn holds(file: &File, data: &[u8], offset: u64) -> bool {
    let mut there = vec![0; data.len()];
    read_all(file, &mut there, offset) == Ok(data.len()) && there == data
}
