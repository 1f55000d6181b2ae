//! Contents of regular files.

use crate::{raw, refused, same, Check, Outcome, Said};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

pub const CHECKS: &[Check] = &[
    ("create, write, read at an offset", write_read),
    ("O_EXCL", exclusive),
    ("O_TRUNC", truncating_open),
    ("O_APPEND", append),
    ("append by two", append_by_two),
    ("O_DIRECT", direct),
    ("O_TMPFILE and its link", tmpfile),
    ("truncate shorter and longer", truncate),
    ("hole is zeroes, and costs no blocks", hole),
    ("SEEK_DATA and SEEK_HOLE", seek_hole),
    ("fallocate", allocate),
    ("punch hole", punch),
    ("mmap shared: write, msync, read", mmap_shared),
    ("mmap private changes nothing", mmap_private),
    ("unlinked file goes on", unlinked),
    ("fchmod and ftruncate of an unlinked file", unlinked_changes),
    ("copy_file_range", copy_range),
    ("fsync of file and folder", sync),
    ("large writes keep every byte", large),
    ("statvfs", statvfs),
    ("extended attributes", xattr),
    ("extended attributes: create and replace", xattr_flags),
    ("trusted and security extended attributes", xattr_special),
    ("a value of 60000 bytes", xattr_large),
];

pub fn open_new(path: &Path) -> Result<File, String> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .said("create")
}

fn write_read(dir: &Path) -> Outcome {
    let mut file = open_new(&dir.join("f"))?;
    file.write_all(b"hello world").said("write")?;
    let mut five = [0; 5];
    file.read_exact_at(&mut five, 6).said("read")?;
    same("bytes", &five, b"world")?;
    file.write_all_at(b"W", 6).said("write at")?;
    same("bytes", fs::read(dir.join("f")).said("read")?, b"hello World".to_vec())
}

fn exclusive(dir: &Path) -> Outcome {
    let path = dir.join("f");
    open_new(&path)?;
    refused(
        "second",
        OpenOptions::new().write(true).create_new(true).open(&path),
        libc::EEXIST,
    )
}

fn truncating_open(dir: &Path) -> Outcome {
    let path = dir.join("f");
    fs::write(&path, b"long").said("write")?;
    open_new(&path)?;
    same("size", fs::metadata(&path).said("stat")?.len(), 0)
}

fn append(dir: &Path) -> Outcome {
    let path = dir.join("f");
    let mut file = OpenOptions::new().append(true).create(true).open(&path).said("open")?;
    file.write_all(b"1").said("write")?;
    file.write_all(b"2").said("write")?;
    same("bytes", fs::read(&path).said("read")?, b"12".to_vec())
}

fn append_by_two(dir: &Path) -> Outcome {
    let path = dir.join("f");
    let open = || OpenOptions::new().append(true).create(true).open(&path).said("open");
    let (mut one, mut two) = (open()?, open()?);
    for _ in 0..50 {
        one.write_all(b"one ").said("write")?;
        two.write_all(b"two ").said("write")?;
    }
    same("bytes", fs::read(&path).said("read")?, b"one two ".repeat(50))
}

fn direct(dir: &Path) -> Outcome {
    let path = dir.join("f");
    fs::write(&path, vec![7; 8192]).said("write")?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .said("open")?;
    let layout = std::alloc::Layout::from_size_align(4096, 4096).said("layout")?;
    let buffer = unsafe { std::alloc::alloc_zeroed(layout) };
    let read = unsafe { libc::pread(file.as_raw_fd(), buffer.cast(), 4096, 4096) };
    let first = unsafe { *buffer };
    unsafe { std::alloc::dealloc(buffer, layout) };
    same("read", (read, first), (4096, 7))
}

fn tmpfile(dir: &Path) -> Outcome {
    let folder = raw::path(dir);
    let fd = unsafe { libc::open(folder.as_ptr(), libc::O_TMPFILE | libc::O_RDWR, 0o600) };
    raw::check(fd.into()).said("open")?;
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(b"tmp").said("write")?;
    same("names", fs::read_dir(dir).said("list")?.count(), 0)?;
    let from = raw::path(format!("/proc/self/fd/{fd}").as_ref());
    let to = raw::path(&dir.join("named"));
    let linked = unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    };
    raw::check(linked.into()).said("link")?;
    same("bytes", fs::read(dir.join("named")).said("read")?, b"tmp".to_vec())
}

