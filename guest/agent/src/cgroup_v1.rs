//! The groups of a container in the hierarchies of cgroup v1, on hosts that have them. crun leaves cgroups alone there (it refuses hosts that
//! mount both versions with controllers), so the agent applies limits and device rules itself.

use crate::cgroup::value;
use crate::pb::oci::v1::{DeviceCgroup, Resources};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A cpuset starts empty and takes no process until it is filled: cpusets(7). Where the group is in another hierarchy there is nothing to do.
pub fn inherit_cpuset(parent: &Path, group: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = match fs::read_to_string(group.join(file)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            text => text?,
        };
        // cgroup v2 has files of the same name, in which empty means the parent's.
        if own.trim().is_empty() && !group.join("cgroup.controllers").exists() {
            fs::write(group.join(file), fs::read_to_string(parent.join(file))?)?;
        }
    }
    Ok(())
}

/// Makes the groups, limits them, and moves the process into them. It must not have run anything of the container's yet.
pub fn place(groups: &[PathBuf], pid: libc::pid_t, resources: &Resources) -> io::Result<()> {
    for group in groups {
        crate::cgroup::make(group)?;
        if let Some(parent) = group.parent() {
            inherit_cpuset(parent, group)?;
        }
        for (file, value) in settings(resources) {
            if group.join(&file).exists() {
                fs::write(group.join(&file), &value)
                    .map_err(|e| io::Error::new(e.kind(), format!("{file} = {value:?}: {e}")))?;
            }
        }
        if group.join("devices.deny").exists() {
            allow_devices(group, &resources.devices)?;
        }
        fs::write(group.join("cgroup.procs"), pid.to_string())?;
    }
    Ok(())
}

/// Writes what is present to the groups that have the file. Err: the first file that no group has, or whose writing failed.
pub fn update(groups: &[PathBuf], resources: &Resources) -> io::Result<()> {
    for (file, value) in settings(resources) {
        let group = groups.iter().find(|g| g.join(&file).exists());
        let group = group.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no group has {file}")))?;
        fs::write(group.join(&file), &value)
            .map_err(|e| io::Error::new(e.kind(), format!("{file} = {value:?}: {e}")))?;
    }
    Ok(())
}

/// Files and what is written to them, in order. Of `unified` nothing applies here.
fn settings(resources: &Resources) -> Vec<(String, String)> {
    let mut list: Vec<(String, String)> = Vec::new();
    let mut set = |file: &str, value: String| list.push((file.into(), value));
    if let Some(memory) = &resources.memory {
        if let Some(limit) = memory.limit.filter(|l| *l != 0) {
            set("memory.limit_in_bytes", limit.to_string());
        }
        if let Some(swap) = memory.swap.filter(|s| *s != 0) {
            set("memory.memsw.limit_in_bytes", swap.to_string());
        }
        if let Some(reservation) = memory.reservation {
            set("memory.soft_limit_in_bytes", reservation.to_string());
        }
    }
    if let Some(cpu) = &resources.cpu {
        if let Some(shares) = cpu.shares.filter(|s| *s != 0) {
            set("cpu.shares", shares.to_string());
        }
        if let Some(period) = cpu.period.filter(|p| *p != 0) {
            set("cpu.cfs_period_us", period.to_string());
        }
        if let Some(quota) = cpu.quota.filter(|q| *q != 0) {
            set("cpu.cfs_quota_us", quota.to_string());
        }
        for (file, value) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
            if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
                set(file, value.clone());
            }
        }
    }
    if let Some(pids) = &resources.pids {
        let limit = if pids.limit <= 0 {
            "max".into()
        } else {
            pids.limit.to_string()
        };
        set("pids.max", limit);
    }
    for huge in &resources.hugepage_limits {
        set(
            &format!("hugetlb.{}.limit_in_bytes", huge.page_size),
            huge.limit.to_string(),
        );
    }
    list
}

/// What every container may use, whatever its rules say: as crun and runc have it.
const USUAL: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

fn allow_devices(group: &Path, rules: &[DeviceCgroup]) -> io::Result<()> {
    let write = |file: &str, text: &str| {
        fs::write(group.join(file), text).map_err(|e| io::Error::new(e.kind(), format!("{file} {text:?}: {e}")))
    };
    let mut denied = false;
    for rule in rules {
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        denied |= !rule.allow;
        write(file, &device_rule(rule))?;
    }
    if denied {
        for rule in USUAL {
            write("devices.allow", rule)?;
        }
    }
    Ok(())
}

/// "c 1:3 rwm"; "a" is every device.
fn device_rule(rule: &DeviceCgroup) -> String {
    let kind = rule.r#type.as_deref().filter(|t| !t.is_empty()).unwrap_or("a");
    if kind == "a" {
        return "a".into();
    }
    let number = |n: Option<i64>| n.filter(|n| *n >= 0).map_or("*".into(), |n| n.to_string());
    let access = rule.access.as_deref().unwrap_or("rwm");
    format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor))
}

/// Number of processes of the groups that the kernel killed for lack of memory.
pub fn oom_kills(groups: &[PathBuf]) -> u64 {
    text(groups, "memory.oom_control")
        .and_then(|text| value(&text, "oom_kill"))
        .unwrap_or(0)
}

/// The file of the first group that has it.
pub fn text(groups: &[PathBuf], file: &str) -> Option<String> {
    groups
        .iter()
        .find_map(|group| fs::read_to_string(group.join(file)).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::oci::v1::{Cpu, Memory};

    #[test]
    fn only_what_is_present() {
        assert!(settings(&Resources::default()).is_empty());
        let memory = Some(Memory {
            limit: Some(100),
            swap: Some(200),
            reservation: None,
        });
        let cpu = Some(Cpu {
            shares: Some(512),
            quota: Some(-1),
            cpus: Some(String::new()),
            ..Default::default()
        });
        let resources = Resources {
            memory,
            cpu,
            ..Default::default()
        };
        let wanted = [
            ("memory.limit_in_bytes", "100"),
            ("memory.memsw.limit_in_bytes", "200"),
            ("cpu.shares", "512"),
            ("cpu.cfs_quota_us", "-1"),
        ];
        let list = settings(&resources);
        let list: Vec<_> = list.iter().map(|(f, v)| (f.as_str(), v.as_str())).collect();
        assert_eq!(list, wanted);
    }

    #[test]
    fn device_rules() {
        let all = DeviceCgroup {
            allow: false,
            access: Some("rwm".into()),
            ..Default::default()
        };
        assert_eq!(device_rule(&all), "a");
        let fuse = DeviceCgroup {
            allow: true,
            r#type: Some("c".into()),
            major: Some(10),
            minor: Some(229),
            access: Some("rw".into()),
        };
        assert_eq!(device_rule(&fuse), "c 10:229 rw");
        let disks = DeviceCgroup {
            r#type: Some("b".into()),
            ..Default::default()
        };
        assert_eq!(device_rule(&disks), "b *:* rwm");
    }
}
