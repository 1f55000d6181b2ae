//! What is on its way into the port. HTTP/2 writes piece by piece, nine bytes of a frame's head by themselves; each write to the port is a request to the
//! VMM and an interrupt when it is done. So a task of its own writes, and takes at once whatever has gathered meanwhile.

use crate::sys;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Twice what the kernel takes in one write (drivers/char/virtio_console.c); there are two buffers of this size.
const SIZE: usize = 64 << 10;

/// The writing half of one connection. Dropped, it writes nothing more, whatever it holds.
pub struct Outbox {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Default)]
struct State {
    /// Not yet taken by the writer.
    gathered: Vec<u8>,
    /// The writer has bytes in hand.
    writing: bool,
    /// Who waits for room, or for all to be written.
    waiter: Option<Waker>,
    failed: Option<io::ErrorKind>,
    closed: bool,
}

impl Outbox {
    pub fn new(fd: Arc<AsyncFd<OwnedFd>>) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            filled: Notify::new(),
        });
        tokio::spawn(write(fd, shared.clone()));
        Outbox { shared }
    }

    /// Takes as much of the slices as there is room for, at least one byte.
    pub fn poll_write(&self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        if let Some(kind) = state.failed {
            return Poll::Ready(Err(kind.into()));
        }
        let before = state.gathered.len();
        if before >= SIZE {
            state.waiter = Some(cx.waker().clone());
            return Poll::Pending;
        }
        for slice in slices {
            let room = SIZE - state.gathered.len();
            state.gathered.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        let taken = state.gathered.len() - before;
        if before == 0 && taken > 0 {
            self.shared.filled.notify_one();
        }
        Poll::Ready(Ok(taken))
    }

    /// Ready when the port has taken everything.
    pub fn poll_written(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        if let Some(kind) = state.failed {
            return Poll::Ready(Err(kind.into()));
        }
        if state.gathered.is_empty() && !state.writing {
            return Poll::Ready(Ok(()));
        }
        state.waiter = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.filled.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

async fn write(fd: Arc<AsyncFd<OwnedFd>>, shared: Arc<Shared>) {
    let mut bytes = Vec::with_capacity(SIZE);
    shared.lock().gathered.reserve_exact(SIZE);
    loop {
        shared.filled.notified().await;
        loop {
            {
                let mut state = shared.lock();
                state.writing = !state.gathered.is_empty();
                if let Some(waiter) = state.waiter.take() {
                    waiter.wake();
                }
                if state.closed {
                    return;
                }
                if !state.writing {
                    break;
                }
                mem::swap(&mut state.gathered, &mut bytes);
            }
            let result = write_all(&fd, &bytes, &shared).await;
            bytes.clear();
            if let Err(e) = result {
                let mut state = shared.lock();
                state.failed = Some(e.kind());
                if let Some(waiter) = state.waiter.take() {
                    waiter.wake();
                }
                return;
            }
        }
    }
}

async fn write_all(fd: &AsyncFd<OwnedFd>, mut bytes: &[u8], shared: &Shared) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut guard = fd.writable().await?;
        // The next connection's host must not get what was meant for this one's.
        if guard.ready().is_write_closed() || shared.lock().closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        match sys::write(fd.get_ref(), bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
