//! A generation of a synced volume: written whole beside the live one, then switched to.
//!
//! Kubernetes' AtomicWriter gives its readers a folder of links: `key -> ..data/key`, `..data -> ..TIMESTAMP`, and replaces `..data` by rename. A
//! generation of that shape is switched the same way, so processes see the same links and the same inotify events as on a host. Any other
//! folder is switched entry by entry. A single file is rewritten in place: it is mounted as a file, and a rename would not reach the mount.

use crate::fail::{invalid, Doing};
use crate::ids::shorten;
use crate::pb::agent::v1::{sync_entry, SyncEntry};
use crate::sys;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{chown, lchown, symlink, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tonic::Status;

const ENTRIES: usize = 16_384;
const BYTES: u64 = 64 << 20;
const PATH: usize = 4096;
const DATA: &str = "..data";

/// Makes an empty live generation; answers what containers mount.
pub fn prepare(dir: &Path, single_file: bool) -> io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let live = dir.join("live");
    if single_file {
        File::options().write(true).create_new(true).mode(0o600).open(&live)?;
    } else {
        fs::create_dir(&live)?;
    }
    Ok(live)
}

#[derive(Clone, Copy)]
struct Owner {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// What has arrived of a generation; gone when dropped.
pub struct Staging {
    next: PathBuf,
    live: PathBuf,
    single_file: bool,
    entries: usize,
    bytes: u64,
    /// With the owners that they get last: a folder may be read-only.
    folders: HashMap<String, Owner>,
    file: Option<(File, PathBuf, Owner)>,
}

impl Drop for Staging {
    fn drop(&mut self) {
        drop(clear(&self.next));
    }
}

impl Staging {
    pub fn begin(dir: &Path, single_file: bool) -> io::Result<Self> {
        let next = dir.join("next");
        clear(&next)?;
        fs::create_dir(&next)?;
        Ok(Staging {
            next,
            live: dir.join("live"),
            single_file,
            entries: 0,
            bytes: 0,
            folders: HashMap::new(),
            file: None,
        })
    }

    pub fn entry(&mut self, entry: &SyncEntry) -> Result<(), Status> {
        self.check(entry)?;
        self.end_file().doing(|| "generation")?;
        self.entries += 1;
        let path = if self.single_file {
            self.next.join("file")
        } else {
            self.next.join(&entry.path)
        };
        let owner = Owner {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
        };
        let made = match &entry.kind {
            Some(sync_entry::Kind::Directory(_)) => {
                self.folders.insert(entry.path.clone(), owner);
                if entry.path.is_empty() {
                    Ok(())
                } else {
                    fs::create_dir(&path)
                }
            }
            Some(sync_entry::Kind::Symlink(target)) => {
                symlink(target, &path).and_then(|()| lchown(&path, Some(entry.uid), Some(entry.gid)))
            }
            _ => {
                let mut options = File::options();
                let file = options.write(true).create_new(true).mode(0o600).open(&path);
                file.map(|file| self.file = Some((file, path, owner)))
            }
        };
        made.map_err(|e| invalid(format!("entry {:?}: {e}", shorten(&entry.path, 200))))
    }

    fn check(&self, entry: &SyncEntry) -> Result<(), Status> {
        let shown = shorten(&entry.path, 200);
        if self.entries >= ENTRIES {
            return Err(Status::resource_exhausted(format!(
                "a generation: wanted at most {ENTRIES} entries, found more"
            )));
        }
        if entry.mode > 0o7777 {
            return Err(invalid(format!(
                "entry {shown:?}: wanted a mode of at most 07777, found {:o}",
                entry.mode
            )));
        }
        let folder = match &entry.kind {
            None => return Err(invalid(format!("entry {shown:?}: wanted a kind, found none"))),
            Some(sync_entry::Kind::Symlink(target)) => {
                if target.is_empty() || target.len() > PATH || target.contains('\0') {
                    return Err(invalid(format!(
                        "entry {shown:?}: wanted a target of 1 to {PATH} bytes"
                    )));
                }
                false
            }
            Some(sync_entry::Kind::Directory(_)) => true,
            Some(sync_entry::Kind::File(_)) => false,
        };
        if self.single_file {
            let file = matches!(entry.kind, Some(sync_entry::Kind::File(_)));
            if !entry.path.is_empty() || !file || self.entries > 0 {
                return Err(invalid("a single file: wanted one entry, a file with the path \"\""));
            }
            return Ok(());
        }
        if entry.path.is_empty() && folder && self.entries == 0 {
            return Ok(()); // the volume's own mode and owner
        }
        let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= 255;
        if entry.path.len() > PATH || entry.path.contains('\0') || !entry.path.split('/').all(plain) {
            return Err(invalid(format!(
                "entry {shown:?}: wanted a relative path of plain names"
            )));
        }
        // Real folders of this generation only: so no link is ever followed here.
        match entry.path.rsplit_once('/') {
            Some((parent, _)) if !self.folders.contains_key(parent) => {
                Err(invalid(format!("entry {shown:?}: wanted its folder before it")))
            }
            _ => Ok(()),
        }
    }

