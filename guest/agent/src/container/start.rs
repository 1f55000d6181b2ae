//! StartContainer.

use crate::agent::Agent;
use crate::crun::Call;
use crate::fail::{internal, precondition};
use crate::pb::agent::v1::StartContainerResponse;
use crate::sys::now_ns;
use tonic::Status;

/// Repeated (a lost answer), it answers as before.
pub async fn start(agent: &Agent, id: &str) -> Result<StartContainerResponse, Status> {
    let _lock = agent.containers.lock(id).await;
    let container = agent.containers.get(id)?;
    let started_ns = container.started();
    if started_ns != 0 {
        return Ok(StartContainerResponse { started_ns });
    }
    if container.exit_record().is_some() {
        return Err(precondition(format!("container {id:?} has exited before its start")));
    }
    // Taken before: an exit must not come before the start.
    let started_ns = now_ns();
    Call::new(&agent.setup, "start")
        .arg(id)
        .run()
        .await
        .map_err(|e| internal("start", e))?;
    *container.started_ns.lock().unwrap_or_else(|e| e.into_inner()) = started_ns;
    Ok(StartContainerResponse { started_ns })
}
