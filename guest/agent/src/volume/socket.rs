//! Unix sockets of the host, forwarded: the agent listens, the server connects to the real one.

use super::{Kind, Volumes};
use crate::agent::Agent;
use crate::dial;
use crate::fail::{invalid, precondition};
use crate::pb::agent::v1::{AcceptSocketRequest, DialResponse, SocketVolume};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{chown, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

const NAME: &str = "socket";

pub fn listen(dir: &Path, asked: &SocketVolume) -> io::Result<(UnixListener, PathBuf)> {
    fs::create_dir_all(dir)?;
    // By way of the folder's descriptor: a socket's path holds 107 bytes only.
    let folder = fs::File::open(dir)?;
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd()))?;
    let path = dir.join(NAME);
    chown(&path, Some(asked.uid), Some(asked.gid))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(asked.mode & 0o777))?;
    Ok((listener, path))
}

/// Waits for the next connection, then carries it. The answers end with the caller, or when the connection has.
pub fn accept(
    agent: &Arc<Agent>,
    first: Option<AcceptSocketRequest>,
    requests: Streaming<AcceptSocketRequest>,
) -> Result<mpsc::Receiver<Result<DialResponse, Status>>, Status> {
    let first = first.ok_or_else(|| invalid("AcceptSocket: wanted a first request, found the end of the stream"))?;
    let id = first.volume_id;
    if !matches!(agent.volumes.get(&id)?.kind, Kind::Socket(_)) {
        return Err(precondition(format!("volume {id:?}: wanted a socket, it is none")));
    }
    let slot = dial::slot(&agent.dials)?;
    let (sender, receiver) = mpsc::channel(4);
    let agent = agent.clone();
    tokio::spawn(async move {
        let _slot = slot;
        let connection = tokio::select! {
            connection = next(&agent.volumes, &id) => connection,
            () = sender.closed() => return,
        };
        let result = match connection {
            Ok(mut connection) => {
                let (read, write) = connection.split();
                let what = format!("socket {id}");
                tokio::select! {
                    result = dial::carry(&what, read, write, requests, &sender) => result,
                    () = sender.closed() => return,
                }
            }
            Err(status) => Err(status),
        };
        if let Err(status) = result {
            drop(sender.send(Err(status)).await);
        }
    });
    Ok(receiver)
}

async fn next(volumes: &Volumes, id: &str) -> Result<UnixStream, Status> {
    let volume = volumes.get(id)?;
    let Kind::Socket(listener) = &volume.kind else {
        return Err(precondition(format!("volume {id:?}: wanted a socket, it is none")));
    };
    let accepted = listener.accept().await;
    accepted
        .map(|(connection, _)| connection)
        .map_err(|e| crate::fail::internal(format!("socket of volume {id:?}"), e))
}
