//! Devices of the guest for a privileged container.

use crate::pb::agent::v1::Device as Named;
use crate::pb::oci::v1::Device;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Folders of /dev that the container has of its own, what every container has, the agent's own port, and terminals of a screen that is not there.
const FOLDERS: [&str; 4] = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd"];
const OWN: [&str; 8] = ["null", "zero", "full", "random", "urandom", "tty", "console", "ptmx"];
const LEFT_OUT: [&str; 3] = ["vport", "tty", "vcs"];
/// What root of a user namespace may have: crun gives the nodes to it, and the guest's disks and memory are not its.
const HARMLESS: [&str; 3] = ["/dev/fuse", "/dev/net/tun", "/dev/userfaultfd"];
/// A guest has some dozens.
const MOST: usize = 2048;

/// Every other device node of the guest, by its path, as the OCI specification has it; for a pod with a user namespace of its own only those that give
/// nothing of the guest away. `named`: what the container gets by other words.
pub fn all(user_namespace: bool, named: &[Named]) -> io::Result<Vec<Device>> {
    let mut found = Vec::new();
    walk(Path::new("/dev"), &mut found)?;
    found.retain(|device| named.iter().all(|other| other.path != device.path));
    if user_namespace {
        found.retain(|device| HARMLESS.contains(&device.path.as_str()));
    }
    Ok(found)
}

fn walk(dir: &Path, found: &mut Vec<Device>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let text = path.to_string_lossy().into_owned();
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue; // unplugged meanwhile
        };
        let kind = meta.file_type();
        if kind.is_dir() && !FOLDERS.contains(&text.as_str()) {
            walk(&path, found)?;
        }
        let top = dir == Path::new("/dev");
        let own = top && (OWN.contains(&name.as_str()) || LEFT_OUT.iter().any(|prefix| name.starts_with(prefix)));
        if !(kind.is_block_device() || kind.is_char_device()) || own || found.len() >= MOST {
            continue;
        }
        found.push(Device {
            r#type: if kind.is_block_device() { "b" } else { "c" }.into(),
            path: text,
            major: i64::from(libc::major(meta.rdev())),
            minor: i64::from(libc::minor(meta.rdev())),
            file_mode: Some(meta.mode() & 0o777),
            uid: Some(meta.uid()),
            gid: Some(meta.gid()),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_container_has_is_left_out() {
        let found = all(false, &[]).unwrap();
        assert!(found
            .iter()
            .all(|d| d.path.starts_with("/dev/") && d.path != "/dev/null"));
        assert!(found.iter().all(|d| !d.path.starts_with("/dev/pts/")));
        assert!(all(true, &[]).unwrap().iter().all(|d| d.r#type == "c"));
    }
}
