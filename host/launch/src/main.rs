//! podvm-launch: places one virtual machine monitor and starts it. See docs/launch.md.
//!
//! Two processes, no threads. The launcher reads the document, joins the cgroups, makes the sockets and forks once into a new
//! pid namespace; the child confines itself step by step and executes the VMM. A pipe that closes on exec carries the child's
//! error, or, by closing empty, its success. The child takes no step before the launcher has written the pid file, so a
//! server that dies at any instruction finds either no process or one that the pid file names.
mod child;
mod descriptors;
mod document;
mod failure;
mod root;
mod sockets;

use document::Document;
use failure::{check, Failure};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// A document is a few KiB; what is larger is no document.
const MAX_DOCUMENT: u64 = 1 << 20;

#[derive(Serialize)]
struct Started {
    pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks after boot. With the pid it names a process for good.
    starttime: u64,
}

fn main() {
    match launch() {
        Ok(started) => print_line(&serde_json::to_string(&started).unwrap_or_default()),
        Err(failure) => {
            print_line(&failure.to_json());
            std::process::exit(1);
        }
    }
}

fn print_line(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}"); // a reader that is gone needs no answer
}

fn launch() -> Result<Started, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(MAX_DOCUMENT + 1)
        .read_to_string(&mut text)
        .map_err(|e| Failure::io("read document", &e))?;
    if text.len() as u64 > MAX_DOCUMENT {
        return Err(Failure::invalid(format!(
            "larger than {MAX_DOCUMENT} bytes"
        )));
    }
    let document = Document::parse(&text)?;

    join_cgroups(&document.cgroups)?;
    let sockets = sockets::listen(&document.sockets)?;
    let result = start(&document, &sockets);
    if result.is_err() {
        for socket in &document.sockets {
            let _ = fs::remove_file(&socket.path);
        }
        let _ = fs::remove_file(&document.pid_file);
    }
    result
}

/// "0" is the writing process itself, in v1 as in v2; the child inherits the membership.
fn join_cgroups(folders: &[String]) -> Result<(), Failure> {
    for folder in folders {
        let path = format!("{folder}/cgroup.procs");
        File::options()
            .write(true)
            .open(&path)
            .and_then(|mut f| f.write_all(b"0"))
            .map_err(|e| Failure::io(format!("join cgroup {folder}"), &e))?;
    }
    Ok(())
}

fn start(document: &Document, sockets: &[OwnedFd]) -> Result<Started, Failure> {
    let (error_read, error_write) = pipe()?;
    let (go_read, go_write) = pipe()?;
    // SAFETY: the process has one thread; unshare takes no pointers.
    check("unshare pid namespace", unsafe {
        libc::unshare(libc::CLONE_NEWPID)
    })?;
    // SAFETY: the process has one thread, so the child may do all that the parent could.
    let pid = check("fork", unsafe { libc::fork() })?;
    if pid == 0 {
        drop((error_read, go_write));
        let mut errors = File::from(error_write);
        if wait_for_go(go_read) {
            let failure = child::confine_and_execute(document, sockets, &mut errors);
            let _ = errors.write_all(failure.to_json().as_bytes());
        }
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(1) }
    }
    drop((error_write, go_read));
    let outcome = release(document, pid, error_read, go_write);
    if outcome.is_err() {
        // SAFETY: pid is our own child, not yet waited for, so the number cannot be another's.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
    }
    outcome
}

/// Writes the pid file, lets the child go on, and waits until it has executed the VMM or failed.
fn release(
    document: &Document,
    pid: i32,
    errors: OwnedFd,
    go: OwnedFd,
) -> Result<Started, Failure> {
    let started = Started {
        pid,
        starttime: start_time(pid)?,
    };
    write_pid_file(&document.pid_file, &started)?;
    File::from(go)
        .write_all(b"g")
        .map_err(|e| Failure::io("release child", &e))?;
    let mut said = String::new();
    File::from(errors)
        .take(64 << 10)
        .read_to_string(&mut said)
        .map_err(|e| Failure::io("read child's answer", &e))?;
    if said.is_empty() {
        return Ok(started);
    }
    Err(Failure::from_json(&said))
}

/// False where the launcher died before it wrote the pid file.
fn wait_for_go(go: OwnedFd) -> bool {
    let mut byte = [0u8; 1];
    matches!(File::from(go).read(&mut byte), Ok(1))
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    let mut ends = [0i32; 2];
    // SAFETY: ends has room for the two descriptors.
    check("pipe", unsafe {
        libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC)
    })?;
    // SAFETY: both were just made and belong to nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

fn start_time(pid: i32) -> Result<u64, Failure> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_err(|e| Failure::io("read start time", &e))?;
    // The name in parentheses may hold anything; the fields after it are numbers. starttime is the 20th of them.
    stat.rsplit_once(") ")
        .and_then(|(_, rest)| rest.split(' ').nth(19))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| Failure::invalid(format!("/proc/{pid}/stat: no start time")))
}

/// Temporary file and rename: a reader sees the whole or nothing. It names a process, so it need not survive a power loss.
fn write_pid_file(path: &str, started: &Started) -> Result<(), Failure> {
    let temporary = format!("{path}.tmp");
    let text = serde_json::to_string(started).unwrap_or_default();
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut f| f.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|e| Failure::io(format!("write pid file {path}"), &e))
}
