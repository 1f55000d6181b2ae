//! Work inside the pod's namespaces, where they are not the guest's own.

use crate::userns;
use crate::{reaper, sys};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// First argument of a process that sets hostname and sysctls in the namespaces of the process that the second names.
pub const ARGUMENT: &str = "set-in-namespaces";
const WITHIN: Duration = Duration::from_secs(10);
const LONGEST_ANSWER: usize = 4096;

/// Runs `work` in the network namespace of a process, on a thread of its own: sockets made there stay there.
pub fn network_of<T: Send + 'static>(
    pid: libc::pid_t,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    let thread = std::thread::Builder::new().stack_size(192 << 10).spawn(move || {
        sys::check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })?;
        work()
    })?;
    thread
        .join()
        .map_err(|_| io::Error::other("thread in the pod's network namespace"))?
}

/// What is set in the pod's namespaces.
#[derive(Serialize, Deserialize)]
pub struct Settings {
    pub hostname: String,
    pub sysctls: BTreeMap<String, String>,
}

/// Sets them; the error says which was refused. A process does it, since only one of a single thread may enter a user namespace, and parameters
/// of an IPC namespace are written only by root of the user namespace that it belongs to.
pub async fn set(pid: libc::pid_t, settings: &Settings) -> Result<(), String> {
    let text = serde_json::to_string(settings).map_err(|e| e.to_string())?;
    let (read, write) = sys::pipe().map_err(|e| format!("pipe: {e}"))?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("podvm-set")
        .args([ARGUMENT, &pid.to_string(), &text])
        .stdin(Stdio::null())
        .stdout(Stdio::from(write))
        .stderr(Stdio::null())
        .env_clear()
        .current_dir("/");
    let (_, exited) = reaper::spawn(&mut command).map_err(|e| format!("start of {ARGUMENT}: {e}"))?;
    drop(command);
    let exit = tokio::time::timeout(WITHIN, exited).await;
    match exit {
        Ok(Ok(exit)) if exit.code == 0 => Ok(()),
        Ok(_) => {
            let mut answer = Vec::new();
            drop(File::from(read).take(LONGEST_ANSWER as u64).read_to_end(&mut answer));
            Err(String::from_utf8_lossy(&answer).into_owned())
        }
        Err(_) => Err(format!("not done within {} s", WITHIN.as_secs())),
    }
}

/// The process that sets them: never returns. Says on standard output what went wrong.
pub fn run(args: &[String]) -> ! {
    match apply(args) {
        Ok(()) => std::process::exit(0),
        Err(message) => {
            print!("{message}");
            std::process::exit(1)
        }
    }
}

fn apply(args: &[String]) -> Result<(), String> {
    let [pid, text] = args else {
        return Err(format!("{ARGUMENT}: wanted a pid and settings"));
    };
    let pid: libc::pid_t = pid.parse().map_err(|e| format!("pid {pid:?}: {e}"))?;
    let settings: Settings = serde_json::from_str(text).map_err(|e| format!("settings: {e}"))?;
    enter(pid).map_err(|e| format!("namespaces of the pod: {e}"))?;
    if !settings.hostname.is_empty() {
        let name = settings.hostname.as_bytes();
        sys::check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })
            .map_err(|e| format!("hostname {:?}: {e}", settings.hostname))?;
    }
    crate::sandbox::sysctl::apply(&settings.sysctls)
}

fn enter(pid: libc::pid_t) -> io::Result<()> {
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let process = unsafe { OwnedFd::from_raw_fd(sys::check(fd as libc::c_int)?) };
    let all = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    sys::check(unsafe { libc::setns(process.as_raw_fd(), all) })?;
    userns::become_root()
}
