//! Names and folders.

use crate::regular::open_new;
use crate::{raw, refused, same, Check, Outcome, Said};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

pub const CHECKS: &[Check] = &[
    ("names of 255 bytes, not of 256", longest),
    ("names that are no UTF-8", bytes),
    ("mkdir and rmdir, with their errors", folders),
    ("link count of folders", folder_links),
    ("rename over a file", rename_over),
    ("rename over a folder", rename_over_folder),
    ("rename of a folder into itself", rename_into_itself),
    ("RENAME_NOREPLACE", rename_noreplace),
    ("RENAME_EXCHANGE", rename_exchange),
    ("an open file goes on under its new name", rename_open),
    ("1500 entries are listed once each", many),
    ("entries removed while they are listed", removed_while_listed),
    ("a removed folder is empty", removed_folder),
    ("FIFO and socket", special),
    ("no device nodes", devices),
];

fn longest(dir: &Path) -> Outcome {
    let name = "n".repeat(255);
    fs::write(dir.join(&name), b"x").said("255")?;
    same("bytes", fs::read(dir.join(&name)).said("read")?, b"x".to_vec())?;
    refused("256", fs::write(dir.join(name + "n"), b"x"), libc::ENAMETOOLONG)
}

fn bytes(dir: &Path) -> Outcome {
    let name = OsStr::from_bytes(b"caf\xe9 \xff\x01\n");
    fs::write(dir.join(name), b"x").said("write")?;
    let listed: Vec<_> = fs::read_dir(dir)
        .said("list")?
        .flatten()
        .map(|e| e.file_name())
        .collect();
    same("listed", listed, vec![name.to_os_string()])
}

fn folders(dir: &Path) -> Outcome {
    let sub = dir.join("d");
    fs::create_dir(&sub).said("mkdir")?;
    refused("mkdir again", fs::create_dir(&sub), libc::EEXIST)?;
    fs::write(sub.join("f"), b"").said("write")?;
    refused("rmdir of a full one", fs::remove_dir(&sub), libc::ENOTEMPTY)?;
    refused("rmdir of a file", fs::remove_dir(sub.join("f")), libc::ENOTDIR)?;
    refused("unlink of a folder", fs::remove_file(&sub), libc::EISDIR)?;
    refused("below a file", fs::write(sub.join("f/x"), b""), libc::ENOTDIR)?;
    fs::remove_file(sub.join("f")).said("unlink")?;
    fs::remove_dir(&sub).said("rmdir")?;
    refused("gone", fs::metadata(&sub), libc::ENOENT)
}

/// Btrfs and overlayfs say 1 always.
fn folder_links(dir: &Path) -> Outcome {
    let links = || fs::metadata(dir).said("stat").map(|m| m.nlink());
    let before = links()?;
    fs::create_dir(dir.join("d")).said("mkdir")?;
    same("links", links()?, if before == 1 { 1 } else { before + 1 })
}

fn rename_over(dir: &Path) -> Outcome {
    let (a, b) = (dir.join("a"), dir.join("b"));
    fs::write(&a, b"a").said("write")?;
    fs::write(&b, b"b").said("write")?;
    fs::rename(&a, &b).said("rename")?;
    same("bytes", fs::read(&b).said("read")?, b"a".to_vec())?;
    refused("old name", fs::metadata(&a), libc::ENOENT)
}

fn rename_over_folder(dir: &Path) -> Outcome {
    let (a, b) = (dir.join("a"), dir.join("b"));
    fs::create_dir(&a).said("mkdir")?;
    fs::create_dir(&b).said("mkdir")?;
    fs::write(b.join("f"), b"").said("write")?;
    refused("over a full one", fs::rename(&a, &b), libc::ENOTEMPTY)?;
    fs::remove_file(b.join("f")).said("unlink")?;
    fs::rename(&a, &b).said("over an empty one")?;
    fs::write(&a, b"").said("write")?;
    refused("a file over a folder", fs::rename(&a, &b), libc::EISDIR)?;
    refused("a folder over a file", fs::rename(&b, &a), libc::ENOTDIR)
}

