//! "podvm:volume/ID/sub/path", the source of a container's mount: found inside the volume by the kernel (openat2) and mounted at a
//! place of its own, so that nothing which another container does meanwhile changes what is mounted.

use super::{Kind, Use, Volume};
use crate::agent::Agent;
use crate::fail::{internal, invalid};
use crate::ids::check_id;
use crate::pb::oci::v1::Spec;
use crate::rootfs::Rootfs;
use crate::{log, sys};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use tonic::Status;

const PREFIX: &str = "podvm:volume/";

/// What a container's mounts come from, to be kept until crun has made it.
#[derive(Default)]
pub struct Held {
    /// By source as the spec has it: the path that crun is given.
    pub paths: BTreeMap<String, String>,
    pins: Vec<Pin>,
    pub uses: Vec<Use>,
}

/// A path inside a volume, mounted at a place of its own.
struct Pin(PathBuf);

impl Drop for Pin {
    fn drop(&mut self) {
        if let Err(e) = sys::umount(&self.0, libc::UMOUNT_NOFOLLOW | libc::MNT_DETACH) {
            log::error(format!("unmount of {}: {e}", self.0.display()));
        }
        // Never what is in it: should it still be mounted, that is a volume's.
        drop(fs::remove_dir(&self.0).or_else(|_| fs::remove_file(&self.0)));
    }
}

pub fn is_volume(source: &str) -> bool {
    source.starts_with(PREFIX)
}

/// Id and path inside ("" for the whole) of a mount's source.
pub fn parse(source: &str) -> Result<(&str, &str), Status> {
    let rest = source.strip_prefix(PREFIX).unwrap_or_default();
    let (id, path) = rest.split_once('/').unwrap_or((rest, ""));
    check_id("mount: volume id", id)?;
    if path.len() > 4096 || path.split('/').any(|part| part == "..") {
        return Err(invalid(format!(
            "mount: wanted a path inside the volume without .., found {path:?}"
        )));
    }
    Ok((id, path))
}

impl Held {
    /// Of all mounts of a checked spec.
    pub async fn of(agent: &Agent, spec: &Spec) -> Result<Self, Status> {
        let mut held = Held::default();
        for source in spec.mounts.iter().filter_map(|m| m.source.as_deref()) {
            if !is_volume(source) || held.paths.contains_key(source) {
                continue;
            }
            let (id, path) = parse(source)?;
            let (volume, user) = agent.volumes.acquire(id)?;
            held.uses.push(user);
            let place = if path.is_empty() {
                volume.path.clone()
            } else {
                let place = agent.setup.pins().join(agent.number().to_string());
                held.pins.push(pin(volume, path.to_string(), place.clone()).await?);
                place
            };
            held.paths.insert(source.into(), place.to_string_lossy().into_owned());
        }
        Ok(held)
    }
}

/// In a thread of its own: a share that does not answer blocks who looks.
async fn pin(volume: Arc<Volume>, path: String, place: PathBuf) -> Result<Pin, Status> {
    let what = format!("volume {:?}, path {path:?}", volume.id);
    let pinned = tokio::task::spawn_blocking(move || {
        let found = find(&volume, &path)?;
        // crun works in another mount namespace, where a descriptor of ours is of no use: it gets a mount.
        if fs::metadata(format!("/proc/self/fd/{}", found.as_raw_fd()))?.is_dir() {
            fs::create_dir_all(&place)?;
        } else {
            fs::create_dir_all(place.parent().unwrap_or(&place))?;
            fs::File::create_new(&place)?;
        }
        let source = format!("/proc/self/fd/{}", found.as_raw_fd());
        sys::mount(&source, &place, "", libc::MS_BIND | libc::MS_REC, "").map(|()| Pin(place))
    });
    match pinned.await {
        Ok(Err(e)) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => {
            Err(Status::not_found(format!("{what}: {e}")))
        }
        Ok(pinned) => pinned.map_err(|e| internal(what, e)),
        Err(e) => Err(internal(what, e)),
    }
}

fn find(volume: &Volume, path: &str) -> io::Result<OwnedFd> {
    let root = Rootfs::open(&volume.path)?;
    match root.find(path) {
        // As kubelet makes the subPath of an emptyDir: with the mode of the volume.
        Err(e) if e.kind() == io::ErrorKind::NotFound && matches!(volume.kind, Kind::Local { .. }) => {
            root.make_dir_as(path, fs::metadata(&volume.path)?.mode() & 0o7777)?;
            root.find(path)
        }
        found => found,
    }
}
