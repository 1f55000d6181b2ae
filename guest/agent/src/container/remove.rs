//! RemoveContainer, and the undoing of a creation that failed.

use super::signal;
use crate::agent::Agent;
use crate::crun::Call;
use crate::fail::{internal, Doing};
use crate::{cgroup, images, reaper};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tonic::Status;

const DIES_WITHIN: Duration = Duration::from_secs(10);

/// Kills what still runs, unmounts, forgets. Ok when there is no such container. After an error it is still there, to be removed again.
pub async fn remove(agent: &Agent, id: &str) -> Result<(), Status> {
    let _lock = agent.containers.lock(id).await;
    let Some(container) = agent.containers.find(id) else {
        return Ok(());
    };
    reaper::kill(container.pid, libc::SIGKILL).doing(|| format!("kill of container {id:?}"))?;
    cgroup::kill(&container.cgroup, DIES_WITHIN)
        .await
        .doing(|| format!("kill of container {id:?}"))?;
    if signal::wait(&container, DIES_WITHIN).await.is_none() {
        return Err(internal(
            format!("container {id:?}"),
            "its first process survives SIGKILL",
        ));
    }
    undo(agent, id).await?;
    agent.oom.forget(id);
    container.output.remove();
    agent.containers.forget(id);
    agent.images.release(&container.image).await;
    Ok(())
}

/// Undoes, in reverse, what creation does, however far it came; each step is right where there is nothing to undo.
pub async fn undo(agent: &Agent, id: &str) -> Result<(), Status> {
    let setup = &agent.setup;
    let group = setup.cgroups.container(id);
    cgroup::kill(&group, DIES_WITHIN).await.doing(|| "kill")?;
    if setup.crun_root().join(id).exists() {
        let deleted = Call::new(setup, "delete").arg("--force").arg(id).run().await;
        deleted.map_err(|e| internal(format!("removal of container {id:?}"), e))?;
    }
    cgroup::remove_tree(&group);
    for group in setup.cgroups.v1(id) {
        cgroup::remove_tree(&group);
    }
    images::unmount(&setup.bundle(id).join("rootfs"))
        .await
        .doing(|| format!("unmount of container {id:?}"))?;
    remove_tree(setup.layer(id))
        .await
        .doing(|| format!("writable layer of container {id:?}"))?;
    remove_tree(setup.bundle(id))
        .await
        .doing(|| format!("bundle of container {id:?}"))
}

async fn remove_tree(dir: PathBuf) -> io::Result<()> {
    let removing = tokio::task::spawn_blocking(move || match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    });
    removing.await.map_err(io::Error::other)?
}
