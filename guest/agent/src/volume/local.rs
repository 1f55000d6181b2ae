//! Folders that only this pod has (emptyDir): a tmpfs of their size, or a folder on the scratch disk.

use crate::fail::{invalid, Doing};
use crate::pb::agent::v1::LocalVolume;
use crate::setup::Setup;
use crate::sys;
use std::fs;
use std::io;
use std::os::unix::fs::{chown, PermissionsExt};
use std::path::{Path, PathBuf};
use tonic::Status;

pub fn make(setup: &Setup, id: &str, asked: &LocalVolume) -> Result<PathBuf, Status> {
    if asked.mode > 0o7777 {
        return Err(invalid(format!(
            "local.mode: wanted at most 07777, found {:o}",
            asked.mode
        )));
    }
    let path = if asked.memory {
        setup.volumes().join(id).join("memory")
    } else {
        if asked.size != 0 {
            return Err(invalid("local.size: wanted none beside a folder on the scratch disk"));
        }
        setup.scratch_volumes().join(id)
    };
    build(&path, asked).doing(|| format!("volume {id:?}"))?;
    Ok(path)
}

/// No flags on the tmpfs: kubelet's own has none either.
fn build(path: &Path, asked: &LocalVolume) -> io::Result<()> {
    fs::create_dir_all(path)?;
    if asked.memory {
        let size = match asked.size {
            0 => String::new(),
            size => format!(",size={size}"),
        };
        let options = format!("mode={:o},uid={},gid={}{size}", asked.mode, asked.uid, asked.gid);
        return sys::mount("volume", path, "tmpfs", 0, &options);
    }
    chown(path, Some(asked.uid), Some(asked.gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(asked.mode))
}
