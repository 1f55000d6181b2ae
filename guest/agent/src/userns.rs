//! The pod's user namespace, with the network, IPC, UTS and pid namespaces that belong to it: made and held by one process, which is also
//! process 1 of that pid namespace.
//!
//! A namespace belongs to the user namespace in which it was made, and only who has a capability there may administer it: that is why root of such
//! a pod can bind port 80, mount its own /sys and set its hostname, without being anybody in the guest.

use crate::container::pidns;
use crate::fail::invalid;
use crate::pb::agent::v1::UserNamespace as Wanted;
use crate::pb::oci::v1::{IdMapping, Namespace};
use crate::{reaper, sys};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use tonic::Status;

/// First argument that makes a process the holder.
pub const ARGUMENT: &str = "hold-user-namespace";

const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// Ids 0 to size - 1 of the namespace are base to base + size - 1 of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub base: u32,
    pub size: u32,
}

impl Range {
    /// One that begins at 0 inside, and leaves out the guest's root and the id that is none.
    pub fn parse(what: &str, mapping: Option<&IdMapping>) -> Result<Self, Status> {
        let found = mapping.copied().unwrap_or_default();
        let fits = found.host_id.checked_add(found.size).is_some();
        if found.container_id != 0 || found.host_id == 0 || found.size == 0 || !fits {
            return Err(invalid(format!(
                "user_namespace.{what}: wanted container_id 0, host_id 1 or more, size 1 or more, found {found:?}"
            )));
        }
        Ok(Range {
            base: found.host_id,
            size: found.size,
        })
    }

    /// The guest's id of one inside; None: it is not mapped.
    pub fn outside(&self, id: u32) -> Option<u32> {
        (id < self.size).then(|| self.base + id)
    }

    pub fn mapping(&self) -> IdMapping {
        IdMapping {
            container_id: 0,
            host_id: self.base,
            size: self.size,
        }
    }

    fn line(&self) -> String {
        format!("0 {} {}\n", self.base, self.size)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    pub uids: Range,
    pub gids: Range,
}

impl Ranges {
    pub fn parse(wanted: &Wanted) -> Result<Self, Status> {
        Ok(Ranges {
            uids: Range::parse("uids", wanted.uids.as_ref())?,
            gids: Range::parse("gids", wanted.gids.as_ref())?,
        })
    }
}

pub struct UserNamespace {
    pub ranges: Ranges,
    /// Of the holder, in the guest's pid namespace.
    pub pid: libc::pid_t,
    /// The holder's standard input: closed with the agent, at which it ends.
    _alive: OwnedFd,
}

impl UserNamespace {
    pub async fn start(ranges: Ranges) -> io::Result<Self> {
        let (read, alive) = sys::pipe()?;
        let (from_child, to_us) = sys::pipe()?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("podvm-pause")
            .arg(ARGUMENT)
            .stdin(Stdio::from(read))
            .stdout(Stdio::from(to_us))
            .stderr(Stdio::inherit())
            .env_clear()
            .current_dir("/");
        let (maker, ended) = reaper::spawn(&mut command)?;
        drop(command);
        let mut answers = File::from(from_child);
        let mut alive = File::from(alive);
        expect(&mut answers, "unshared")?;
        fs::write(format!("/proc/{maker}/uid_map"), ranges.uids.line())?;
        fs::write(format!("/proc/{maker}/gid_map"), ranges.gids.line())?;
        alive.write_all(b"m")?;
        let mut pid = [0; 4];
        answers
            .read_exact(&mut pid)
            .map_err(|e| io::Error::new(e.kind(), format!("namespaces of the pod: {e}")))?;
        let pid = i32::from_ne_bytes(pid);
        // Ours as soon as its maker has ended; nobody waits for its own end.
        match tokio::time::timeout(ENDS_WITHIN, ended).await {
            Ok(Ok(exit)) if exit.code == 0 => drop(reaper::adopt(pid)),
            _ => return Err(io::Error::other("the maker of the pod's namespaces did not end well")),
        }
        Ok(UserNamespace {
            ranges,
            pid,
            _alive: alive.into(),
        })
    }

    /// What a container joins, as the OCI specification has it.
    pub fn namespaces(&self) -> Vec<Namespace> {
        [("user", "user"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")]
            .map(|(kind, file)| Namespace {
                r#type: kind.into(),
                path: Some(format!("/proc/{}/ns/{file}", self.pid)),
            })
            .into()
    }
}

fn expect(answers: &mut File, what: &str) -> io::Result<()> {
    let mut answer = [0];
    answers
        .read_exact(&mut answer)
        .map_err(|e| io::Error::new(e.kind(), format!("user namespace of the pod ({what}): {e}")))
}

/// The holder: never returns. Its first life makes the namespaces and tells the pid of its child, which lives on as their process 1.
pub fn hold() -> ! {
    match make() {
        Ok(()) => pidns::hold(),
        Err(e) => {
            eprintln!("podvm-pause: {e}");
            std::process::exit(1)
        }
    }
}

/// Returns in the child only.
fn make() -> io::Result<()> {
    let (mut input, mut output) = (io::stdin(), io::stdout());
    sys::check(unsafe { libc::unshare(libc::CLONE_NEWUSER) })?;
    output.write_all(b"u")?;
    output.flush()?;
    input.read_exact(&mut [0])?;
    become_root()?;
    let all = libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWPID;
    sys::check(unsafe { libc::unshare(all) })?;
    // Safety: this process has one thread.
    match sys::check(unsafe { libc::fork() })? {
        0 => {
            let null = File::options().write(true).open("/dev/null")?;
            use std::os::fd::AsRawFd;
            sys::check(unsafe { libc::dup2(null.as_raw_fd(), 1) }).map(drop)
        }
        pid => {
            output.write_all(&pid.to_ne_bytes())?;
            output.flush()?;
            std::process::exit(0)
        }
    }
}

/// Root of the user namespace that this process is in, and in no other group.
pub fn become_root() -> io::Result<()> {
    sys::check(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    sys::check(unsafe { libc::setresgid(0, 0, 0) })?;
    sys::check(unsafe { libc::setresuid(0, 0, 0) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let parse = |container_id, host_id, size| {
            Range::parse(
                "uids",
                Some(&IdMapping {
                    container_id,
                    host_id,
                    size,
                }),
            )
        };
        let range = parse(0, 1000, 10).unwrap();
        assert_eq!(range.outside(9), Some(1009));
        assert_eq!(range.outside(10), None);
        assert_eq!(range.line(), "0 1000 10\n");
        for bad in [(1, 1000, 10), (0, 0, 10), (0, 1000, 0), (0, u32::MAX, 2)] {
            assert_eq!(
                parse(bad.0, bad.1, bad.2).unwrap_err().code(),
                tonic::Code::InvalidArgument
            );
        }
        assert!(Range::parse("gids", None).is_err());
    }
}
