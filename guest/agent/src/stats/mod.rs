//! Stats: containers from their cgroups, the guest from /proc.

pub mod guest;
pub mod usage;
mod v1;

use crate::agent::Agent;
use crate::cgroup::value;
use crate::container::Container;
use crate::pb::agent::v1::{ContainerStats, StatsResponse};
use crate::sys::now_ns;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tonic::Status;

/// `ids` empty: all.
pub async fn stats(agent: &Arc<Agent>, ids: &[String]) -> Result<StatsResponse, Status> {
    let containers = if ids.is_empty() {
        agent.containers.all()
    } else {
        ids.iter()
            .map(|id| agent.containers.get(id))
            .collect::<Result<_, _>>()?
    };
    let mut answer = StatsResponse {
        containers: Vec::new(),
        guest: Some(guest::stats(agent)),
    };
    for container in containers {
        answer.containers.push(one(&container).await);
    }
    Ok(answer)
}

async fn one(container: &Arc<Container>) -> ContainerStats {
    let (fs_used, fs_inodes) = usage::of(container).await;
    let base = ContainerStats {
        container_id: container.id.clone(),
        time_ns: now_ns(),
        fs_used,
        fs_inodes,
        ..Default::default()
    };
    if !container.cgroups_v1.is_empty() {
        return v1::of_cgroups(&container.cgroups_v1, base);
    }
    of_cgroup(&container.cgroup, base)
}

/// Files that a controller that is not there would have count as 0.
fn of_cgroup(dir: &Path, base: ContainerStats) -> ContainerStats {
    let text = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let number = |file: &str| text(file).trim().parse::<u64>().unwrap_or(0);
    let cpu = text("cpu.stat");
    let memory = text("memory.stat");
    let of = |text: &str, key: &str| value(text, key).unwrap_or(0);
    let memory_usage = number("memory.current");
    ContainerStats {
        cpu_usage_ns: of(&cpu, "usage_usec") * 1000,
        cpu_throttled_ns: of(&cpu, "throttled_usec") * 1000,
        memory_usage,
        memory_working_set: memory_usage.saturating_sub(of(&memory, "inactive_file")),
        memory_rss: of(&memory, "anon"),
        memory_page_faults: of(&memory, "pgfault"),
        memory_major_page_faults: of(&memory, "pgmajfault"),
        // "max" is no number.
        memory_limit: number("memory.max"),
        pids: number("pids.current"),
        oom_kills: crate::cgroup::oom_kills(dir),
        ..base
    }
}
