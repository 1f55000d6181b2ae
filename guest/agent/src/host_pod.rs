//! A pod without a VM: `podvm-agent --host-pod` reads a document, starts the agent as a process of its own, and answers who it is.
//!
//! The agent enters the namespaces that the pod has of its own (network, IPC, UTS) before it serves, so that its containers inherit
//! them as they do in a VM; all others stay the host's, and above all the mount namespace: what the host mounts later, containers of
//! the pod must see, and what they mount in a shared place the host must see (docs/host-pods.md).

use crate::sys;
use serde::Deserialize;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A document is a few KiB; what is larger is no document.
const MAX_DOCUMENT: u64 = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    version: u32,
    /// Path of the socket.
    pub listen: String,
    /// Folder for bundles and state; on a tmpfs.
    pub state: PathBuf,
    /// Folder for writable layers, on a disk.
    pub scratch: PathBuf,
    /// Folder in which the server puts one link to a folder for each disk, named by its serial.
    pub disks: PathBuf,
    pub crun: PathBuf,
    /// The pod's group in every hierarchy; they exist.
    pub cgroups: Vec<PathBuf>,
    /// Network namespace to enter; absent: the host's.
    #[serde(default)]
    pub netns: Option<PathBuf>,
    pub own_ipc: bool,
    pub own_uts: bool,
    pub pid_file: PathBuf,
}

/// Which of the host's things are the pod's own.
#[derive(Clone, Debug)]
pub struct HostPod {
    pub own_network: bool,
    pub own_ipc: bool,
    pub own_uts: bool,
    pub disks: PathBuf,
    pub scratch: PathBuf,
}

impl Document {
    pub fn host_pod(&self) -> HostPod {
        HostPod {
            own_network: self.netns.is_some(),
            own_ipc: self.own_ipc,
            own_uts: self.own_uts,
            disks: self.disks.clone(),
            scratch: self.scratch.clone(),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let document: Document = serde_json::from_str(text).map_err(|e| format!("document: {e}"))?;
        if document.version != 1 {
            return Err(format!("document: wanted version 1, found {}", document.version));
        }
        let mut paths = vec![
            Path::new(&document.listen),
            &document.state,
            &document.scratch,
            &document.disks,
            &document.crun,
            &document.pid_file,
        ];
        paths.extend(document.cgroups.iter().chain(&document.netns).map(PathBuf::as_path));
        match paths.into_iter().find(|p| !p.is_absolute()) {
            Some(path) => Err(format!(
                "document: wanted absolute paths, found {:?}",
                path.display().to_string()
            )),
            None => Ok(document),
        }
    }
}

/// What the new process writes about its start: dropped without a word when it serves.
pub struct Report(File);

impl Report {
    fn failed(mut self, message: &str) {
        drop(self.0.write_all(message.as_bytes()));
    }
}

/// Starts the agent and prints `{"pid":…,"starttime":…}` once it serves, or `{"error":{…}}`. `serve` runs in the new process, the namespaces
/// and groups entered; it drops the report when it serves.
pub fn launch(serve: impl FnOnce(Document, Report) -> Result<(), (String, Option<Report>)>) -> Result<(), String> {
    match started(serve) {
        Ok(line) => {
            println!("{line}");
            Ok(())
        }
        Err(message) => {
            let error = serde_json::json!({ "error": { "step": "host pod", "errno": 0, "message": message } });
            println!("{error}");
            Err(message)
        }
    }
}

fn started(serve: impl FnOnce(Document, Report) -> Result<(), (String, Option<Report>)>) -> Result<String, String> {
    let mut text = String::new();
    io::stdin()
        .take(MAX_DOCUMENT + 1)
        .read_to_string(&mut text)
        .map_err(|e| format!("reading the document: {e}"))?;
    if text.len() as u64 > MAX_DOCUMENT {
        return Err(format!("document: larger than {MAX_DOCUMENT} bytes"));
    }
    let document = Document::parse(&text)?;
    let (go_read, go_write) = sys::pipe().map_err(|e| format!("pipe: {e}"))?;
    let (report_read, report_write) = sys::pipe().map_err(|e| format!("pipe: {e}"))?;
    // No thread has been started yet, so the child may go on with everything.
    let pid = sys::check(unsafe { libc::fork() }).map_err(|e| format!("fork: {e}"))?;
    if pid == 0 {
        drop((go_write, report_read));
        child(document, go_read, Report(File::from(report_write)), serve);
    }
    drop((go_read, report_write));
    let line = named(pid, &document.pid_file).inspect_err(|_| drop(sys::check(unsafe { libc::kill(pid, 9) })))?;
    drop(sys::write(&go_write, b"1"));
    let mut said = String::new();
    File::from(report_read)
        .read_to_string(&mut said)
        .map_err(|e| format!("report of the agent: {e}"))?;
    if said.is_empty() {
        return Ok(line);
    }
    drop(fs::remove_file(&document.pid_file));
    Err(said)
}

/// Writes the pid file, by rename, before the process takes its first step: a server that dies meanwhile finds it.
fn named(pid: libc::pid_t, file: &Path) -> Result<String, String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|e| format!("/proc/{pid}/stat: {e}"))?;
    let starttime: u64 = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok())
        .ok_or_else(|| format!("/proc/{pid}/stat: no start time in {stat:?}"))?;
    let line = serde_json::json!({ "pid": pid, "starttime": starttime }).to_string();
    let early = file.with_extension("new");
    fs::write(&early, &line)
        .and_then(|()| fs::rename(&early, file))
        .map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(line)
}

