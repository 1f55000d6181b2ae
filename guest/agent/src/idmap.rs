//! Id-mapped mounts (mount_setattr(2)): a second view of a folder in which the ids on disk, 0 to n, are those of a user namespace, and what
//! its processes write gets the ids 0 to n on disk. Nothing is copied or changed.

use crate::{log, sys};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

// linux/mount.h
const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// struct mount_attr
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A mapped view, mounted; gone when dropped. What others have mounted or copied of it stays.
pub struct Mapped {
    at: PathBuf,
}

impl Mapped {
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Mounts at `at`, which is made, the folder or file `source` as the user namespace of the process `pid` has the ids. InvalidInput where the
    /// file system cannot be mapped.
    pub fn mount(source: &Path, at: PathBuf, pid: libc::pid_t) -> io::Result<Self> {
        let namespace = File::open(format!("/proc/{pid}/ns/user"))?;
        let tree = open_tree(source)?;
        let attr = MountAttr {
            attr_set: MOUNT_ATTR_IDMAP,
            userns_fd: namespace.as_raw_fd() as u64,
            ..Default::default()
        };
        let set = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                std::ptr::from_ref(&attr),
                std::mem::size_of::<MountAttr>(),
            )
        };
        sys::check(set as libc::c_int)?;
        if fs::metadata(source)?.is_dir() {
            fs::create_dir_all(&at)?;
        } else {
            if let Some(parent) = at.parent() {
                fs::create_dir_all(parent)?;
            }
            File::create(&at)?;
        }
        let target = sys::cpath(&at)?;
        let moved = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                target.as_ptr(),
                MOVE_MOUNT_F_EMPTY_PATH,
            )
        };
        if let Err(e) = sys::check(moved as libc::c_int) {
            remove_place(&at);
            return Err(e);
        }
        Ok(Mapped { at })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        match sys::umount(&self.at, libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) {
            // Never removed while something is mounted there.
            Ok(()) => remove_place(&self.at),
            Err(e) => log::error(format!("unmount of {}: {e}", self.at.display())),
        }
    }
}

/// An empty folder or file; never what is in it.
fn remove_place(at: &Path) {
    if fs::remove_dir(at).is_err() {
        drop(fs::remove_file(at));
    }
}

fn open_tree(source: &Path) -> io::Result<OwnedFd> {
    let path = sys::cpath(source)?;
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = sys::check(fd as libc::c_int)?;
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
