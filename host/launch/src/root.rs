//! The VMM's file system: a read-only tmpfs that holds nothing but the binds and device nodes of the document.
use crate::document::{Access, Document};
use crate::failure::{check, Failure};
use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

/// To be called in a mount namespace of the process's own. Afterwards nothing of the old tree can be reached.
pub fn enter(document: &Document) -> Result<(), Failure> {
    let root = &document.root.mount_point;
    mount(
        "make mounts private",
        None,
        "/",
        libc::MS_REC | libc::MS_PRIVATE,
        None,
    )?;
    let base = libc::MS_NOSUID | libc::MS_NOEXEC;
    mount(
        "mount root",
        Some(c"tmpfs"),
        root,
        base,
        Some(c"size=64k,nr_inodes=256,mode=0755"),
    )?;
    for bind in &document.root.binds {
        let target = format!("{root}{}", bind.path);
        make_folder(&target)?;
        let source = path_string(&bind.path)?;
        mount(
            &format!("bind {}", bind.path),
            Some(&source),
            &target,
            libc::MS_BIND,
            None,
        )?;
        let flags = match bind.access {
            Access::Read => libc::MS_RDONLY | libc::MS_NOEXEC | libc::MS_NODEV,
            Access::Execute => libc::MS_RDONLY | libc::MS_NODEV,
            // The folder of its disks, among which may be a node of a block device that the pod was given. It can make none itself.
            Access::Write => libc::MS_NOEXEC,
        };
        let flags = flags | libc::MS_BIND | libc::MS_REMOUNT | libc::MS_NOSUID;
        mount(
            &format!("restrict {}", bind.path),
            None,
            &target,
            flags,
            None,
        )?;
    }
    for device in &document.root.devices {
        make_device(root, device, document)?;
    }
    mount(
        "make root read-only",
        None,
        root,
        base | libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY,
        None,
    )?;
    pivot(root)
}

fn pivot(root: &str) -> Result<(), Failure> {
    let path = path_string(root)?;
    // SAFETY: the strings are closed by zeroes and outlive the calls. pivot_root(".", ".") stacks the old root on the new one,
    // and the unmount takes it off again: pivot_root(2), "pivot_root(".", ".")".
    unsafe {
        check("enter root", libc::chdir(path.as_ptr()))?;
        check(
            "pivot root",
            libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) as i32,
        )?;
        check(
            "unmount old root",
            libc::umount2(c".".as_ptr(), libc::MNT_DETACH),
        )?;
        check("enter root", libc::chdir(c"/".as_ptr()))?;
    }
    Ok(())
}

/// A node of the VMM's own: null and its like for everyone, /dev/kvm (often root:kvm 0660 outside) for this VMM's user alone.
fn make_device(root: &str, device: &str, document: &Document) -> Result<(), Failure> {
    let step = format!("make device {device}");
    let outside = fs::metadata(device).map_err(|e| Failure::io(&step, &e))?;
    let target = format!("{root}{device}");
    make_folder(&format!("{root}/dev"))?;
    let path = path_string(&target)?;
    // SAFETY: path is closed by a zero and outlives the calls.
    unsafe {
        check(
            &step,
            libc::mknod(path.as_ptr(), libc::S_IFCHR, outside.rdev()),
        )?;
        check(
            &step,
            libc::chown(path.as_ptr(), document.uid, document.gid),
        )?;
        check(&step, libc::chmod(path.as_ptr(), 0o600))?;
    }
    Ok(())
}

fn make_folder(path: &str) -> Result<(), Failure> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(Path::new(path))
        .map_err(|e| Failure::io(format!("make folder {path}"), &e))
}

fn mount(
    step: &str,
    source: Option<&CStr>,
    target: &str,
    flags: libc::c_ulong,
    data: Option<&CStr>,
) -> Result<(), Failure> {
    let target = path_string(target)?;
    let pointer = |s: Option<&CStr>| s.map_or(std::ptr::null(), CStr::as_ptr);
    // Binds and changes of flags ignore the type.
    let kind = c"tmpfs";
    // SAFETY: every string is closed by a zero and outlives the call.
    check(step, unsafe {
        libc::mount(
            pointer(source),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            pointer(data).cast(),
        )
    })?;
    Ok(())
}

fn path_string(path: &str) -> Result<CString, Failure> {
    CString::new(path).map_err(|_| Failure::invalid(format!("{path:?}: holds a NUL")))
}
