//! Stats: containers from their cgroups, the guest from /proc.

pub mod guest;
mod host;
pub mod pressure;
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
        guest: Some(host::narrowed(agent, guest::stats(agent))),
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
    // "max" is no number.
    let number = |file: &str| text(file).trim().parse::<u64>().unwrap_or(0);
    let of = |text: &str, key: &str| value(text, key).unwrap_or(0);
    let cpu = text("cpu.stat");
    let memory = text("memory.stat");
    let memory_events = text("memory.events");
    let swap = fs::read_to_string(dir.join("memory.swap.current")).ok();
    let io = Io::parse(&text("io.stat"));
    let memory_usage = number("memory.current");
    ContainerStats {
        cpu_usage_ns: of(&cpu, "usage_usec") * 1000,
        cpu_user_ns: of(&cpu, "user_usec") * 1000,
        cpu_system_ns: of(&cpu, "system_usec") * 1000,
        cpu_periods: of(&cpu, "nr_periods"),
        cpu_throttled_periods: of(&cpu, "nr_throttled"),
        cpu_throttled_ns: of(&cpu, "throttled_usec") * 1000,
        memory_usage,
        memory_working_set: memory_usage.saturating_sub(of(&memory, "inactive_file")),
        memory_rss: of(&memory, "anon"),
        memory_cache: of(&memory, "file"),
        memory_kernel: of(&memory, "kernel"),
        memory_mapped_file: of(&memory, "file_mapped"),
        memory_active_file: of(&memory, "active_file"),
        memory_inactive_file: of(&memory, "inactive_file"),
        memory_page_faults: of(&memory, "pgfault"),
        memory_major_page_faults: of(&memory, "pgmajfault"),
        memory_peak: number("memory.peak"),
        memory_failures: of(&memory_events, "max"),
        memory_limit: number("memory.max"),
        swap_counted: swap.is_some(),
        memory_swap: swap.and_then(|s| s.trim().parse().ok()).unwrap_or(0),
        memory_swap_limit: number("memory.swap.max"),
        pids: number("pids.current"),
        pids_limit: number("pids.max"),
        processes: crate::cgroup::processes(dir).len() as u64,
        oom_kills: crate::cgroup::oom_kills(dir),
        io_read_bytes: io.read_bytes,
        io_write_bytes: io.write_bytes,
        io_reads: io.reads,
        io_writes: io.writes,
        cpu_pressure: pressure::read(&dir.join("cpu.pressure")),
        memory_pressure: pressure::read(&dir.join("memory.pressure")),
        io_pressure: pressure::read(&dir.join("io.pressure")),
        ..base
    }
}

#[derive(Default, Debug, PartialEq, Eq)]
struct Io {
    read_bytes: u64,
    write_bytes: u64,
    reads: u64,
    writes: u64,
}

impl Io {
    /// Sums io.stat: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0", one line for each device.
    fn parse(text: &str) -> Io {
        let mut sum = Io::default();
        for (key, value) in text.split_whitespace().filter_map(|field| field.split_once('=')) {
            let value: u64 = value.parse().unwrap_or(0);
            match key {
                "rbytes" => sum.read_bytes += value,
                "wbytes" => sum.write_bytes += value,
                "rios" => sum.reads += value,
                "wios" => sum.writes += value,
                _ => {}
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_of_all_devices() {
        let text =
            "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=9 dios=9\n254:0 rbytes=10 wbytes=20 rios=30 wios=40\n7:0 \n";
        let wanted = Io {
            read_bytes: 11,
            write_bytes: 22,
            reads: 33,
            writes: 44,
        };
        assert_eq!(Io::parse(text), wanted);
    }
}
