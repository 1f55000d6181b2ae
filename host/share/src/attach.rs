//! `podvm-share attach` and `detach`: a volume more, or less, for a share that runs.

use crate::document::{Attach, Detach};
use crate::failure::{check, Failure};
use crate::mounts;
use crate::process::Started;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;

pub fn attach(document: &Attach) -> Result<(), Failure> {
    let share = Started::read(&document.pid_file)?;
    // Here, where the host is seen.
    let tree = mounts::clone_tree(&document.entry)?;
    enter(&share)?;
    mounts::place(&tree)
}

pub fn detach(document: &Detach) -> Result<(), Failure> {
    let name = CString::new(document.name.as_str()).map_err(|_| Failure::invalid("name"))?;
    enter(&Started::read(&document.pid_file)?)?;
    mounts::remove(&name)
}

/// Into the share's mount namespace, whose root becomes this process's root.
fn enter(share: &Started) -> Result<(), Failure> {
    let step = format!("enter mount namespace of share {}", share.pid);
    let own = namespace("self", &step)?;
    let theirs = namespace(&share.pid.to_string(), &step)?;
    // After opening: the namespace opened is that of the process that still runs under this number.
    share.check_alive()?;
    // A share that is still on its way into its own namespace would have the volume placed on the host.
    if same(&own, &theirs, &step)? {
        return Err(Failure::invalid(format!("{step}: it is this process's own")));
    }
    // SAFETY: takes numbers; the process has one thread.
    check(
        &step,
        unsafe { libc::setns(theirs.as_raw_fd(), libc::CLONE_NEWNS) }.into(),
    )
    .map(drop)
}

fn namespace(pid: &str, step: &str) -> Result<File, Failure> {
    File::open(format!("/proc/{pid}/ns/mnt")).map_err(|e| Failure::io(step, &e))
}

fn same(a: &File, b: &File, step: &str) -> Result<bool, Failure> {
    use std::os::unix::fs::MetadataExt;
    let inode = |file: &File| {
        file.metadata()
            .map(|m| (m.dev(), m.ino()))
            .map_err(|e| Failure::io(step, &e))
    };
    Ok(inode(a)? == inode(b)?)
}