fn truncate(dir: &Path) -> Outcome {
    let path = dir.join("f");
    let file = open_new(&path)?;
    file.write_all_at(b"abcdef", 0).said("write")?;
    file.set_len(3).said("shorter")?;
    file.set_len(5).said("longer")?;
    same("bytes", fs::read(&path).said("read")?, b"abc\0\0".to_vec())
}

fn hole(dir: &Path) -> Outcome {
    let path = dir.join("f");
    let file = open_new(&path)?;
    file.write_all_at(b"x", 8 << 20).said("write")?;
    let meta = file.metadata().said("stat")?;
    same("size", meta.len(), (8 << 20) + 1)?;
    let mut middle = [1; 64];
    file.read_exact_at(&mut middle, 4 << 20).said("read")?;
    same("middle", middle, [0; 64])?;
    same("few blocks", meta.blocks() * 512 < 4 << 20, true)
}

fn seek_hole(dir: &Path) -> Outcome {
    let file = open_new(&dir.join("f"))?;
    file.write_all_at(&[1; 4096], 0).said("write")?;
    file.write_all_at(&[1; 4096], 4 << 20).said("write")?;
    file.sync_all().said("sync")?;
    let fd = file.as_raw_fd();
    let first_hole = raw::seek(fd, 0, libc::SEEK_HOLE).said("SEEK_HOLE")?;
    let data = raw::seek(fd, first_hole, libc::SEEK_DATA).said("SEEK_DATA")?;
    same(
        "in order",
        first_hole >= 4096 && data > first_hole && data <= 4 << 20,
        true,
    )?;
    refused("behind the end", raw::seek(fd, 5 << 20, libc::SEEK_DATA), libc::ENXIO)
}

fn allocate(dir: &Path) -> Outcome {
    let file = open_new(&dir.join("f"))?;
    raw::allocate(file.as_raw_fd(), 0, 0, 65_536).said("allocate")?;
    same("size", file.metadata().said("stat")?.len(), 65_536)?;
    raw::allocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, 131_072).said("keep size")?;
    same("size", file.metadata().said("stat")?.len(), 65_536)
}

fn punch(dir: &Path) -> Outcome {
    let file = open_new(&dir.join("f"))?;
    file.write_all_at(&[9; 16_384], 0).said("write")?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    raw::allocate(file.as_raw_fd(), mode, 4096, 4096).said("punch")?;
    let mut bytes = [1; 16_384];
    file.read_exact_at(&mut bytes, 0).said("read")?;
    same(
        "bytes",
        (bytes[4095], bytes[4096], bytes[8191], bytes[8192]),
        (9, 0, 0, 9),
    )
}

fn map(file: &File, flags: i32) -> Result<*mut u8, String> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 8192, protection, flags, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(format!("mmap: {}", std::io::Error::last_os_error()));
    }
    Ok(at.cast())
}

fn mmap_shared(dir: &Path) -> Outcome {
    let file = open_new(&dir.join("f"))?;
    file.set_len(8192).said("size")?;
    let at = map(&file, libc::MAP_SHARED)?;
    let synced = unsafe {
        *at.add(5000) = b'J';
        let synced = libc::msync(at.cast(), 8192, libc::MS_SYNC);
        libc::munmap(at.cast(), 8192);
        synced
    };
    raw::check(synced.into()).said("msync")?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).said("read")?;
    same("byte", byte, *b"J")
}

fn mmap_private(dir: &Path) -> Outcome {
    let file = open_new(&dir.join("f"))?;
    file.set_len(8192).said("size")?;
    let at = map(&file, libc::MAP_PRIVATE)?;
    unsafe {
        *at = b'J';
        libc::munmap(at.cast(), 8192);
    }
    let mut byte = [1];
    file.read_exact_at(&mut byte, 0).said("read")?;
    same("byte", byte, [0])
}

fn unlinked(dir: &Path) -> Outcome {
    let path = dir.join("f");
    let mut file = open_new(&path)?;
    fs::remove_file(&path).said("unlink")?;
    file.write_all(b"abc").said("write")?;
    file.seek(SeekFrom::Start(0)).said("seek")?;
    let mut text = String::new();
    file.read_to_string(&mut text).said("read")?;
    same("bytes", text.as_str(), "abc")?;
    same("links", file.metadata().said("stat")?.nlink(), 0)
}

