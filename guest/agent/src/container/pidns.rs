//! The pod's shared pid namespace: held by a child of the agent that is its process 1 and reaps its orphans.

use crate::{reaper, sys};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// First argument that makes a process the holder.
pub const ARGUMENT: &str = "hold-pid-namespace";

pub struct Holder {
    pub pid: libc::pid_t,
    /// Its standard input: closed with the agent, at which it ends, and the kernel all processes of the namespace.
    _alive: OwnedFd,
}

impl Holder {
    pub fn start() -> io::Result<Self> {
        let (read, write) = sys::pipe()?;
        // unshare concerns the children of one thread only, so a thread of its own does it.
        let thread = std::thread::Builder::new().stack_size(128 << 10).spawn(move || {
            sys::check(unsafe { libc::unshare(libc::CLONE_NEWPID) })?;
            let mut command = Command::new("/proc/self/exe");
            command
                .arg0("podvm-pause")
                .arg(ARGUMENT)
                .stdin(Stdio::from(read))
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.env_clear().current_dir("/");
            reaper::spawn(&mut command)
        })?;
        let spawned = thread
            .join()
            .map_err(|_| io::Error::other("thread of the pid namespace"))?;
        let (pid, _exit) = spawned?;
        Ok(Holder { pid, _alive: write })
    }
}

/// The holder itself: never returns.
pub fn hold() -> ! {
    // The kernel reaps by itself where the signal is ignored.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let mut byte = [0];
    while io::stdin()
        .read(&mut byte)
        .is_err_and(|e| e.kind() == io::ErrorKind::Interrupted)
    {}
    std::process::exit(0)
}
