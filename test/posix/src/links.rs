//! Hard and symbolic links.

use crate::regular::open_new;
use crate::{raw, refused, same, Check, Outcome, Said};
use std::fs;
use std::os::unix::fs::{symlink, MetadataExt};
use std::path::Path;

pub const CHECKS: &[Check] = &[
    ("hard link: one file, two names", hard),
    ("hard link to a folder is refused", hard_folder),
    ("hard link to a symbolic link", hard_to_symbolic),
    ("symbolic link and its text", symbolic),
    ("symbolic link of 4000 bytes", long_symbolic),
    ("loop of links", link_loop),
    ("O_NOFOLLOW", nofollow),
    ("lchown", lchown),
];

fn hard(dir: &Path) -> Outcome {
    let (a, b) = (dir.join("a"), dir.join("b"));
    fs::write(&a, b"x").said("write")?;
    fs::hard_link(&a, &b).said("link")?;
    let stat = |path: &Path| fs::metadata(path).said("stat").map(|m| (m.ino(), m.nlink()));
    let (inode, links) = stat(&a)?;
    same("links", links, 2)?;
    same("inode", stat(&b)?, (inode, 2))?;
    fs::write(&b, b"new").said("write")?;
    same("bytes", fs::read(&a).said("read")?, b"new".to_vec())?;
    fs::remove_file(&a).said("unlink")?;
    same("left", stat(&b)?, (inode, 1))?;
    refused("over itself", fs::hard_link(&b, &b), libc::EEXIST)
}

fn hard_folder(dir: &Path) -> Outcome {
    fs::create_dir(dir.join("d")).said("mkdir")?;
    refused("link", fs::hard_link(dir.join("d"), dir.join("e")), libc::EPERM)
}

fn hard_to_symbolic(dir: &Path) -> Outcome {
    symlink("nowhere", dir.join("s")).said("symlink")?;
    fs::hard_link(dir.join("s"), dir.join("t")).said("link")?;
    same("text", fs::read_link(dir.join("t")).said("readlink")?, "nowhere".into())
}

fn symbolic(dir: &Path) -> Outcome {
    fs::write(dir.join("f"), b"x").said("write")?;
    symlink("f", dir.join("s")).said("symlink")?;
    same("text", fs::read_link(dir.join("s")).said("readlink")?, "f".into())?;
    same("bytes", fs::read(dir.join("s")).said("read")?, b"x".to_vec())?;
    refused("again", symlink("f", dir.join("s")), libc::EEXIST)?;
    fs::remove_file(dir.join("s")).said("unlink")?;
    same("target", dir.join("f").exists(), true)
}

fn long_symbolic(dir: &Path) -> Outcome {
    let text = "x/".repeat(2000);
    symlink(&text, dir.join("s")).said("symlink")?;
    same(
        "text",
        fs::read_link(dir.join("s")).said("readlink")? == Path::new(&text),
        true,
    )
}

fn link_loop(dir: &Path) -> Outcome {
    symlink("b", dir.join("a")).said("symlink")?;
    symlink("a", dir.join("b")).said("symlink")?;
    refused("open", fs::read(dir.join("a")), libc::ELOOP)
}

fn nofollow(dir: &Path) -> Outcome {
    use std::os::unix::fs::OpenOptionsExt;
    open_new(&dir.join("f"))?;
    symlink("f", dir.join("s")).said("symlink")?;
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(dir.join("s"));
    refused("open", opened, libc::ELOOP)
}

fn lchown(dir: &Path) -> Outcome {
    symlink("x", dir.join("s")).said("symlink")?;
    std::os::unix::fs::lchown(dir.join("s"), Some(7), Some(8)).said("lchown")?;
    let meta = fs::symlink_metadata(dir.join("s")).said("stat")?;
    same("owner", (meta.uid(), meta.gid()), (7, 8))?;
    raw::utimes(&dir.join("s"), (1, 2), (3, 4), libc::AT_SYMLINK_NOFOLLOW).said("its times")?;
    same("time", fs::symlink_metadata(dir.join("s")).said("stat")?.mtime(), 3)
}
