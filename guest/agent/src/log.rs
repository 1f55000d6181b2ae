//! The agent's own log: a ring that the server reads (Logs), and the kernel's console (in a VM) or stderr.

use crate::ids::shorten;
use crate::pb::agent::v1::LogRecord;
use crate::ring::Ring;
use crate::sys::now_ns;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;

const KEPT: usize = 512;
const LONGEST: usize = 4096;

static TO_KERNEL: AtomicBool = AtomicBool::new(false);

/// The ring behind the Logs call.
pub fn ring() -> &'static Ring<LogRecord> {
    static RING: OnceLock<Ring<LogRecord>> = OnceLock::new();
    RING.get_or_init(|| Ring::new(KEPT))
}

/// From now on lines go to /dev/kmsg instead of stderr.
pub fn use_kernel_log() {
    TO_KERNEL.store(true, Ordering::Relaxed);
}

pub fn error(message: impl AsRef<str>) {
    write("error", 3, message.as_ref());
}

pub fn warn(message: impl AsRef<str>) {
    write("warn", 4, message.as_ref());
}

pub fn info(message: impl AsRef<str>) {
    write("info", 6, message.as_ref());
}

pub fn debug(message: impl AsRef<str>) {
    write("debug", 7, message.as_ref());
}

fn write(level: &str, priority: u8, message: &str) {
    let message = shorten(message, LONGEST);
    ring().push(|seq| LogRecord {
        seq,
        time_ns: now_ns(),
        level: level.into(),
        message: message.into(),
    });
    if level == "debug" {
        return;
    }
    // One line, whatever the message holds: a newline would begin a record of another priority.
    let line = message.replace('\n', " | ");
    if TO_KERNEL.load(Ordering::Relaxed) {
        if let Ok(mut console) = std::fs::OpenOptions::new().write(true).open("/dev/kmsg") {
            // The kernel takes records below 1 KiB. A log that cannot be written has nowhere to complain.
            drop(console.write_all(format!("<{priority}>podvm-agent: {}\n", shorten(&line, 900)).as_bytes()));
        }
    } else {
        drop(writeln!(std::io::stderr(), "podvm-agent: {level}: {line}"));
    }
}
