//! The tap, and the numbers at which the VMM finds its descriptors.
use crate::document::{Document, Tap, FIRST_OWN_FD};
use crate::failure::{check, Failure};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Opens an existing tap of the calling process's network namespace, with virtio-net headers and without packet information.
pub fn open_tap(tap: &Tap) -> Result<OwnedFd, Failure> {
    let step = format!("open tap {}", tap.name);
    let mut request = interface_request(&tap.name);
    must_exist(&step, &mut request)?;
    let tun = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(|e| Failure::io(format!("{step}: /dev/net/tun"), &e))?;
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: request is a whole ifreq that outlives the call.
    check(&step, unsafe {
        libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request)
    })?;
    Ok(tun.into())
}

/// TUNSETIFF would make a tap that nothing is connected to where the name does not exist.
fn must_exist(step: &str, request: &mut libc::ifreq) -> Result<(), Failure> {
    // SAFETY: takes numbers.
    let raw = check(step, unsafe {
        libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: just made, nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: request is a whole ifreq that outlives the call.
    check(step, unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCGIFINDEX as _,
            request as *mut libc::ifreq,
        )
    })?;
    Ok(())
}

fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// A copy above the numbers that the VMM is given, closed on exec.
pub fn raise(fd: RawFd) -> Result<OwnedFd, Failure> {
    // SAFETY: takes numbers.
    let high = check("raise descriptor", unsafe {
        libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, FIRST_OWN_FD)
    })?;
    // SAFETY: just made, nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(high) })
}

/// Puts sockets and tap at their numbers; all else is closed, now or (what the launcher itself still needs) on exec.
/// Standard input and output lead to /dev/null, standard error stays the launcher's and never blocks.
pub fn arrange(
    document: &Document,
    sockets: &[OwnedFd],
    tap: Option<OwnedFd>,
) -> Result<(), Failure> {
    let mut given: Vec<(OwnedFd, RawFd)> = Vec::new();
    for (socket, entry) in sockets.iter().zip(&document.sockets) {
        given.push((raise(socket.as_raw_fd())?, entry.fd));
    }
    if let (Some(fd), Some(entry)) = (&tap, &document.tap) {
        given.push((raise(fd.as_raw_fd())?, entry.fd));
    }
    if let Some(to) = document.stderr_copy {
        given.push((raise(2)?, to));
    }
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| Failure::io("open /dev/null", &e))?;
    given.push((raise(null.as_raw_fd())?, 0));
    given.push((raise(null.as_raw_fd())?, 1));
    // The low numbers change hands below: their former owners must not close them.
    std::mem::forget((tap, null));
    // SAFETY: these take numbers.
    unsafe {
        check(
            "mark descriptors",
            libc::syscall(
                libc::SYS_close_range,
                3,
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            ) as i32,
        )?;
        for (from, to) in &given {
            check("place descriptor", libc::dup2(from.as_raw_fd(), *to))?;
        }
        let flags = check("stderr flags", libc::fcntl(2, libc::F_GETFL))?;
        check(
            "stderr flags",
            libc::fcntl(2, libc::F_SETFL, flags | libc::O_NONBLOCK),
        )?;
    }
    Ok(())
}
