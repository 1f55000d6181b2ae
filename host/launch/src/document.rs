//! The document on standard input, checked once, here.
use crate::failure::Failure;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Descriptors handed to the VMM lie below this; the launcher keeps its own above.
pub const FIRST_OWN_FD: i32 = 64;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Document {
    pub version: u32,
    /// Absolute path, inside one of the executable binds.
    pub program: String,
    /// argv[1] on; argv[0] is the program.
    pub args: Vec<String>,
    /// The whole environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub uid: u32,
    pub gid: u32,
    /// Existing cgroup folders to join, one per hierarchy (v1) or one (v2).
    #[serde(default)]
    pub cgroups: Vec<String>,
    /// Absent: a new network namespace with nothing in it.
    pub netns: Option<String>,
    pub tap: Option<Tap>,
    #[serde(default)]
    pub sockets: Vec<Socket>,
    /// Another descriptor for standard error, for programs that write a console but not to 2.
    pub stderr_copy: Option<i32>,
    pub root: Root,
    pub rlimits: Rlimits,
    pub oom_score_adj: Option<i32>,
    /// False: the VMM's memory never comes in huge pages (a guest touches its memory sparsely; huge pages multiply what it costs).
    pub huge_pages: bool,
    /// Gets {"pid":…,"starttime":…} before the VMM runs.
    pub pid_file: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Tap {
    /// An existing tap in `netns`.
    pub name: String,
    pub fd: i32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Socket {
    pub path: String,
    pub fd: i32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Root {
    /// An existing empty folder; the new root is mounted on it, in the VMM's mount namespace only.
    pub mount_point: String,
    pub binds: Vec<Bind>,
    #[serde(default)]
    pub devices: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Bind {
    /// Existing folder; the same path inside and outside.
    pub path: String,
    pub access: Access,
}

#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Access {
    /// Read, nothing else.
    Read,
    /// Read and execute.
    Execute,
    /// Read and write (as far as the files' own modes allow), no execution.
    Write,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rlimits {
    pub nofile: u64,
    /// Threads of this uid.
    pub nproc: u64,
    /// Bytes.
    pub memlock: u64,
}

const DEVICES: [&str; 4] = ["/dev/null", "/dev/urandom", "/dev/zero", "/dev/kvm"];

impl Document {
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let document: Self =
            serde_json::from_str(text).map_err(|e| Failure::invalid(e.to_string()))?;
        document.validate()?;
        Ok(document)
    }

    fn validate(&self) -> Result<(), Failure> {
        if self.version != 1 {
            return Err(Failure::invalid(format!(
                "version {} is not known, 1 is",
                self.version
            )));
        }
        if self.uid == 0 || self.gid == 0 {
            return Err(Failure::invalid("uid and gid must not be 0"));
        }
        let mut paths = vec![("program", &self.program), ("pidFile", &self.pid_file)];
        paths.push(("root.mountPoint", &self.root.mount_point));
        paths.extend(self.cgroups.iter().map(|p| ("cgroups", p)));
        paths.extend(self.netns.iter().map(|p| ("netns", p)));
        paths.extend(self.sockets.iter().map(|s| ("sockets", &s.path)));
        paths.extend(self.root.binds.iter().map(|b| ("root.binds", &b.path)));
        for (field, path) in paths {
            absolute(field, path)?;
        }
        for device in &self.root.devices {
            if !DEVICES.contains(&device.as_str()) {
                return Err(Failure::invalid(format!(
                    "root.devices: {device:?} is not one of {DEVICES:?}"
                )));
            }
        }
        if let Some(tap) = &self.tap {
            if self.netns.is_none() {
                return Err(Failure::invalid("tap needs netns"));
            }
            // IFNAMSIZ is 16 with the closing zero.
            if tap.name.is_empty() || tap.name.len() > 15 || tap.name.contains(['/', '\0', '%']) {
                return Err(Failure::invalid(format!(
                    "tap.name {:?} is no interface name",
                    tap.name
                )));
            }
        }
        let strings = self
            .args
            .iter()
            .chain(self.env.keys())
            .chain(self.env.values());
        if strings.into_iter().any(|s| s.contains('\0'))
            || self.env.keys().any(|k| k.is_empty() || k.contains('='))
        {
            return Err(Failure::invalid(
                "args and env: no NUL, and no '=' in names",
            ));
        }
        self.validate_fds()
    }

    fn validate_fds(&self) -> Result<(), Failure> {
        let mut fds: Vec<i32> = self
            .sockets
            .iter()
            .map(|s| s.fd)
            .chain(self.tap.iter().map(|t| t.fd))
            .chain(self.stderr_copy)
            .collect();
        fds.sort_unstable();
        if fds.iter().any(|fd| !(3..FIRST_OWN_FD).contains(fd))
            || fds.windows(2).any(|w| w[0] == w[1])
        {
            return Err(Failure::invalid(format!(
                "fd numbers {fds:?}: each once, from 3 to {}",
                FIRST_OWN_FD - 1
            )));
        }
        Ok(())
    }
}

fn absolute(field: &str, path: &str) -> Result<(), Failure> {
    let plain = path.starts_with('/')
        && path.len() > 1
        && path[1..]
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..");
    if !plain || path.contains('\0') {
        return Err(Failure::invalid(format!(
            "{field}: {path:?} is not a plain absolute path"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, Value};

    fn valid() -> Value {
        json!({
            "version": 1, "program": "/b/bin/vmm", "args": ["-x"], "uid": 1000, "gid": 1000,
            "netns": "/run/netns/a", "tap": {"name": "tap0", "fd": 5},
            "sockets": [{"path": "/r/a.sock", "fd": 3}, {"path": "/r/b.sock", "fd": 4}],
            "root": {"mountPoint": "/r/root", "binds": [{"path": "/b", "access": "execute"}], "devices": ["/dev/null"]},
            "rlimits": {"nofile": 1024, "nproc": 64, "memlock": 0}, "hugePages": false, "pidFile": "/r/pid"
        })
    }

    fn error(change: impl FnOnce(&mut Value)) -> String {
        let mut document = valid();
        change(&mut document);
        Document::parse(&document.to_string())
            .expect_err("must be refused")
            .message
    }

    #[test]
    fn a_whole_document_is_read() {
        let document = Document::parse(&valid().to_string()).expect("valid");
        assert_eq!(document.sockets.len(), 2);
        assert_eq!(document.root.binds[0].access, Access::Execute);
        assert!(document.oom_score_adj.is_none());
    }

    #[test]
    fn unknown_fields_are_refused_at_every_level() {
        assert!(error(|d| d["extra"] = json!(1)).contains("unknown field `extra`"));
        assert!(error(|d| d["root"]["extra"] = json!(1)).contains("unknown field `extra`"));
        assert!(error(|d| d["tap"]["extra"] = json!(1)).contains("unknown field `extra`"));
        assert!(error(|d| d["sockets"][0]["extra"] = json!(1)).contains("unknown field `extra`"));
    }

    #[test]
    fn root_is_no_user_to_run_as() {
        assert!(error(|d| d["uid"] = json!(0)).contains("must not be 0"));
        assert!(error(|d| d["gid"] = json!(0)).contains("must not be 0"));
    }

    #[test]
    fn paths_must_be_plain_and_absolute() {
        for path in ["", "/", "b", "/b/../etc", "/b//c", "/b/.", "/b/", "/b\0"] {
            assert!(
                error(|d| d["program"] = json!(path)).contains("plain absolute path"),
                "{path:?}"
            );
            assert!(
                error(|d| d["root"]["binds"][0]["path"] = json!(path))
                    .contains("plain absolute path"),
                "{path:?}"
            );
        }
    }

    #[test]
    fn descriptors_are_distinct_and_in_range() {
        assert!(error(|d| d["tap"]["fd"] = json!(3)).contains("each once"));
        assert!(error(|d| d["tap"]["fd"] = json!(2)).contains("each once"));
        assert!(error(|d| d["tap"]["fd"] = json!(64)).contains("each once"));
        assert!(error(|d| d["stderrCopy"] = json!(4)).contains("each once"));
    }

    #[test]
    fn devices_come_from_a_fixed_list() {
        assert!(error(|d| d["root"]["devices"] = json!(["/dev/vda"])).contains("is not one of"));
    }

    #[test]
    fn a_tap_needs_a_namespace_and_a_name() {
        assert!(error(|d| d["netns"] = Value::Null).contains("tap needs netns"));
        assert!(
            error(|d| d["tap"]["name"] = json!("a-name-too-long-0")).contains("no interface name")
        );
        assert!(error(|d| d["tap"]["name"] = json!("tap%d")).contains("no interface name"));
    }

    #[test]
    fn another_version_is_refused() {
        assert!(error(|d| d["version"] = json!(2)).contains("version 2"));
    }
}
