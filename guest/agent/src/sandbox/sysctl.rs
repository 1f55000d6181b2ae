//! Kernel parameters of the guest's root namespaces.

use crate::fail::{invalid, Doing};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tonic::Status;

pub fn check(sysctls: &BTreeMap<String, String>) -> Result<(), Status> {
    sysctls.keys().try_for_each(|name| path(name).map(drop))
}

/// The first that fails ends it; the message names it.
pub fn apply(sysctls: &BTreeMap<String, String>) -> Result<(), Status> {
    for (name, value) in sysctls {
        fs::write(path(name)?, value).doing(|| format!("sysctl {name} = {value:?}"))?;
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
