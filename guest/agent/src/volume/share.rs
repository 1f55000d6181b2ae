//! Entries of the pod's share, the FUSE file system of podvm-share.

use crate::agent::Agent;
use crate::fail::precondition;
use crate::ids::check_id;
use std::path::PathBuf;
use std::time::Duration;
use tonic::Status;

/// For the port to appear, which the server has just added, and for the host's side to answer.
const MOUNTED_WITHIN: Duration = Duration::from_secs(20);

/// The entry's place below the share's mount point; FAILED_PRECONDITION where the share is not mounted or does not show it.
pub async fn find(agent: &Agent, name: &str) -> Result<PathBuf, Status> {
    check_id("share.name", name)?;
    let mounted = crate::share::mounted(&agent.setup, MOUNTED_WITHIN).await;
    mounted.map_err(|e| precondition(format!("the pod's share: {e}")))?;
    let path = agent.setup.share().join(name);
    let looked = path.clone();
    // In a thread of its own: a share that does not answer blocks who looks.
    let found = tokio::task::spawn_blocking(move || std::fs::symlink_metadata(looked)).await;
    match found {
        Ok(Ok(_)) => Ok(path),
        Ok(Err(e)) => Err(precondition(format!(
            "the pod's share shows no entry {name:?} at {}: {e}",
            path.display()
        ))),
        Err(e) => Err(crate::fail::internal("share", e)),
    }
}
