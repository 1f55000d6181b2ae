//! The guest as a whole.

use crate::agent::Agent;
use crate::cgroup::{processes as processes_of, value};
use crate::pb::agent::v1::{GuestStats, InterfaceStats};
use crate::stats::pressure;
use crate::sys::{self, now_ns};
use std::fs;
use std::mem;
use std::path::Path;

pub fn stats(agent: &Agent) -> GuestStats {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let scratch = scratch(agent);
    let vmstat = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let containers = agent.setup.cgroups.base();
    let anon = fs::read_to_string(containers.join("memory.stat")).unwrap_or_default();
    let pressure = |kind: &str| pressure::read(&Path::new("/proc/pressure").join(kind));
    GuestStats {
        time_ns: now_ns(),
        cpu_usage_ns: cpu_usage(),
        memory_total: meminfo(&memory, "MemTotal"),
        memory_available: meminfo(&memory, "MemAvailable"),
        processes: processes(),
        interfaces: interfaces(&network_devices(agent)),
        agent_rss: meminfo(&fs::read_to_string("/proc/self/status").unwrap_or_default(), "VmRSS"),
        scratch_used: scratch.used,
        scratch_total: scratch.total,
        scratch_inodes_total: scratch.inodes_total,
        scratch_inodes_free: scratch.inodes_free,
        memory_free: meminfo(&memory, "MemFree"),
        memory_rss: value(&anon, "anon").unwrap_or(0),
        memory_page_faults: value(&vmstat, "pgfault").unwrap_or(0),
        memory_major_page_faults: value(&vmstat, "pgmajfault").unwrap_or(0),
        container_processes: processes_of(&containers).len() as u64,
        cpus: sys::cpus_online(),
        cpu_pressure: pressure("cpu"),
        memory_pressure: pressure("memory"),
        io_pressure: pressure("io"),
    }
}

/// The pod's interfaces may be in a namespace of its own.
fn network_devices(agent: &Agent) -> String {
    let path = match agent.sandbox.network_holder() {
        Some(pid) => format!("/proc/{pid}/net/dev"),
        None => "/proc/net/dev".into(),
    };
    fs::read_to_string(path).unwrap_or_default()
}

/// Bytes of a "Key:   123 kB" line; 0 where there is none.
pub fn meminfo(text: &str, key: &str) -> u64 {
    let found = text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(':')?
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
    });
    found.unwrap_or(0) * 1024
}

/// The root group counts all; without cgroups, the first line of /proc/stat.
fn cpu_usage() -> u64 {
    if let Some(usec) = fs::read_to_string("/sys/fs/cgroup/cpu.stat")
        .ok()
        .and_then(|text| value(&text, "usage_usec"))
    {
        return usec * 1000;
    }
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    proc_stat_ticks(&text) * (1_000_000_000 / ticks)
}

/// user, nice, system, irq, softirq, steal: not idle and iowait.
fn proc_stat_ticks(text: &str) -> u64 {
    let fields: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or("")
        .split_whitespace()
        .skip(1)
        .filter_map(|f| f.parse().ok())
        .collect();
    [0, 1, 2, 5, 6, 7].iter().filter_map(|i| fields.get(*i)).sum()
}

/// "0.00 0.01 0.05 1/123 456": the number behind the slash.
fn processes() -> u64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .nth(3)
        .and_then(|f| f.split('/').nth(1)?.parse().ok())
        .unwrap_or(0)
}

fn interfaces(text: &str) -> Vec<InterfaceStats> {
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            let fields: Vec<u64> = rest.split_whitespace().filter_map(|f| f.parse().ok()).collect();
            Some(InterfaceStats {
                name: name.trim().into(),
                rx_bytes: *fields.first()?,
                rx_packets: *fields.get(1)?,
                rx_errors: *fields.get(2)?,
                rx_dropped: *fields.get(3)?,
                tx_bytes: *fields.get(8)?,
                tx_packets: *fields.get(9)?,
                tx_errors: *fields.get(10)?,
                tx_dropped: *fields.get(11)?,
            })
        })
        .filter(|i| i.name != "lo")
        .collect()
}

/// What the containers' writable layers share.
#[derive(Default)]
struct Scratch {
    /// Bytes.
    used: u64,
    total: u64,
    inodes_total: u64,
    inodes_free: u64,
}

fn scratch(agent: &Agent) -> Scratch {
    let Ok(path) = sys::cpath(&agent.setup.scratch()) else {
        return Scratch::default();
    };
    let mut stat: libc::statvfs = unsafe { mem::zeroed() };
    if unsafe { libc::statvfs(path.as_ptr(), &mut stat) } < 0 {
        return Scratch::default();
    }
    let unit = stat.f_frsize as u64;
    Scratch {
        used: (stat.f_blocks as u64).saturating_sub(stat.f_bfree as u64) * unit,
        total: stat.f_blocks as u64 * unit,
        inodes_total: stat.f_files as u64,
        inodes_free: stat.f_ffree as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_in_bytes() {
        assert_eq!(meminfo("MemTotalX: 9 kB\nMemTotal:  5 kB\n", "MemTotal"), 5120);
        assert_eq!(meminfo("", "MemTotal"), 0);
    }

    #[test]
    fn interfaces_without_loopback() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 1 2 5 0 0 0 0 30 1 4 6 0 0 0 0\n";
        let list = interfaces(text);
        assert_eq!(list.len(), 1);
        assert_eq!(
            (list[0].rx_bytes, list[0].rx_errors, list[0].tx_bytes, list[0].tx_errors),
            (10, 2, 30, 4)
        );
        assert_eq!(
            (
                list[0].rx_packets,
                list[0].rx_dropped,
                list[0].tx_packets,
                list[0].tx_dropped
            ),
            (1, 5, 1, 6)
        );
    }

    #[test]
    fn ticks() {
        assert_eq!(proc_stat_ticks("cpu  1 2 3 100 200 4 5 6 0 0\n"), 21);
    }
}
