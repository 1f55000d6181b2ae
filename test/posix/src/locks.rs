//! Locks, between processes of one guest.

use crate::regular::open_new;
use crate::{raw, same, Check, Outcome};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

pub const CHECKS: &[Check] = &[
    ("flock, and its conflict", flock),
    ("fcntl lock, and its conflict", posix),
];

fn flock(dir: &Path) -> Outcome {
    let path = dir.join("f");
    let (one, two) = (open_new(&path)?, open_new(&path)?);
    let lock = |file: &File, how| raw::code(unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) });
    same("first", lock(&one, libc::LOCK_EX), 0)?;
    same("second", lock(&two, libc::LOCK_SH), libc::EWOULDBLOCK)?;
    same("unlock", lock(&one, libc::LOCK_UN), 0)?;
    same("second then", lock(&two, libc::LOCK_SH), 0)
}

fn posix(dir: &Path) -> Outcome {
    let file = open_new(&dir.join("f"))?;
    let fd = file.as_raw_fd();
    let lock = move |start: i64| {
        let mut range: libc::flock = unsafe { std::mem::zeroed() };
        range.l_type = libc::F_WRLCK as libc::c_short;
        range.l_start = start;
        range.l_len = 10;
        raw::code(unsafe { libc::fcntl(fd, libc::F_SETLK, &range) })
    };
    same("first", lock(0), 0)?;
    let other = raw::as_user(0, 0, &[], || lock(5));
    same(
        "overlapping, by another process",
        other == libc::EAGAIN || other == libc::EACCES,
        true,
    )?;
    same("elsewhere", raw::as_user(0, 0, &[], || lock(100)), 0)
}
