//! An agent as a plain process, a client that says hello, and a root file system made of this machine's own programs.
#![allow(dead_code)]

use podvm_agent::hello::{HELLO_LEN, MAGIC};
use podvm_agent::pb::agent::v1::agent_client::AgentClient;
use podvm_agent::pb::agent::v1::*;
use podvm_agent::pb::oci::v1::{Linux, Mount, Namespace, Process, Spec};
use podvm_agent::sys;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

pub type Client = AgentClient<Channel>;

pub struct Host {
    pub dir: PathBuf,
    pub socket: PathBuf,
    agent: Child,
}

/// crun of the runtime bundle, or of this machine.
pub fn crun() -> Option<PathBuf> {
    let assets = std::env::var("PODVM_ASSETS").unwrap_or_else(|_| "/var/lib/podvm/assets".into());
    let places = [
        PathBuf::from(assets).join("bundle/current/bin/crun"),
        "/usr/bin/crun".into(),
        "/usr/local/bin/crun".into(),
    ];
    places.into_iter().find(|p| p.exists())
}

/// None, with the reason printed, where containers cannot be made here.
pub fn start() -> Option<Host> {
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: wanted root, to mount and to make containers");
        return None;
    }
    let Some(crun) = crun() else {
        eprintln!("SKIPPED: no crun: neither in the runtime bundle nor installed");
        return None;
    };
    let dir = std::env::temp_dir().join(format!("podvm-agent-{}", sys::hex(&sys::random::<6>())));
    make_rootfs(&dir.join("image"));
    let socket = dir.join("agent.sock");
    let agent = Command::new(env!("CARGO_BIN_EXE_podvm-agent"))
        .args([
            "--listen",
            socket.to_str().unwrap(),
            "--state",
            dir.join("state").to_str().unwrap(),
            "--crun",
            crun.to_str().unwrap(),
        ])
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !socket.exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the agent does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    Some(Host { dir, socket, agent })
}

impl Host {
    pub fn agent_pid(&self) -> u32 {
        self.agent.id()
    }

    pub async fn client(&self) -> Client {
        connect(&self.socket).await
    }

    /// A client, and the sandbox configured.
    pub async fn ready(&self) -> Client {
        let mut client = self.client().await;
        let request = ConfigureSandboxRequest {
            pod_id: "pod".into(),
            hostname: "test".into(),
            hosts: vec!["10.0.0.1 me".into()],
            shared_pid_namespace: true,
            ..Default::default()
        };
        client.configure_sandbox(request).await.unwrap();
        client
    }

    pub fn request(&self, id: &str, script: &str) -> CreateContainerRequest {
        container(id, &format!("dir:{}", self.dir.join("image").display()), script)
    }