fn rename_into_itself(dir: &Path) -> Outcome {
    fs::create_dir(dir.join("a")).said("mkdir")?;
    refused("rename", fs::rename(dir.join("a"), dir.join("a/b")), libc::EINVAL)
}

fn rename_noreplace(dir: &Path) -> Outcome {
    let (a, b) = (dir.join("a"), dir.join("b"));
    open_new(&a)?;
    open_new(&b)?;
    refused("rename", raw::rename2(&a, &b, libc::RENAME_NOREPLACE), libc::EEXIST)?;
    raw::rename2(&a, &dir.join("c"), libc::RENAME_NOREPLACE).said("rename to a free name")
}

fn rename_exchange(dir: &Path) -> Outcome {
    let (a, b) = (dir.join("a"), dir.join("b"));
    fs::write(&a, b"a").said("write")?;
    fs::create_dir(&b).said("mkdir")?;
    raw::rename2(&a, &b, libc::RENAME_EXCHANGE).said("exchange")?;
    same("kinds", (a.is_dir(), fs::read(&b).said("read")?), (true, b"a".to_vec()))
}

fn rename_open(dir: &Path) -> Outcome {
    let file = open_new(&dir.join("a"))?;
    fs::create_dir(dir.join("d")).said("mkdir")?;
    fs::rename(dir.join("a"), dir.join("d/b")).said("rename")?;
    std::os::unix::fs::FileExt::write_all_at(&file, b"later", 0).said("write")?;
    same("bytes", fs::read(dir.join("d/b")).said("read")?, b"later".to_vec())
}

fn many(dir: &Path) -> Outcome {
    let wanted: BTreeSet<String> = (0..1500).map(|i| format!("entry-{i}")).collect();
    for name in &wanted {
        open_new(&dir.join(name))?;
    }
    let listed: Vec<String> = fs::read_dir(dir)
        .said("list")?
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    same("count", listed.len(), 1500)?;
    same("names", listed.into_iter().collect::<BTreeSet<_>>() == wanted, true)
}

fn removed_while_listed(dir: &Path) -> Outcome {
    for i in 0..600 {
        open_new(&dir.join(format!("{i}")))?;
    }
    let mut seen = 0;
    for entry in fs::read_dir(dir).said("list")? {
        fs::remove_file(entry.said("entry")?.path()).said("unlink")?;
        seen += 1;
    }
    same("seen", seen, 600)?;
    same("left", fs::read_dir(dir).said("list")?.count(), 0)
}

fn removed_folder(dir: &Path) -> Outcome {
    let sub = dir.join("d");
    fs::create_dir(&sub).said("mkdir")?;
    let open = fs::File::open(&sub).said("open")?;
    fs::remove_dir(&sub).said("rmdir")?;
    same("links", open.metadata().said("stat")?.nlink(), 0)
}

fn special(dir: &Path) -> Outcome {
    let fifo = raw::path(&dir.join("fifo"));
    raw::check(unsafe { libc::mkfifo(fifo.as_ptr(), 0o640) }.into()).said("mkfifo")?;
    let kind = fs::metadata(dir.join("fifo")).said("stat")?;
    same(
        "FIFO",
        (kind.file_type().is_fifo(), kind.mode() & 0o7777),
        (true, 0o640),
    )?;
    let socket = dir.join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).said("bind")?;
    std::os::unix::net::UnixStream::connect(&socket).said("connect")?;
    drop(listener);
    same(
        "socket",
        fs::metadata(&socket).said("stat")?.file_type().is_socket(),
        true,
    )
}

fn devices(dir: &Path) -> Outcome {
    let path = raw::path(&dir.join("null"));
    let made = unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 3)) };
    refused("mknod", raw::check(made.into()), libc::EPERM)
}