fn child(
    document: Document,
    go: OwnedFd,
    report: Report,
    serve: impl FnOnce(Document, Report) -> Result<(), (String, Option<Report>)>,
) -> ! {
    let mut byte = [0];
    // The end of the file: the launcher has gone.
    if !matches!(sys::read(&go, &mut byte), Ok(1)) {
        std::process::exit(1);
    }
    if let Err(message) = enter(&document) {
        report.failed(&message);
        std::process::exit(1);
    }
    match serve(document, report) {
        Ok(()) => std::process::exit(0),
        Err((message, report)) => {
            crate::log::error(&message);
            if let Some(report) = report {
                report.failed(&message);
            }
            std::process::exit(1);
        }
    }
}

/// Session, descriptors, groups, namespaces.
fn enter(document: &Document) -> Result<(), String> {
    let doing = |what: &str| {
        let what = what.to_string();
        move |e: io::Error| format!("{what}: {e}")
    };
    sys::check(unsafe { libc::setsid() }).map_err(doing("setsid"))?;
    std::env::set_current_dir("/").map_err(doing("chdir"))?;
    unsafe { libc::umask(0o022) };
    // Standard error stays the server's, for as long as it reads it.
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(doing("/dev/null"))?;
    for fd in [0, 1] {
        sys::check(unsafe { libc::dup2(null.as_raw_fd(), fd) }).map_err(doing("dup2"))?;
    }
    for group in &document.cgroups {
        join(group).map_err(doing(&format!("cgroup {}", group.display())))?;
    }
    if let Some(path) = &document.netns {
        let netns = File::open(path).map_err(doing(&format!("{}", path.display())))?;
        sys::check(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) }).map_err(doing("setns"))?;
    }
    let mut own = 0;
    if document.own_ipc {
        own |= libc::CLONE_NEWIPC;
    }
    if document.own_uts {
        own |= libc::CLONE_NEWUTS;
    }
    sys::check(unsafe { libc::unshare(own) }).map_err(doing("unshare"))?;
    private_mount(&document.state).map_err(doing(&format!("{}", document.state.display())))?;
    sys::check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map_err(doing("subreaper"))?;
    Ok(())
}

/// Into a group "agent" below the pod's: a group of cgroup v2 that passes controllers on has no processes itself.
fn join(group: &Path) -> io::Result<()> {
    let own = group.join("agent");
    crate::cgroup::make(&own)?;
    crate::cgroup_v1::inherit_cpuset(group, &own)?;
    fs::write(own.join("cgroup.procs"), "0")
}

/// The state folder as a mount of its own that is nobody's peer: what is mounted in it stays in it, and goes with it.
fn private_mount(state: &Path) -> io::Result<()> {
    fs::create_dir_all(state)?;
    sys::mount(&state.to_string_lossy(), state, "", libc::MS_BIND, "")?;
    sys::mount("none", state, "", libc::MS_PRIVATE, "")
}

/// A descriptor that only closes.
impl From<OwnedFd> for Report {
    fn from(fd: OwnedFd) -> Self {
        Report(unsafe { File::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(fd)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents() {
        let text = |more: &str| {
            format!(
                r#"{{"version":1,"listen":"/r/s","state":"/r/a","scratch":"/d/s","disks":"/d/d","crun":"/crun","cgroups":["/c"],"ownIpc":true,"ownUts":false,"pidFile":"/r/pid"{more}}}"#
            )
        };
        let pod = Document::parse(&text("")).unwrap().host_pod();
        assert_eq!((pod.own_network, pod.own_ipc, pod.own_uts), (false, true, false));
        assert!(
            Document::parse(&text(r#","netns":"/run/netns/x""#))
                .unwrap()
                .host_pod()
                .own_network
        );
        for bad in [r#","netns":"x""#, r#","more":1"#] {
            assert!(Document::parse(&text(bad)).is_err(), "{bad}");
        }
        assert!(Document::parse(&text("").replace("\"version\":1", "\"version\":2")).is_err());
    }
}