    pub async fn run(&self, client: &mut Client, id: &str, script: &str) {
        client.create_container(self.request(id, script)).await.unwrap();
        client
            .start_container(StartContainerRequest {
                container_id: id.into(),
            })
            .await
            .unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        unsafe { libc::kill(self.agent.id() as i32, libc::SIGTERM) };
        drop(self.agent.wait());
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// A container that runs a shell script.
pub fn container(id: &str, serial: &str, script: &str) -> CreateContainerRequest {
    let mount = |source: &str, kind: &str, destination: &str, options: &[&str]| Mount {
        destination: destination.into(),
        source: Some(source.into()),
        r#type: Some(kind.into()),
        options: options.iter().map(|o| o.to_string()).collect(),
        ..Default::default()
    };
    let spec = Spec {
        process: Some(Process {
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: vec!["PATH=/bin".into()],
            cwd: "/work/dir".into(),
            ..Default::default()
        }),
        mounts: vec![
            mount("proc", "proc", "/proc", &[]),
            mount("tmpfs", "tmpfs", "/dev", &["mode=755"]),
            mount("devpts", "devpts", "/dev/pts", &["newinstance", "ptmxmode=0666"]),
            mount("podvm:shm", "bind", "/dev/shm", &["rw"]),
            mount("podvm:hosts", "bind", "/etc/hosts", &["rw"]),
            mount("podvm:resolv.conf", "bind", "/etc/resolv.conf", &["rw"]),
            mount("podvm:hostname", "bind", "/etc/hostname", &["rw"]),
        ],
        linux: Some(Linux {
            namespaces: vec![Namespace {
                r#type: "mount".into(),
                path: None,
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    CreateContainerRequest {
        container_id: id.into(),
        image: Some(BlockDevice { serial: serial.into() }),
        spec: Some(spec),
        ..Default::default()
    }
}

/// Says hello as docs/agent-protocol.md has it.
pub async fn greeted(socket: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut hello = [0; HELLO_LEN];
    hello[..16].copy_from_slice(MAGIC);
    hello[16..28].copy_from_slice(&sys::random::<12>());
    let mut got = Vec::new();
    for counter in 0u32..60 {
        hello[28..].copy_from_slice(&counter.to_le_bytes());
        stream.write_all(&hello).await?;
        let echoed = async {
            loop {
                let mut buffer = [0; 4096];
                let n = stream.read(&mut buffer).await?;
                if n == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
                got.extend_from_slice(&buffer[..n]);
                if let Some(at) = got.windows(HELLO_LEN).position(|w| w == hello) {
                    assert_eq!(at + HELLO_LEN, got.len(), "bytes after the echo");
                    return Ok(());
                }
            }
        };
        match tokio::time::timeout(Duration::from_millis(500), echoed).await {
            Ok(result) => return result.map(|()| stream),
            Err(_) => continue,
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

pub async fn connect(socket: &Path) -> Client {
    let socket = socket.to_path_buf();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { greeted(&socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://agent")
        .connect_with_connector(connector)
        .await
        .unwrap();
    AgentClient::new(channel).max_decoding_message_size(20 << 20)
}

/// Programs of this machine with their libraries.
pub fn make_rootfs(root: &Path) {
    for dir in ["bin", "etc", "proc", "dev", "tmp"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    for program in [
        "sh", "cat", "sleep", "id", "echo", "head", "stty", "readlink", "chmod", "ls", "mknod",
    ] {
        let path = ["/bin", "/usr/bin"]
            .iter()
            .map(|d| Path::new(d).join(program))
            .find(|p| p.exists())
            .unwrap();
        std::fs::copy(&path, root.join("bin").join(program)).unwrap();
        let listed = Command::new("ldd").arg(&path).output().unwrap();
        for word in String::from_utf8_lossy(&listed.stdout)
            .split_whitespace()
            .filter(|w| w.starts_with('/'))
        {
            let target = root.join(&word[1..]);
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(word, target).unwrap();
        }
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nextra:x:77:web\n").unwrap();
    symlink("/nowhere", root.join("dangling")).unwrap();
}

/// Output of a container up to both eofs, everything acknowledged: (stdout, stderr).
pub async fn output(client: &mut Client, id: &str) -> (String, String) {
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    let mut request = OutputRequest {
        container_id: id.into(),
        ..Default::default()
    };
    sender.send(request.clone()).await.unwrap();
    let mut chunks = client
        .output(tokio_stream::wrappers::ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let mut texts = [Vec::new(), Vec::new()];
    while let Some(chunk) = chunks.message().await.unwrap() {
        let text = &mut texts[chunk.stream as usize];
        assert_eq!(chunk.offset, text.len() as u64);
        text.extend_from_slice(&chunk.data);
        request.stdout_offset = texts[0].len() as u64;
        request.stderr_offset = texts[1].len() as u64;
        drop(sender.send(request.clone()).await);
    }
    let [out, err] = texts.map(|t| String::from_utf8(t).unwrap());
    (out, err)
}

pub async fn exit(client: &mut Client, id: &str) -> ExitRecord {
    let request = WaitContainerRequest {
        container_id: id.into(),
        timeout_ms: 30_000,
    };
    client
        .wait_container(request)
        .await
        .unwrap()
        .into_inner()
        .exit
        .expect("an exit within 30 s")
}
