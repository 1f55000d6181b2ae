//! The pod's share: live folders and files of the host, as one FUSE file system whose requests a podvm-share on the host answers
//! (docs/volumes.md, "The relay"). The kernel's requests go as they are over a virtio-serial port of their own, which exists only in VMs that have
//! such volumes.
//!
//! Who serves may die and be replaced: the kernel's requests wait meanwhile, and the new one is told what the kernel knows (`track`).

mod framing;
#[cfg(test)]
mod fuzz;
mod port;
mod pump;
mod track;

pub use pump::Pump;

use crate::link::port as serial;
use crate::setup::Setup;
use crate::{log, sys};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;
use tokio::sync::OnceCell;

const PORT: &str = "podvm.share";
/// What the device's driver asks for beforehand, in KiB: reading ahead hides the way to the host and back.
const READ_AHEAD_KIB: usize = 1024;

static MOUNTED: OnceCell<()> = OnceCell::const_new();

/// Returns when the file system is mounted at `Setup::share()` and the host's side answers. At the first call the port, which the server has
/// just added, is waited for. After a failure the next call tries again. Whoever touches the file system afterwards may wait for the host: never
/// on the runtime's own thread.
pub async fn mounted(setup: &Setup, within: Duration) -> io::Result<()> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the host's share does not answer");
    let mounting = MOUNTED.get_or_try_init(|| mount(setup));
    tokio::time::timeout(within, mounting)
        .await
        .map_err(|_| late())?
        .map(drop)
}

async fn mount(setup: &Setup) -> io::Result<()> {
    let port = serial::open_named(PORT).await?;
    let target = setup.share();
    fs::create_dir_all(&target)?;
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    sys::mount("podvm-share", &target, "fuse", libc::MS_NODEV, &options)?;
    let mut undo = Undo {
        target: &target,
        armed: true,
    };
    let mut answered = Pump::start(device, port)?;
    read_ahead(&target);
    answered
        .wait_for(|answered| *answered)
        .await
        .map_err(|_| io::Error::other("the pump of the share has ended"))?;
    undo.armed = false;
    log::info("the share is mounted");
    Ok(())
}

/// Also when the caller's time is up and the future is dropped. The pump ends with the mount.
struct Undo<'a> {
    target: &'a Path,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.armed {
            if let Err(e) = sys::umount(self.target, libc::MNT_DETACH) {
                log::warn(format!("unmount {}: {e}", self.target.display()));
            }
        }
    }
}

/// Only a matter of speed. Found by mountinfo: stat() would ask the host.
fn read_ahead(target: &Path) {
    let set = || -> io::Result<()> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let wanted = target.to_string_lossy();
        let device = mounts
            .lines()
            .rev()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields.get(4) == Some(&wanted.as_ref()))
            .and_then(|fields| fields.get(2).map(|device| device.to_string()))
            .ok_or(io::ErrorKind::NotFound)?;
        fs::write(
            format!("/sys/class/bdi/{device}/read_ahead_kb"),
            READ_AHEAD_KIB.to_string(),
        )
    };
    if let Err(e) = set() {
        log::warn(format!("read-ahead of the share: {e}"));
    }
}
