//! Runs crun: the only place that knows its command line.

use crate::cgroup;
use crate::ids::shorten;
use crate::reaper;
use crate::setup::Setup;
use crate::{log, sys};
use std::ffi::{CStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Longest that a crun may take; it never waits for a container.
const WITHIN: Duration = Duration::from_secs(60);

/// What the first process of the container or command gets; None is /dev/null.
#[derive(Default)]
pub struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl Streams {
    /// Makes the ends of pipes the property of this uid and gid of the guest, so that a process of a user namespace can open them again
    /// (/dev/stdout); outside of one crun does it.
    pub fn give_to(&self, owner: Option<(u32, u32)>) -> io::Result<()> {
        let Some((uid, gid)) = owner else {
            return Ok(());
        };
        for end in [&self.stdin, &self.stdout, &self.stderr].into_iter().flatten() {
            std::os::unix::fs::fchown(end, Some(uid), Some(gid))?;
        }
        Ok(())
    }
}

/// Exit code and last words of a crun that failed.
#[derive(Debug)]
pub struct Failed {
    pub code: i32,
    pub message: String,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "crun: {} (exit code {})", self.message, self.code)
    }
}

impl Failed {
    fn new(message: impl Into<String>) -> Self {
        Failed {
            code: 255,
            message: message.into(),
        }
    }

    /// What a shell would say of a command that cannot be run: 127 not found, 126 not executable; None: another failure.
    pub fn shell_code(&self) -> Option<i32> {
        let text = self.message.to_ascii_lowercase();
        let of_command = text.contains("executable") || text.contains("exec") || text.contains("open `");
        if of_command && (text.contains("not found") || text.contains("no such file")) {
            return Some(127);
        }
        if of_command
            && (text.contains("not executable")
                || text.contains("permission denied")
                || text.contains("exec format")
                || text.contains("is a directory"))
        {
            return Some(126);
        }
        None
    }
}

/// One call of crun.
pub struct Call<'a> {
    setup: &'a Setup,
    args: Vec<OsString>,
    streams: Streams,
    /// Group in which crun itself runs; None: one of its own.
    group: Option<PathBuf>,
    /// Groups of other hierarchies in which it runs besides.
    more: Vec<PathBuf>,
    /// Of crun, and of what it starts where its spec says nothing else.
    oom_score_adj: i32,
}

impl<'a> Call<'a> {
    pub fn new(setup: &'a Setup, verb: &str) -> Self {
        Call {
            setup,
            args: vec![verb.into()],
            streams: Streams::default(),
            group: None,
            more: Vec::new(),
            oom_score_adj: 0,
        }
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// `--name value`.
    pub fn option(self, name: &str, value: impl Into<OsString>) -> Self {
        self.arg(name).arg(value)
    }

    pub fn streams(mut self, streams: Streams) -> Self {
        self.streams = streams;
        self
    }

    /// Runs crun in an existing group.
    pub fn group(mut self, group: Option<PathBuf>) -> Self {
        self.group = group;
        self
    }

    /// Runs crun, and what it starts, in existing groups of cgroup v1 too.
    pub fn groups_v1(mut self, groups: Vec<PathBuf>) -> Self {
        self.more = groups;
        self
    }

    pub fn oom_score_adj(mut self, value: i32) -> Self {
        self.oom_score_adj = value;
        self
    }

    /// Runs it to its end. On failure the message is what crun logged.
    pub async fn run(self) -> Result<(), Failed> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let own = match self.group {
            Some(_) => None,
            None => {
                let made = self.setup.cgroups.work(&number.to_string());
                Some(made.map_err(|e| Failed::new(format!("cgroup: {e}")))?)
            }
        };
        let log_file = LogFile(self.setup.home.join(format!("crun-{number}.log")));
        let mut groups = self.more;
        groups.extend(own.clone().or(self.group));
        let ended = run(
            self.setup,
            self.args,
            self.streams,
            &groups,
            self.oom_score_adj,
            &log_file.0,
        )
        .await;
        let words = last_words(&log_file.0);
        if let Some(own) = own {
            if ended.is_err() {
                if let Err(e) = cgroup::kill(&own, Duration::from_secs(5)).await {
                    log::error(format!("crun that did not end: {e}"));
                }
            }
            cgroup::remove_tree(&own);
        }
        match ended? {
            0 => Ok(()),
            code => Err(Failed {
                code,
                message: words.unwrap_or_else(|| "no message".into()),
            }),
        }
    }
}

/// Removed when dropped: a call may be given up.
struct LogFile(PathBuf);

