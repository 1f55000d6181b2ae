//! The byte stream to the server: how connections begin, end, and follow each other (docs/agent-protocol.md).

pub mod conn;
mod outbox;
pub mod port;
pub mod socket;

use crate::hello::{Hello, Step};
use crate::log;
use crate::pb::agent::v1::agent_server::AgentServer;
use crate::service::Service;
use conn::Conn;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Largest message in either direction.
pub const MAX_MESSAGE: usize = 20 << 20;

/// What a stream may hold that its command does not read: 256 KiB, four times what is under way at 80 MB/s.
const STREAM_WINDOW: u32 = 256 << 10;
/// What all streams together may hold, 16 MiB: 64 commands that read nothing must not keep the connection from the other calls.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Serves what comes out of `connections` until the sender is gone.
pub async fn serve<S>(service: Service, connections: mpsc::Receiver<io::Result<Conn<S>>>) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let server = AgentServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(Some(64 << 10))
        .max_concurrent_streams(Some(4096))
        .http2_keepalive_interval(Some(Duration::from_secs(60)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .add_service(server)
        .serve_with_incoming(ReceiverStream::new(connections))
        .await
        .map_err(|e| format!("gRPC server: {e}"))
}

/// Reads up to the beginning of HTTP/2, echoing hellos. `first`: bytes read already. Returns the HTTP/2 bytes read.
pub async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, first: &[u8]) -> io::Result<Vec<u8>> {
    let mut hello = Hello::default();
    hello.feed(first);
    let mut buffer = [0; 4096];
    loop {
        match hello.step() {
            Step::Begin(bytes) => {
                if hello.skipped() > 0 {
                    log::info(format!("threw away {} bytes of an earlier connection", hello.skipped()));
                }
                return Ok(bytes);
            }
            Step::Echo(bytes) => {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
            }
            Step::Read => {
                let n = stream.read(&mut buffer).await?;
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                hello.feed(&buffer[..n]);
            }
        }
    }
}
