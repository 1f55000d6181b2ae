//! SyncVolume: one generation of a synced volume, received whole and then switched to.

use super::generation::Staging;
use super::Kind;
use crate::agent::Agent;
use crate::fail::{invalid, precondition, Doing};
use crate::pb::agent::v1::SyncVolumeRequest;
use std::sync::Arc;
use tonic::{Status, Streaming};

pub async fn sync(agent: &Agent, mut requests: Streaming<SyncVolumeRequest>) -> Result<(), Status> {
    let first = requests.message().await?;
    let first = first.ok_or_else(|| invalid("SyncVolume: wanted a first request, found the end of the stream"))?;
    let id = first.volume_id.clone();
    let volume = agent.volumes.get(&id)?;
    let Kind::Synced { single_file } = volume.kind else {
        return Err(precondition(format!(
            "volume {id:?}: wanted a synced one, it is of another kind"
        )));
    };
    let _turn = volume.turn.lock().await;
    if !Arc::ptr_eq(&agent.volumes.get(&id)?, &volume) {
        return Err(Status::aborted(format!("volume {id:?} was made anew meanwhile")));
    }
    let dir = agent.setup.volumes().join(&id);
    let mut staging = Staging::begin(&dir, single_file).doing(|| format!("volume {id:?}"))?;
    let mut next = Some(first);
    while let Some(request) = next {
        if let Some(entry) = request.entry {
            staging.entry(&entry)?;
        }
        staging.data(&request.data)?;
        if request.commit {
            return staging.commit().doing(|| format!("generation of volume {id:?}"));
        }
        next = requests.message().await?;
    }
    Err(Status::aborted(format!(
        "volume {id:?}: the generation ended without commit: nothing is changed"
    )))
}
