//! As whom the share acts: files are made as the user who makes them in the guest, so that owner and group are right from the first
//! moment. The capabilities stay (SECBIT_NO_SETUID_FIXUP): who may do what was decided by the guest's kernel (default_permissions), which knows
//! all groups of the user; the share knows one.
//!
//! These are system calls of the thread; libc's would change all threads.

use crate::sys::Errno;

/// Until it is dropped, this thread makes files as that user.
pub struct As(());

impl As {
    pub fn user(uid: u32, gid: u32) -> Result<Self, Errno> {
        if (uid, gid) == (0, 0) {
            return Ok(As(())); // it is
        }
        set(uid, gid);
        let now = As(());
        // setfsuid(2) tells of no failure; asked again with an impossible id it tells what is.
        if current() == (uid, gid) {
            Ok(now)
        } else {
            Err(libc::EPERM)
        }
    }
}

impl Drop for As {
    fn drop(&mut self) {
        set(0, 0);
    }
}

fn set(uid: u32, gid: u32) {
    // SAFETY: takes numbers. The group first.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    }
}

fn current() -> (u32, u32) {
    // SAFETY: takes numbers; -1 is never valid, so nothing changes.
    unsafe {
        let uid = libc::syscall(libc::SYS_setfsuid, u32::MAX) as u32;
        let gid = libc::syscall(libc::SYS_setfsgid, u32::MAX) as u32;
        (uid, gid)
    }
}
