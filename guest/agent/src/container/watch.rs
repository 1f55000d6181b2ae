//! What happens when a container's first process ends.

use super::Container;
use crate::agent::Agent;
use crate::pb::agent::v1::{event, ContainerExited, ExitRecord};
use crate::reaper::{Exit, Waiter};
use crate::sys::now_ns;
use crate::{cgroup, cgroup_v1, log};
use std::sync::Arc;
use std::time::Duration;

/// Records the exit, tells it, and kills what the first process left behind: in a shared pid namespace the kernel does not.
pub fn start(agent: &Arc<Agent>, container: Arc<Container>, waiter: Waiter) {
    let agent = agent.clone();
    agent.oom.watch(&container.id, &container.cgroup);
    tokio::spawn(async move {
        let exit = waiter.await.unwrap_or(Exit {
            code: 255,
            signal: 0,
            time_ns: now_ns(),
        });
        let kills = cgroup::oom_kills(&container.cgroup) + cgroup_v1::oom_kills(&container.cgroups_v1);
        let record = ExitRecord {
            exit_code: exit.code,
            signal: exit.signal,
            oom_killed: kills > 0,
            time_ns: exit.time_ns,
        };
        agent.oom.look(&agent.events);
        container.exit.send_replace(Some(record));
        agent.events.push(event::Kind::Exited(ContainerExited {
            container_id: container.id.clone(),
            exit: Some(record),
        }));
        if let Err(e) = cgroup::kill(&container.cgroup, Duration::from_secs(10)).await {
            log::error(format!("container {} after its exit: {e}", container.id));
        }
        container.output.exited();
    });
}
