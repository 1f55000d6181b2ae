//! Owners and modes, as root and as others.

use crate::regular::open_new;
use crate::{raw, same, Check, Outcome, Said};
use std::fs;
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub const CHECKS: &[Check] = &[
    ("chown and chmod", change),
    ("a new file is its maker's, with its mode", made_by_other),
    ("no new file in a folder of root's", not_in_roots),
    ("set-group-id folder gives its group on", setgid_folder),
    ("sticky folder: only one's own may be removed", sticky),
    ("set-user-id is cleared when another writes", suid_write),
    ("set-user-id is cleared when another truncates", suid_truncate),
    ("chown by another is refused", chown_refused),
    ("chmod by another is refused", chmod_refused),
    ("no reading without the right to", unreadable),
    ("no passing without the right to", impassable),
    ("a supplementary group lets in", supplementary),
];

fn mode(path: &Path, mode: u32) -> Outcome {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).said("chmod")
}

fn facts(path: &Path) -> Result<(u32, u32, u32), String> {
    fs::metadata(path)
        .said("stat")
        .map(|m| (m.uid(), m.gid(), m.mode() & 0o7777))
}

/// A file that root made.
fn file(dir: &Path, bits: u32) -> Result<PathBuf, String> {
    let path = dir.join("f");
    open_new(&path)?;
    mode(&path, bits)?;
    Ok(path)
}

fn change(dir: &Path) -> Outcome {
    let path = file(dir, 0o644)?;
    chown(&path, Some(4321), Some(8765)).said("chown")?;
    mode(&path, 0o2751)?;
    same("facts", facts(&path)?, (4321, 8765, 0o2751))
}

fn made_by_other(dir: &Path) -> Outcome {
    mode(dir, 0o777)?;
    let (f, d) = (raw::path(&dir.join("f")), raw::path(&dir.join("d")));
    let made = raw::as_user(1000, 1001, &[], || unsafe {
        raw::code(libc::creat(f.as_ptr(), 0o640)).max(raw::code(libc::mkdir(d.as_ptr(), 0o751)))
    });
    same("errno", made, 0)?;
    same("file", facts(&dir.join("f"))?, (1000, 1001, 0o640))?;
    same("folder", facts(&dir.join("d"))?, (1000, 1001, 0o751))
}

fn not_in_roots(dir: &Path) -> Outcome {
    mode(dir, 0o755)?;
    let path = raw::path(&dir.join("f"));
    let made = raw::as_user(1000, 1000, &[], || unsafe {
        raw::code(libc::creat(path.as_ptr(), 0o640))
    });
    same("errno", made, libc::EACCES)
}

fn setgid_folder(dir: &Path) -> Outcome {
    chown(dir, None, Some(777)).said("chown")?;
    mode(dir, 0o2777)?;
    open_new(&dir.join("f"))?;
    fs::create_dir(dir.join("d")).said("mkdir")?;
    same("file's group", facts(&dir.join("f"))?.1, 777)?;
    let (_, group, bits) = facts(&dir.join("d"))?;
    same("folder's", (group, bits & 0o2000), (777, 0o2000))
}

fn sticky(dir: &Path) -> Outcome {
    mode(dir, 0o1777)?;
    let path = file(dir, 0o666)?;
    let (theirs, own) = (raw::path(&path), raw::path(&dir.join("own")));
    let unlinked = raw::as_user(1000, 1000, &[], || unsafe { raw::code(libc::unlink(theirs.as_ptr())) });
    same("another's", unlinked, libc::EPERM)?;
    let unlinked = raw::as_user(1000, 1000, &[], || unsafe {
        raw::code(libc::creat(own.as_ptr(), 0o600)).max(raw::code(libc::unlink(own.as_ptr())))
    });
    same("one's own", unlinked, 0)
}

fn suid_write(dir: &Path) -> Outcome {
    let path = file(dir, 0o6777)?;
    let name = raw::path(&path);
    let written = raw::as_user(1000, 1000, &[], || unsafe {
        let fd = libc::open(name.as_ptr(), libc::O_WRONLY);
        if fd < 0 || libc::write(fd, b"x".as_ptr().cast(), 1) != 1 {
            return 1;
        }
        0
    });
    same("written", written, 0)?;
    same("mode", facts(&path)?.2, 0o777)
}

fn suid_truncate(dir: &Path) -> Outcome {
    let path = file(dir, 0o4777)?;
    fs::write(&path, b"long").said("write")?;
    mode(&path, 0o4777)?;
    let name = raw::path(&path);
    let cut = raw::as_user(1000, 1000, &[], || unsafe {
        raw::code(libc::truncate(name.as_ptr(), 1))
    });
    same("errno", cut, 0)?;
    same("mode", facts(&path)?.2, 0o777)
}

fn chown_refused(dir: &Path) -> Outcome {
    let path = file(dir, 0o666)?;
    chown(&path, Some(1000), Some(1000)).said("chown")?;
    let name = raw::path(&path);
    let given = raw::as_user(1000, 1000, &[], || unsafe {
        raw::code(libc::chown(name.as_ptr(), 0, u32::MAX))
    });
    same("to root", given, libc::EPERM)?;
    let given = raw::as_user(1000, 1000, &[2000], || unsafe {
        raw::code(libc::chown(name.as_ptr(), u32::MAX, 2000))
    });
    same("to a group of one's own", given, 0)
}

fn chmod_refused(dir: &Path) -> Outcome {
    let name = raw::path(&file(dir, 0o666)?);
    let changed = raw::as_user(1000, 1000, &[], || unsafe {
        raw::code(libc::chmod(name.as_ptr(), 0o777))
    });
    same("errno", changed, libc::EPERM)
}

fn unreadable(dir: &Path) -> Outcome {
    let name = raw::path(&file(dir, 0o620)?);
    let opened = raw::as_user(1000, 1000, &[], || unsafe {
        raw::code(libc::open(name.as_ptr(), libc::O_RDONLY))
    });
    same("errno", opened, libc::EACCES)
}

fn impassable(dir: &Path) -> Outcome {
    let name = raw::path(&file(dir, 0o666)?);
    mode(dir, 0o766)?;
    let opened = raw::as_user(1000, 1000, &[], || unsafe {
        raw::code(libc::open(name.as_ptr(), libc::O_RDONLY))
    });
    same("errno", opened, libc::EACCES)
}

fn supplementary(dir: &Path) -> Outcome {
    chown(dir, None, Some(3000)).said("chown")?;
    mode(dir, 0o770)?;
    let name = raw::path(&dir.join("f"));
    let make = || unsafe { raw::code(libc::creat(name.as_ptr(), 0o600)) };
    same("without", raw::as_user(1000, 1000, &[], make), libc::EACCES)?;
    same("with", raw::as_user(1000, 1000, &[3000], make), 0)?;
    same("owner", facts(&dir.join("f"))?, (1000, 1000, 0o600))
}
