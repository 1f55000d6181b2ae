//! What PID 1 does before it serves: kernel file systems, modules, and the move from the initramfs to a real root.

use crate::{log, modules, sys};
use std::fs;
use std::io;
use std::os::unix::fs::{symlink, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Not copied into the new root: mount points, and what was needed only once.
const LEFT_BEHIND: [&str; 8] = ["proc", "sys", "dev", "run", "tmp", "modules", "newroot", "root"];

/// Open files: what containerd's service file gives.
const FILES: libc::rlim_t = 1 << 20;

/// Makes the machine ready for containers. Errors are fatal: the VM cannot serve.
pub fn boot() -> io::Result<()> {
    sys::mount("devtmpfs", &made("/dev")?, "devtmpfs", libc::MS_NOSUID, "mode=0755").or_else(busy)?;
    log::use_kernel_log();
    sys::mount(
        "proc",
        &made("/proc")?,
        "proc",
        libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
        "",
    )?;
    sys::mount(
        "sysfs",
        &made("/sys")?,
        "sysfs",
        libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
        "",
    )?;
    modules::load_first()?;
    modules::scan_scsi();
    real_root()?;
    let quiet = libc::MS_NOSUID | libc::MS_NODEV;
    sys::mount("tmpfs", &made("/run")?, "tmpfs", quiet, "mode=0755")?;
    sys::mount("tmpfs", &made("/tmp")?, "tmpfs", quiet, "mode=1777")?;
    sys::mount(
        "devpts",
        &made("/dev/pts")?,
        "devpts",
        libc::MS_NOSUID | libc::MS_NOEXEC,
        "mode=0620,gid=5,ptmxmode=0666",
    )?;
    sys::mount("mqueue", &made("/dev/mqueue")?, "mqueue", quiet | libc::MS_NOEXEC, "").or_else(unsupported)?;
    sys::mount(
        "cgroup2",
        &made("/sys/fs/cgroup")?,
        "cgroup2",
        quiet | libc::MS_NOEXEC,
        "nsdelegate",
    )?;
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "fd/0"),
        ("/dev/stdout", "fd/1"),
        ("/dev/stderr", "fd/2"),
    ] {
        symlink(target, link).or_else(exists)?;
    }
    std::env::set_var("PATH", "/bin:/sbin:/usr/bin:/usr/sbin");
    Ok(())
}

/// The agent is never the one that the OOM killer takes, leaves no core dumps, and has as many files open as it needs; containers inherit
/// the latter two where their spec says nothing. Where the rights lack (a process on a host): a line in the log.
pub fn protect() {
    if let Err(e) = fs::write("/proc/self/oom_score_adj", "-1000") {
        log::warn(format!("oom_score_adj -1000: {e}"));
    }
    let set = |resource, soft, hard| {
        let limit = libc::rlimit {
            rlim_cur: soft,
            rlim_max: hard,
        };
        sys::check(unsafe { libc::setrlimit(resource, &limit) })
    };
    let mut files = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut files) };
    let raised =
        set(libc::RLIMIT_NOFILE, FILES, FILES).or_else(|_| set(libc::RLIMIT_NOFILE, files.rlim_max, files.rlim_max));
    let mut core = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    unsafe { libc::getrlimit(libc::RLIMIT_CORE, &mut core) };
    if let Err(e) = raised.and_then(|_| set(libc::RLIMIT_CORE, 0, core.rlim_max)) {
        log::warn(format!("resource limits: {e}"));
    }
}

fn made(path: &str) -> io::Result<std::path::PathBuf> {
    fs::create_dir_all(path)?;
    Ok(path.into())
}

fn busy(e: io::Error) -> io::Result<()> {
    if e.raw_os_error() == Some(libc::EBUSY) {
        return Ok(());
    }
    Err(e)
}

fn unsupported(e: io::Error) -> io::Result<()> {
    if e.raw_os_error() == Some(libc::ENODEV) {
        return Ok(());
    }
    Err(e)
}

fn exists(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::AlreadyExists {
        return Ok(());
    }
    Err(e)
}

/// Moves everything from the initramfs to a tmpfs mounted over it: pivot_root, which crun does, refuses to leave an initramfs.
fn real_root() -> io::Result<()> {
    let new = made("/newroot")?;
    sys::mount("root", &new, "tmpfs", 0, "mode=0755")?;
    for entry in fs::read_dir("/")? {
        let entry = entry?;
        let name = entry.file_name();
        let target = new.join(&name);
        if LEFT_BEHIND.iter().any(|n| name == *n) {
            if name != "modules" && name != "newroot" {
                fs::create_dir_all(target)?;
            }
            continue;
        }
        move_tree(&entry.path(), &target)?;
    }
    fs::set_permissions(new.join("root"), fs::Permissions::from_mode(0o700))
        .or_else(|_| fs::create_dir_all(new.join("root")))?;
    for name in ["dev", "proc", "sys"] {
        let to = new.join(name);
        sys::mount(&format!("/{name}"), &to, "", libc::MS_MOVE, "")?;
    }
    std::env::set_current_dir(&new)?;
    sys::mount(".", Path::new("/"), "", libc::MS_MOVE, "")?;
    sys::check(unsafe { libc::chroot(c".".as_ptr()) })?;
    std::env::set_current_dir("/")
}

/// Copies and deletes file by file, so that the memory holds each only once.
fn move_tree(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    if meta.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            move_tree(&entry.path(), &to.join(entry.file_name()))?;
        }
        fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
        return fs::remove_dir(from);
    }
    if meta.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else if meta.is_file() {
        fs::copy(from, to)?;
    } else if meta.file_type().is_char_device() {
        let path = sys::cpath(to)?;
        sys::check(unsafe { libc::mknod(path.as_ptr(), meta.mode(), meta.rdev()) })?;
    }
    fs::remove_file(from)
}
