//! Read-only image devices: each mounted once, shared by its containers, unmounted after the last.

use crate::setup::Setup;
use crate::{disk, log, sys};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::Mutex;

const UNMOUNT_WITHIN: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct Images {
    mounts: Mutex<Mounts>,
}

#[derive(Default)]
struct Mounts {
    by_serial: HashMap<String, Mounted>,
    made: u64,
}

struct Mounted {
    dir: PathBuf,
    users: u32,
}

impl Images {
    /// The folder where the image is mounted. Each call needs its `release`.
    pub async fn acquire(&self, setup: &Setup, serial: &str) -> io::Result<PathBuf> {
        if let Some(dir) = serial.strip_prefix("dir:") {
            return Ok(dir.into());
        }
        if let Some(host) = &setup.host {
            return on_host(&host.disks.join(serial));
        }
        if let Some(mounted) = self.mounts.lock().await.by_serial.get_mut(serial) {
            mounted.users += 1;
            return Ok(mounted.dir.clone());
        }
        // Outside the lock: one image that does not come must not hold up the others.
        let device = disk::block_device(serial).await?;
        let mut mounts = self.mounts.lock().await;
        if let Some(mounted) = mounts.by_serial.get_mut(serial) {
            mounted.users += 1;
            return Ok(mounted.dir.clone());
        }
        mounts.made += 1;
        let dir = setup.images().join(mounts.made.to_string());
        fs::create_dir_all(&dir)?;
        let flags = libc::MS_RDONLY | libc::MS_NODEV;
        let result = sys::mount(&device.to_string_lossy(), &dir, "erofs", flags, "");
        if let Err(e) = result {
            drop(fs::remove_dir(&dir));
            return Err(io::Error::new(
                e.kind(),
                format!("mount of {} (serial {serial}) as erofs: {e}", device.display()),
            ));
        }
        mounts.by_serial.insert(
            serial.into(),
            Mounted {
                dir: dir.clone(),
                users: 1,
            },
        );
        Ok(dir)
    }

    pub async fn release(&self, serial: &str) {
        let mut mounts = self.mounts.lock().await;
        let Some(mounted) = mounts.by_serial.get_mut(serial) else {
            return;
        };
        mounted.users -= 1;
        if mounted.users > 0 {
            return;
        }
        let dir = mounted.dir.clone();
        mounts.by_serial.remove(serial);
        if let Err(e) = unmount(&dir).await {
            log::error(format!("unmount of image {serial}: {e}"));
        }
    }
}

/// On a host the server has mounted the image, and put a link to it.
fn on_host(link: &Path) -> io::Result<PathBuf> {
    let dir = fs::canonicalize(link).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", link.display())))?;
    // These would be taken for separators in the options of overlay.
    if dir.to_string_lossy().contains([',', ':', '\\']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("wanted a folder without [,:\\] in its name, found {}", dir.display()),
        ));
    }
    Ok(dir)
}

/// Unmounts and removes the folder. While somebody is in it: tried again for 5 s, then detached, to be freed with its last user.
/// Ok where nothing is mounted.
pub async fn unmount(dir: &Path) -> io::Result<()> {
    let deadline = tokio::time::Instant::now() + UNMOUNT_WITHIN;
    let mut pause = 2;
    loop {
        match sys::umount(dir, libc::UMOUNT_NOFOLLOW) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                if tokio::time::Instant::now() > deadline {
                    log::warn(format!("{} is still in use: detached", dir.display()));
                    sys::umount(dir, libc::UMOUNT_NOFOLLOW | libc::MNT_DETACH)?;
                    break;
                }
                tokio::time::sleep(Duration::from_millis(pause)).await;
                pause = (pause * 2).min(200);
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => break,
            result => {
                result?;
                break;
            }
        }
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
