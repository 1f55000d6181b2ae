//! The one place that waits for children.
//!
//! The agent is the parent of everything that has no other: what it spawns itself, and what crun leaves behind (the first process
//! of each container and command). Spawning and reaping exclude each other, so no status is lost between fork and registration; a
//! status of an unknown pid is kept for a minute, since crun tells pids only after it has exited.

use crate::{log, sys};
use std::collections::HashMap;
use std::io;
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const KEEP_UNCLAIMED: Duration = Duration::from_secs(60);
const MAX_UNCLAIMED: usize = 4096;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128 + signal where a signal ended it.
    pub code: i32,
    /// 0 where it exited by itself.
    pub signal: u32,
    /// Nanoseconds since the epoch.
    pub time_ns: i64,
}

pub type Waiter = oneshot::Receiver<Exit>;

#[derive(Default)]
struct Table {
    waiting: HashMap<libc::pid_t, oneshot::Sender<Exit>>,
    unclaimed: HashMap<libc::pid_t, (Exit, Instant)>,
}

static TABLE: Mutex<Option<Table>> = Mutex::new(None);

fn with_table<T>(work: impl FnOnce(&mut Table) -> T) -> T {
    let mut guard: MutexGuard<Option<Table>> = TABLE.lock().unwrap_or_else(|e| e.into_inner());
    work(guard.get_or_insert_default())
}

/// Starts a child and registers it. Never call `wait` on it.
pub fn spawn(command: &mut Command) -> io::Result<(libc::pid_t, Waiter)> {
    with_table(|table| {
        let child = command.spawn()?;
        let pid = child.id() as libc::pid_t;
        let (sender, receiver) = oneshot::channel();
        table.unclaimed.remove(&pid);
        table.waiting.insert(pid, sender);
        Ok((pid, receiver))
    })
}

/// Claims a process that crun left to us, which may have ended already. One that is not our child ends at once with 255.
pub fn adopt(pid: libc::pid_t) -> Waiter {
    let (sender, receiver) = oneshot::channel();
    with_table(|table| {
        if let Some((exit, _)) = table.unclaimed.remove(&pid) {
            let _ = sender.send(exit);
            return;
        }
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        if unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &mut info, flags) } < 0 {
            log::error(format!(
                "process {pid} is no child of the agent: {}",
                io::Error::last_os_error()
            ));
            let _ = sender.send(Exit {
                code: 255,
                signal: 0,
                time_ns: sys::now_ns(),
            });
            return;
        }
        table.waiting.insert(pid, sender);
    });
    receiver
}

/// Signals a registered process. Ok(false): it has ended already (its pid may be another's by now).
pub fn kill(pid: libc::pid_t, signal: i32) -> io::Result<bool> {
    with_table(|table| {
        if !table.waiting.contains_key(&pid) {
            return Ok(false);
        }
        sys::check(unsafe { libc::kill(pid, signal) }).map(|_| true)
    })
}

/// Reaps for ever.
pub async fn run() -> io::Result<()> {
    let mut signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child())?;
    loop {
        with_table(reap);
        signal.recv().await;
    }
}

fn reap(table: &mut Table) {
    loop {
        let mut status = 0;
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if pid <= 0 {
            break;
        }
        let exit = decode(status);
        match table.waiting.remove(&pid) {
            // A waiter that has gone away needs no status.
            Some(sender) => {
                let _ = sender.send(exit);
            }
            None => {
                table.unclaimed.insert(pid, (exit, Instant::now()));
            }
        }
    }
    table.unclaimed.retain(|_, (_, since)| since.elapsed() < KEEP_UNCLAIMED);
    if table.unclaimed.len() > MAX_UNCLAIMED {
        table.unclaimed.clear();
    }
}

fn decode(status: libc::c_int) -> Exit {
    let time_ns = sys::now_ns();
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        return Exit {
            code: 128 + signal,
            signal: signal as u32,
            time_ns,
        };
    }
    Exit {
        code: libc::WEXITSTATUS(status),
        signal: 0,
        time_ns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        assert_eq!(decode(3 << 8).code, 3);
        let killed = decode(9);
        assert_eq!((killed.code, killed.signal), (137, 9));
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "the reaper waits for it")]
    fn a_status_is_kept_until_its_pid_is_known() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let reaper = tokio::spawn(run());
            let (pid, waiter) = spawn(Command::new("/bin/sh").args(["-c", "exit 7"])).unwrap();
            assert_eq!(waiter.await.unwrap().code, 7);
            assert!(!kill(pid, 9).unwrap());

            // A child that nobody registered: its status waits for adopt.
            let child = Command::new("/bin/sh").args(["-c", "exit 8"]).spawn().unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(adopt(child.id() as libc::pid_t).await.unwrap().code, 8);
            assert_eq!(adopt(1).await.unwrap().code, 255);
            reaper.abort();
        });
    }
}
