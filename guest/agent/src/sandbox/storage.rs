//! The scratch disk under the writable layers, and the pod's shared memory.

use crate::disk;
use crate::fail::{internal, invalid, Doing};
use crate::ids::check_serial;
use crate::pb::agent::v1::BlockDevice;
use crate::setup::Setup;
use crate::sys;
use std::fs;
use std::io;
use std::path::Path;
use tonic::Status;

const SHM_DEFAULT: u64 = 64 << 20;

/// Mounts what holds the containers' writable layers.
pub async fn scratch(setup: &Setup, device: Option<&BlockDevice>) -> Result<(), Status> {
    let target = setup.scratch();
    if setup.host.is_some() {
        return fs::create_dir_all(&target).doing(|| "scratch");
    }
    if is_mount_point(&target).doing(|| "scratch")? {
        return Ok(());
    }
    let Some(device) = device else {
        return sys::mount("scratch", &target, "tmpfs", 0, "mode=0711").doing(|| "scratch tmpfs");
    };
    if let (Some(dir), false) = (device.serial.strip_prefix("dir:"), setup.is_vm()) {
        if !Path::new(dir).is_absolute() {
            return Err(invalid(format!(
                "scratch.serial: wanted dir:/absolute/path, found {:?}",
                device.serial
            )));
        }
        return sys::mount(dir, &target, "", libc::MS_BIND, "").doing(|| format!("scratch folder {dir}"));
    }
    check_serial(&device.serial)?;
    let node = disk::block_device(&device.serial)
        .await
        .map_err(|e| internal("scratch disk", e))?;
    // Overlay needs device files in the layers above (whiteouts), so no MS_NODEV.
    sys::mount(&node.to_string_lossy(), &target, "ext4", libc::MS_NOATIME, "discard")
        .doing(|| format!("mount of the scratch disk {} as ext4", node.display()))
}

/// `size` 0: 64 MiB.
pub fn shm(setup: &Setup, size: u64) -> io::Result<()> {
    let target = setup.shm();
    if setup.host.as_ref().is_some_and(|host| !host.own_ipc) {
        return Ok(()); // the host's
    }
    if is_mount_point(&target)? {
        return Ok(());
    }
    let size = if size == 0 { SHM_DEFAULT } else { size };
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    sys::mount("shm", &target, "tmpfs", flags, &format!("mode=1777,size={size}"))
}

fn is_mount_point(dir: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let parent = dir.parent().unwrap_or(dir);
    Ok(fs::metadata(dir)?.dev() != fs::metadata(parent)?.dev())
}
