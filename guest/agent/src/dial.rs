//! Dial: one TCP connection into the pod, the far end of port-forward.

use crate::alloc::WhileStreaming;
use crate::fail::{internal, invalid, precondition};
use crate::pb::agent::v1::{AcceptSocketRequest, DialRequest, DialResponse};
use crate::tube::{take, PIECE};
use crate::{inside, sys};
use bytes::{Bytes, BytesMut};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, OwnedSemaphorePermit, Semaphore};
use tonic::{Status, Streaming};

/// Connections at a time.
pub const MOST: usize = 1024;
/// For loopback to take a connection: longer means that the listener's queue is full.
const CONNECT: Duration = Duration::from_secs(10);

pub type Sender = mpsc::Sender<Result<DialResponse, Status>>;

/// The port that the first request names.
pub fn first(request: Option<DialRequest>) -> Result<u16, Status> {
    let request = request.ok_or_else(|| invalid("Dial: wanted a first request, found the end of the stream"))?;
    match u16::try_from(request.port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(invalid(format!("port: wanted 1 to 65535, found {}", request.port))),
    }
}

pub async fn dial(
    slots: Arc<Semaphore>,
    holder: Option<libc::pid_t>,
    port: u16,
    requests: Streaming<DialRequest>,
) -> Result<mpsc::Receiver<Result<DialResponse, Status>>, Status> {
    let slot = slot(&slots)?;
    let mut connection = connect(port, holder).await?;
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let _slot = slot;
        let (read, write) = connection.split();
        let what = format!("port {port}");
        let result = tokio::select! {
            result = carry(&what, read, write, requests, &sender) => result,
            // Nobody listens any more.
            () = sender.closed() => return,
        };
        if let Err(status) = result {
            drop(sender.send(Err(status)).await);
        }
    });
    Ok(receiver)
}

/// Servers in a pod may listen on either loopback address, or on all. `holder`: the process whose network namespace is the pod's.
async fn connect(port: u16, holder: Option<libc::pid_t>) -> Result<TcpStream, Status> {
    let mut said = Vec::new();
    for address in [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ] {
        match tokio::time::timeout(CONNECT, connect_to(address, holder)).await {
            Ok(Ok(connection)) => {
                connection.set_nodelay(true).map_err(|e| internal("TCP_NODELAY", e))?;
                return Ok(connection);
            }
            Ok(Err(e)) => said.push(format!("{address}: {e}")),
            Err(_) => said.push(format!("{address}: no answer within {} s", CONNECT.as_secs())),
        }
    }
    Err(precondition(format!(
        "no connection to port {port}: {}",
        said.join("; ")
    )))
}

async fn connect_to(address: SocketAddr, holder: Option<libc::pid_t>) -> io::Result<TcpStream> {
    let Some(pid) = holder else {
        return TcpStream::connect(address).await;
    };
    // Made there, it is in that namespace for its life.
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let socket = inside::network_of(pid, move || {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let fd = sys::check(unsafe { libc::socket(family, kind, 0) })?;
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    })?;
    TcpSocket::from_std_stream(socket.into()).connect(address).await
}

/// One of the connections that there may be at a time.
pub fn slot(slots: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Status> {
    let slot = slots.clone().try_acquire_owned();
    slot.map_err(|_| Status::resource_exhausted(format!("{MOST} connections are open already")))
}

/// A request that brings bytes for the connection.
pub trait Piece {
    fn bytes(&self) -> &[u8];
}

impl Piece for DialRequest {
    fn bytes(&self) -> &[u8] {
        &self.data
    }
}

impl Piece for AcceptSocketRequest {
    fn bytes(&self) -> &[u8] {
        &self.data
    }
}

/// Both directions of a connection, each until its end; first says that it is there. `what` names it in errors.
pub async fn carry<P: Piece>(
    what: &str,
    mut read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    mut requests: Streaming<P>,
    sender: &Sender,
) -> Result<(), Status> {
    let _buffers = WhileStreaming;
    let broken = |e: std::io::Error| Status::aborted(format!("the connection to {what} broke: {e}"));
    send(sender, Bytes::new(), false).await?;
    let out = async {
        let mut buffer = BytesMut::with_capacity(PIECE);
        loop {
            let n = read.read_buf(&mut buffer).await.map_err(broken)?;
            send(sender, take(&mut buffer), n == 0).await?;
            if n == 0 {
                return Ok(());
            }
        }
    };
    let into = async {
        while let Some(request) = requests.message().await? {
            write.write_all(request.bytes()).await.map_err(broken)?;
        }
        write.shutdown().await.map_err(broken)
    };
    tokio::try_join!(out, into).map(|_| ())
}

async fn send(sender: &Sender, data: Bytes, eof: bool) -> Result<(), Status> {
    sender
        .send(Ok(DialResponse { data, eof }))
        .await
        .map_err(|_| Status::cancelled("the caller has gone"))
}
