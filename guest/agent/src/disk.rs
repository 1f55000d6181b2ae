//! Block devices by serial number, and network devices by whatever the caller looks for: found in /sys, waited for by uevents.

use crate::sys;
use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;

pub const APPEARS_WITHIN: Duration = Duration::from_secs(10);
/// A uevent may be lost (a full socket buffer): looked again after this at the latest.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The device node of a serial, as soon as it is there; TimedOut after 10 s.
pub async fn block_device(serial: &str) -> io::Result<PathBuf> {
    appears(|| find_block(serial)).await.ok_or_else(|| {
        let text = format!(
            "no block device with serial {serial:?} within {} s; found {:?}",
            APPEARS_WITHIN.as_secs(),
            serials()
        );
        io::Error::new(io::ErrorKind::TimedOut, text)
    })
}

/// What `look` finds, now or when a device has been added; None after 10 s.
pub async fn appears<T>(look: impl Fn() -> Option<T>) -> Option<T> {
    if let Some(found) = look() {
        return Some(found);
    }
    let events = uevents().ok();
    let deadline = tokio::time::Instant::now() + APPEARS_WITHIN;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if tokio::time::Instant::now() >= deadline {
            return None;
        }
        match &events {
            Some(events) => drop(tokio::time::timeout(LOOK_AGAIN, event(events)).await),
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn uevents() -> io::Result<AsyncFd<OwnedFd>> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let socket = sys::check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_KOBJECT_UEVENT) })?;
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = 1;
    let length = std::mem::size_of_val(&address) as libc::socklen_t;
    use std::os::fd::AsRawFd;
    sys::check(unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) })?;
    sys::watch_fd(socket, Interest::READABLE)
}

/// Waits for one event; its content does not matter.
async fn event(events: &AsyncFd<OwnedFd>) {
    let mut buffer = [0; 8192];
    loop {
        let Ok(mut guard) = events.readable().await else { return };
        match sys::read(events.get_ref(), &mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            _ => return,
        }
    }
}

fn find_block(serial: &str) -> Option<PathBuf> {
    for entry in fs::read_dir("/sys/block").ok()?.flatten() {
        if serial_of(&entry.path()).as_deref() == Some(serial) {
            let node = Path::new("/dev").join(entry.file_name());
            return usable(&entry.path(), &node).then_some(node);
        }
    }
    None
}

/// A SCSI disk has its node and serial before its driver has read the capacity; until then it has no size and opens with ENXIO.
fn usable(device: &Path, node: &Path) -> bool {
    let sized = fs::read_to_string(device.join("size")).is_ok_and(|size| size.trim() != "0");
    sized && fs::File::open(node).is_ok()
}

fn serials() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    entries.flatten().filter_map(|e| serial_of(&e.path())).collect()
}

/// virtio-blk has a file with it; of a SCSI disk it is the unit serial number page.
fn serial_of(device: &Path) -> Option<String> {
    if let Ok(text) = fs::read_to_string(device.join("serial")) {
        let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
        if !text.is_empty() {
            return Some(text.to_string());
        }
    }
    scsi_serial(&fs::read(device.join("device/vpd_pg80")).ok()?)
}

/// VPD page 0x80: four bytes of header, the last two of them the length, then the serial, padded with blanks.
fn scsi_serial(page: &[u8]) -> Option<String> {
    let length = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let serial = page.get(4..)?;
    let serial = std::str::from_utf8(&serial[..length.min(serial.len())])
        .ok()?
        .trim_matches(['\0', ' ']);
    (!serial.is_empty()).then(|| serial.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_serial_page() {
        assert_eq!(scsi_serial(b"\0\x80\0\x06 abc  "), Some("abc".into()));
        assert_eq!(scsi_serial(b"\0\x80\0\x63abc"), Some("abc".into()));
        assert_eq!(scsi_serial(b"\0\x80\0\x02  "), None);
        assert_eq!(scsi_serial(b"\0\x80"), None);
    }
}
