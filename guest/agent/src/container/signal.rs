//! SignalContainer, WaitContainer.

use super::Container;
use crate::agent::Agent;
use crate::fail::{invalid, Doing};
use crate::pb::agent::v1::{ExitRecord, SignalContainerRequest};
use crate::{cgroup, reaper};
use std::time::Duration;
use tonic::Status;

/// Ok when it has exited already.
pub async fn signal(agent: &Agent, request: &SignalContainerRequest) -> Result<(), Status> {
    let container = agent.containers.get(&request.container_id)?;
    let signal = match i32::try_from(request.signal) {
        Ok(signal @ 1..=64) => signal,
        _ => return Err(invalid(format!("signal: wanted 1 to 64, found {}", request.signal))),
    };
    match request.all {
        true if signal == libc::SIGKILL => {
            cgroup::kill(&container.cgroup, Duration::from_secs(10))
                .await
                .doing(|| "kill of all processes")?;
        }
        true => cgroup::signal(&container.cgroup, signal),
        false => {
            reaper::kill(container.pid, signal).doing(|| format!("signal {signal} to process {}", container.pid))?;
        }
    }
    Ok(())
}

/// None: still there when the time was up.
pub async fn wait(container: &Container, limit: Duration) -> Option<ExitRecord> {
    let mut exit = container.exit.subscribe();
    drop(tokio::time::timeout(limit, exit.wait_for(Option::is_some)).await);
    container.exit_record()
}
