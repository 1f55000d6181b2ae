//! A real VM with the agent in it, and what the tests ask of it again and again.

use crate::common::*;
use podvm_agent::pb::agent::v1::*;
use podvm_agent::pb::oci::v1::{Cpu, Linux, Memory, Pids, Resources};
use podvm_agent::sys;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub struct Vm {
    dir: PathBuf,
    pub socket: PathBuf,
    pub qemu: Child,
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
    pub fn boot() -> Option<Vm> {
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

    pub async fn client(&self) -> Client {
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

pub fn sandbox() -> ConfigureSandboxRequest {
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

pub fn limited(id: &str, script: &str, memory: i64) -> CreateContainerRequest {
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

pub async fn begin(client: &mut Client, request: CreateContainerRequest) {
    let container_id = request.container_id.clone();
    client.create_container(request).await.unwrap();
    client
        .start_container(StartContainerRequest { container_id })
        .await
        .unwrap();
}

pub async fn shell(client: &mut Client, id: &str, script: &str) -> String {
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
