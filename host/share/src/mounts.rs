//! The mounts of a share: a read-only tmpfs as root, and in it one mount per volume, each a clone of the host's tree.
//!
//! open_tree(2) takes the clone where the caller sees the host; its flags are set while it hangs nowhere; move_mount(2) then puts it in its
//! place in the share's mount namespace. The share itself never sees the host's tree.

use crate::document::{Entry, Propagation};
use crate::failure::{check, Failure};
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const OPEN_TREE_CLONE: libc::c_uint = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const ATTR_RDONLY: u64 = 0x1;
const ATTR_NOSUID: u64 = 0x2;
const ATTR_NODEV: u64 = 0x4;

#[repr(C)]
#[derive(Default)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A volume's tree, not yet in its place.
pub struct Tree {
    pub name: CString,
    fd: OwnedFd,
    folder: bool,
}

/// In the host's mount namespace.
pub fn clone_tree(entry: &Entry) -> Result<Tree, Failure> {
    let step = format!("volume {} ({})", entry.name, entry.path);
    let path = CString::new(entry.path.as_str()).map_err(|_| Failure::invalid(&step))?;
    let name = CString::new(entry.name.as_str()).map_err(|_| Failure::invalid(&step))?;
    let fd = open_tree(
        &step,
        libc::AT_FDCWD,
        &path,
        AT_RECURSIVE | libc::AT_SYMLINK_NOFOLLOW as u32,
    )?;
    let stat = crate::sys::stat(fd.as_raw_fd()).map_err(|errno| Failure::errno(&step, errno))?;
    let folder = match crate::sys::kind(&stat) {
        libc::S_IFDIR => true,
        libc::S_IFREG => false,
        _ => {
            return Err(Failure::invalid(format!(
                "{step}: wanted a folder or a file, found neither"
            )));
        }
    };
    let everywhere = MountAttributes {
        set: ATTR_NOSUID | ATTR_NODEV | if entry.recursive_readonly { ATTR_RDONLY } else { 0 },
        // A slave sees what the host mounts below it later; a private one does not.
        propagation: match entry.propagation {
            Propagation::HostToContainer => libc::MS_SLAVE,
            Propagation::Private => libc::MS_PRIVATE,
        },
        ..Default::default()
    };
    set_attributes(&step, &fd, AT_RECURSIVE, &everywhere)?;
    if entry.readonly && !entry.recursive_readonly {
        let top = MountAttributes {
            set: ATTR_RDONLY,
            ..Default::default()
        };
        set_attributes(&step, &fd, 0, &top)?;
    }
    Ok(Tree { name, fd, folder })
}

/// In the share's mount namespace, with its root as the process's root. Idempotent by name: what is there already stays.
pub fn place(tree: &Tree) -> Result<(), Failure> {
    let step = format!("place volume {}", tree.name.to_string_lossy());
    // The root is read-only for the share; this clone of it is not, and is gone with its descriptor.
    let root = open_tree(&step, libc::AT_FDCWD, c"/", 0)?;
    let writable = MountAttributes {
        clear: ATTR_RDONLY,
        ..Default::default()
    };
    set_attributes(&step, &root, 0, &writable)?;
    let made = if tree.folder {
        // SAFETY: name is closed by a zero.
        unsafe { libc::mkdirat(root.as_raw_fd(), tree.name.as_ptr(), 0o755) }
    } else {
        // SAFETY: as above.
        unsafe { libc::mknodat(root.as_raw_fd(), tree.name.as_ptr(), libc::S_IFREG | 0o644, 0) }
    };
    if made < 0 && crate::sys::errno() != libc::EEXIST {
        return Err(Failure::errno(step, crate::sys::errno()));
    }
    if is_mounted(&step, &tree.name)? {
        return Ok(());
    }
    let place = at_root(&tree.name);
    // SAFETY: both paths are closed by zeroes.
    check(&step, unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            place.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// Takes a volume away; who has a file of it open keeps that. OK where there is none.
pub fn remove(name: &CStr) -> Result<(), Failure> {
    let step = format!("remove volume {}", name.to_string_lossy());
    let path = at_root(name);
    // SAFETY: path is closed by a zero.
    while unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) } == 0 {}
    match crate::sys::errno() {
        // Not there, or no mount (any more).
        libc::ENOENT | libc::EINVAL => {}
        errno => return Err(Failure::errno(step, errno)),
    }
    let root = open_tree(&step, libc::AT_FDCWD, c"/", 0)?;
    let writable = MountAttributes {
        clear: ATTR_RDONLY,
        ..Default::default()
    };
    set_attributes(&step, &root, 0, &writable)?;
    for flags in [libc::AT_REMOVEDIR, 0] {
        // SAFETY: name is closed by a zero.
        if unsafe { libc::unlinkat(root.as_raw_fd(), name.as_ptr(), flags) } == 0 {
            return Ok(());
        }
        match crate::sys::errno() {
            libc::ENOENT => return Ok(()),
            libc::ENOTDIR => {}
            errno => return Err(Failure::errno(step, errno)),
        }
    }
    Ok(())
}

