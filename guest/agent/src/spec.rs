//! The OCI spec: checked as it comes from the server, completed with what only the agent knows, written as config.json.

use crate::container::update::weight;
use crate::fail::invalid;
use crate::pb::oci::v1::{Device, Mount, Namespace, Process, Resources, Spec, User};
use crate::userns::UserNamespace;
use crate::users::Identity;
use crate::volume;
use std::collections::BTreeMap;
use std::path::Path;
use tonic::Status;

const MANY: usize = 4096;
const MOUNTS: usize = 1024;
const TEXT: usize = 1 << 20;
const FILE_SYSTEMS: [&str; 7] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"];
const NAMESPACES: [&str; 7] = ["mount", "pid", "network", "ipc", "uts", "user", "cgroup"];

/// What the agent fills in.
pub struct Facts<'a> {
    pub rootfs: &'a Path,
    /// Folder with this container's hosts, resolv.conf, hostname.
    pub files: &'a Path,
    pub shm: &'a Path,
    /// Where crun finds the volumes, by source.
    pub volumes: &'a BTreeMap<String, String>,
    pub identity: &'a Identity,
    /// Path of the pid namespace to join; Some("") makes one, None means the guest's own.
    pub pid_namespace: Option<String>,
    /// The pod's user namespace, which the container joins with what belongs to it.
    pub user_namespace: Option<&'a UserNamespace>,
    /// Beside those of the spec.
    pub devices: Vec<Device>,
    pub cgroups_path: Option<String>,
}

/// Refuses what the contract does not allow. `host_paths`: absolute sources of binds are allowed, as on a host.
pub fn check(spec: &Spec, host_paths: bool) -> Result<(), Status> {
    let process = spec
        .process
        .as_ref()
        .ok_or_else(|| invalid("spec.process: wanted one, found none"))?;
    check_args(&process.args)?;
    bounded("spec.process.env", process.env.len(), MANY)?;
    let text: usize = process.args.iter().chain(&process.env).map(String::len).sum();
    bounded("bytes of arguments and environment", text, TEXT)?;
    for text in process.env.iter().chain([&process.cwd]) {
        no_nul("spec.process", text)?;
    }
    if !process.cwd.is_empty() && !process.cwd.starts_with('/') {
        return Err(invalid(format!(
            "spec.process.cwd: wanted an absolute path, found {:?}",
            process.cwd
        )));
    }
    bounded("spec.mounts", spec.mounts.len(), MOUNTS)?;
    spec.mounts.iter().try_for_each(|m| check_mount(m, host_paths))?;
    if let Some(linux) = &spec.linux {
        bounded("spec.linux.devices", linux.devices.len(), MANY)?;
        for namespace in &linux.namespaces {
            if !NAMESPACES.contains(&namespace.r#type.as_str()) || namespace.path.is_some() {
                return Err(invalid(format!(
                    "spec.linux.namespaces: wanted one of {NAMESPACES:?} without path, found {:?} with path {:?}",
                    namespace.r#type, namespace.path
                )));
            }
        }
    }
    Ok(())
}

/// Arguments of a container or command.
pub fn check_args(args: &[String]) -> Result<(), Status> {
    if args.first().is_none_or(|a| a.is_empty()) {
        return Err(invalid("args: wanted a command, found none"));
    }
    bounded("args", args.len(), MANY)?;
    bounded("bytes of arguments", args.iter().map(String::len).sum(), TEXT)?;
    args.iter().try_for_each(|a| no_nul("args", a))
}

fn bounded(what: &str, found: usize, most: usize) -> Result<(), Status> {
    if found > most {
        return Err(invalid(format!("{what}: wanted at most {most}, found {found}")));
    }
    Ok(())
}

fn no_nul(what: &str, text: &str) -> Result<(), Status> {
    if text.contains('\0') {
        return Err(invalid(format!("{what}: a NUL in {text:?}")));
    }
    Ok(())
}

fn check_mount(mount: &Mount, host_paths: bool) -> Result<(), Status> {
    let source = mount.source.as_deref().unwrap_or("");
    let at = &mount.destination;
    no_nul("mount", at)?;
    no_nul("mount", source)?;
    if !at.starts_with('/') {
        return Err(invalid(format!("mount: wanted an absolute destination, found {at:?}")));
    }
    if volume::is_volume(source) {
        return volume::parse(source).map(drop);
    }
    if source.starts_with("podvm:") {
        return match source {
            "podvm:shm" | "podvm:hosts" | "podvm:resolv.conf" | "podvm:hostname" => Ok(()),
            _ => Err(invalid(format!("mount on {at:?}: no special source {source:?}"))),
        };
    }
    let kind = mount.r#type.as_deref().unwrap_or("");
    let binds = mount.options.iter().any(|o| o == "bind" || o == "rbind");
    if host_paths && binds && kind == "bind" && source.starts_with('/') {
        return Ok(());
    }
    if binds || !FILE_SYSTEMS.contains(&kind) {
        return Err(invalid(format!(
            "mount on {at:?}: wanted a podvm: source or one of {FILE_SYSTEMS:?}, found source {source:?}, type {kind:?}, options {:?}",
            mount.options
        )));
    }
    Ok(())
}

