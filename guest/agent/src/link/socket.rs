//! Connections over a unix socket (`--listen`): the newest one wins.

use super::conn::{Conn, Handle};
use super::{greet, serve};
use crate::log;
use crate::service::Service;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

const HELLO_WITHIN: Duration = Duration::from_secs(30);

/// Binds the socket with mode 0600; a stale file of the same name is replaced. The name appears when connecting works.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let early = path.with_extension("new");
    match std::fs::remove_file(&early) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mask = unsafe { libc::umask(0o177) };
    let listener = UnixListener::bind(&early);
    unsafe { libc::umask(mask) };
    let listener = listener?;
    std::fs::rename(&early, path)?;
    Ok(listener)
}

/// Serves for ever.
pub async fn run(service: Service, listener: UnixListener) -> Result<(), String> {
    let (sender, receiver) = mpsc::channel(1);
    let mut server = tokio::spawn(serve(service, receiver));
    let (greeted, mut connections) = mpsc::channel::<(UnixStream, Vec<u8>)>(1);
    let mut current: Option<Handle> = None;
    loop {
        tokio::select! {
            result = &mut server => return result.map_err(|e| e.to_string())?,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => greet_later(stream, greeted.clone()),
                Err(e) => {
                    log::warn(format!("accept: {e}"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some((stream, head)) = connections.recv() => {
                if let Some(old) = current.take() {
                    old.stop.send_replace(true);
                    drop(old.gone.await);
                }
                let (conn, handle) = Conn::new(stream, head, None);
                current = Some(handle);
                if sender.send(Ok(conn)).await.is_err() {
                    return Err("the gRPC server is gone".into());
                }
            }
        }
    }
}

/// A client that says no hello holds up nobody.
fn greet_later(mut stream: UnixStream, greeted: mpsc::Sender<(UnixStream, Vec<u8>)>) {
    tokio::spawn(async move {
        if let Ok(Ok(head)) = tokio::time::timeout(HELLO_WITHIN, greet(&mut stream, &[])).await {
            drop(greeted.send((stream, head)).await);
        }
    });
}
