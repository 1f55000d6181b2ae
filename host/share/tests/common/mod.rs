//! A relay without a VM: the agent's pump on this machine's /dev/fuse, a stand-in for the VMM's character device, and the real podvm-share.
#![allow(dead_code)] // each test file uses its part

use podvm_agent::share::Pump;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub struct Relay {
    pub dir: PathBuf,
    /// A shell made before any file of the relay is open: a child made later would, on exec, close its copies of them, which asks the share, and
    /// waits for the one that it is to start.
    shell: Mutex<Child>,
    entries: Vec<serde_json::Value>,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Relay {
    /// Mounted, but nobody serves.
    pub fn unanswered(entries: Vec<serde_json::Value>) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/tmp/podvm-relay-{}-{number}", std::process::id()));
        for name in ["mnt", "root", "src"] {
            fs::create_dir_all(dir.join(name)).expect("folder");
        }
        let shell = Command::new("sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let shell = Mutex::new(shell);
        let relay = Relay { dir, shell, entries };
        let (guest, host) = UnixStream::pair().expect("pair");
        let listener = UnixListener::bind(relay.dir.join("port")).expect("listen");
        std::thread::spawn(move || character_device(&host, &listener));
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .expect("/dev/fuse");
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
            device.as_raw_fd()
        );
        mount(&relay.mount_point(), &options);
        guest.set_nonblocking(true).expect("non-blocking");
        Pump::start(device, OwnedFd::from(guest)).expect("pump");
        relay
    }

    pub fn source(&self) -> PathBuf {
        self.dir.join("src")
    }

    pub fn mount_point(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    pub fn guest(&self, path: &str) -> PathBuf {
        self.mount_point().join(path)
    }

    /// Starts a share.
    pub fn share(&self) {
        let document = serde_json::json!({
            "version": 1,
            "socket": self.dir.join("port"),
            "control": self.dir.join("control"),
            "pidFile": self.dir.join("pid"),
            "mountPoint": self.dir.join("root"),
            "entries": self.entries,
        });
        self.command("run", &document).expect("the share starts");
    }

    pub fn attach(&self, entry: serde_json::Value) -> Result<String, String> {
        let document = serde_json::json!({"version": 1, "pidFile": self.dir.join("pid"), "entry": entry});
        self.command("attach", &document)
    }

    pub fn detach(&self, name: &str) -> Result<String, String> {
        let document = serde_json::json!({"version": 1, "pidFile": self.dir.join("pid"), "name": name});
        self.command("detach", &document)
    }

    pub fn pid(&self) -> i32 {
        let text = fs::read_to_string(self.dir.join("pid")).expect("pid file");
        let value: serde_json::Value = serde_json::from_str(&text).expect("json");
        value["pid"].as_i64().expect("pid") as i32
    }

    pub fn kill_share(&self) {
        let pid = self.pid();
        unsafe { libc::kill(pid, libc::SIGKILL) };
        within(Duration::from_secs(10), "the share's end", || !alive(pid));
    }

    /// What the share has said.
    pub fn log(&self) -> String {
        let mut stream = UnixStream::connect(self.dir.join("control")).expect("control");
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .expect("timeout");
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    fn wait_for_answer(&self) {
        let root = self.mount_point();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(fs::metadata(root).map(drop)));
        let Ok(answer) = receiver.recv_timeout(Duration::from_secs(20)) else {
            panic!(
                "no answer; the share {}",
                if alive(self.pid()) { self.log() } else { "died".into() }
            );
        };
        answer.expect("the root");
    }

    fn command(&self, verb: &str, document: &serde_json::Value) -> Result<String, String> {
        let file = self.dir.join("document");
        fs::write(&file, document.to_string()).expect("write");
        let mut shell = self.shell.lock().expect("shell");
        let line = format!("{} {verb} < {}\n", env!("CARGO_BIN_EXE_podvm-share"), file.display());
        shell
            .stdin
            .as_mut()
            .expect("stdin")
            .write_all(line.as_bytes())
            .expect("write");
        let mut answer = String::new();
        BufReader::new(shell.stdout.as_mut().expect("stdout"))
            .read_line(&mut answer)
            .expect("answer");
        let answer = answer.trim().to_string();
        if answer.contains("\"error\"") {
            Err(answer)
        } else {
            Ok(answer)
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let path = std::ffi::CString::new(self.mount_point().to_str().expect("utf-8")).expect("path");
        // Whoever waits for an answer waits no longer: umount2(2), MNT_FORCE.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_FORCE) };
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        if self.dir.join("pid").exists() {
            let pid = self.pid();
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        if let Ok(shell) = self.shell.get_mut() {
            drop(shell.kill());
            drop(shell.wait());
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub fn entry(name: &str, path: &Path) -> serde_json::Value {
    serde_json::json!({"name": name, "path": path, "propagation": "private"})
}

/// A relay of one writable folder, `dir/src`, as `v`.
pub fn one_folder() -> Relay {
    let mut relay = Relay::unanswered(Vec::new());
    relay.entries = vec![entry("v", &relay.source())];
    relay.share();
    relay.wait_for_answer();
    relay
}

pub fn within(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Neither gone nor a zombie that init has not yet fetched.
pub fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn mount(target: &Path, options: &str) {
    let target = std::ffi::CString::new(target.to_str().expect("utf-8")).expect("path");
    let options = std::ffi::CString::new(options).expect("options");
    let result = unsafe {
        libc::mount(
            c"podvm-share".as_ptr(),
            target.as_ptr(),
            c"fuse".as_ptr(),
            libc::MS_NODEV,
            options.as_ptr().cast(),
        )
    };
    assert_eq!(result, 0, "mount: {}", std::io::Error::last_os_error());
}

/// One connection at a time, as QEMU's; bytes of the guest that an earlier connection left go to the next.
fn character_device(host: &UnixStream, listener: &UnixListener) {
    for share in listener.incoming().flatten() {
        let (mut from_share, mut to_guest) = (share.try_clone().expect("clone"), host.try_clone().expect("clone"));
        let down = std::thread::spawn(move || std::io::copy(&mut from_share, &mut to_guest));
        let (mut from_guest, mut to_share) = (host.try_clone().expect("clone"), share);
        from_guest
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("timeout");
        let mut buffer = vec![0; 64 << 10];
        while !down.is_finished() {
            match from_guest.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) if to_share.write_all(&buffer[..n]).is_err() => break,
                _ => {}
            }
        }
        drop(down.join());
    }
}

pub fn open_rw(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .expect("open")
}
