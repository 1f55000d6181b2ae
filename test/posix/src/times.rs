//! Times.

use crate::regular::open_new;
use crate::{raw, same, Check, Outcome, Said};
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

pub const CHECKS: &[Check] = &[
    ("utimensat, to the nanosecond", set),
    ("UTIME_OMIT and UTIME_NOW", omit),
    ("before 1970 and after 2038", far),
    ("a write changes mtime and ctime", write),
    ("a new entry changes its folder's times", folder),
    ("chmod changes ctime, not mtime", chmod),
];

fn set(dir: &Path) -> Outcome {
    let path = dir.join("f");
    open_new(&path)?;
    raw::utimes(&path, (1, 2), (3, 999_999_999), 0).said("set")?;
    let meta = fs::metadata(&path).said("stat")?;
    let found = (meta.atime(), meta.atime_nsec(), meta.mtime(), meta.mtime_nsec());
    same("times", found, (1, 2, 3, 999_999_999))
}

fn omit(dir: &Path) -> Outcome {
    let path = dir.join("f");
    open_new(&path)?;
    raw::utimes(&path, (1, 0), (3, 0), 0).said("set")?;
    raw::utimes(&path, (0, libc::UTIME_OMIT), (0, libc::UTIME_NOW), 0).said("set")?;
    let meta = fs::metadata(&path).said("stat")?;
    same("times", (meta.atime(), meta.mtime() > 1_000_000), (1, true))
}

fn far(dir: &Path) -> Outcome {
    let path = dir.join("f");
    open_new(&path)?;
    raw::utimes(&path, (-86_400, 0), (5_000_000_000, 0), 0).said("set")?;
    let meta = fs::metadata(&path).said("stat")?;
    same("times", (meta.atime(), meta.mtime()), (-86_400, 5_000_000_000))
}

/// Seconds and nanoseconds.
type Time = (i64, i64);

/// mtime and ctime.
fn stamps(path: &Path) -> Result<(Time, Time), String> {
    let meta = fs::metadata(path).said("stat")?;
    Ok(((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec())))
}

fn pause() {
    std::thread::sleep(Duration::from_millis(30));
}

fn write(dir: &Path) -> Outcome {
    let path = dir.join("f");
    let mut file = open_new(&path)?;
    let before = stamps(&path)?;
    pause();
    file.write_all(b"x").said("write")?;
    let after = stamps(&path)?;
    same("later", after.0 > before.0 && after.1 > before.1, true)
}

fn folder(dir: &Path) -> Outcome {
    let before = stamps(dir)?;
    pause();
    open_new(&dir.join("f"))?;
    let after = stamps(dir)?;
    same("later", after.0 > before.0 && after.1 > before.1, true)
}

fn chmod(dir: &Path) -> Outcome {
    let path = dir.join("f");
    open_new(&path)?;
    let before = stamps(&path)?;
    pause();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).said("chmod")?;
    let after = stamps(&path)?;
    same("times", (after.0 == before.0, after.1 > before.1), (true, true))
}
