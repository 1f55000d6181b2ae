//! `podvm-share run`: two processes. The parent makes what needs rights over the host, writes the pid file, answers and exits. The child takes its
//! place step by step and serves; it takes no step before the pid file stands.

use crate::control::Control;
use crate::document::Run;
use crate::failure::{check, Failure};
use crate::fs::FileSystem;
use crate::mounts::{self, Tree};
use crate::process::Started;
use crate::serve::{Service, WORKERS};
use crate::{confine, seccomp, sys};
use podvm_share_wire::hello::Hello;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Barrier};

pub fn run(document: &Run) -> Result<Started, Failure> {
    join_cgroups(&document.cgroups)?;
    drop(fs::remove_file(&document.control)); // an earlier share's
    let result = start(document);
    if result.is_err() {
        drop(fs::remove_file(&document.control));
        drop(fs::remove_file(&document.pid_file));
    }
    result
}

/// "0" is the writing process itself, in v1 as in v2; the child inherits the membership.
fn join_cgroups(folders: &[String]) -> Result<(), Failure> {
    for folder in folders {
        File::options()
            .write(true)
            .open(format!("{folder}/cgroup.procs"))
            .and_then(|mut f| f.write_all(b"0"))
            .map_err(|e| Failure::io(format!("join cgroup {folder}"), &e))?;
    }
    Ok(())
}

fn start(document: &Run) -> Result<Started, Failure> {
    let (mut says, to_parent) = pipe()?;
    let (from_parent, mut tell) = pipe()?;
    // SAFETY: the process has one thread; unshare takes numbers, and the child may do all that the parent could.
    let pid = unsafe {
        check("unshare pid namespace", libc::unshare(libc::CLONE_NEWPID).into())?;
        check("fork", libc::fork().into())? as i32
    };
    if pid == 0 {
        drop((says, tell));
        child(document, to_parent, from_parent);
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(0) }
    }
    drop((to_parent, from_parent));
    let outcome = accompany(document, pid, &mut says, &mut tell);
    if outcome.is_err() {
        // SAFETY: pid is our own child, not yet waited for, so the number cannot be another's.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
    }
    outcome
}

/// The parent's part: pid file, go; the child's user namespace, its maps; then the child's success or error.
fn accompany(document: &Run, pid: i32, says: &mut File, tell: &mut File) -> Result<Started, Failure> {
    let started = Started::of(pid)?;
    started.write(&document.pid_file)?;
    let go = |tell: &mut File| tell.write_all(b"g").map_err(|e| Failure::io("release child", &e));
    go(tell)?;
    let mut first = [0u8];
    if says
        .read(&mut first)
        .map_err(|e| Failure::io("read child's answer", &e))?
        == 1
        && first == *b"U"
    {
        for map in ["uid_map", "gid_map"] {
            let path = format!("/proc/{pid}/{map}");
            fs::write(&path, "0 0 4294967295").map_err(|e| Failure::io(format!("write {path}"), &e))?;
        }
        go(tell)?;
        let mut rest = String::new();
        says.take(64 << 10)
            .read_to_string(&mut rest)
            .map_err(|e| Failure::io("read child's answer", &e))?;
        return match rest.as_str() {
            "ok" => Ok(started),
            rest => Err(Failure::from_json(rest)),
        };
    }
    let mut rest = String::from_utf8_lossy(&first).into_owned();
    says.take(64 << 10)
        .read_to_string(&mut rest)
        .map_err(|e| Failure::io("read child's answer", &e))?;
    Err(Failure::from_json(&rest))
}

fn child(document: &Run, mut to_parent: File, mut from_parent: File) {
    if !told(&mut from_parent) {
        return; // the parent died before it wrote the pid file
    }
    match prepare(document, &mut to_parent, &mut from_parent) {
        Ok((service, listener)) => {
            let control = service.control.clone();
            if let Err(failure) = serve(service, listener, to_parent) {
                control.log(failure.to_json());
            }
        }
        Err(failure) => drop(to_parent.write_all(failure.to_json().as_bytes())),
    }
}

fn told(from_parent: &mut File) -> bool {
    let mut byte = [0u8];
    matches!(from_parent.read(&mut byte), Ok(1))
}