fn unlinked_changes(dir: &Path) -> Outcome {
    let path = dir.join("f");
    let file = open_new(&path)?;
    fs::remove_file(&path).said("unlink")?;
    file.set_len(77).said("ftruncate")?;
    raw::check(unsafe { libc::fchmod(file.as_raw_fd(), 0o640) }.into()).said("fchmod")?;
    let meta = file.metadata().said("stat")?;
    same("size and mode", (meta.len(), meta.mode() & 0o7777), (77, 0o640))
}

fn copy_range(dir: &Path) -> Outcome {
    fs::write(dir.join("a"), b"0123456789").said("write")?;
    let from = File::open(dir.join("a")).said("open")?;
    let to = open_new(&dir.join("b"))?;
    let (mut at, mut target) = (2i64, 1i64);
    let copied = unsafe {
        libc::syscall(
            libc::SYS_copy_file_range,
            from.as_raw_fd(),
            &mut at,
            to.as_raw_fd(),
            &mut target,
            5,
            0,
        )
    };
    same("copied", raw::check(copied).said("copy")?, 5)?;
    same("bytes", fs::read(dir.join("b")).said("read")?, b"\x0023456".to_vec())
}

fn sync(dir: &Path) -> Outcome {
    let file = open_new(&dir.join("f"))?;
    file.sync_all().said("fsync")?;
    file.sync_data().said("fdatasync")?;
    File::open(dir).said("open")?.sync_all().said("fsync of the folder")
}

fn large(dir: &Path) -> Outcome {
    let data: Vec<u8> = (0..5_000_003u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 15) as u8)
        .collect();
    fs::write(dir.join("f"), &data).said("write")?;
    same("the same", fs::read(dir.join("f")).said("read")? == data, true)
}

fn statvfs(dir: &Path) -> Outcome {
    let path = raw::path(dir);
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    raw::check(unsafe { libc::statvfs(path.as_ptr(), &mut stat) }.into()).said("statvfs")?;
    same(
        "plausible",
        stat.f_blocks > 0 && stat.f_bsize >= 512 && stat.f_namemax == 255,
        true,
    )
}

fn xattr(dir: &Path) -> Outcome {
    let path = dir.join("f");
    open_new(&path)?;
    raw::set_xattr(&path, "user.a", b"val", 0).said("set")?;
    same("value", raw::get_xattr(&path, "user.a").said("get")?, b"val".to_vec())?;
    same(
        "listed",
        raw::list_xattr(&path).said("list")?.contains(&"user.a".into()),
        true,
    )?;
    raw::remove_xattr(&path, "user.a").said("remove")?;
    refused("after that", raw::get_xattr(&path, "user.a"), libc::ENODATA)
}

fn xattr_flags(dir: &Path) -> Outcome {
    let path = dir.join("f");
    open_new(&path)?;
    refused(
        "replace",
        raw::set_xattr(&path, "user.a", b"1", libc::XATTR_REPLACE),
        libc::ENODATA,
    )?;
    raw::set_xattr(&path, "user.a", b"", libc::XATTR_CREATE).said("create")?;
    same("empty value", raw::get_xattr(&path, "user.a").said("get")?, vec![])?;
    refused(
        "create",
        raw::set_xattr(&path, "user.a", b"1", libc::XATTR_CREATE),
        libc::EEXIST,
    )
}

fn xattr_special(dir: &Path) -> Outcome {
    let path = dir.join("f");
    open_new(&path)?;
    raw::set_xattr(&path, "trusted.t", b"v", 0).said("trusted")?;
    same(
        "trusted",
        raw::get_xattr(&path, "trusted.t").said("trusted")?,
        b"v".to_vec(),
    )?;
    same(
        "listed",
        raw::list_xattr(&path).said("list")?.contains(&"trusted.t".into()),
        true,
    )?;
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    raw::set_xattr(&path, "security.capability", capability, 0).said("capability")?;
    same(
        "capability",
        raw::get_xattr(&path, "security.capability").said("get")?,
        capability.to_vec(),
    )
}

/// Where the file system below has room for it: ext4 keeps all of a file's attributes in one block.
fn xattr_large(dir: &Path) -> Outcome {
    let path = dir.join("f");
    open_new(&path)?;
    let value = vec![5; 60_000];
    match raw::set_xattr(&path, "user.big", &value, 0) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => Ok(()),
        set => {
            set.said("set")?;
            same(
                "the same",
                raw::get_xattr(&path, "user.big").said("get")? == value,
                true,
            )
        }
    }
}