/// The root becomes the process's own, with nothing of the old tree behind it.
pub fn enter_root(mount_point: &str, trees: &[Tree]) -> Result<(), Failure> {
    let path = CString::new(mount_point).map_err(|_| Failure::invalid("mountPoint"))?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: every string is closed by a zero. pivot_root(".", ".") stacks the old root on the new one, and the unmount takes it off
    // again: pivot_root(2).
    unsafe {
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let nothing = std::ptr::null();
        check(
            "make mounts private",
            libc::mount(nothing, c"/".as_ptr(), nothing, private, nothing.cast()).into(),
        )?;
        let options = c"size=1m,nr_inodes=4096,mode=0755";
        check(
            "mount root",
            libc::mount(
                c"podvm-share".as_ptr(),
                path.as_ptr(),
                c"tmpfs".as_ptr(),
                flags,
                options.as_ptr().cast(),
            )
            .into(),
        )?;
        check("enter root", libc::chdir(path.as_ptr()).into())?;
        check(
            "pivot root",
            libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()),
        )?;
        check(
            "unmount old root",
            libc::umount2(c".".as_ptr(), libc::MNT_DETACH).into(),
        )?;
        check("enter root", libc::chdir(c"/".as_ptr()).into())?;
    }
    for tree in trees {
        place(tree)?;
    }
    let root = open_entry_of_root()?;
    let read_only = MountAttributes {
        set: ATTR_RDONLY,
        ..Default::default()
    };
    set_attributes("make root read-only", &root, 0, &read_only)
}

/// /proc/self/fd as a mount of its own, in which nothing leads up.
pub fn own_descriptors() -> Result<OwnedFd, Failure> {
    open_tree("clone /proc/self/fd", libc::AT_FDCWD, c"/proc/self/fd", 0)
}

pub fn open_entry_of_root() -> Result<OwnedFd, Failure> {
    crate::sys::open_path(c"/", libc::O_PATH | libc::O_DIRECTORY).map_err(|errno| Failure::errno("open root", errno))
}

fn open_tree(step: &str, folder: i32, path: &CStr, flags: libc::c_uint) -> Result<OwnedFd, Failure> {
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint | flags;
    // SAFETY: path is closed by a zero.
    let fd = check(step, unsafe {
        libc::syscall(libc::SYS_open_tree, folder, path.as_ptr(), flags)
    })?;
    // SAFETY: just made, nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn set_attributes(step: &str, fd: &OwnedFd, flags: libc::c_uint, attributes: &MountAttributes) -> Result<(), Failure> {
    let flags = libc::AT_EMPTY_PATH as libc::c_uint | flags;
    // SAFETY: attributes is a whole mount_attr of the size given.
    check(step, unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    })
    .map(drop)
}

/// Whether the entry is a mount and not merely its place in the tmpfs.
fn is_mounted(step: &str, name: &CStr) -> Result<bool, Failure> {
    let stat = |path: &CStr| {
        crate::sys::open_path(path, libc::O_PATH | libc::O_NOFOLLOW)
            .and_then(|fd| crate::sys::stat(fd.as_raw_fd()))
            .map_err(|errno| Failure::errno(step, errno))
    };
    Ok(stat(&at_root(name))?.stx_mnt_id != stat(c"/")?.stx_mnt_id)
}

fn at_root(name: &CStr) -> CString {
    CString::new([b"/", name.to_bytes()].concat()).unwrap_or_default()
}
