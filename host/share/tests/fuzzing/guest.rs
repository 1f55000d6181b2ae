//! The VMM's end of the stream in a hostile guest's hands, and the share at the other.

use crate::common::{alive, entry};
use podvm_share_wire::bytes::{request, u32_at, u64_at, InHeader};
use podvm_share_wire::hello::{Hello, HELLO};
use podvm_share_wire::restore::END;
use podvm_share_wire::{op, MAX_REPLY, OUT_HEADER, TRAILER};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{symlink, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
const SECRET: &[u8] = b"nobody's but the host's";

pub struct Guest {
    dir: PathBuf,
    stream: UnixStream,
    hello: Hello,
    pid: i32,
}

impl Guest {
    /// Volumes: `v`, writable, a tmpfs of 16 MiB, so that no request fills the host's disk; `ro`, read-only. Both hold links that lead out.
    pub fn new(name: &str) -> Self {
        // The share's parent exits; its end is then told to us.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
        let dir = PathBuf::from(format!("/tmp/podvm-fuzz-{}-{name}", std::process::id()));
        for folder in ["root", "v", "ro/folder", "outside"] {
            fs::create_dir_all(dir.join(folder)).expect("folder");
        }
        mount_small_tmpfs(&dir.join("v"));
        fs::write(dir.join("outside/secret"), SECRET).expect("write");
        for volume in ["v", "ro"] {
            let folder = dir.join(volume);
            fs::write(folder.join("file"), [b'f'; 10_000]).expect("write");
            fs::create_dir_all(folder.join("folder")).expect("folder");
            symlink("../outside/secret", folder.join("out")).expect("link");
            symlink(dir.join("outside"), folder.join("folder/out")).expect("link");
        }
        let listener = UnixListener::bind(dir.join("port")).expect("listen");
        let mut read_only = entry("ro", &dir.join("ro"));
        read_only["readonly"] = true.into();
        let document = serde_json::json!({
            "version": 1,
            "socket": dir.join("port"),
            "control": dir.join("control"),
            "pidFile": dir.join("pid"),
            "mountPoint": dir.join("root"),
            "entries": [entry("v", &dir.join("v")), read_only],
        });
        let mut run = Command::new(env!("CARGO_BIN_EXE_podvm-share"))
            .arg("run")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("podvm-share");
        let mut stdin = run.stdin.take().expect("stdin");
        stdin.write_all(document.to_string().as_bytes()).expect("write");
        drop(stdin);
        let said = run.wait_with_output().expect("answer");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let answer: serde_json::Value = serde_json::from_str(&said).expect("json");
        let pid = answer["pid"].as_i64().unwrap_or_else(|| panic!("{said}")) as i32;
        let (mut stream, _) = listener.accept().expect("the share connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        let mut hello = [0; HELLO];
        stream.read_exact(&mut hello).expect("hello");
        let hello = Hello::parse(&hello).expect("hello");
        Guest {
            dir,
            stream,
            hello,
            pid,
        }
    }

    pub fn acknowledge(&mut self) {
        self.send(&self.hello.acknowledgement());
    }

    pub fn end_of_restoring(&mut self) {
        self.send(&request(END, 0, 0, (0, 0), &[0; 16]));
    }

    /// A share that has ended takes no more, which is no error here.
    pub fn send(&mut self, bytes: &[u8]) {
        if let Err(e) = self.stream.write_all(bytes) {
            assert!(
                matches!(e.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)),
                "send: {e}"
            );
        }
    }

    /// Sends all, and waits for the answers of those that have one: (message, reply without trailer).
    pub fn exchange(&mut self, messages: &[Vec<u8>]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut open: HashMap<u64, &Vec<u8>> = HashMap::new();
        for message in messages {
            let header = InHeader::parse(message).expect("a header");
            if !matches!(header.opcode, op::FORGET | op::BATCH_FORGET | op::INTERRUPT) {
                open.insert(header.unique, message);
            }
        }
        let mut writer = self.stream.try_clone().expect("clone");
        let all = messages.concat();
        // Beside the reading, or both sides would wait for the other to read.
        let writing = std::thread::spawn(move || writer.write_all(&all));
        let mut answered = Vec::new();
        while !open.is_empty() {
            let reply = self.reply().unwrap_or_else(|e| {
                panic!(
                    "{e}; the share {}; open: {:?}",
                    state(self.pid),
                    open.values().map(|m| InHeader::parse(m)).collect::<Vec<_>>()
                )
            });
            let unique = u64_at(&reply, 8).expect("unique");
            let message = open.remove(&unique).expect("a reply to what was asked");
            if reply.len() < 64 << 10 {
                assert!(
                    !reply.windows(SECRET.len()).any(|w| w == SECRET),
                    "what lies outside was read"
                );
            }
            answered.push((message.clone(), reply));
        }
        writing.join().expect("writer").expect("written");
        answered
    }

    /// False: the share has ended instead.
    pub fn answers(&mut self, unique: u64) -> bool {
        match self.reply() {
            Ok(reply) => u64_at(&reply, 8) == Some(unique),
            Err(_) => false,
        }
    }

    fn reply(&mut self) -> std::io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let len = u32_at(&length, 0).unwrap_or(0) as usize;
        assert!((OUT_HEADER..=MAX_REPLY).contains(&len), "a reply of {len} bytes");
        let mut reply = vec![0; len + TRAILER];
        reply[..4].copy_from_slice(&length);
        self.stream.read_exact(&mut reply[4..])?;
        assert_eq!(reply.split_off(len), self.hello.trailer());
        Ok(reply)
    }

    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.pid)).expect("tasks").count()
    }

    pub fn most_memory_kib(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("status");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
        line.split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .expect("a number")
    }

    /// All that is not the guest's to change: owners, modes, times and contents.
    pub fn outside(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.dir.join("ro"), self.dir.join("outside")];
        while let Some(folder) = folders.pop() {
            for item in fs::read_dir(&folder).expect("list").flatten() {
                let (path, meta) = (item.path(), item.path().symlink_metadata().expect("stat"));
                let content = if meta.is_file() {
                    fs::read(&path).expect("read")
                } else {
                    Vec::new()
                };
                let told = format!(
                    "{:o} {}:{} {} {}.{} {content:?}",
                    meta.mode(),
                    meta.uid(),
                    meta.gid(),
                    meta.nlink(),
                    meta.mtime(),
                    meta.mtime_nsec()
                );
                if meta.is_dir() {
                    folders.push(path.clone());
                }
                found.insert(path, told);
            }
        }
        found
    }

    pub fn hang_up(&self) {
        drop(self.stream.shutdown(std::net::Shutdown::Both));
    }

    /// Waits for it. None: a signal's (a panic that aborts, a system call that is not allowed).
    pub fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut status = 0;
            let pid = unsafe { libc::waitpid(self.pid, &raw mut status, libc::WNOHANG) };
            if pid == self.pid {
                return libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
            }
            assert!(pid >= 0, "waitpid: {}", std::io::Error::last_os_error());
            assert!(Instant::now() < deadline, "the share goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if alive(self.pid) {
            unsafe {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            }
        }
        let path = std::ffi::CString::new(self.dir.join("v").to_str().expect("utf-8")).expect("path");
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        drop(fs::remove_dir_all(&self.dir));
    }
}

fn state(pid: i32) -> &'static str {
    if alive(pid) {
        "lives"
    } else {
        "is dead"
    }
}

fn mount_small_tmpfs(target: &Path) {
    let target = std::ffi::CString::new(target.to_str().expect("utf-8")).expect("path");
    let options = c"size=16m,nr_inodes=4096";
    let mounted = unsafe {
        libc::mount(
            c"none".as_ptr(),
            target.as_ptr(),
            c"tmpfs".as_ptr(),
            0,
            options.as_ptr().cast(),
        )
    };
    assert_eq!(mounted, 0, "mount: {}", std::io::Error::last_os_error());
}
