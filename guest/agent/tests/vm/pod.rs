//! What is inside of the pod: network, files, limits.

use crate::common::*;
use crate::rig::{begin, limited, shell};
use podvm_agent::pb::agent::v1::*;
use podvm_agent::pb::oci::v1::{Capabilities, Cpu, DeviceCgroup, Memory, Mount, Namespace, Resources, Root};

pub async fn network_and_files(client: &mut Client) {
    begin(client, container("net", "podvm-image", "sleep 600")).await;
    let text = shell(
        client,
        "net",
        "cat /proc/net/route /proc/net/if_inet6 /proc/net/fib_trie /proc/sys/net/ipv4/ip_forward",
    )
    .await;
    // Default by 169.254.1.1, little endian; the address; forwarding.
    assert!(text.contains("eth7\t00000000\t0101FEA9"), "{text}");
    assert!(text.contains("fd000000000000000000000000000005"), "{text}");
    assert!(text.contains("10.88.0.5") && text.ends_with("\n1\n"), "{text}");
    let files = shell(
        client,
        "net",
        "cat /etc/resolv.conf /etc/hostname /proc/sys/kernel/hostname; read up < /proc/uptime; cat /proc/1/comm",
    )
    .await;
    assert_eq!(files, "nameserver 10.0.0.53\nin-the-vm\nin-the-vm\nsh\n");
    shell(
        client,
        "net",
        "echo kept > /tmp/file; cat /tmp/file; echo more > /etc/hosts",
    )
    .await;
    let list = client
        .list_containers(ListContainersRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(list.containers[0].created_ns > 1_900_000_000_000_000_000);
    client
        .remove_container(RemoveContainerRequest {
            container_id: "net".into(),
        })
        .await
        .unwrap();
}

pub async fn resources(client: &mut Client) {
    begin(client, limited("limits", "sleep 600", 64 << 20)).await;
    let update = Resources {
        memory: Some(Memory {
            limit: Some(48 << 20),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = UpdateContainerRequest {
        container_id: "limits".into(),
        resources: Some(update),
        oom_score_adj: None,
    };
    client.update_container(request).await.unwrap();
    shell(client, "limits", "head -c 1000000 /dev/zero > /tmp/x").await;
    let stats = client
        .stats(StatsRequest {
            container_ids: vec!["limits".into()],
        })
        .await
        .unwrap()
        .into_inner();
    let one = &stats.containers[0];
    assert_eq!(one.memory_limit, 48 << 20);
    assert!(one.cpu_usage_ns > 0 && one.memory_usage > 0 && one.pids == 2, "{one:?}");
    assert!(one.fs_used >= 1_000_000, "{one:?}");
    let guest = stats.guest.unwrap();
    assert_eq!(guest.interfaces[0].name, "eth7");
    assert!(
        guest.scratch_total > 100 << 20 && guest.scratch_used > 0 && guest.cpu_usage_ns > 0,
        "{guest:?}"
    );
    client
        .remove_container(RemoveContainerRequest {
            container_id: "limits".into(),
        })
        .await
        .unwrap();
}

/// What a pod's ordinary container has.
pub async fn like_kubelet(client: &mut Client) {
    let mut request = container("cri", "podvm-image", "sleep 600");
    let spec = request.spec.as_mut().unwrap();
    for (kind, destination) in [
        ("sysfs", "/sys"),
        ("cgroup", "/sys/fs/cgroup"),
        ("mqueue", "/dev/mqueue"),
    ] {
        spec.mounts.push(Mount {
            destination: destination.into(),
            source: Some(kind.into()),
            r#type: Some(kind.into()),
            options: ["nosuid", "noexec", "nodev", "ro"].map(String::from).into(),
            ..Default::default()
        });
    }
    let process = spec.process.as_mut().unwrap();
    process.no_new_privileges = true;
    process.oom_score_adj = Some(985);
    let caps: Vec<String> = ["CAP_MKNOD", "CAP_CHOWN"].map(String::from).into();
    process.capabilities = Some(Capabilities {
        bounding: caps.clone(),
        effective: caps.clone(),
        permitted: caps,
        ..Default::default()
    });
    let linux = spec.linux.as_mut().unwrap();
    linux.namespaces.push(Namespace {
        r#type: "cgroup".into(),
        path: None,
    });
    linux.masked_paths = ["/proc/kcore", "/proc/none"].map(String::from).into();
    linux.readonly_paths = vec!["/proc/sys".into()];
    linux.resources = Some(Resources {
        cpu: Some(Cpu {
            shares: Some(1024),
            cpus: Some(String::new()),
            mems: Some(String::new()),
            ..Default::default()
        }),
        unified: [("memory.oom.group".to_string(), "1".to_string())].into(),
        devices: vec![DeviceCgroup {
            allow: false,
            access: Some("rwm".into()),
            ..Default::default()
        }],
        ..Default::default()
    });
    spec.root = Some(Root {
        path: String::new(),
        readonly: true,
    });
    begin(client, request).await;
    let script = "cat /proc/1/oom_score_adj /sys/fs/cgroup/cpu.weight /sys/fs/cgroup/memory.oom.group /proc/1/cgroup; \
        echo x > /dev/null; (echo no > /file) 2>/dev/null || echo readonly; \
        (mknod /dev/shm/disk b 254 0 && cat /dev/shm/disk) 2>/dev/null | head -c 1 | cat; echo end";
    let text = shell(client, "cri", script).await;
    assert_eq!(text, "985\n100\n1\n0::/\nreadonly\nend\n");
    client
        .remove_container(RemoveContainerRequest {
            container_id: "cri".into(),
        })
        .await
        .unwrap();
}

pub async fn out_of_memory(client: &mut Client) {
    let after = client
        .list_containers(ListContainersRequest {})
        .await
        .unwrap()
        .into_inner()
        .last_event_seq;
    begin(
        client,
        limited("oom", "x=0123456789; while :; do x=$x$x; done", 16 << 20),
    )
    .await;
    let record = exit(client, "oom").await;
    assert_eq!((record.exit_code, record.signal, record.oom_killed), (137, 9, true));
    let mut events = client
        .events(EventsRequest { after_seq: after })
        .await
        .unwrap()
        .into_inner();
    let mut kinds = Vec::new();
    for _ in 0..2 {
        match events.message().await.unwrap().unwrap().kind.unwrap() {
            event::Kind::Oom(oom) => kinds.push(format!("oom {} {}", oom.container_id, oom.kills)),
            event::Kind::Exited(exited) => kinds.push(format!("exited {}", exited.container_id)),
            event::Kind::Lost(lost) => panic!("{lost:?}"),
        }
    }
    kinds.sort();
    assert_eq!(kinds, ["exited oom", "oom oom 1"]);
    client
        .remove_container(RemoveContainerRequest {
            container_id: "oom".into(),
        })
        .await
        .unwrap();
}

pub async fn time_out(client: &mut Client) {
    let request = CreateContainerRequest {
        pid_namespace: PidNamespace::Pod.into(),
        ..container("late", "podvm-image", "sleep 600")
    };
    begin(client, request).await;
    let args = ["sh", "-c", "(sleep 777 & sleep 777 &); echo up; sleep 777"]
        .map(String::from)
        .into();
    let request = ExecSyncRequest {
        container_id: "late".into(),
        args,
        timeout_ms: 3000,
        ..Default::default()
    };
    let late = client.exec_sync(request).await.unwrap().into_inner();
    assert!(late.timed_out, "{late:?}");
    let left = shell(
        client,
        "late",
        "for p in /proc/[0-9]*; do cat $p/cmdline; echo; done; true",
    )
    .await;
    assert!(!left.contains("777"), "{left:?}");
    client
        .remove_container(RemoveContainerRequest {
            container_id: "late".into(),
        })
        .await
        .unwrap();
}
