//! Volumes of the whole agent as a plain process, mounted into real containers.

mod common;

use common::*;
use podvm_agent::pb::agent::v1::put_volume_request::Kind;
use podvm_agent::pb::agent::v1::*;
use podvm_agent::pb::oci::v1::Mount;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

async fn put(client: &mut Client, id: &str, kind: Kind) -> Result<(), tonic::Status> {
    let request = PutVolumeRequest {
        volume_id: id.into(),
        kind: Some(kind),
    };
    client.put_volume(request).await.map(drop)
}

fn mounted(mut request: CreateContainerRequest, mounts: &[(&str, &str, &str)]) -> CreateContainerRequest {
    for (source, destination, option) in mounts {
        request.spec.as_mut().unwrap().mounts.push(Mount {
            destination: destination.to_string(),
            source: Some(source.to_string()),
            r#type: Some("bind".into()),
            options: vec!["rbind".into(), option.to_string()],
            ..Default::default()
        });
    }
    request
}

fn entry(path: &str, kind: sync_entry::Kind) -> SyncVolumeRequest {
    SyncVolumeRequest {
        entry: Some(SyncEntry {
            path: path.into(),
            kind: Some(kind),
            mode: 0o755,
            ..Default::default()
        }),
        ..Default::default()
    }
}

async fn sync(client: &mut Client, id: &str, requests: Vec<SyncVolumeRequest>) -> Result<(), tonic::Status> {
    let first = SyncVolumeRequest {
        volume_id: id.into(),
        ..Default::default()
    };
    client
        .sync_volume(tokio_stream::iter(std::iter::once(first).chain(requests)))
        .await
        .map(drop)
}

/// A generation as AtomicWriter's folder has it.
fn generation(stamp: &str, text: &str) -> Vec<SyncVolumeRequest> {
    use sync_entry::Kind::{Directory, File, Symlink};
    let data = SyncVolumeRequest {
        data: text.as_bytes().to_vec().into(),
        ..Default::default()
    };
    let commit = SyncVolumeRequest {
        commit: true,
        ..Default::default()
    };
    vec![
        entry("", Directory(true)),
        entry(stamp, Directory(true)),
        entry(&format!("{stamp}/key"), File(true)),
        data,
        entry("..data", Symlink(stamp.into())),
        entry("key", Symlink("..data/key".into())),
        commit,
    ]
}

/// The agent's mounts are its own: seen through its process.
fn inside(host: &Host, path: &str) -> PathBuf {
    let state = std::fs::canonicalize(host.dir.join("state")).unwrap();
    PathBuf::from(format!("/proc/{}/root{}/{path}", host.agent_pid(), state.display()))
}

