//! UpdateContainer: resources of a running container, written to its cgroup.

use crate::agent::Agent;
use crate::cgroup_v1;
use crate::fail::{invalid, precondition, Doing};
use crate::pb::oci::v1::Resources;
use std::fs;
use std::io;
use std::path::Path;
use tonic::Status;

/// Applies the fields that are present. The first that cannot be applied ends it; the message names it.
pub async fn update(agent: &Agent, id: &str, resources: &Resources) -> Result<(), Status> {
    let _lock = agent.containers.lock(id).await;
    let container = agent.containers.get(id)?;
    if container.exit_record().is_some() {
        return Err(precondition(format!("container {id:?} has exited")));
    }
    if !container.cgroups_v1.is_empty() {
        return cgroup_v1::update(&container.cgroups_v1, resources).doing(|| "resources");
    }
    let dir = &container.cgroup;
    for (file, value) in settings(resources, &current(dir))? {
        if !dir.join(&file).exists() {
            return Err(precondition(format!(
                "the cgroup has no {file}: its controller is not available here"
            )));
        }
        fs::write(dir.join(&file), &value).doing(|| format!("{file} = {value:?}"))?;
    }
    Ok(())
}

/// What new values depend on.
#[derive(Default)]
struct Current {
    /// Microseconds.
    cpu_period: u64,
    cpu_quota: Option<u64>,
    /// Bytes; None: no limit.
    memory_limit: Option<u64>,
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
    }
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
