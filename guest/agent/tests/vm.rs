//! The agent as process 1 of a real VM (QEMU, TCG), over its virtio-serial port.

mod common;

use common::*;
use podvm_agent::pb::agent::v1::*;
use podvm_agent::pb::oci::v1::{
    Capabilities, Cpu, DeviceCgroup, Linux, Memory, Mount, Namespace, Pids, Resources, Root,
};
use podvm_agent::sys;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

struct Vm {
    dir: PathBuf,
    socket: PathBuf,
    qemu: Child,
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

impl Vm {
    /// None, with the reason printed, where it cannot be started here.
    fn boot() -> Option<Vm> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let assets = PathBuf::from(std::env::var("PODVM_ASSETS").unwrap_or_else(|_| "/var/lib/podvm/assets".into()));
        let bundle = std::fs::canonicalize(assets.join("bundle/current")).unwrap_or_default();
        let agent = std::env::var("PODVM_AGENT").map(PathBuf::from);
        let agent = agent.unwrap_or_else(|_| here.join("../../target/x86_64-unknown-linux-musl/release/podvm-agent"));
        for (what, path) in [
            ("the runtime bundle", bundle.join("manifest.json")),
            ("a static agent", agent.clone()),
        ] {
            if !path.exists() {
                eprintln!("SKIPPED: wanted {what}, found no {}", path.display());
                return None;
            }
        }
        let dir = std::env::temp_dir().join(format!("podvm-vm-{}", sys::hex(&sys::random::<6>())));
        make_rootfs(&dir.join("image"));
        let guest = dir.join("guest");
        std::fs::create_dir_all(&guest).unwrap();
        run(Command::new("node")
            .arg(here.join("../image/mkimage.mjs"))
            .args([&bundle, &agent, &guest])
            .arg("test"));
        let bin = |name: &str| bundle.join("bin").join(name);
        run(Command::new(bin("mkfs.erofs"))
            .arg(dir.join("image.erofs"))
            .arg(dir.join("image")));
        let scratch = std::fs::File::create(dir.join("scratch")).unwrap();
        scratch.set_len(256 << 20).unwrap();
        run(Command::new(bin("mke2fs"))
            .args(["-q", "-t", "ext4", "-O", "^has_journal"])
            .arg(dir.join("scratch")));
        let socket = dir.join("agent.sock");
        let cmdline = std::fs::read_to_string(here.join("../image/cmdline.txt")).unwrap();
        let cmdline: Vec<&str> = cmdline.lines().filter(|l| !l.starts_with('#')).collect();
        let append = format!("{} 8250.nr_uarts=1 console=ttyS0", cmdline.join(" "));
        let drive = |name: &str, options: &str| {
            format!(
                "driver=file,filename={},node-name={name}{options}",
                dir.join(name).display()
            )
        };
        let mut qemu = Command::new(bin("qemu-system-x86_64"));
        qemu.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-M",
            "pc,hpet=off",
            "-accel",
            "tcg",
        ])
        .args([
            "-cpu",
            "max,-erms,-fsrm,-fzrm,-fsrs",
            "-m",
            "256M",
            "-smp",
            "1",
            "-append",
            &append,
        ])
        .arg("-L")
        .arg(bundle.join("share/qemu"))
        .arg("-kernel")
        .arg(guest.join("vmlinux"))
        .arg("-initrd")
        .arg(guest.join("initrd"))
        .arg("-serial")
        .arg(format!("file:{}", dir.join("console").display()))
        .arg("-chardev")
        .arg(format!("socket,id=agent,path={},server=on,wait=off", socket.display()))
        .args([
            "-device",
            "virtio-serial-pci,max_ports=2",
            "-device",
            "virtserialport,nr=1,chardev=agent,name=podvm.agent",
        ])
        .args(["-device", "virtio-scsi-pci,id=scsi0"])
        .args([
            "-blockdev",
            &drive("image.erofs", ",read-only=on"),
            "-blockdev",
            &drive("scratch", ",discard=unmap"),
        ])
        .args(["-device", "scsi-hd,bus=scsi0.0,drive=image.erofs,serial=podvm-image"])
        .args([
            "-device",
            "virtio-blk-pci,drive=scratch,serial=podvm-scratch,discard=on",
        ])
        .args(["-netdev", "socket,id=net0,udp=127.0.0.1:9,localaddr=127.0.0.1:0"])
        .args(["-device", "virtio-net-pci,netdev=net0,mac=02:00:00:00:00:05,romfile="]);
        let qemu = qemu.spawn().unwrap();
        Some(Vm { dir, socket, qemu })
    }

    async fn client(&self) -> Client {
        let begun = Instant::now();
        while !self.socket.exists() {
            assert!(begun.elapsed() < Duration::from_secs(20), "QEMU makes no socket");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let connecting = tokio::time::timeout(Duration::from_secs(60), connect(&self.socket)).await;
        connecting.unwrap_or_else(|_| panic!("no agent within 60 s; the console says:\n{}", self.console()))
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.join("console")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the console said:\n{}", self.console());
        }
        drop(self.qemu.kill());
        drop(self.qemu.wait());
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

fn sandbox() -> ConfigureSandboxRequest {
    ConfigureSandboxRequest {
        pod_id: "pod".into(),
        hostname: "in-the-vm".into(),
        dns: Some(Dns {
            servers: vec!["10.0.0.53".into()],
            ..Default::default()
        }),
        network: Some(Network {
            interfaces: vec![Interface {
                name: "eth7".into(),
                mac: "02:00:00:00:00:05".into(),
                mtu: 1400,
                addresses: vec!["10.88.0.5/16".into(), "fd00::5/64".into()],
            }],
            routes: vec![
                Route {
                    destination: "0.0.0.0/0".into(),
                    gateway: "169.254.1.1".into(),
                    interface: "eth7".into(),
                    ..Default::default()
                },
                Route {
                    destination: "::/0".into(),
                    gateway: "fd00::1".into(),
                    interface: "eth7".into(),
                    mtu: 1350,
                    metric: 7,
                },
                Route {
                    destination: "169.254.1.1/32".into(),
                    interface: "eth7".into(),
                    ..Default::default()
                },
            ],
        }),
        sysctls: [("net.ipv4.ip_forward".to_string(), "1".to_string())].into(),
        realtime_ns: 1_900_000_000_000_000_000,
        entropy: vec![7; 64].into(),
        scratch: Some(BlockDevice {
            serial: "podvm-scratch".into(),
        }),
        shm_size: 8 << 20,
        shared_pid_namespace: true,
        ..Default::default()
    }
}

fn limited(id: &str, script: &str, memory: i64) -> CreateContainerRequest {
    let mut request = container(id, "podvm-image", script);
    let resources = Resources {
        memory: Some(Memory {
            limit: Some(memory),
            swap: Some(memory),
            ..Default::default()
        }),
        cpu: Some(Cpu {
            shares: Some(2048),
            quota: Some(90_000),
            period: Some(100_000),
            ..Default::default()
        }),
        pids: Some(Pids { limit: 50 }),
        ..Default::default()
    };
    let linux = Linux {
        resources: Some(resources),
        ..request.spec.clone().unwrap().linux.unwrap()
    };
    request.spec.as_mut().unwrap().linux = Some(linux);
    request
}

async fn begin(client: &mut Client, request: CreateContainerRequest) {
    let container_id = request.container_id.clone();
    client.create_container(request).await.unwrap();
    client
        .start_container(StartContainerRequest { container_id })
        .await
        .unwrap();
}

async fn shell(client: &mut Client, id: &str, script: &str) -> String {
    let args = ["sh", "-c", script].map(String::from).into();
    let request = ExecSyncRequest {
        container_id: id.into(),
        args,
        timeout_ms: 60_000,
        ..Default::default()
    };
    let done = client.exec_sync(request).await.unwrap().into_inner();
    assert_eq!((done.exit_code, done.timed_out), (0, false), "{script}: {done:?}");
    String::from_utf8(done.stdout.to_vec()).unwrap()
}

#[tokio::test]
async fn a_pod_in_a_vm() {
    let Some(mut vm) = Vm::boot() else { return };
    let mut client = vm.client().await;
    let hello = client.hello(HelloRequest::default()).await.unwrap().into_inner();
    assert!(hello.features.contains(&"vm".to_string()), "{hello:?}");
    assert_ne!(hello.kernel, sys::kernel_release());

    let machine = client.configure_sandbox(sandbox()).await.unwrap().into_inner();
    assert_eq!(machine.cpus, 1);
    assert_eq!(client.configure_sandbox(sandbox()).await.unwrap().into_inner(), machine);
    let other = ConfigureSandboxRequest {
        pod_id: "other".into(),
        ..sandbox()
    };
    assert_eq!(
        client.configure_sandbox(other).await.unwrap_err().code(),
        Code::FailedPrecondition
    );

    network_and_files(&mut client).await;
    resources(&mut client).await;
    like_kubelet(&mut client).await;
    out_of_memory(&mut client).await;
    time_out(&mut client).await;
    let mut client = reconnects(&vm, client).await;
    many_and_nothing_left(&mut client).await;

    let stats = client
        .stats(StatsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .guest
        .unwrap();
    eprintln!(
        "agent: {} KiB resident, ready {} ms after the start of the kernel",
        stats.agent_rss >> 10,
        hello.boot_ns / 1_000_000
    );
    client.shutdown(ShutdownRequest { grace_ms: 100 }).await.unwrap();
    let begun = Instant::now();
    while vm.qemu.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the VM is still on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn network_and_files(client: &mut Client) {
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

async fn resources(client: &mut Client) {
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
async fn like_kubelet(client: &mut Client) {
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

async fn out_of_memory(client: &mut Client) {
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

async fn time_out(client: &mut Client) {
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

/// Connections that end in the midst of frames, some with output under way.
async fn reconnects(vm: &Vm, mut client: Client) -> Client {
    begin(
        &mut client,
        container(
            "chatty",
            "podvm-image",
            "while :; do echo 0123456789012345678901234567890123456789; done",
        ),
    )
    .await;
    // QEMU takes one client at a time.
    drop(client);
    let mut position = 0;
    let mut longest = Duration::ZERO;
    for round in 0..30u32 {
        if round % 3 == 0 {
            let mut stream = greeted(&vm.socket).await.unwrap();
            // A preface, settings, and the head of a DATA frame whose payload never comes.
            let half = [
                &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
                &[0, 0, 0, 4, 0, 0, 0, 0, 0],
                &[0, 0x40, 0, 0, 0, 0, 0, 0, 1],
                &[b'x'; 500],
            ]
            .concat();
            stream.write_all(&half).await.unwrap();
            continue;
        }
        let begun = Instant::now();
        let mut client = vm.client().await;
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let request = OutputRequest {
            container_id: "chatty".into(),
            stdout_offset: position,
            stderr_offset: 0,
        };
        sender.send(request.clone()).await.unwrap();
        let mut chunks = client.output(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        for _ in 0..3 {
            let chunk = chunks.message().await.unwrap().unwrap();
            assert_eq!(chunk.offset, position);
            let whole = b"0123456789012345678901234567890123456789\n";
            assert!(chunk
                .data
                .iter()
                .enumerate()
                .all(|(i, b)| *b == whole[(position as usize + i) % whole.len()]));
            position += chunk.data.len() as u64;
            sender
                .send(OutputRequest {
                    stdout_offset: position,
                    ..request.clone()
                })
                .await
                .unwrap();
        }
        longest = longest.max(begun.elapsed());
        assert!(longest < Duration::from_secs(30), "round {round}");
    }
    eprintln!("reconnects: the longest took {longest:?}");
    let mut client = vm.client().await;
    client
        .remove_container(RemoveContainerRequest {
            container_id: "chatty".into(),
        })
        .await
        .unwrap();
    client
}

async fn many_and_nothing_left(client: &mut Client) {
    for round in 0..20 {
        begin(
            client,
            container(&format!("many-{round}"), "podvm-image", "echo here; sleep 600"),
        )
        .await;
    }
    let probe = shell(client, "many-0", "cat /proc/mounts").await;
    assert!(!probe.contains("podvm.agent"));
    for round in 0..20 {
        let container_id = format!("many-{round}");
        client
            .remove_container(RemoveContainerRequest { container_id })
            .await
            .unwrap();
    }
    let request = CreateContainerRequest {
        pid_namespace: PidNamespace::Node.into(),
        ..container("probe", "podvm-image", "sleep 600")
    };
    begin(client, request).await;
    let mounts = shell(client, "probe", "cat /proc/1/mounts").await;
    let left = mounts
        .lines()
        .filter(|l| l.contains("/run/podvm/c/") || l.contains("/run/podvm/images/"))
        .count();
    assert_eq!(left, 2, "{mounts}");
    client
        .remove_container(RemoveContainerRequest {
            container_id: "probe".into(),
        })
        .await
        .unwrap();
}