/// Names of what was moved into the watched folder so far.
fn moved_into(watch: &std::fs::File) -> Vec<String> {
    let mut buffer = [0u8; 4096];
    let n = unsafe { libc::read(watch.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    let (mut names, mut at) = (vec![], 0);
    while n > 0 && at < n as usize {
        let length = u32::from_ne_bytes(buffer[at + 12..at + 16].try_into().unwrap()) as usize;
        let name = &buffer[at + 16..at + 16 + length];
        names.push(String::from_utf8_lossy(name).trim_end_matches('\0').to_string());
        at += 16 + length;
    }
    names
}

fn watch(path: &std::path::Path) -> std::fs::File {
    use std::os::fd::FromRawFd;
    let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
    let path = podvm_agent::sys::cpath(path).unwrap();
    assert!(unsafe { libc::inotify_add_watch(fd, path.as_ptr(), libc::IN_MOVED_TO) } > 0);
    unsafe { std::fs::File::from_raw_fd(fd) }
}

#[tokio::test]
async fn a_synced_volume_is_switched_under_a_container_that_watches() {
    let Some(host) = start() else { return };
    let mut client = host.ready().await;
    put(&mut client, "conf", Kind::Synced(SyncedVolume::default()))
        .await
        .unwrap();
    sync(&mut client, "conf", generation("..1", "one")).await.unwrap();
    let script = "cat /conf/key; while [ \"$(cat /conf/key)\" = one ]; do sleep 0.1; done; cat /conf/key; ls -a /conf; echo no > /conf/key";
    let request = mounted(host.request("a", script), &[("podvm:volume/conf", "/conf", "ro")]);
    client.create_container(request).await.unwrap();
    let start = StartContainerRequest {
        container_id: "a".into(),
    };
    client.start_container(start).await.unwrap();
    let watching = watch(&inside(&host, "volumes/conf/live"));

    let mut without_commit = generation("..9", "never");
    without_commit.pop();
    let status = sync(&mut client, "conf", without_commit).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    assert_eq!(moved_into(&watching), [""; 0]);
    sync(&mut client, "conf", generation("..2", "two")).await.unwrap();
    assert_eq!(moved_into(&watching), ["..2", "..data"]);

    assert_ne!(exit(&mut client, "a").await.exit_code, 0, "it is read-only");
    let (out, _) = output(&mut client, "a").await;
    assert_eq!(out, "onetwo.\n..\n..2\n..data\nkey\n");
    let remove = || RemoveVolumeRequest {
        volume_id: "conf".into(),
    };
    let used = client.remove_volume(remove()).await.unwrap_err();
    assert_eq!(used.code(), Code::FailedPrecondition, "{used:?}");
    let request = RemoveContainerRequest {
        container_id: "a".into(),
    };
    client.remove_container(request).await.unwrap();
    client.remove_volume(remove()).await.unwrap();
    client.remove_volume(remove()).await.unwrap();
    assert!(!inside(&host, "volumes/conf").exists());
}

#[tokio::test]
async fn local_volumes_are_shared_and_sub_paths_stay_inside() {
    let Some(host) = start() else { return };
    let mut client = host.ready().await;
    let local = |memory: bool| {
        Kind::Local(LocalVolume {
            memory,
            size: if memory { 1 << 20 } else { 0 },
            mode: 0o1777,
            ..Default::default()
        })
    };
    put(&mut client, "mem", local(true)).await.unwrap();
    put(&mut client, "mem", local(true)).await.unwrap();
    let other = put(&mut client, "mem", local(false)).await.unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists);
    put(&mut client, "disk", local(false)).await.unwrap();
    let script = "echo deep > /sub/x; cat /mem/a/b/x; ls -l / | head -40 > /disk/list; chmod 700 /mem; \
                  head -c 3000000 /dev/zero > /mem/big";
    let mounts = [
        ("podvm:volume/mem", "/mem", "rw"),
        ("podvm:volume/mem/a/b", "/sub", "rw"),
        ("podvm:volume/disk", "/disk", "rw"),
    ];
    let request = mounted(host.request("a", script), &mounts);
    client.create_container(request).await.unwrap();
    let start = StartContainerRequest {
        container_id: "a".into(),
    };
    client.start_container(start).await.unwrap();
    exit(&mut client, "a").await;
    let (out, err) = output(&mut client, "a").await;
    assert_eq!(out, "deep\n");
    assert!(err.contains("No space left"), "{err}");
    assert_eq!(std::fs::read_dir(inside(&host, "pins")).unwrap().count(), 0);

    // A link that a container left leads nowhere but into its own volume.
    std::os::unix::fs::symlink("/", inside(&host, "scratch/.volumes/disk/out")).unwrap();
    let through = mounted(
        host.request("b", "cat /m/list"),
        &[("podvm:volume/disk/out", "/m", "ro")],
    );
    client.create_container(through).await.unwrap();
    let start = StartContainerRequest {
        container_id: "b".into(),
    };
    client.start_container(start).await.unwrap();
    assert_eq!(exit(&mut client, "b").await.exit_code, 0);
    for (bad, code) in [
        ("podvm:volume/none", Code::NotFound),
        ("podvm:volume/disk/../x", Code::InvalidArgument),
        ("podvm:volume/A", Code::InvalidArgument),
        ("podvm:volume/disk/list/x", Code::NotFound),
    ] {
        let request = mounted(host.request("c", "true"), &[(bad, "/m", "rw")]);
        let status = client.create_container(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{bad}: {status:?}");
    }
    for id in ["a", "b"] {
        let request = RemoveContainerRequest {
            container_id: id.into(),
        };
        client.remove_container(request).await.unwrap();
    }
    for id in ["mem", "disk"] {
        let request = RemoveVolumeRequest { volume_id: id.into() };
        client.remove_volume(request).await.unwrap();
    }
    assert_eq!(std::fs::read_dir(inside(&host, "volumes")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(inside(&host, "scratch/.volumes")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_termination_log_is_read_from_its_end() {
    let Some(host) = start() else { return };
    let mut client = host.ready().await;
    put(&mut client, "log", Kind::Synced(SyncedVolume { single_file: true }))
        .await
        .unwrap();
    let request = mounted(
        host.request("a", "echo first > /log; echo last >> /log"),
        &[("podvm:volume/log", "/log", "rw")],
    );
    client.create_container(request).await.unwrap();
    let start = StartContainerRequest {
        container_id: "a".into(),
    };
    client.start_container(start).await.unwrap();
    assert_eq!(exit(&mut client, "a").await.exit_code, 0);
    let mut read = async |max_bytes, path: &str| {
        let request = ReadVolumeRequest {
            volume_id: "log".into(),
            path: path.into(),
            max_bytes,
        };
        client.read_volume(request).await.map(|r| r.into_inner().data)
    };
    assert_eq!(&read(5, "").await.unwrap()[..], b"last\n");
    assert_eq!(&read(4096, "").await.unwrap()[..], b"first\nlast\n");
    assert_eq!(
        read(4096, "../etc/passwd").await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert_eq!(read(2 << 20, "").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_socket_carries_connections_to_the_server() {
    let Some(host) = start() else { return };
    let mut client = host.ready().await;
    let socket = SocketVolume {
        mode: 0o666,
        ..Default::default()
    };
    put(&mut client, "sock", Kind::Socket(socket)).await.unwrap();
    for word in ["one", "two"] {
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let first = AcceptSocketRequest {
            volume_id: "sock".into(),
            ..Default::default()
        };
        sender.send(first).await.unwrap();
        let answers = client.accept_socket(ReceiverStream::new(receiver)).await.unwrap();
        let mut answers = answers.into_inner();
        let mut connection = tokio::net::UnixStream::connect(inside(&host, "volumes/sock/socket"))
            .await
            .unwrap();
        let connected = answers.message().await.unwrap().unwrap();
        assert!(connected.data.is_empty() && !connected.eof);
        connection.write_all(word.as_bytes()).await.unwrap();
        connection.shutdown().await.unwrap();
        assert_eq!(&answers.message().await.unwrap().unwrap().data[..], word.as_bytes());
        assert!(answers.message().await.unwrap().unwrap().eof);
        let answer = AcceptSocketRequest {
            data: b"answer".to_vec().into(),
            ..Default::default()
        };
        sender.send(answer).await.unwrap();
        drop(sender);
        let mut heard = String::new();
        connection.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "answer");
        assert!(answers.message().await.unwrap().is_none());
    }
    put(&mut client, "conf", Kind::Synced(SyncedVolume::default()))
        .await
        .unwrap();
    let wrong = AcceptSocketRequest {
        volume_id: "conf".into(),
        ..Default::default()
    };
    let status = client.accept_socket(tokio_stream::iter([wrong])).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_device_of_the_guest_is_there_and_may_be_opened() {
    let Some(host) = start() else { return };
    let mut client = host.ready().await;
    let mut request = host.request("a", "head -c 3 /dev/mine | wc -c 2>/dev/null; ls -l /dev/mine");
    request.devices.push(Device {
        path: "/dev/mine".into(),
        permissions: "r".into(),
        source: Some(device::Source::Guest("/dev/zero".into())),
    });
    client.create_container(request).await.unwrap();
    let start = StartContainerRequest {
        container_id: "a".into(),
    };
    client.start_container(start).await.unwrap();
    assert_eq!(exit(&mut client, "a").await.exit_code, 0);
    let (out, _) = output(&mut client, "a").await;
    assert!(out.contains("1, 5") && out.ends_with("/dev/mine\n"), "{out}");
    let mut bad = host.request("b", "true");
    bad.devices.push(Device {
        path: "/dev/mine".into(),
        permissions: "r".into(),
        source: Some(device::Source::Guest("/etc/passwd".into())),
    });
    assert_eq!(
        client.create_container(bad).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}
