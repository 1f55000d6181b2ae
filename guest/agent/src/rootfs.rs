//! Paths inside a container's root file system, which is hostile: resolved by the kernel so that no link leads out (openat2).

use crate::sys;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

const LARGEST_FILE: u64 = 4 << 20;
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_IN_ROOT: u64 = 0x10;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// A root file system, held open.
pub struct Rootfs {
    root: OwnedFd,
}

impl Rootfs {
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = sys::cpath(path)?;
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let fd = sys::check(unsafe { libc::open(path.as_ptr(), flags) })?;
        Ok(Rootfs {
            root: unsafe { OwnedFd::from_raw_fd(fd) },
        })
    }

    fn at(&self, path: &str, flags: libc::c_int) -> io::Result<OwnedFd> {
        let path = sys::cstring(path)?;
        let how = OpenHow {
            flags: (flags | libc::O_CLOEXEC) as u64,
            mode: 0,
            resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
        };
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                self.root.as_raw_fd(),
                path.as_ptr(),
                std::ptr::from_ref(&how),
                std::mem::size_of::<OpenHow>(),
            )
        };
        let fd = sys::check(fd as libc::c_int)?;
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// A regular file as text, "" where there is none; invalid UTF-8 is replaced; above 4 MiB is InvalidData.
    pub fn text(&self, path: &str) -> io::Result<String> {
        let file = match self.file(path) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => return Ok(String::new()),
            file => file?,
        };
        Ok(String::from_utf8_lossy(&sys::read_bounded(file, LARGEST_FILE)?).into_owned())
    }

    /// A regular file, open for reading.
    pub fn file(&self, path: &str) -> io::Result<File> {
        let file = File::from(self.at(path, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        Ok(file)
    }

    /// What is at a path, held open without any access to its content.
    pub fn find(&self, path: &str) -> io::Result<OwnedFd> {
        self.at(path, libc::O_PATH)
    }

    /// Makes a folder and those above it (mode 0755, root) where they are missing. `path` is absolute.
    pub fn make_dir(&self, path: &str) -> io::Result<()> {
        self.make_dir_as(path, 0o755)
    }

    /// The same with another mode.
    pub fn make_dir_as(&self, path: &str, mode: u32) -> io::Result<()> {
        let mut so_far = String::from("/");
        for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
            let parent = self.at(&so_far, libc::O_PATH | libc::O_DIRECTORY)?;
            so_far = format!("{}/{part}", so_far.trim_end_matches('/'));
            match self.at(&so_far, libc::O_PATH | libc::O_DIRECTORY) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let name = sys::cstring(part)?;
                    sys::check(unsafe { libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), mode) })?;
                }
                found => drop(found?),
            }
        }
        Ok(())
    }
}

/// Runs `work` with files made as the guest's ids `uid` and `gid`, on a thread of its own. In a view that is mapped to a user namespace nobody else
/// can make any: root of the guest is no one there.
pub fn made_as<T: Send>(uid: u32, gid: u32, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .stack_size(192 << 10)
            .spawn_scoped(scope, move || {
                unsafe {
                    libc::setfsgid(gid);
                    libc::setfsuid(uid);
                }
                work()
            })?;
        thread.join().map_err(|_| io::Error::other("thread of another user"))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn scratch() -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("podvm-rootfs-{}", sys::hex(&sys::random::<8>())));
        fs::create_dir_all(dir.join("etc")).unwrap();
        dir
    }

    #[test]
    fn links_stay_inside() {
        let dir = scratch();
        fs::write(dir.join("etc/inner"), "inside").unwrap();
        symlink("/etc/inner", dir.join("etc/passwd")).unwrap();
        symlink("../../../../../../etc/passwd", dir.join("etc/group")).unwrap();
        symlink("/proc/self/root/etc/passwd", dir.join("etc/shadow")).unwrap();
        let root = Rootfs::open(&dir).unwrap();
        assert_eq!(root.text("/etc/passwd").unwrap(), "inside");
        assert_eq!(root.text("/etc/group").unwrap(), "inside");
        assert_eq!(root.text("/etc/shadow").unwrap(), "");
        assert_eq!(root.text("/etc/none").unwrap(), "");
        assert!(root.text("/etc").is_err());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn folders_are_made_inside() {
        let dir = scratch();
        symlink("/", dir.join("up")).unwrap();
        let root = Rootfs::open(&dir).unwrap();
        root.make_dir("/up/podvm-made/deep").unwrap();
        root.make_dir("/up/podvm-made/deep").unwrap();
        assert!(dir.join("podvm-made/deep").is_dir());
        assert!(!Path::new("/podvm-made").exists());
        fs::write(dir.join("file"), "").unwrap();
        assert!(root.make_dir("/file/x").is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