/// Completes a checked spec.
pub fn complete(mut spec: Spec, facts: Facts) -> Spec {
    if spec.oci_version.is_empty() {
        spec.oci_version = "1.0.2".into();
    }
    spec.root.get_or_insert_default().path = facts.rootfs.to_string_lossy().into_owned();
    if let Some(process) = &mut spec.process {
        complete_process(process, facts.identity);
    }
    for mount in &mut spec.mounts {
        let source = match mount.source.as_deref() {
            Some("podvm:shm") => facts.shm.to_path_buf(),
            Some(source) if facts.volumes.contains_key(source) => facts.volumes[source].clone().into(),
            Some(special) if special.starts_with("podvm:") => facts.files.join(&special["podvm:".len()..]),
            _ => continue,
        };
        mount.source = Some(source.to_string_lossy().into_owned());
        mount.r#type = Some("bind".into());
        if !mount.options.iter().any(|o| o == "bind" || o == "rbind") {
            mount.options.insert(0, "bind".into());
        }
    }
    let linux = spec.linux.get_or_insert_default();
    linux.cgroups_path = facts.cgroups_path.clone();
    if let Some(resources) = &mut linux.resources {
        if let Some(cpu) = &mut resources.cpu {
            // "" means that nothing was asked for; crun would write it.
            cpu.cpus = cpu.cpus.take().filter(|c| !c.is_empty());
            cpu.mems = cpu.mems.take().filter(|m| !m.is_empty());
        }
        if facts.cgroups_path.is_some() {
            weigh(resources);
        }
    }
    linux.namespaces.retain(|n| n.r#type != "pid");
    if !linux.namespaces.iter().any(|n| n.r#type == "mount") {
        linux.namespaces.push(Namespace {
            r#type: "mount".into(),
            path: None,
        });
    }
    if let Some(path) = facts.pid_namespace {
        let path = Some(path).filter(|p| !p.is_empty());
        linux.namespaces.push(Namespace {
            r#type: "pid".into(),
            path,
        });
    }
    linux.devices.extend(facts.devices);
    if let Some(user_namespace) = facts.user_namespace {
        linux.namespaces.extend(user_namespace.namespaces());
        linux.uid_mappings = vec![user_namespace.ranges.uids.mapping()];
        linux.gid_mappings = vec![user_namespace.ranges.gids.mapping()];
        // crun would write it from within the user namespace, where nothing may be lowered: it inherits it instead.
        if let Some(process) = &mut spec.process {
            process.oom_score_adj = None;
        }
    }
    spec
}

/// Shares as a weight by the agent's own conversion: crun's differs from version to version, and an update must not change what was equal.
fn weigh(resources: &mut Resources) {
    let shares = resources
        .cpu
        .as_mut()
        .and_then(|cpu| cpu.shares.take())
        .filter(|s| *s != 0);
    if let Some(shares) = shares {
        resources
            .unified
            .entry("cpu.weight".into())
            .or_insert(weight(shares).to_string());
    }
}

fn complete_process(process: &mut Process, identity: &Identity) {
    let umask = process.user.as_ref().and_then(|u| u.umask);
    process.user = Some(User {
        uid: identity.uid,
        gid: identity.gid,
        additional_gids: identity.groups.clone(),
        umask,
    });
    if process.cwd.is_empty() {
        process.cwd = "/".into();
    }
    if !process.env.iter().any(|e| e.starts_with("HOME=")) {
        process.env.push(format!("HOME={}", identity.home));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::oci::v1::{Capabilities, Cpu, Linux, Memory, Rlimit};

    static NONE: BTreeMap<String, String> = BTreeMap::new();

    fn identity() -> Identity {
        Identity {
            uid: 1000,
            gid: 0,
            groups: vec![0, 5],
            home: "/h".into(),
        }
    }

    fn facts<'a>(identity: &'a Identity, pid: Option<&str>) -> Facts<'a> {
        Facts {
            rootfs: Path::new("/r"),
            files: Path::new("/f"),
            shm: Path::new("/s"),
            volumes: &NONE,
            identity,
            pid_namespace: pid.map(String::from),
            user_namespace: None,
            devices: Vec::new(),
            cgroups_path: Some("/podvm/c-a".into()),
        }
    }

    fn spec() -> Spec {
        let process = Process {
            args: vec!["sh".into()],
            ..Default::default()
        };
        Spec {
            process: Some(process),
            ..Default::default()
        }
    }

    fn mount(source: &str, kind: &str, options: &[&str]) -> Mount {
        Mount {
            destination: "/m".into(),
            source: Some(source.into()),
            r#type: Some(kind.into()),
            options: options.iter().map(|o| o.to_string()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn config_json_has_the_official_names_and_no_absent_fields() {
        let mut spec = spec();
        if let Some(process) = &mut spec.process {
            process.capabilities = Some(Capabilities {
                bounding: vec!["CAP_KILL".into()],
                ..Default::default()
            });
            process.rlimits = vec![Rlimit {
                r#type: "RLIMIT_NOFILE".into(),
                hard: u64::MAX,
                soft: 1,
            }];
        }
        spec.mounts = vec![mount("podvm:hosts", "bind", &["rw"]), mount("proc", "proc", &[])];
        let memory = Some(Memory {
            limit: Some(-1),
            ..Default::default()
        });
        let cpu = Some(Cpu {
            shares: Some(1024),
            period: Some(100_000),
            cpus: Some(String::new()),
            ..Default::default()
        });
        let resources = Some(Resources {
            memory,
            cpu,
            ..Default::default()
        });
        spec.linux = Some(Linux {
            resources,
            masked_paths: vec!["/proc/kcore".into()],
            ..Default::default()
        });
        check(&spec, false).unwrap();
        let who = identity();
        let json = serde_json::to_value(complete(spec, facts(&who, Some("")))).unwrap();
        let wanted = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 1000, "gid": 0, "additionalGids": [0, 5]},
                "args": ["sh"], "env": ["HOME=/h"], "cwd": "/",
                "capabilities": {"bounding": ["CAP_KILL"], "effective": [], "inheritable": [], "permitted": [], "ambient": []},
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": u64::MAX, "soft": 1}],
                "noNewPrivileges": false,
            },
            "root": {"path": "/r", "readonly": false},
            "mounts": [
                {"destination": "/m", "source": "/f/hosts", "type": "bind", "options": ["bind", "rw"]},
                {"destination": "/m", "source": "proc", "type": "proc"},
            ],
            "linux": {
                "resources": {"memory": {"limit": -1}, "cpu": {"period": 100_000}, "unified": {"cpu.weight": "100"}},
                "cgroupsPath": "/podvm/c-a",
                "namespaces": [{"type": "mount"}, {"type": "pid"}],
                "maskedPaths": ["/proc/kcore"],
            },
        });
        assert_eq!(json, wanted);
    }

    #[test]
    fn pid_namespaces() {
        let who = identity();
        let namespaces = |pid| complete(spec(), facts(&who, pid)).linux.unwrap().namespaces;
        assert_eq!(namespaces(None).len(), 1);
        assert_eq!(
            namespaces(Some("/proc/7/ns/pid"))[1].path.as_deref(),
            Some("/proc/7/ns/pid")
        );
    }

    #[test]
    fn sources_of_the_guest_are_refused() {
        for bad in [
            mount("/etc", "bind", &[]),
            mount("/etc", "none", &["rbind"]),
            mount("/etc", "tmpfs", &["bind"]),
            mount("podvm:root", "bind", &[]),
            mount("podvm:volume/", "bind", &[]),
            mount("podvm:volume/a/../b", "bind", &[]),
            mount("/dev/vda", "ext4", &[]),
            Mount {
                destination: "relative".into(),
                ..mount("proc", "proc", &[])
            },
        ] {
            let spec = Spec {
                mounts: vec![bad.clone()],
                ..spec()
            };
            let code = check(&spec, false).unwrap_err().code();
            assert_eq!(code, tonic::Code::InvalidArgument, "{bad:?}");
        }
    }

    #[test]
    fn on_a_host_absolute_sources_are_bound() {
        let allowed = |mount: Mount| {
            let spec = Spec {
                mounts: vec![mount],
                ..spec()
            };
            check(&spec, true).is_ok()
        };
        assert!(allowed(mount("/etc", "bind", &["rbind", "rprivate", "ro"])));
        for bad in [
            mount("etc", "bind", &["rbind"]),
            mount("/etc", "bind", &[]),
            mount("/dev/vda", "ext4", &["rbind"]),
        ] {
            assert!(!allowed(bad.clone()), "{bad:?}");
        }
    }

    #[test]
    fn commands_are_bounded() {
        assert!(check_args(&[]).is_err());
        assert!(check_args(&[String::new()]).is_err());
        assert!(check_args(&["a\0".into()]).is_err());
        assert!(check_args(&vec!["a".to_string(); MANY + 1]).is_err());
        assert!(check_args(&["a".repeat(TEXT + 1)]).is_err());
        assert!(check_args(&["a".into(), String::new()]).is_ok());
    }

    #[test]
    fn namespaces_with_paths_are_refused() {
        let namespaces = vec![Namespace {
            r#type: "network".into(),
            path: Some("/proc/1/ns/net".into()),
        }];
        let linux = Some(Linux {
            namespaces,
            ..Default::default()
        });
        assert!(check(&Spec { linux, ..spec() }, true).is_err());
    }
}
