//! Kernel modules out of the initramfs: those that a pod cannot begin without at boot, the rest when there is time or need for them.

use crate::{log, sys};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const FOLDER: &str = "/modules";
/// By then a pod has its first container, which was waiting for the processor.
pub const LATER: Duration = Duration::from_secs(5);

struct Module {
    /// File name and parameters, as the list has them.
    line: String,
    file: File,
}

/// Held open: their folder goes with the initramfs.
static WAITING: Mutex<Vec<Module>> = Mutex::new(Vec::new());

/// Loads those of /modules/order, one "FILE [PARAMETERS]" a line, keeps those of /modules/later, and frees the rest of the folder.
pub fn load_first() -> io::Result<()> {
    for module in listed("order")? {
        load(&module);
    }
    *WAITING.lock().unwrap_or_else(PoisonError::into_inner) = listed("later")?;
    match fs::remove_dir_all(FOLDER) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Loads those that wait, once; who comes second waits for the first.
pub fn load_later() {
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    for module in waiting.drain(..) {
        load(&module);
    }
}

/// SCSI hosts were told not to look for disks by themselves (scan=manual: they would try 256 targets, a third of a second). All of ours are units
/// of target 0.
pub fn scan_scsi() {
    let Ok(hosts) = fs::read_dir("/sys/class/scsi_host") else {
        return;
    };
    for host in hosts.flatten() {
        if let Err(e) = fs::write(host.path().join("scan"), "0 0 -") {
            log::error(format!("scan of {}: {e}", host.path().display()));
        }
    }
}

fn listed(list: &str) -> io::Result<Vec<Module>> {
    let text = match fs::read_to_string(Path::new(FOLDER).join(list)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let mut modules = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match File::open(Path::new(FOLDER).join(split(line).0)) {
            Ok(file) => modules.push(Module {
                line: line.into(),
                file,
            }),
            Err(e) => log::error(format!("module {line}: {e}")),
        }
    }
    Ok(modules)
}

/// "scsi_mod.ko scan=manual" is a file and its parameters.
fn split(line: &str) -> (&str, &str) {
    line.split_once(' ').unwrap_or((line, ""))
}

/// A module that fails is logged: what needs it will say so in its turn.
fn load(module: &Module) {
    let loaded = sys::cstring(split(&module.line).1).and_then(|parameters| {
        let result = unsafe { libc::syscall(libc::SYS_finit_module, module.file.as_raw_fd(), parameters.as_ptr(), 0) };
        sys::check(result as libc::c_int).map(drop)
    });
    match loaded {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => log::error(format!("module {}: {e}", module.line)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn file_and_parameters() {
        assert_eq!(split("overlay.ko"), ("overlay.ko", ""));
        assert_eq!(split("scsi_mod.ko scan=manual x=1"), ("scsi_mod.ko", "scan=manual x=1"));
    }
}
