//! A container's figures from the hierarchies of cgroup v1.

use crate::cgroup::value;
use crate::cgroup_v1::{oom_kills, text};
use crate::pb::agent::v1::ContainerStats;
use std::path::PathBuf;

/// Limits above this are "none": the largest that the kernel stores is the greatest multiple of a page.
const UNLIMITED: u64 = 1 << 62;

/// What a hierarchy that is not there would have counts as 0.
pub fn of_cgroups(groups: &[PathBuf], base: ContainerStats) -> ContainerStats {
    let number = |file: &str| {
        text(groups, file)
            .and_then(|t| t.trim().parse::<u64>().ok())
            .unwrap_or(0)
    };
    let memory = text(groups, "memory.stat").unwrap_or_default();
    let of = |key: &str| value(&memory, key).unwrap_or(0);
    let memory_usage = number("memory.usage_in_bytes");
    let throttled = text(groups, "cpu.stat").and_then(|t| value(&t, "throttled_time"));
    ContainerStats {
        cpu_usage_ns: number("cpuacct.usage"),
        cpu_throttled_ns: throttled.unwrap_or(0),
        memory_usage,
        memory_working_set: memory_usage.saturating_sub(of("total_inactive_file")),
        memory_rss: of("total_rss"),
        memory_page_faults: of("total_pgfault"),
        memory_major_page_faults: of("total_pgmajfault"),
        memory_limit: Some(number("memory.limit_in_bytes"))
            .filter(|l| *l < UNLIMITED)
            .unwrap_or(0),
        memory_cache: of("total_cache"),
        memory_mapped_file: of("total_mapped_file"),
        memory_active_file: of("total_active_file"),
        memory_inactive_file: of("total_inactive_file"),
        memory_peak: number("memory.max_usage_in_bytes"),
        memory_failures: number("memory.failcnt"),
        pids: number("pids.current"),
        pids_limit: number("pids.max"),
        processes: number("pids.current"),
        oom_kills: oom_kills(groups),
        ..base
    }
}
