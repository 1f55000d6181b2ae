//! The pod's resolv.conf, hosts and hostname.

use crate::fail::invalid;
use crate::host_pod::HostPod;
use crate::pb::agent::v1::{ConfigureSandboxRequest, Dns};
use std::fs;
use std::io;
use std::path::Path;
use tonic::Status;

/// Every text becomes part of one line.
pub fn check(request: &ConfigureSandboxRequest) -> Result<(), Status> {
    let dns = request.dns.clone().unwrap_or_default();
    let texts = [&dns.servers, &dns.searches, &dns.options, &request.hosts];
    if texts.iter().any(|list| list.len() > 1024) {
        return Err(invalid("dns, hosts: wanted at most 1024 of each"));
    }
    let bad = |text: &str| text.len() > 4096 || text.contains(|c: char| c.is_control() && c != '\t');
    if let Some(text) = texts.into_iter().flatten().find(|text| bad(text)) {
        return Err(invalid(format!(
            "dns, hosts: wanted one line of at most 4096 bytes, found {text:?}"
        )));
    }
    Ok(())
}

pub fn write(dir: &Path, request: &ConfigureSandboxRequest) -> io::Result<()> {
    fs::write(
        dir.join("resolv.conf"),
        resolv_conf(&request.dns.clone().unwrap_or_default()),
    )?;
    fs::write(dir.join("hosts"), hosts(request))?;
    fs::write(dir.join("hostname"), format!("{}\n", request.hostname))
}

/// What a pod shares with the host it sees as the host has it: its hosts file and name with the network, the resolver where none was given.
pub fn take_from_host(dir: &Path, host: &HostPod, resolver: bool) -> io::Result<()> {
    let take = |name: &str| match fs::read(Path::new("/etc").join(name)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        content => fs::write(dir.join(name), content?),
    };
    if resolver {
        take("resolv.conf")?;
    }
    if !host.own_network {
        take("hosts")?;
    }
    if !host.own_uts {
        let name = fs::read("/proc/sys/kernel/hostname")?;
        fs::write(dir.join("hostname"), name)?;
    }
    Ok(())
}

fn resolv_conf(dns: &Dns) -> String {
    let mut text: String = dns.servers.iter().map(|s| format!("nameserver {s}\n")).collect();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

fn hosts(request: &ConfigureSandboxRequest) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for line in &request.hosts {
        text += line;
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver() {
        let dns = Dns {
            servers: vec!["1.1.1.1".into(), "::1".into()],
            searches: vec!["a".into(), "b".into()],
            options: vec![],
        };
        assert_eq!(resolv_conf(&dns), "nameserver 1.1.1.1\nnameserver ::1\nsearch a b\n");
        assert_eq!(resolv_conf(&Dns::default()), "");
    }

    #[test]
    fn a_second_line_is_refused() {
        let request = ConfigureSandboxRequest {
            hosts: vec!["1.2.3.4 a\n6.6.6.6 b".into()],
            ..Default::default()
        };
        assert!(check(&request).is_err());
        let request = ConfigureSandboxRequest {
            hosts: vec!["1.2.3.4\ta".into()],
            ..Default::default()
        };
        check(&request).unwrap();
        assert!(hosts(&request).ends_with("loopback\n1.2.3.4\ta\n"));
    }
}
