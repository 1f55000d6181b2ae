//! Devices that a container gets beside those that every container has: block devices by serial, nodes of the guest by path.

use crate::fail::{internal, invalid};
use crate::ids::{check_serial, shorten};
use crate::pb::agent::v1::{device::Source, Device};
use crate::pb::oci::v1::{Device as Node, DeviceCgroup, Spec};
use crate::users::Identity;
use crate::{disk, modules};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use tonic::Status;

const MOST: usize = 256;

/// Refuses what the contract does not allow.
pub fn check(devices: &[Device]) -> Result<(), Status> {
    if devices.len() > MOST {
        return Err(invalid(format!(
            "devices: wanted at most {MOST}, found {}",
            devices.len()
        )));
    }
    devices.iter().try_for_each(check_one)
}

fn check_one(device: &Device) -> Result<(), Status> {
    let shown = shorten(&device.path, 200);
    let absolute = |path: &str| {
        path.starts_with('/') && path.len() <= 4096 && !path.contains('\0') && !path.split('/').any(|p| p == "..")
    };
    if !absolute(&device.path) {
        return Err(invalid(format!("device: wanted an absolute path, found {shown:?}")));
    }
    let access = &device.permissions;
    if access.is_empty() || access.len() > 3 || !access.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(invalid(format!(
            "device {shown:?}: wanted permissions of \"rwm\", found {:?}",
            shorten(access, 20)
        )));
    }
    match &device.source {
        Some(Source::Block(block)) => check_serial(&block.serial),
        Some(Source::Guest(path)) if path.starts_with("/dev/") && absolute(path) => Ok(()),
        _ => Err(invalid(format!(
            "device {shown:?}: wanted a block device or a path in /dev as its source"
        ))),
    }
}

/// Puts checked devices into the spec, with the rules that let the container open them and nothing else.
pub async fn add(spec: &mut Spec, devices: &[Device], identity: &Identity) -> Result<(), Status> {
    for device in devices {
        let (node, owner) = match &device.source {
            Some(Source::Block(block)) => {
                let node = disk::block_device(&block.serial).await;
                // It is this container's alone: it need not be root to use it.
                let owner = Some((0o660, identity.uid, identity.gid));
                (node.map_err(|e| internal(format!("device {}", device.path), e))?, owner)
            }
            Some(Source::Guest(path)) => (guest_node(path).await, None),
            None => continue,
        };
        let (node, rule) = entries(device, &node, owner)?;
        let linux = spec.linux.get_or_insert_default();
        linux.devices.push(node);
        linux.resources.get_or_insert_default().devices.push(rule);
    }
    Ok(())
}

/// /dev/fuse and /dev/net/tun come with modules that may not be loaded yet.
async fn guest_node(path: &str) -> PathBuf {
    if !Path::new(path).exists() {
        drop(tokio::task::spawn_blocking(modules::load_later).await);
    }
    path.into()
}

fn entries(device: &Device, node: &Path, owner: Option<(u32, u32, u32)>) -> Result<(Node, DeviceCgroup), Status> {
    let meta = fs::metadata(node)
        .map_err(|e| Status::failed_precondition(format!("device {} of the guest: {e}", node.display())))?;
    let kind = match meta.file_type() {
        t if t.is_block_device() => "b",
        t if t.is_char_device() => "c",
        _ => return Err(invalid(format!("{}: wanted a device, it is none", node.display()))),
    };
    let (major, minor) = (libc::major(meta.rdev()).into(), libc::minor(meta.rdev()).into());
    let (mode, uid, gid) = owner.unwrap_or((meta.mode() & 0o7777, meta.uid(), meta.gid()));
    let node = Node {
        r#type: kind.into(),
        path: device.path.clone(),
        major,
        minor,
        file_mode: Some(mode),
        uid: Some(uid),
        gid: Some(gid),
    };
    let rule = DeviceCgroup {
        allow: true,
        r#type: Some(kind.into()),
        major: Some(major),
        minor: Some(minor),
        access: Some(device.permissions.clone()),
    };
    Ok((node, rule))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::agent::v1::BlockDevice;

    fn device(path: &str, guest: &str, permissions: &str) -> Device {
        Device {
            path: path.into(),
            permissions: permissions.into(),
            source: Some(Source::Guest(guest.into())),
        }
    }

    #[test]
    fn what_is_no_device_is_refused() {
        check(&[device("/dev/x", "/dev/null", "rwm")]).unwrap();
        let serial = Some(Source::Block(BlockDevice { serial: "a/b".into() }));
        for bad in [
            device("dev/x", "/dev/null", "r"),
            device("/dev/x", "/etc/passwd", "r"),
            device("/dev/x", "/dev/../etc/passwd", "r"),
            device("/dev/x", "/dev/null", ""),
            device("/dev/x", "/dev/null", "rx"),
            Device {
                source: None,
                ..device("/dev/x", "", "r")
            },
            Device {
                source: serial,
                ..device("/dev/x", "", "r")
            },
        ] {
            assert!(check(std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
        assert!(check(&vec![device("/dev/x", "/dev/null", "r"); MOST + 1]).is_err());
    }

    #[tokio::test]
    async fn node_and_rule() {
        let who = Identity {
            uid: 5,
            gid: 6,
            groups: vec![],
            home: "/".into(),
        };
        let mut spec = Spec::default();
        add(&mut spec, &[device("/dev/mine", "/dev/null", "rw")], &who)
            .await
            .unwrap();
        let linux = spec.linux.unwrap();
        let node = &linux.devices[0];
        assert_eq!((node.r#type.as_str(), node.major, node.minor), ("c", 1, 3));
        assert_eq!(node.path, "/dev/mine");
        let rule = &linux.resources.unwrap().devices[0];
        assert!(rule.allow);
        assert_eq!(rule.access.as_deref(), Some("rw"));
        let missing = add(&mut spec_without(), &[device("/dev/x", "/dev/no-such", "r")], &who).await;
        assert_eq!(missing.unwrap_err().code(), tonic::Code::FailedPrecondition);
    }

    fn spec_without() -> Spec {
        Spec::default()
    }
}
