//! Shutdown: containers first, then the disk, then the power.

use crate::agent::Agent;
use crate::container::signal::wait;
use crate::container::{remove, Container};
use crate::{cgroup, log, reaper, sys};
use std::sync::Arc;
use std::time::Duration;

/// The answer has this long to reach the server.
const ANSWER: Duration = Duration::from_millis(200);
const DIES_WITHIN: Duration = Duration::from_secs(5);

/// Ends all containers; returns when the power may go.
pub async fn prepare(agent: &Agent, grace: Duration) {
    let containers = agent.containers.all();
    if !grace.is_zero() {
        each(&containers, libc::SIGTERM);
        wait_all(&containers, grace).await;
    }
    for container in &containers {
        if let Err(e) = cgroup::kill(&container.cgroup, DIES_WITHIN).await {
            log::error(format!("container {}: {e}", container.id));
        }
    }
    each(&containers, libc::SIGKILL);
    wait_all(&containers, DIES_WITHIN).await;
}

fn each(containers: &[Arc<Container>], signal: i32) {
    for container in containers {
        if let Err(e) = reaper::kill(container.pid, signal) {
            log::error(format!("signal {signal} to container {}: {e}", container.id));
        }
    }
}

async fn wait_all(containers: &[Arc<Container>], limit: Duration) {
    let deadline = tokio::time::Instant::now() + limit;
    for container in containers {
        wait(
            container,
            deadline.saturating_duration_since(tokio::time::Instant::now()),
        )
        .await;
    }
}

/// A moment later: powers the VM off, or ends the process.
pub fn power_off(agent: Arc<Agent>) {
    tokio::spawn(async move {
        tokio::time::sleep(ANSWER).await;
        if !agent.setup.is_vm() {
            agent.ended.send_replace(true);
            return;
        }
        let off = tokio::task::spawn_blocking(|| unsafe {
            libc::sync();
            libc::reboot(libc::RB_POWER_OFF)
        });
        if let Ok(Err(e)) = off.await.map(sys::check) {
            log::error(format!("power off: {e}"));
        }
    });
}

/// As a process of a host: removes all containers and what the agent made.
pub async fn clean_up(agent: &Agent) {
    prepare(agent, Duration::ZERO).await;
    for container in agent.containers.all() {
        if let Err(e) = remove::remove(agent, &container.id).await {
            log::error(format!("removal of container {}: {}", container.id, e.message()));
        }
    }
    crate::volume::remove_all(agent).await;
    // Not mounted where no sandbox was configured. A host pod's go with its state folder, which the server unmounts.
    if agent.setup.host.is_none() {
        for dir in [agent.setup.scratch(), agent.setup.shm()] {
            drop(sys::umount(&dir, libc::MNT_DETACH));
        }
    }
    agent.setup.cgroups.remove();
}
