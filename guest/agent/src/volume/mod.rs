//! Volumes of the pod, by id: made once, mounted by any number of its containers (docs/volumes.md).

mod generation;
mod local;
mod read;
mod resolve;
mod share;
mod socket;
mod sync;

pub use read::read;
pub use resolve::{is_volume, parse, Held};
pub use socket::accept;
pub use sync::sync;

use crate::agent::Agent;
use crate::fail::{invalid, precondition, Doing};
use crate::ids::{check_id, check_serial, shorten};
use crate::keyed::Keyed;
use crate::pb::agent::v1::put_volume_request::Kind as Asked;
use crate::pb::agent::v1::PutVolumeRequest;
use crate::{log, sys};
use prost::Message;
use std::collections::HashMap;
use std::fs;
use std::hash::BuildHasher;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tonic::Status;

/// Volumes of one pod.
pub const MOST: usize = 4096;

#[derive(Default)]
pub struct Volumes {
    table: Mutex<HashMap<String, Arc<Volume>>>,
    locks: Keyed,
    memory: tokio::sync::Mutex<bool>,
}

pub struct Volume {
    pub id: String,
    /// Fingerprint of the request that made it.
    request: u64,
    kind: Kind,
    /// What containers mount: a folder, or the file of a single-file or socket volume.
    path: PathBuf,
    users: AtomicUsize,
    /// Generations follow each other.
    turn: tokio::sync::Mutex<()>,
}

enum Kind {
    Synced { single_file: bool },
    Local { memory: bool },
    Image { serial: String },
    Share,
    Socket(tokio::net::UnixListener),
}

/// A container mounts the volume for as long as this lives.
pub struct Use(Arc<Volume>);

impl Drop for Use {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Volumes {
    /// NOT_FOUND where there is none.
    fn get(&self, id: &str) -> Result<Arc<Volume>, Status> {
        let found = self.lock().get(id).cloned();
        found.ok_or_else(|| Status::not_found(format!("no volume {:?} in this VM", shorten(id, 80))))
    }

