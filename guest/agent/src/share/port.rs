//! The port from threads: reads that wait, writes that give up when the host is gone.

use crate::sys;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A write looks this often whether a new share has come meanwhile.
const LOOK_MS: libc::c_int = 200;

pub struct Port {
    fd: OwnedFd,
    /// Edge-triggered: a port without a host is "hung up" all the time, and only the change is of interest.
    epoll: OwnedFd,
}

impl Port {
    /// `fd` does not block.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let epoll = unsafe { OwnedFd::from_raw_fd(sys::check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        let events = (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLET) as u32;
        let mut event = libc::epoll_event { events, u64: 0 };
        sys::check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event) })?;
        Ok(Port { fd, epoll })
    }

    /// Waits for bytes, through any number of hosts that come and go.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match sys::read(&self.fd, buffer) {
                Ok(0) => {} // nobody on the other side
                Ok(n) => return Ok(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            let mut seen = libc::epoll_event { events: 0, u64: 0 };
            unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &mut seen, 1, -1) };
        }
    }

    /// All of it; false as soon as the host is gone or `stale` says that nobody wants it any more.
    pub fn write(&self, mut data: &[u8], stale: impl Fn() -> bool) -> io::Result<bool> {
        while !data.is_empty() {
            match sys::write(&self.fd, data) {
                Ok(n) => {
                    data = &data[n..];
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
            let mut poll = libc::pollfd {
                fd: self.fd.as_raw_fd(),
                events: libc::POLLOUT,
                revents: 0,
            };
            unsafe { libc::poll(&mut poll, 1, LOOK_MS) };
            if poll.revents & libc::POLLHUP != 0 || stale() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
