//! One connection as the gRPC server sees it: the stream behind the hello, with a flag that ends it and a sign of its end.

use crate::hello::is_hello;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{oneshot, watch};

/// A hello that came in the midst of a connection: the first bytes of the next one.
pub type NextHello = Arc<Mutex<Option<Vec<u8>>>>;

pub struct Conn<S> {
    stream: S,
    /// Read with the hello, not yet given to HTTP/2.
    head: Vec<u8>,
    /// Where a hello in midstream goes; None: not looked for.
    next: Option<NextHello>,
    ended: bool,
    /// Closed by whoever wants this connection to end.
    stop: Pin<Box<dyn std::future::Future<Output = ()> + Send>>,
    /// Dropped with the connection.
    _gone: oneshot::Sender<()>,
}

/// The other side of a Conn: ends it, and tells when it is gone.
pub struct Handle {
    pub stop: watch::Sender<bool>,
    pub gone: oneshot::Receiver<()>,
}

impl<S> Conn<S> {
    pub fn new(stream: S, head: Vec<u8>, next: Option<NextHello>) -> (Self, Handle) {
        let (stop, mut stopped) = watch::channel(false);
        let (sender, gone) = oneshot::channel();
        let stop_future = Box::pin(async move {
            drop(stopped.wait_for(|stop| *stop).await);
        });
        let conn = Conn {
            stream,
            head,
            next,
            ended: false,
            stop: stop_future,
            _gone: sender,
        };
        (conn, Handle { stop, gone })
    }

    fn check_stop(&mut self, cx: &mut Context<'_>) {
        if !self.ended && self.stop.as_mut().poll(cx).is_ready() {
            self.ended = true;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Conn<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_stop(cx);
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        if !self.head.is_empty() {
            let n = self.head.len().min(buf.remaining());
            buf.put_slice(&self.head[..n]);
            self.head.drain(..n);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        if let (true, Some(next)) = (is_hello(read), &self.next) {
            *next.lock().unwrap_or_else(|e| e.into_inner()) = Some(read.to_vec());
            buf.set_filled(before);
            self.ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Conn<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.check_stop(cx);
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_stop(cx);
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S> tonic::transport::server::Connected for Conn<S> {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}