    /// The same, counted as used: from here on it cannot be removed.
    fn acquire(&self, id: &str) -> Result<(Arc<Volume>, Use), Status> {
        let table = self.lock();
        let volume = table
            .get(id)
            .ok_or_else(|| Status::not_found(format!("no volume {:?} in this VM", shorten(id, 80))))?;
        volume.users.fetch_add(1, Ordering::Relaxed);
        Ok((volume.clone(), Use(volume.clone())))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Volume>>> {
        self.table.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Makes the volume, or finds it as the same request made it. After a failure nothing of it is left.
pub async fn put(agent: &Agent, request: PutVolumeRequest) -> Result<(), Status> {
    let fingerprint = agent.hasher.hash_one(request.encode_to_vec());
    let PutVolumeRequest { volume_id: id, kind } = request;
    check_id("volume_id", &id)?;
    let kind = kind.ok_or_else(|| invalid("PutVolume: wanted a kind of volume, found none"))?;
    if agent.sandbox.pod_id().is_empty() {
        return Err(precondition("wanted ConfigureSandbox before the first volume"));
    }
    let _lock = agent.volumes.locks.lock(&id).await;
    if let Some(existing) = agent.volumes.lock().get(&id) {
        if existing.request == fingerprint {
            return Ok(());
        }
        return Err(Status::already_exists(format!(
            "volume {id:?} was made by another request"
        )));
    }
    if agent.volumes.lock().len() >= MOST {
        return Err(Status::resource_exhausted(format!(
            "wanted at most {MOST} volumes, found as many"
        )));
    }
    match make(agent, &id, kind).await {
        Ok((kind, path)) => {
            let volume = Volume {
                id: id.clone(),
                request: fingerprint,
                kind,
                path,
                users: AtomicUsize::new(0),
                turn: Default::default(),
            };
            agent.volumes.lock().insert(id, Arc::new(volume));
            Ok(())
        }
        Err(status) => {
            if let Err(e) = clear(agent, &id).await {
                log::error(format!("after the failed making of volume {id}: {e}"));
            }
            Err(status)
        }
    }
}

async fn make(agent: &Agent, id: &str, kind: Asked) -> Result<(Kind, PathBuf), Status> {
    let dir = agent.setup.volumes().join(id);
    match kind {
        Asked::Synced(asked) => {
            in_memory(agent).await?;
            let single_file = asked.single_file;
            let path = generation::prepare(&dir, single_file).doing(|| format!("volume {id:?}"))?;
            Ok((Kind::Synced { single_file }, path))
        }
        Asked::Local(asked) => {
            if asked.memory {
                in_memory(agent).await?; // mounted later, it would hide this one
            }
            let path = local::make(&agent.setup, id, &asked)?;
            Ok((Kind::Local { memory: asked.memory }, path))
        }
        Asked::Image(asked) => {
            let serial = asked.device.map(|d| d.serial).unwrap_or_default();
            if agent.setup.is_vm() || !serial.starts_with("dir:") {
                check_serial(&serial)?;
            }
            let path = agent
                .images
                .acquire(&agent.setup, &serial)
                .await
                .doing(|| format!("image of volume {id:?}"))?;
            Ok((Kind::Image { serial }, path))
        }
        Asked::Share(asked) => Ok((Kind::Share, share::find(agent, &asked.name).await?)),
        Asked::Socket(asked) => {
            in_memory(agent).await?;
            let (listener, path) = socket::listen(&dir, &asked).doing(|| format!("socket of volume {id:?}"))?;
            Ok((Kind::Socket(listener), path))
        }
    }
}

/// Mounts the tmpfs that holds what volumes keep in memory, once.
async fn in_memory(agent: &Agent) -> Result<(), Status> {
    let mut mounted = agent.volumes.memory.lock().await;
    if !*mounted {
        sys::mount("volumes", &agent.setup.volumes(), "tmpfs", 0, "mode=0711").doing(|| "memory of volumes")?;
        *mounted = true;
    }
    Ok(())
}

/// Unmounts and forgets. Ok where there is none.
pub async fn remove(agent: &Agent, id: &str) -> Result<(), Status> {
    check_id("volume_id", id)?;
    let _lock = agent.volumes.locks.lock(id).await;
    let Ok(volume) = agent.volumes.get(id) else {
        return Ok(());
    };
    let _turn = volume.turn.lock().await; // a generation that is being written comes to its end
    {
        let mut table = agent.volumes.lock();
        let users = volume.users.load(Ordering::Relaxed);
        if users > 0 {
            return Err(precondition(format!(
                "volume {id:?}: {users} mounts of containers use it: remove those first"
            )));
        }
        table.remove(id);
    }
    let cleared = async {
        if let Kind::Local { memory: true } = volume.kind {
            crate::images::unmount(&volume.path).await?;
        }
        clear(agent, id).await
    };
    if let Err(e) = cleared.await {
        agent.volumes.lock().insert(id.into(), volume.clone()); // to be removed again
        return Err(crate::fail::internal(format!("removal of volume {id:?}"), e));
    }
    if let Kind::Image { serial } = &volume.kind {
        agent.images.release(serial).await;
    }
    Ok(())
}

/// All of them, where the agent ends and its machine does not.
pub async fn remove_all(agent: &Agent) {
    let ids: Vec<String> = agent.volumes.lock().keys().cloned().collect();
    for id in ids {
        if let Err(e) = remove(agent, &id).await {
            log::error(format!("removal of volume {id}: {}", e.message()));
        }
    }
    drop(sys::umount(&agent.setup.volumes(), libc::MNT_DETACH)); // not mounted where no volume was in memory
    drop(fs::remove_dir(agent.setup.scratch_volumes()));
}

/// Removes its folders.
async fn clear(agent: &Agent, id: &str) -> io::Result<()> {
    let folders = [agent.setup.volumes().join(id), agent.setup.scratch_volumes().join(id)];
    let removing = tokio::task::spawn_blocking(move || folders.iter().try_for_each(|dir| remove_tree(dir)));
    removing.await.map_err(io::Error::other)?
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