    pub fn data(&mut self, data: &[u8]) -> Result<(), Status> {
        if data.is_empty() {
            return Ok(());
        }
        self.bytes += data.len() as u64;
        if self.bytes > BYTES {
            return Err(Status::resource_exhausted(format!(
                "a generation: wanted at most {BYTES} bytes, found more"
            )));
        }
        match &mut self.file {
            Some((file, ..)) => file.write_all(data).doing(|| "generation"),
            None => Err(invalid("data: wanted a file begun before it, found none")),
        }
    }

    fn end_file(&mut self) -> io::Result<()> {
        match self.file.take() {
            Some((_, path, owner)) if !self.single_file => own(&path, owner),
            _ => Ok(()),
        }
    }

    /// Makes it the live one.
    pub fn commit(mut self) -> io::Result<()> {
        if self.single_file {
            return match self.file.take() {
                Some((_, path, owner)) => rewrite(&path, &self.live, owner),
                None => Err(io::Error::new(io::ErrorKind::InvalidInput, "no file in the generation")),
            };
        }
        self.end_file()?;
        for (path, owner) in &self.folders {
            if !path.is_empty() {
                own(&self.next.join(path), *owner)?;
            }
        }
        switch(&self.next, &self.live)?;
        match self.folders.get("") {
            Some(owner) => own(&self.live, *owner),
            None => Ok(()),
        }
    }
}

fn own(path: &Path, owner: Owner) -> io::Result<()> {
    chown(path, Some(owner.uid), Some(owner.gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(owner.mode)) // last: chown takes set-id bits away
}

fn rewrite(from: &Path, to: &Path, owner: Owner) -> io::Result<()> {
    let content = fs::read(from)?;
    let mut file = File::options().write(true).custom_flags(libc::O_NOFOLLOW).open(to)?;
    file.write_all(&content)?;
    file.set_len(content.len() as u64)?;
    own(to, owner)
}

fn switch(next: &Path, live: &Path) -> io::Result<()> {
    let mut names: HashSet<_> = HashSet::new();
    for entry in fs::read_dir(next)? {
        names.insert(entry?.file_name());
    }
    let data = fs::read_link(next.join(DATA)).ok();
    if let Some(target) = data
        .as_deref()
        .and_then(Path::to_str)
        .filter(|t| names.contains(std::ffi::OsStr::new(t)))
    {
        // AtomicWriter's order: the new folder, then the link over the old one, then the rest.
        place(next, live, target.as_ref())?;
        place(next, live, DATA.as_ref())?;
    }
    for name in &names {
        if next.join(name).symlink_metadata().is_ok() {
            place(next, live, name)?;
        }
    }
    for entry in fs::read_dir(live)? {
        let entry = entry?;
        if names.contains(&entry.file_name()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Moves an entry from the new generation to the live one; a link that says the same already is left alone.
fn place(next: &Path, live: &Path, name: &std::ffi::OsStr) -> io::Result<()> {
    let (from, to) = (next.join(name), live.join(name));
    let old = match fs::symlink_metadata(&to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return fs::rename(from, to),
        old => old?,
    };
    let new = fs::symlink_metadata(&from)?;
    if old.is_symlink() && new.is_symlink() && fs::read_link(&from)? == fs::read_link(&to)? {
        return fs::remove_file(from);
    }
    if !old.is_dir() && !new.is_dir() {
        return fs::rename(from, to);
    }
    exchange(&from, &to)?;
    if old.is_dir() {
        fs::remove_dir_all(from)
    } else {
        fs::remove_file(from)
    }
}

fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    let (a, b) = (sys::cpath(a)?, sys::cpath(b)?);
    let result = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            a.as_ptr(),
            libc::AT_FDCWD,
            b.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    sys::check(result as libc::c_int).map(drop)
}

fn clear(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sync_entry::Kind::{Directory, File as Plain, Symlink};

    fn scratch(single: bool) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("podvm-generation-{}", sys::hex(&sys::random::<8>())));
        prepare(&dir, single).unwrap();
        dir
    }

    fn entry(path: &str, kind: sync_entry::Kind) -> SyncEntry {
        let meta = fs::metadata(std::env::temp_dir()).unwrap();
        use std::os::unix::fs::MetadataExt;
        SyncEntry {
            path: path.into(),
            kind: Some(kind),
            mode: 0o755,
            uid: meta.uid(),
            gid: meta.gid(),
        }
    }

    fn push(dir: &Path, entries: &[(&str, sync_entry::Kind, &str)]) -> Result<(), Status> {
        let single = dir.join("live").is_file();
        let mut staging = Staging::begin(dir, single).unwrap();
        for (path, kind, data) in entries {
            staging.entry(&entry(path, kind.clone()))?;
            staging.data(data.as_bytes())?;
        }
        staging.commit().map_err(|e| Status::internal(e.to_string()))
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_writers_folder_is_switched_by_its_link() {
        let dir = scratch(false);
        let live = dir.join("live");
        let generation = |stamp: &str, text: &str| {
            let file = format!("{stamp}/key");
            push(
                &dir,
                &[
                    ("", Directory(true), ""),
                    (stamp, Directory(true), ""),
                    (&file, Plain(true), text),
                    ("..data", Symlink(stamp.into()), ""),
                    ("key", Symlink("..data/key".into()), ""),
                ],
            )
        };
        generation("..1", "one").unwrap();
        assert_eq!(fs::read_to_string(live.join("key")).unwrap(), "one");
        let folder = fs::File::open(&live).unwrap();
        generation("..2", "two").unwrap();
        assert_eq!(fs::read_to_string(live.join("key")).unwrap(), "two");
        assert_eq!(fs::read_link(live.join("..data")).unwrap(), Path::new("..2"));
        assert_eq!(names(&live), ["..2", "..data", "key"]);
        use std::os::unix::fs::MetadataExt;
        assert_eq!(folder.metadata().unwrap().ino(), fs::metadata(&live).unwrap().ino());
        // The same folder with other content, and a key less.
        push(
            &dir,
            &[("..2", Directory(true), ""), ("..data", Symlink("..2".into()), "")],
        )
        .unwrap();
        assert_eq!(names(&live), ["..2", "..data"]);
        assert_eq!(names(&live.join("..2")), [""; 0]);
        assert_eq!(names(&dir), ["live"]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_single_file_keeps_its_inode() {
        let dir = scratch(true);
        let mut held = fs::File::open(dir.join("live")).unwrap();
        push(&dir, &[("", Plain(true), "longer text")]).unwrap();
        push(&dir, &[("", Plain(true), "short")]).unwrap();
        let mut text = String::new();
        io::Read::read_to_string(&mut held, &mut text).unwrap();
        assert_eq!(text, "short");
        assert!(push(&dir, &[("a", Plain(true), "")]).is_err());
        assert!(push(&dir, &[("", Directory(true), "")]).is_err());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_would_leave_the_folder_is_refused() {
        let dir = scratch(false);
        for path in ["..", "a/../b", "/etc/x", "a//b", "./a", "missing/a", "", "a\0b"] {
            let status = push(&dir, &[(path, Plain(true), "")]).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{path}");
        }
        let through = push(&dir, &[("l", Symlink("/tmp".into()), ""), ("l/x", Plain(true), "")]);
        assert_eq!(through.unwrap_err().code(), tonic::Code::InvalidArgument);
        assert_eq!(names(&dir.join("live")), [""; 0]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn without_commit_nothing_changes() {
        let dir = scratch(false);
        push(&dir, &[("a", Plain(true), "x")]).unwrap();
        let mut staging = Staging::begin(&dir, false).unwrap();
        staging.entry(&entry("b", Plain(true))).unwrap();
        drop(staging);
        assert_eq!(names(&dir), ["live"]);
        assert_eq!(names(&dir.join("live")), ["a"]);
        // A folder takes the place of a file, and the other way round.
        push(&dir, &[("a", Directory(true), ""), ("a/b", Plain(true), "y")]).unwrap();
        assert_eq!(fs::read_to_string(dir.join("live/a/b")).unwrap(), "y");
        push(&dir, &[("a", Plain(true), "z")]).unwrap();
        assert_eq!(fs::read_to_string(dir.join("live/a")).unwrap(), "z");
        fs::remove_dir_all(dir).unwrap();
    }
}
