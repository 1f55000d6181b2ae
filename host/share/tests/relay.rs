//! Volumes through the whole relay but the VM: real /dev/fuse, the agent's pump, podvm-share with all its confinement. As root.

mod common;

use common::{entry, one_folder, within};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

#[test]
fn files_go_both_ways() {
    let relay = one_folder();
    fs::write(relay.source().join("from-host"), b"host").expect("write");
    assert_eq!(fs::read(relay.guest("v/from-host")).expect("read"), b"host");
    fs::write(relay.guest("v/from-guest"), b"guest").expect("write");
    assert_eq!(fs::read(relay.source().join("from-guest")).expect("read"), b"guest");
    let names: Vec<_> = fs::read_dir(relay.mount_point())
        .expect("list")
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(names, ["v"]);
}

#[test]
fn large_files_keep_every_byte() {
    let relay = one_folder();
    let data: Vec<u8> = (0..7_000_001u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    fs::write(relay.guest("v/big"), &data).expect("write");
    assert!(fs::read(relay.source().join("big")).expect("read") == data);
    assert!(fs::read(relay.guest("v/big")).expect("read") == data);
}

#[test]
fn the_root_is_not_the_guests() {
    let relay = one_folder();
    for result in [
        fs::write(relay.guest("file"), b""),
        fs::create_dir(relay.guest("folder")),
        fs::remove_dir(relay.guest("v")),
        fs::rename(relay.guest("v"), relay.guest("w")),
        fs::set_permissions(relay.mount_point(), fs::Permissions::from_mode(0o777)),
    ] {
        assert_eq!(result.expect_err("refused").raw_os_error(), Some(libc::EROFS));
    }
}

#[test]
fn read_only_is_the_hosts_to_enforce() {
    let relay = one_folder();
    fs::write(relay.source().join("f"), b"x").expect("write");
    let mut read_only = entry("ro", &relay.source());
    read_only["readonly"] = true.into();
    relay.attach(read_only).expect("attached");
    // The same file by the writable way, looked up first, must not lend its rights.
    fs::read(relay.guest("v/f")).expect("read");
    for result in [
        fs::write(relay.guest("ro/f"), b"y"),
        fs::write(relay.guest("ro/new"), b"y"),
        fs::remove_file(relay.guest("ro/f")),
        fs::set_permissions(relay.guest("ro/f"), fs::Permissions::from_mode(0o777)),
    ] {
        assert_eq!(result.expect_err("refused").raw_os_error(), Some(libc::EROFS));
    }
    fs::write(relay.guest("v/f"), b"z").expect("write");
    within(Duration::from_secs(3), "what is read by the other way", || {
        fs::read(relay.guest("ro/f")).expect("read") == b"z"
    });
}

#[test]
fn volumes_come_and_go() {
    let relay = one_folder();
    let other = relay.dir.join("other");
    fs::create_dir(&other).expect("folder");
    fs::write(other.join("x"), b"1").expect("write");
    fs::write(relay.dir.join("single"), b"one file").expect("write");
    relay.attach(entry("later", &other)).expect("attached");
    relay.attach(entry("later", &other)).expect("once more changes nothing");
    relay
        .attach(entry("file", &relay.dir.join("single")))
        .expect("attached");
    assert_eq!(fs::read(relay.guest("later/x")).expect("read"), b"1");
    assert_eq!(fs::read(relay.guest("file")).expect("read"), b"one file");
    relay.detach("later").expect("detached");
    relay.detach("later").expect("once more changes nothing");
    within(Duration::from_secs(3), "the name's end", || {
        !relay.guest("later").exists()
    });
    let missing = relay
        .attach(entry("gone", &relay.dir.join("nowhere")))
        .expect_err("refused");
    assert!(missing.contains("\"errno\":2"), "{missing}");
}

#[test]
fn files_belong_to_who_makes_them() {
    let relay = one_folder();
    fs::set_permissions(relay.source(), fs::Permissions::from_mode(0o1777)).expect("mode");
    std::os::unix::fs::chown(relay.source(), Some(0), Some(0)).expect("owner");
    let path = relay.guest("v/mine");
    let status = std::process::Command::new("setpriv")
        .args(["--reuid=1234", "--regid=2345", "--clear-groups", "touch"])
        .arg(&path)
        .status()
        .expect("setpriv");
    assert!(status.success());
    let meta = fs::metadata(relay.source().join("mine")).expect("stat");
    assert_eq!((meta.uid(), meta.gid()), (1234, 2345));
}

#[test]
fn what_the_host_mounts_later_is_seen_by_a_slave_only() {
    let relay = one_folder();
    let base = relay.dir.join("shared");
    fs::create_dir_all(base.join("sub")).expect("folder");
    let run = |arguments: &[&str]| {
        let status = std::process::Command::new("mount")
            .args(arguments)
            .status()
            .expect("mount");
        assert!(status.success(), "mount {arguments:?}");
    };
    let path = base.to_str().expect("utf-8");
    run(&["--bind", path, path]);
    run(&["--make-shared", path]);
    let mut slave = entry("slave", &base);
    slave["propagation"] = "hostToContainer".into();
    relay.attach(slave).expect("attached");
    relay.attach(entry("private", &base)).expect("attached");
    let sub = base.join("sub");
    run(&["-t", "tmpfs", "none", sub.to_str().expect("utf-8")]);
    fs::write(sub.join("late"), b"1").expect("write");
    let seen = std::panic::catch_unwind(|| {
        within(Duration::from_secs(3), "the mount", || {
            relay.guest("slave/sub/late").exists()
        });
        assert!(!relay.guest("private/sub/late").exists());
    });
    for path in [&sub, &base] {
        let status = std::process::Command::new("umount")
            .arg("-l")
            .arg(path)
            .status()
            .expect("umount");
        assert!(status.success());
    }
    assert!(seen.is_ok());
}
