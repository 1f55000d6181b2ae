//! UpdateContainer: resources of a running container, written to its cgroup.

use crate::agent::Agent;
use crate::cgroup;
use crate::cgroup_v1;
use crate::fail::{internal, invalid, precondition, Doing};
use crate::pb::oci::v1::Resources;
use std::fs;
use std::io;
use std::path::Path;
use tonic::Status;

/// Applies the fields that are present. What can be known to fail is found before anything is changed; the message names it.
pub async fn update(agent: &Agent, id: &str, resources: &Resources, oom_score_adj: Option<i32>) -> Result<(), Status> {
    let _lock = agent.containers.lock(id).await;
    let container = agent.containers.get(id)?;
    if container.exit_record().is_some() {
        return Err(precondition(format!("container {id:?} has exited")));
    }
    if !container.cgroups_v1.is_empty() {
        return cgroup_v1::update(&container.cgroups_v1, resources).doing(|| "resources");
    }
    let dir = &container.cgroup;
    let settings = settings(resources, &current(dir))?;
    for (file, value) in &settings {
        if !dir.join(file).exists() {
            return Err(precondition(format!(
                "the cgroup has no {file}: its controller is not available here"
            )));
        }
        if file == "cpuset.cpus" {
            check_cpus(value, &fs::read_to_string(ONLINE).doing(|| ONLINE)?)?;
        }
    }
    for (file, value) in settings {
        fs::write(dir.join(&file), &value).map_err(|e| refused(&file, &value, &e))?;
    }
    if let Some(score) = oom_score_adj {
        for pid in cgroup::processes(dir) {
            match fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound && e.raw_os_error() != Some(libc::ESRCH) => {
                    return Err(refused("oom_score_adj", &score.to_string(), &e));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

const ONLINE: &str = "/sys/devices/system/cpu/online";

/// The kernel's no to a value is the caller's mistake, other errors are not.
fn refused(file: &str, value: &str, error: &io::Error) -> Status {
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ERANGE | libc::ENODEV) => invalid(format!(
            "{file} = {value:?}: the guest's kernel does not take it: {error}"
        )),
        Some(libc::EBUSY) => precondition(format!("{file} = {value:?}: {error}: the container uses more")),
        _ => internal(format!("{file} = {value:?}"), error),
    }
}

/// Both are lists as cpuset(7) writes them: "0-2,5".
fn check_cpus(wanted: &str, online: &str) -> Result<(), Status> {
    let wrong = || invalid(format!("cpuset.cpus: wanted a list such as 0-2,5, found {wanted:?}"));
    let online_list = ranges(online.trim()).unwrap_or_default();
    for (first, last) in ranges(wanted).ok_or_else(wrong)? {
        let there = |cpu: u32| online_list.iter().any(|(from, to)| (*from..=*to).contains(&cpu));
        if let Some(cpu) = (first..=last).find(|cpu| !there(*cpu)) {
            return Err(invalid(format!(
                "cpuset.cpus = {wanted:?}: the pod's VM has no CPU {cpu}; it has {}",
                online.trim()
            )));
        }
    }
    Ok(())
}

fn ranges(list: &str) -> Option<Vec<(u32, u32)>> {
    let one = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first <= last && last < 8192).then_some((first, last))
    };
    list.split(',').map(one).collect()
}

/// What new values depend on.
#[derive(Default)]
struct Current {
    /// Microseconds.
    cpu_period: u64,
    cpu_quota: Option<u64>,
    /// Bytes; None: no limit.
    memory_limit: Option<u64>,
    /// In use, and not to be had back by dropping page cache.
    memory_held: u64,
}

fn current(dir: &Path) -> Current {
    let text = |file: &str| -> io::Result<String> { fs::read_to_string(dir.join(file)) };
    let cpu = text("cpu.max").unwrap_or_default();
    let mut cpu = cpu.split_whitespace();
    let cpu_quota = cpu.next().and_then(|q| q.parse().ok());
    let cpu_period = cpu.next().and_then(|p| p.parse().ok()).unwrap_or(100_000);
    Current {
        cpu_period,
        cpu_quota,
        memory_limit: text("memory.max").ok().and_then(|m| m.trim().parse().ok()),
        memory_held: held(&text("memory.stat").unwrap_or_default()),
    }
}

/// There is no swap: what processes have and what lies in tmpfs stays.
fn held(memory_stat: &str) -> u64 {
    let of = |key| cgroup::value(memory_stat, key).unwrap_or(0);
    of("anon") + of("shmem")
}

