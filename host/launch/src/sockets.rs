//! Listening sockets, made by root outside the VMM's root, so that the VMM has no folder to write in and nothing to swap.
use crate::document::Socket;
use crate::failure::{check, Failure};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// One listening socket (mode 0600, root's) per entry, in order. After a failure none is left.
pub fn listen(sockets: &[Socket]) -> Result<Vec<OwnedFd>, Failure> {
    // SAFETY: takes a number; the process has one thread.
    let before = unsafe { libc::umask(0o177) };
    let made: Result<Vec<_>, Failure> = sockets
        .iter()
        .enumerate()
        .map(|(i, socket)| {
            listen_one(&socket.path).inspect_err(|_| {
                for earlier in &sockets[..i] {
                    let _ = std::fs::remove_file(&earlier.path);
                }
            })
        })
        .collect();
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    made
}

fn listen_one(path: &str) -> Result<OwnedFd, Failure> {
    let step = format!("listen on {path}");
    let address = address(path)?;
    // SAFETY: takes numbers.
    let raw = check(&step, unsafe {
        libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: just made, nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    let size = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: address is a whole sockaddr_un of that size, closed by a zero.
    check(&step, unsafe {
        libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size)
    })?;
    // SAFETY: takes numbers.
    let listening = check(&step, unsafe { libc::listen(fd.as_raw_fd(), 4) });
    if let Err(failure) = listening {
        let _ = std::fs::remove_file(path);
        return Err(failure);
    }
    Ok(fd)
}

fn address(path: &str) -> Result<libc::sockaddr_un, Failure> {
    // SAFETY: all zeroes is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let room = address.sun_path.len();
    if path.len() >= room {
        return Err(Failure::invalid(format!(
            "sockets: {path:?} is longer than {} bytes",
            room - 1
        )));
    }
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(address)
}