/// Each step takes something away.
fn prepare(document: &Run, to_parent: &mut File, from_parent: &mut File) -> Result<(Service, UnixListener), Failure> {
    // SAFETY: takes numbers.
    unsafe {
        check("setsid", libc::setsid().into())?;
        libc::umask(0o177);
    }
    let listener = UnixListener::bind(&document.control)
        .map_err(|e| Failure::io(format!("listen on {}", document.control), &e))?;
    // SAFETY: takes a number. Modes are the guest's to choose.
    unsafe { libc::umask(0) };
    let stream = UnixStream::connect(&document.socket)
        .map_err(|e| Failure::io(format!("connect to {}", document.socket), &e))?;
    // Cloned where the host is seen, so that a slave follows the host's own mounts.
    let trees: Vec<Tree> = document
        .entries
        .iter()
        .map(mounts::clone_tree)
        .collect::<Result<_, _>>()?;
    let descriptors = mounts::own_descriptors()?;
    silence()?;
    let most_nodes = confine::limit_resources()?;
    let fresh = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET;
    // SAFETY: takes numbers; the process has one thread.
    check("unshare namespaces", unsafe { libc::unshare(fresh) }.into())?;
    mounts::enter_root(&document.mount_point, &trees)?;
    drop(trees);
    // Descriptors by name, relative to here: fs::descriptor_name.
    // SAFETY: takes a number.
    check(
        "enter /proc/self/fd",
        unsafe { libc::fchdir(descriptors.as_raw_fd()) }.into(),
    )?;
    // SAFETY: as above.
    check(
        "unshare user namespace",
        unsafe { libc::unshare(libc::CLONE_NEWUSER) }.into(),
    )?;
    to_parent.write_all(b"U").map_err(|e| Failure::io("ask for maps", &e))?;
    if !told(from_parent) {
        return Err(Failure::errno("maps of the user namespace", libc::EPIPE));
    }
    confine::drop_privileges()?;
    let root = mounts::open_entry_of_root()?;
    let fs = FileSystem::new(root, descriptors, most_nodes).map_err(|errno| Failure::errno("root node", errno))?;
    let control = Control::default();
    Ok((Service { fs, stream, control }, listener))
}

/// Threads first, then the filter for all of them, then the parent is told, then the guest is served.
fn serve(service: Service, listener: UnixListener, mut to_parent: File) -> Result<(), Failure> {
    let service = Arc::new(service);
    let hello = Hello {
        version: podvm_share_wire::VERSION,
        nonce: sys::random().map_err(|e| Failure::io("nonce", &e))?,
    };
    // The making of a thread takes system calls that its work does not: all are up before the filter.
    let up = Arc::new(Barrier::new(WORKERS + 2));
    let gate = Arc::new(Barrier::new(WORKERS + 2));
    let session = Arc::new(std::sync::OnceLock::new());
    let begun = Arc::new(Barrier::new(WORKERS + 1));
    let thread = |work: Box<dyn FnOnce() + Send>| {
        let made = std::thread::Builder::new().stack_size(256 << 10).spawn(work);
        made.map(drop).map_err(|e| Failure::io("start thread", &e))
    };
    for _ in 0..WORKERS {
        let (service, session) = (service.clone(), session.clone());
        let (up, gate, begun) = (up.clone(), gate.clone(), begun.clone());
        thread(Box::new(move || {
            up.wait();
            gate.wait();
            begun.wait();
            if let Some(session) = session.get() {
                end(&service.control, service.work(session));
            }
        }))?;
    }
    let (control, made, filtered) = (service.control.clone(), up.clone(), gate.clone());
    thread(Box::new(move || {
        made.wait();
        filtered.wait();
        control.accept(&listener);
    }))?;
    up.wait();
    let confined = seccomp::enter();
    if let Err(failure) = confined {
        drop(to_parent.write_all(failure.to_json().as_bytes()));
        return Ok(());
    }
    drop(to_parent.write_all(b"ok"));
    drop(to_parent);
    gate.wait();
    match service.begin(&hello) {
        Ok(made) => drop(session.set(made)),
        Err(e) => end(&service.control, Err(e)),
    }
    begun.wait();
    loop {
        std::thread::park();
    }
}

/// The VM is gone, or its guest no longer speaks the protocol: in both cases the server decides what comes next.
fn end(control: &Control, result: std::io::Result<()>) {
    if let Err(e) = result {
        control.log(format!("ends: {e}"));
    }
    // SAFETY: ends all threads at once; what the kernel was given is with the kernel.
    unsafe { libc::_exit(0) }
}

fn silence() -> Result<(), Failure> {
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| Failure::io("open /dev/null", &e))?;
    for fd in 0..=2 {
        // SAFETY: takes numbers.
        check(
            "quiet standard streams",
            unsafe { libc::dup2(null.as_raw_fd(), fd) }.into(),
        )?;
    }
    Ok(())
}

fn pipe() -> Result<(File, File), Failure> {
    let mut ends = [0i32; 2];
    // SAFETY: ends has room for the two descriptors, which belong to nobody else.
    unsafe {
        check("pipe", libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC).into())?;
        let own = |fd| File::from(OwnedFd::from_raw_fd(fd));
        Ok((own(ends[0]), own(ends[1])))
    }
}