/// Files of the cgroup and what is written to them, in order. Pure.
fn settings(resources: &Resources, current: &Current) -> Result<Vec<(String, String)>, Status> {
    let mut list: Vec<(String, String)> = Vec::new();
    let mut set = |file: &str, value: String| list.push((file.into(), value));
    let or_max = |n: i64| if n < 0 { "max".to_string() } else { n.to_string() };
    if let Some(memory) = &resources.memory {
        if let Some(swap) = memory.swap.filter(|s| *s != 0) {
            let limit = memory
                .limit
                .or(current.memory_limit.and_then(|l| i64::try_from(l).ok()))
                .unwrap_or(-1);
            let alone = if swap < 0 || limit < 0 { -1 } else { swap - limit };
            if swap >= 0 && alone < 0 {
                return Err(invalid(format!(
                    "memory.swap: wanted at least the limit {limit}, found {swap}"
                )));
            }
            set("memory.swap.max", or_max(alone));
        }
        if let Some(reservation) = memory.reservation {
            set("memory.low", or_max(reservation));
        }
        if let Some(limit) = memory.limit.filter(|l| *l != 0) {
            if u64::try_from(limit).is_ok_and(|limit| limit < current.memory_held) {
                return Err(precondition(format!(
                    "memory.max: wanted {limit} bytes, but the container holds {} that it cannot give back; its processes would be killed",
                    current.memory_held
                )));
            }
            set("memory.max", or_max(limit));
        }
    }
    if let Some(cpu) = &resources.cpu {
        if let Some(shares) = cpu.shares.filter(|s| *s != 0) {
            set("cpu.weight", weight(shares).to_string());
        }
        if cpu.quota.is_some() || cpu.period.is_some() {
            let period = cpu.period.filter(|p| *p != 0).unwrap_or(current.cpu_period);
            let quota = match cpu.quota {
                Some(quota) if quota > 0 => quota.to_string(),
                Some(_) => "max".into(),
                None => current.cpu_quota.map_or("max".into(), |q| q.to_string()),
            };
            set("cpu.max", format!("{quota} {period}"));
        }
        for (file, value) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
            if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
                set(file, value.clone());
            }
        }
    }
    if let Some(pids) = &resources.pids {
        set(
            "pids.max",
            if pids.limit <= 0 {
                "max".into()
            } else {
                pids.limit.to_string()
            },
        );
    }
    for huge in &resources.hugepage_limits {
        check_name(&huge.page_size)?;
        set(&format!("hugetlb.{}.max", huge.page_size), huge.limit.to_string());
    }
    for (file, value) in &resources.unified {
        check_name(file)?;
        set(file, value.clone());
    }
    Ok(list)
}

/// A file of a cgroup that sets a resource, not one that moves or kills processes.
fn check_name(name: &str) -> Result<(), Status> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'_';
    if name.is_empty() || name.starts_with("cgroup.") || name.contains("..") || !name.bytes().all(legal) {
        return Err(invalid(format!(
            "unified: wanted a cgroup file such as memory.high, found {name:?}"
        )));
    }
    Ok(())
}

/// cpu.shares (2 … 262144) as cpu.weight (1 … 10000), by the curve that runc and crun have since 2025: the default 1024 becomes the default 100.
pub fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144) as f64;
    let log = shares.log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::oci::v1::{Cpu, Memory, Pids};

    #[test]
    fn only_what_is_present() {
        assert!(settings(&Resources::default(), &Current::default()).unwrap().is_empty());
        let cpu = Cpu {
            quota: Some(50_000),
            ..Default::default()
        };
        let resources = Resources {
            cpu: Some(cpu),
            pids: Some(Pids { limit: -1 }),
            ..Default::default()
        };
        let current = Current {
            cpu_period: 100_000,
            ..Default::default()
        };
        let list = settings(&resources, &current).unwrap();
        assert_eq!(
            list,
            [
                ("cpu.max".into(), "50000 100000".into()),
                ("pids.max".into(), "max".into())
            ]
        );
    }

    #[test]
    fn swap_is_counted_without_memory() {
        let memory = Memory {
            limit: Some(100),
            swap: Some(150),
            reservation: None,
        };
        let resources = Resources {
            memory: Some(memory),
            ..Default::default()
        };
        let list = settings(&resources, &Current::default()).unwrap();
        assert_eq!(
            list,
            [
                ("memory.swap.max".into(), "50".into()),
                ("memory.max".into(), "100".into())
            ]
        );
        let less = Memory {
            limit: Some(100),
            swap: Some(50),
            reservation: None,
        };
        assert!(settings(
            &Resources {
                memory: Some(less),
                ..Default::default()
            },
            &Current::default()
        )
        .is_err());
    }

    #[test]
    fn cpus_that_are_not_there() {
        assert!(check_cpus("0-1", "0-1\n").is_ok());
        assert!(check_cpus("1,3", "0-1,3\n").is_ok());
        for wrong in ["2", "0-2", "x", "", "1-0", "0-99999999"] {
            assert!(check_cpus(wrong, "0-1\n").is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_limit_below_what_is_held_is_refused() {
        let memory = Memory {
            limit: Some(100),
            swap: None,
            reservation: None,
        };
        let resources = Resources {
            memory: Some(memory),
            ..Default::default()
        };
        let held = |memory_held| Current {
            memory_held,
            ..Default::default()
        };
        assert!(settings(&resources, &held(101)).is_err());
        assert!(settings(&resources, &held(100)).is_ok());
    }

    #[test]
    fn weights() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 100, 10_000));
    }

    #[test]
    fn files_that_move_processes_are_refused() {
        for name in ["cgroup.kill", "../x", "a/b", ""] {
            let unified = [(name.to_string(), "1".to_string())].into();
            assert!(
                settings(
                    &Resources {
                        unified,
                        ..Default::default()
                    },
                    &Current::default()
                )
                .is_err(),
                "{name}"
            );
        }
    }
}
