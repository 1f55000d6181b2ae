//! Connections over the virtio-serial port.
//!
//! The port is one file for the whole life of the VM; a host side that comes and goes shows as POLLHUP. Two pitfalls shape this:
//! tokio's AsyncFd keeps "closed" for ever once it has seen POLLHUP, so each connection registers a descriptor of its own; and a
//! port without a host answers EAGAIN, so EAGAIN on a closed registration means the end, or it would be asked for ever.

use super::conn::{Conn, NextHello};
use super::outbox::Outbox;
use super::{greet, serve};
use crate::hello::{is_hello, HELLO_LEN};
use crate::service::Service;
use crate::{log, sys};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::sync::mpsc;

const NAME: &str = "podvm.agent";
const APPEARS_WITHIN: Duration = Duration::from_secs(30);

/// Opens the agent's port; waits for its driver.
pub async fn open() -> io::Result<OwnedFd> {
    open_named(NAME).await
}

/// Opens the port of that name, which may have been added this moment. It does not block.
pub async fn open_named(name: &str) -> io::Result<OwnedFd> {
    let deadline = Instant::now() + APPEARS_WITHIN;
    loop {
        if let Some(path) = find(name) {
            match fs::OpenOptions::new().read(true).write(true).open(&path) {
                Ok(file) => {
                    sys::set_nonblocking(&file)?;
                    return Ok(file.into());
                }
                Err(e) if Instant::now() > deadline => return Err(e),
                Err(_) => {}
            }
        } else if Instant::now() > deadline {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no virtio-serial port {name:?}"),
            ));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn find(wanted: &str) -> Option<String> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports.flatten().find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        (name.trim() == wanted).then(|| format!("/dev/{}", port.file_name().to_string_lossy()))
    })
}

/// Serves one connection after the other, for ever.
pub async fn run(service: Service, port: OwnedFd) -> Result<(), String> {
    let (sender, receiver) = mpsc::channel(1);
    let mut server = tokio::spawn(serve(service, receiver));
    let connections = async {
        let next = NextHello::default();
        loop {
            if let Err(e) = connection(&port, &sender, &next).await {
                if e.kind() != io::ErrorKind::UnexpectedEof && e.kind() != io::ErrorKind::BrokenPipe {
                    log::warn(format!("link: {e}"));
                    // An error that repeats at once must not eat the processor.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::select! {
        result = &mut server => result.map_err(|e| e.to_string())?,
        () = connections => Ok(()),
    }
}

async fn connection(port: &OwnedFd, server: &mpsc::Sender<io::Result<Conn<Port>>>, next: &NextHello) -> io::Result<()> {
    wait_for_host(port).await?;
    let first = next
        .lock()
        .unwrap_or_else(|e| e.into_inner())
        .take()
        .unwrap_or_default();
    let mut stream = Port::new(sys::watch_fd(
        port.try_clone()?,
        Interest::READABLE | Interest::WRITABLE,
    )?);
    let head = greet(&mut stream, &first).await?;
    let (conn, handle) = Conn::new(stream, head, Some(next.clone()));
    if server.send(Ok(conn)).await.is_err() {
        return Err(io::Error::other("the gRPC server is gone"));
    }
    log::debug("server connected");
    drop(handle.gone.await);
    log::debug("server disconnected");
    Ok(())
}

/// Returns when the host side is open. An epoll of our own, edge-triggered, inside tokio's: woken when the host comes, and idle until then.
async fn wait_for_host(port: &OwnedFd) -> io::Result<()> {
    let epoll = unsafe { OwnedFd::from_raw_fd(sys::check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
    let events = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLET) as u32;
    let mut event = libc::epoll_event { events, u64: 0 };
    sys::check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, port.as_raw_fd(), &mut event) })?;
    let epoll = sys::watch_fd(epoll, Interest::READABLE)?;
    loop {
        let mut poll = libc::pollfd {
            fd: port.as_raw_fd(),
            events: libc::POLLIN | libc::POLLOUT,
            revents: 0,
        };
        sys::check(unsafe { libc::poll(&mut poll, 1, 0) })?;
        if poll.revents & libc::POLLHUP == 0 {
            return Ok(());
        }
        let mut ready = epoll.readable().await?;
        let mut seen = libc::epoll_event { events: 0, u64: 0 };
        if unsafe { libc::epoll_wait(epoll.as_raw_fd(), &mut seen, 1, 0) } <= 0 {
            ready.clear_ready();
        }
    }
}

/// The host's bytes come in buffers of this size (drivers/char/virtio_console.c), one for each read.
const HOST_BUFFER: usize = 4096;

/// The port during one connection.
pub struct Port {
    fd: Arc<AsyncFd<OwnedFd>>,
    outbox: Outbox,
    /// A hello that was read behind other bytes: given out by itself, as it came.
    hello: Option<[u8; HELLO_LEN]>,
}

impl Port {
    fn new(fd: AsyncFd<OwnedFd>) -> Self {
        let fd = Arc::new(fd);
        Port {
            outbox: Outbox::new(fd.clone()),
            fd,
            hello: None,
        }
    }
}

impl AsyncRead for Port {
    /// As much as is there.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(hello) = self.hello.take() {
            if buf.remaining() < HELLO_LEN {
                return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
            }
            buf.put_slice(&hello);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        loop {
            let filled = buf.filled().len();
            let mut guard = match self.fd.poll_read_ready(cx) {
                Poll::Ready(guard) => guard?,
                Poll::Pending if filled > before => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            };
            if guard.ready().is_read_closed() {
                // The host has gone. What is left in the port is stale, or the hello of the next: the next connection reads it.
                return Poll::Ready(Ok(()));
            }
            // Safety: bytes are written to it and none is read.
            let n = match sys::read_spare(self.fd.get_ref(), unsafe { buf.unfilled_mut() }) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    guard.clear_ready();
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Poll::Ready(Err(e)),
            };
            drop(guard);
            unsafe { buf.assume_init(n) };
            buf.advance(n);
            let new = &buf.filled()[filled..];
            if filled > before && is_hello(new) {
                let mut hello = [0; HELLO_LEN];
                hello.copy_from_slice(new);
                buf.set_filled(filled);
                self.hello = Some(hello);
                return Poll::Ready(Ok(()));
            }
            if n < HOST_BUFFER || buf.remaining() < HOST_BUFFER {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.outbox.poll_write(cx, &[io::IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.outbox.poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written goes out by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outbox.poll_written(cx)
    }
}
