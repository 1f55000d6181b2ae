//! Pipes and terminals that carry the streams of containers and commands.

use crate::sys;
use bytes::{Bytes, BytesMut};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;
use tokio::net::UnixListener;

/// What one message carries: with its head it fits into 64 KiB, which is what the buffers on its way are.
pub const PIECE: usize = 60 << 10;

/// One end, not blocking; shared by reader, writer, and resizer where it is a terminal.
#[derive(Clone)]
pub struct Tube {
    fd: Arc<AsyncFd<OwnedFd>>,
}

impl Tube {
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        sys::set_nonblocking(&fd)?;
        Ok(Tube {
            fd: Arc::new(sys::watch_fd(fd, Interest::READABLE | Interest::WRITABLE)?),
        })
    }

    /// 0: end. A terminal whose other side has gone (EIO) is at its end too.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_with(|fd| sys::read(fd, buffer)).await
    }

    async fn read_with(&self, mut read: impl FnMut(&OwnedFd) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            let mut guard = self.fd.readable().await?;
            match read(self.fd.get_ref()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // tokio never forgets a hang-up: a terminal opened again after one would be asked without a pause.
                    if guard.ready().is_read_closed() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    guard.clear_ready();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::EIO) => return Ok(0),
                result => return result,
            }
        }
    }

    /// Appends what is there, and what is written to the pipe meanwhile, as far as `buffer` has capacity, of which there must be some. 0: end.
    pub async fn read_more(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let begun = buffer.len();
        let n = self.read_with(|fd| append(fd, buffer)).await?;
        if n > 0 {
            while buffer.len() < buffer.capacity() {
                match append(self.fd.get_ref(), buffer) {
                    Ok(n) if n > 0 => {}
                    // An end or error is met again by the next read.
                    _ => break,
                }
            }
        }
        Ok(buffer.len() - begun)
    }

    /// None: nothing there now.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match sys::read(self.fd.get_ref(), buffer) {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(e) if e.raw_os_error() == Some(libc::EIO) => Ok(Some(0)),
            result => result.map(Some),
        }
    }

    pub async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let mut guard = self.fd.writable().await?;
            match sys::write(self.fd.get_ref(), data) {
                Ok(n) => data = &data[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if guard.ready().is_write_closed() {
                        return Err(io::ErrorKind::BrokenPipe.into());
                    }
                    guard.clear_ready();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Size of a terminal.
    pub fn resize(&self, width: u32, height: u32) -> io::Result<()> {
        let cells = |n: u32| n.min(u32::from(u16::MAX)) as u16;
        let size = libc::winsize {
            ws_row: cells(height),
            ws_col: cells(width),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        sys::check(unsafe { libc::ioctl(self.fd.get_ref().as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(drop)
    }

    /// What types "end of input" at a terminal; None where it is in raw mode, in which there is no such thing.
    pub fn end_of_input(&self) -> Option<u8> {
        let mut modes: libc::termios = unsafe { mem::zeroed() };
        sys::check(unsafe { libc::tcgetattr(self.fd.get_ref().as_raw_fd(), &mut modes) }).ok()?;
        (modes.c_lflag & libc::ICANON != 0).then(|| modes.c_cc[libc::VEOF])
    }
}

fn append(fd: &OwnedFd, buffer: &mut BytesMut) -> io::Result<usize> {
    let n = sys::read_spare(fd, buffer.spare_capacity_mut())?;
    // Safety: the read has initialised them.
    unsafe { buffer.set_len(buffer.len() + n) };
    Ok(n)
}

/// The bytes of a buffer that was made for `PIECE`, as a message keeps them: few are copied, so that they do not hold the whole buffer; of many the
/// buffer itself is given away, and a new one is left.
pub fn take(buffer: &mut BytesMut) -> Bytes {
    if buffer.len() < buffer.capacity() / 2 {
        let bytes = Bytes::copy_from_slice(buffer);
        buffer.clear();
        return bytes;
    }
    std::mem::replace(buffer, BytesMut::with_capacity(PIECE)).freeze()
}

/// A socket on which crun hands over the terminal that it makes.
pub struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    pub fn listen(path: PathBuf) -> io::Result<Self> {
        let listener = UnixListener::bind(&path)?;
        Ok(Console { listener, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal. The caller sets the deadline.
    pub async fn receive(&self) -> io::Result<Tube> {
        let (stream, _) = self.listener.accept().await?;
        loop {
            stream.readable().await?;
            match stream.try_io(Interest::READABLE, || receive_fd(stream.as_raw_fd())) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                fd => return Tube::new(fd?),
            }
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

fn receive_fd(socket: RawFd) -> io::Result<OwnedFd> {
    let mut name = [0u8; 4096];
    let mut control = [0u64; 16];
    let mut part = libc::iovec {
        iov_base: name.as_mut_ptr().cast(),
        iov_len: name.len(),
    };
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control) as _;
    let n = unsafe { libc::recvmsg(socket, &mut message, libc::MSG_CMSG_CLOEXEC) };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        if !header.is_null() && (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
            let fd = libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned();
            return Ok(OwnedFd::from_raw_fd(fd));
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "crun sent no terminal"))
}