impl Drop for LogFile {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

async fn run(
    setup: &Setup,
    args: Vec<OsString>,
    streams: Streams,
    groups: &[PathBuf],
    oom_score_adj: i32,
    log: &Path,
) -> Result<i32, Failed> {
    let mut command = Command::new(&setup.crun);
    command.arg("--root").arg(setup.crun_root()).arg("--log").arg(log);
    command.arg("--cgroup-manager").arg(match setup.cgroups {
        crate::cgroup::Cgroups::Full { .. } => "cgroupfs",
        _ => "disabled",
    });
    command
        .args(args)
        .current_dir("/")
        .env_clear()
        .env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin");
    let stdio = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
    command
        .stdin(stdio(streams.stdin))
        .stdout(stdio(streams.stdout))
        .stderr(stdio(streams.stderr));
    let procs: Vec<File> = groups
        .iter()
        .map(|group| cgroup::procs_file(group))
        .collect::<io::Result<_>>()
        .map_err(|e| Failed::new(format!("cgroup: {e}")))?;
    let cgroup2 = setup
        .cgroups
        .shown_to_crun()
        .map(sys::cpath)
        .transpose()
        .map_err(|e| Failed::new(format!("cgroup: {e}")))?;
    let oom_score_adj = oom_score_adj.to_string();
    unsafe { command.pre_exec(move || in_child(&procs, cgroup2.as_deref(), oom_score_adj.as_bytes())) };
    let (pid, waiter) =
        reaper::spawn(&mut command).map_err(|e| Failed::new(format!("start of {}: {e}", setup.crun.display())))?;
    // The pipes' ends that went to the child must not stay open here.
    drop(command);
    match tokio::time::timeout(WITHIN, waiter).await {
        Ok(Ok(exit)) => Ok(exit.code),
        Ok(Err(_)) => Err(Failed::new("its exit status was lost")),
        Err(_) => {
            drop(reaper::kill(pid, libc::SIGKILL));
            Err(Failed::new(format!("did not end within {} s", WITHIN.as_secs())))
        }
    }
}

/// Between fork and exec: only system calls.
fn in_child(procs: &[File], cgroup2: Option<&CStr>, oom_score_adj: &[u8]) -> io::Result<()> {
    for mut procs in procs {
        procs.write_all(b"0")?;
    }
    if let Some(cgroup2) = cgroup2 {
        show_cgroup2(cgroup2)?;
    }
    // The agent's protection from the OOM killer is not for its children.
    let fd = unsafe { libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if fd >= 0 {
        unsafe {
            libc::write(fd, oom_score_adj.as_ptr().cast(), oom_score_adj.len());
            libc::close(fd);
        }
    }
    sys::check(unsafe { libc::setsid() }).map(drop)
}

/// In a mount namespace of its own, whose mounts otherwise stay peers of the host's: containers must see what is mounted later, and the
/// other way round.
fn show_cgroup2(mount: &CStr) -> io::Result<()> {
    const USUAL: &CStr = c"/sys/fs/cgroup";
    let none = std::ptr::null();
    sys::check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let flags = libc::MS_PRIVATE | libc::MS_REC;
    sys::check(unsafe { libc::mount(c"none".as_ptr(), USUAL.as_ptr(), none, flags, none.cast()) })?;
    sys::check(unsafe { libc::mount(mount.as_ptr(), USUAL.as_ptr(), none, libc::MS_BIND, none.cast()) }).map(drop)
}

fn last_words(log: &Path) -> Option<String> {
    let text = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    let line = text.lines().rev().find(|l| !l.trim().is_empty())?.trim();
    Some(shorten(strip_time(line), 2000).to_string())
}

/// crun begins each line of its log with "2026-01-02T03:04:05.678901Z: ".
fn strip_time(line: &str) -> &str {
    match line.split_once("Z: ") {
        Some((time, rest)) if time.starts_with(|c: char| c.is_ascii_digit()) => rest,
        _ => line,
    }
}

/// What `crun --version` says first: "crun version 1.21".
pub async fn version(setup: &Setup) -> Option<String> {
    if let Ok(text) = fs::read_to_string("/etc/crun-version") {
        if setup.is_vm() {
            return text.lines().next().map(str::to_string);
        }
    }
    let (read, write) = sys::pipe().ok()?;
    let tube = crate::tube::Tube::new(read).ok()?;
    let mut command = Command::new(&setup.crun);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::from(write))
        .stderr(Stdio::null());
    let (_, waiter) = reaper::spawn(&mut command).ok()?;
    drop(command);
    tokio::time::timeout(Duration::from_secs(10), waiter).await.ok()?.ok()?;
    let mut buffer = [0; 256];
    let n = tube.try_read(&mut buffer).ok()??;
    String::from_utf8_lossy(&buffer[..n]).lines().next().map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_say() {
        let code = |message: &str| Failed::new(message).shell_code();
        assert_eq!(
            code("executable file `nope` not found in $PATH: No such file or directory"),
            Some(127)
        );
        assert_eq!(code("exec failed: Permission denied"), Some(126));
        assert_eq!(
            code("the path `/etc/passwd` exists but it is not executable: Operation not permitted"),
            Some(126)
        );
        assert_eq!(code("mount `proc`: Permission denied"), None);
    }

    #[test]
    fn times_are_taken_off() {
        assert_eq!(
            strip_time("2026-01-02T03:04:05.678901Z: no such container"),
            "no such container"
        );
        assert_eq!(strip_time("plain: text"), "plain: text");
    }
}
