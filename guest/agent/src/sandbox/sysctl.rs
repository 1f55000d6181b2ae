//! Kernel parameters: of the guest's root namespaces, or those in which the calling process is.

use crate::fail::{invalid, precondition};
use crate::host_pod::HostPod;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use tonic::Status;

pub fn check(sysctls: &BTreeMap<String, String>) -> Result<(), Status> {
    sysctls.keys().try_for_each(|name| path(name).map(drop))
}

/// Refuses what is not in a namespace of the pod's own: it would change the host, and every other pod on it.
pub fn check_own(sysctls: &BTreeMap<String, String>, host: &HostPod) -> Result<(), Status> {
    const IPC: [&str; 8] = [
        "msgmax",
        "msgmnb",
        "msgmni",
        "sem",
        "shmall",
        "shmmax",
        "shmmni",
        "shm_rmid_forced",
    ];
    for name in sysctls.keys() {
        let file = path(name)?;
        let within = |dir: &str| file.strip_prefix(dir).ok();
        let ipc = within("/proc/sys/fs/mqueue").is_some()
            || within("/proc/sys/kernel").is_some_and(|rest| IPC.iter().any(|f| rest == Path::new(f)));
        let own = (host.own_network && within("/proc/sys/net").is_some()) || (host.own_ipc && ipc);
        if !own {
            return Err(precondition(format!(
                "sysctl {name}: this pod runs on the host, of whose kernel it has no namespace of its own for that: take it out of the pod"
            )));
        }
    }
    Ok(())
}

/// Whether it is one of network and IPC namespaces; all others are the kernel's.
pub fn of_namespaces(name: &str) -> bool {
    let name = name.replace('/', ".");
    ["net.", "kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// The first that fails ends it; the message names it.
pub fn apply(sysctls: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in sysctls {
        let path = path(name).map_err(|status| status.message().to_string())?;
        // Not created where it is missing: /proc would answer EACCES, which says less.
        let written = fs::OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(value.as_bytes()));
        written.map_err(|e| match e.raw_os_error() {
            Some(libc::ENOENT) => format!("sysctl {name}: this kernel has none of that name"),
            _ => format!("sysctl {name}: the kernel refuses {value:?}: {e}"),
        })?;
    }
    Ok(())
}

/// As sysctl(8) reads names: the first separator decides; where it is a dot, dots part and a slash stands for a dot.
fn path(name: &str) -> Result<PathBuf, Status> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'/' | b'-');
    let bad = name.is_empty() || name.len() > 256 || !name.bytes().all(legal);
    let slashed = match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_string(),
    };
    if bad
        || slashed
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return Err(invalid(format!(
            "sysctls: wanted a name such as net.ipv4.ip_forward, found {name:?}"
        )));
    }
    Ok(Path::new("/proc/sys").join(slashed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_host_only_what_is_the_pods_own() {
        let allowed = |name: &str, own_network, own_ipc| {
            let host = HostPod {
                own_network,
                own_ipc,
                own_uts: true,
                disks: "/d".into(),
                scratch: "/s".into(),
            };
            check_own(&[(name.to_string(), "1".to_string())].into(), &host).is_ok()
        };
        assert!(allowed("net.ipv4.ip_forward", true, false));
        assert!(!allowed("net.ipv4.ip_forward", false, true));
        assert!(allowed("kernel.shm_rmid_forced", false, true) && allowed("fs.mqueue.msg_max", false, true));
        assert!(!allowed("kernel.shm_rmid_forced", true, false));
        assert!(!allowed("kernel.panic", true, true) && !allowed("vm.swappiness", true, true));
    }

    #[test]
    fn names() {
        let text = |name| path(name).map(|p| p.to_string_lossy().into_owned()).ok();
        assert_eq!(
            text("net.ipv4.ip_forward").as_deref(),
            Some("/proc/sys/net/ipv4/ip_forward")
        );
        assert_eq!(
            text("net/ipv4/conf/eth0.1/mtu").as_deref(),
            Some("/proc/sys/net/ipv4/conf/eth0.1/mtu")
        );
        assert_eq!(
            text("net.ipv4.conf.eth0/1.mtu").as_deref(),
            Some("/proc/sys/net/ipv4/conf/eth0.1/mtu")
        );
        for bad in [
            "",
            "..",
            "kernel..x",
            "a.//.b",
            "../etc/passwd",
            "/etc",
            "a b",
            "net/../../etc",
        ] {
            assert_eq!(text(bad), None, "{bad}");
        }
    }
}
