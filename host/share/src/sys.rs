//! Thin wrappers of system calls: each returns `io::Result` or an errno, and takes Rust types.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// An errno of libc.
pub type Errno = i32;

pub fn errno() -> Errno {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// -1 becomes errno.
pub fn check(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result < 0 {
        Err(errno())
    } else {
        Ok(result)
    }
}

pub fn check_long(result: libc::c_long) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| errno())
}

pub fn cstring(bytes: &[u8]) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| libc::EINVAL)
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// No symbolic link, no magic link of /proc, nothing above `folder`: openat2(2). `name` is one entry.
pub fn open_entry(folder: RawFd, name: &CStr, flags: libc::c_int, mode: u32) -> Result<OwnedFd, Errno> {
    const NO_MAGICLINKS: u64 = 0x02;
    const NO_SYMLINKS: u64 = 0x04;
    const BENEATH: u64 = 0x08;
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: u64::from(mode),
        resolve: NO_MAGICLINKS | NO_SYMLINKS | BENEATH,
    };
    loop {
        // SAFETY: name is closed by a zero, how is a whole open_how of the size given; both outlive the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                folder,
                name.as_ptr(),
                &raw const how,
                size_of::<OpenHow>(),
            )
        };
        match check(fd as libc::c_int) {
            // A rename elsewhere in the tree at the same moment.
            Err(libc::EAGAIN) => {}
            // SAFETY: just made, nobody else's.
            opened => return opened.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
        }
    }
}

pub fn open_path(path: &CStr, flags: libc::c_int) -> Result<OwnedFd, Errno> {
    // SAFETY: path is closed by a zero.
    let fd = check(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) })?;
    // SAFETY: just made, nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the descriptor itself is, whatever it is open for.
pub fn stat(fd: RawFd) -> Result<libc::statx, Errno> {
    const MNT_ID: libc::c_uint = 0x1000;
    // SAFETY: all zeroes is a valid statx.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    let mask = libc::STATX_BASIC_STATS | MNT_ID;
    // SAFETY: the empty path and stat outlive the call.
    check(unsafe { libc::statx(fd, c"".as_ptr(), flags, mask, &raw mut stat) })?;
    Ok(stat)
}

pub fn kind(stat: &libc::statx) -> u32 {
    u32::from(stat.stx_mode) & libc::S_IFMT
}

pub fn raw(fd: &OwnedFd) -> RawFd {
    fd.as_raw_fd()
}

/// Bytes from the kernel's generator.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: bytes has room for N.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    if n == N as isize {
        Ok(bytes)
    } else {
        Err(io::Error::last_os_error())
    }
}
