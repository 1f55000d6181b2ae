//! What the server asks for, as JSON on standard input, checked once, here.

use crate::failure::Failure;
use serde::Deserialize;
use std::io::Read;

/// A document is a few KiB; what is larger is no document.
const MAX_DOCUMENT: u64 = 4 << 20;
const MAX_ENTRY_NAME: usize = 64;

/// `podvm-share run`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Run {
    pub version: u32,
    /// Unix socket on which the VMM listens for the second stream.
    pub socket: String,
    /// Unix socket to listen on: whoever is connected to it sees the share's end, and its log lines.
    pub control: String,
    /// Gets {"pid":…,"starttime":…} before anything is served.
    pub pid_file: String,
    /// An existing empty folder; the root is mounted on it, in the share's mount namespace only.
    pub mount_point: String,
    /// Existing cgroup folders to join, one per hierarchy (v1) or one (v2).
    #[serde(default)]
    pub cgroups: Vec<String>,
    #[serde(default)]
    pub entries: Vec<Entry>,
}

/// `podvm-share attach`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Attach {
    pub version: u32,
    pub pid_file: String,
    pub entry: Entry,
}

/// `podvm-share detach`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Detach {
    pub version: u32,
    pub pid_file: String,
    pub name: String,
}

#[derive(Debug, Deserialize, Clone)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Entry {
    /// Of [a-z0-9-].
    pub name: String,
    /// Absolute, links followed already.
    pub path: String,
    #[serde(default)]
    pub readonly: bool,
    /// Also what is mounted below.
    #[serde(default)]
    pub recursive_readonly: bool,
    pub propagation: Propagation,
}

#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Propagation {
    Private,
    HostToContainer,
}

pub trait Document: for<'a> Deserialize<'a> {
    fn validate(&self) -> Result<(), Failure>;
}

/// From standard input.
pub fn read<D: Document>() -> Result<D, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(MAX_DOCUMENT + 1)
        .read_to_string(&mut text)
        .map_err(|e| Failure::io("read document", &e))?;
    if text.len() as u64 > MAX_DOCUMENT {
        return Err(Failure::invalid(format!("larger than {MAX_DOCUMENT} bytes")));
    }
    parse(&text)
}

pub fn parse<D: Document>(text: &str) -> Result<D, Failure> {
    let document: D = serde_json::from_str(text).map_err(|e| Failure::invalid(e.to_string()))?;
    document.validate()?;
    Ok(document)
}

impl Document for Run {
    fn validate(&self) -> Result<(), Failure> {
        version(self.version)?;
        absolute("socket", &self.socket)?;
        absolute("control", &self.control)?;
        absolute("pidFile", &self.pid_file)?;
        absolute("mountPoint", &self.mount_point)?;
        for folder in &self.cgroups {
            absolute("cgroups", folder)?;
        }
        for (i, entry) in self.entries.iter().enumerate() {
            entry.validate()?;
            if self.entries[..i].iter().any(|earlier| earlier.name == entry.name) {
                return Err(Failure::invalid(format!(
                    "entries: {:?} stands there twice",
                    entry.name
                )));
            }
        }
        Ok(())
    }
}

impl Document for Attach {
    fn validate(&self) -> Result<(), Failure> {
        version(self.version)?;
        absolute("pidFile", &self.pid_file)?;
        self.entry.validate()
    }
}

impl Document for Detach {
    fn validate(&self) -> Result<(), Failure> {
        version(self.version)?;
        absolute("pidFile", &self.pid_file)?;
        entry_name(&self.name)
    }
}

impl Entry {
    fn validate(&self) -> Result<(), Failure> {
        entry_name(&self.name)?;
        absolute("entry.path", &self.path)?;
        if self.recursive_readonly && (!self.readonly || self.propagation != Propagation::Private) {
            return Err(Failure::invalid(
                "entry: recursiveReadonly goes with readonly and private propagation only",
            ));
        }
        Ok(())
    }
}

fn version(found: u32) -> Result<(), Failure> {
    if found != 1 {
        return Err(Failure::invalid(format!("version {found} is not known, 1 is")));
    }
    Ok(())
}

fn entry_name(name: &str) -> Result<(), Failure> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > MAX_ENTRY_NAME || !name.bytes().all(plain) {
        return Err(Failure::invalid(format!(
            "name: wanted 1 to {MAX_ENTRY_NAME} characters of [a-z0-9-], found {name:?}"
        )));
    }
    Ok(())
}

/// "/" itself may be a volume.
fn absolute(field: &str, path: &str) -> Result<(), Failure> {
    let plain = path == "/"
        || (path.starts_with('/')
            && path[1..]
                .split('/')
                .all(|part| !part.is_empty() && part != "." && part != ".."));
    if !plain || path.contains('\0') {
        return Err(Failure::invalid(format!(
            "{field}: wanted a plain absolute path, found {path:?}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(change: impl FnOnce(&mut serde_json::Value)) -> Result<Run, Failure> {
        let mut value = serde_json::json!({
            "version": 1, "socket": "/a/s", "control": "/a/c", "pidFile": "/a/p", "mountPoint": "/a/m",
            "entries": [{"name": "v-1", "path": "/", "propagation": "private"}],
        });
        change(&mut value);
        parse(&value.to_string())
    }

    #[test]
    fn a_good_one() {
        let run = run(|_| {}).expect("a document");
        assert_eq!(run.entries[0].propagation, Propagation::Private);
        assert!(!run.entries[0].readonly);
    }

    #[test]
    fn bad_ones() {
        for (field, value) in [
            ("version", serde_json::json!(2)),
            ("socket", serde_json::json!("relative")),
            ("control", serde_json::json!("/a/../b")),
            ("surprise", serde_json::json!(1)),
            (
                "entries",
                serde_json::json!([{"name": "A", "path": "/x", "propagation": "private"}]),
            ),
            (
                "entries",
                serde_json::json!([{"name": "a", "path": "/x", "propagation": "bidirectional"}]),
            ),
            (
                "entries",
                serde_json::json!([{"name": "a", "path": "/x", "propagation": "hostToContainer", "readonly": true, "recursiveReadonly": true}]),
            ),
        ] {
            assert!(run(|v| v[field] = value.clone()).is_err(), "{field}: {value}");
        }
        assert!(run(|v| {
            let entry = v["entries"][0].clone();
            v["entries"] = serde_json::json!([entry, entry]);
        })
        .is_err());
    }
}
