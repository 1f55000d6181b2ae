//! System calls that the standard library does not have.

use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub fn path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

pub fn check(result: libc::c_long) -> io::Result<i64> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Runs `work` in a child process as that user; its result is the child's exit code, 255 for a signal.
pub fn as_user(uid: u32, gid: u32, groups: &[u32], work: impl FnOnce() -> i32) -> i32 {
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            let became = libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == 0
                && libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
                && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0;
            libc::_exit(if became { work() } else { 254 });
        }
        let mut status = 0;
        libc::waitpid(pid, &mut status, 0);
        if libc::WIFEXITED(status) {
            libc::WEXITSTATUS(status)
        } else {
            255
        }
    }
}

/// 0 or errno, for `as_user`.
pub fn code(result: libc::c_int) -> i32 {
    if result < 0 {
        unsafe { *libc::__errno_location() }
    } else {
        0
    }
}

pub fn rename2(from: &Path, to: &Path, flags: u32) -> io::Result<()> {
    let (from, to) = (path(from), path(to));
    check(unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            flags,
        )
    })
    .map(drop)
}

pub fn set_xattr(file: &Path, name: &str, value: &[u8], flags: i32) -> io::Result<()> {
    let (file, name) = (path(file), CString::new(name)?);
    check(unsafe { libc::setxattr(file.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) }.into())
        .map(drop)
}

pub fn get_xattr(file: &Path, name: &str) -> io::Result<Vec<u8>> {
    let (file, name) = (path(file), CString::new(name)?);
    let mut value = vec![0u8; 64 << 10];
    let n = unsafe { libc::getxattr(file.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(check(n as libc::c_long)? as usize);
    Ok(value)
}

pub fn list_xattr(file: &Path) -> io::Result<Vec<String>> {
    let file = path(file);
    let mut names = vec![0u8; 64 << 10];
    let n = unsafe { libc::listxattr(file.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(check(n as libc::c_long)? as usize);
    Ok(names
        .split(|b| *b == 0)
        .filter(|n| !n.is_empty())
        .map(|n| String::from_utf8_lossy(n).into_owned())
        .collect())
}

pub fn remove_xattr(file: &Path, name: &str) -> io::Result<()> {
    let (file, name) = (path(file), CString::new(name)?);
    check(unsafe { libc::removexattr(file.as_ptr(), name.as_ptr()) }.into()).map(drop)
}

pub fn allocate(fd: RawFd, mode: i32, offset: i64, length: i64) -> io::Result<()> {
    check(unsafe { libc::fallocate(fd, mode, offset, length) }.into()).map(drop)
}

pub fn seek(fd: RawFd, offset: i64, whence: i32) -> io::Result<i64> {
    check(unsafe { libc::lseek(fd, offset, whence) })
}

pub fn utimes(file: &Path, atime: (i64, i64), mtime: (i64, i64), flags: i32) -> io::Result<()> {
    let file = path(file);
    let times = [atime, mtime].map(|(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec });
    check(unsafe { libc::utimensat(libc::AT_FDCWD, file.as_ptr(), times.as_ptr(), flags) }.into()).map(drop)
}
