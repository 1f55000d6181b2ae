//! Time and randomness that a VM restored from a template must not share with its siblings.

use crate::sys;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;

// linux/random.h
const RNDADDENTROPY: u64 = 0x4008_5203;
const RNDRESEEDCRNG: u64 = 0x5207;

/// Nanoseconds since the epoch.
pub fn set(realtime_ns: i64) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: realtime_ns.div_euclid(1_000_000_000),
        tv_nsec: realtime_ns.rem_euclid(1_000_000_000),
    };
    sys::check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &time) }).map(drop)
}

/// Credits the bytes in full to the kernel's pool and makes the generator take a new key from it.
pub fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    let device = fs::OpenOptions::new().write(true).open("/dev/urandom")?;
    let length = bytes.len() as i32;
    let mut pool = Vec::with_capacity(8 + bytes.len());
    pool.extend_from_slice(&(length * 8).to_ne_bytes());
    pool.extend_from_slice(&length.to_ne_bytes());
    pool.extend_from_slice(bytes);
    sys::check(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY as _, pool.as_ptr()) })?;
    sys::check(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG as _) }).map(drop)
}
