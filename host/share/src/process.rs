//! Processes by pid and start time, as podvm-launch names them.

use crate::failure::Failure;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Started {
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks after boot. With the pid it names a process for good.
    pub starttime: u64,
}

impl Started {
    pub fn of(pid: i32) -> Result<Self, Failure> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|e| Failure::io("read start time", &e))?;
        // The name in parentheses may hold anything; the fields after it are numbers.
        let starttime = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(19))
            .and_then(|field| field.parse().ok())
            .ok_or_else(|| Failure::invalid(format!("/proc/{pid}/stat: no start time")))?;
        Ok(Started { pid, starttime })
    }

    pub fn read(path: &str) -> Result<Self, Failure> {
        let step = format!("pid file {path}");
        let text = fs::read_to_string(path).map_err(|e| Failure::io(&step, &e))?;
        serde_json::from_str(&text).map_err(|e| Failure::invalid(format!("{step}: {e}")))
    }

    /// Temporary file and rename: a reader sees the whole or nothing.
    pub fn write(&self, path: &str) -> Result<(), Failure> {
        let temporary = format!("{path}.tmp");
        File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut f| f.write_all(serde_json::to_string(self).unwrap_or_default().as_bytes()))
            .and_then(|()| fs::rename(&temporary, path))
            .map_err(|e| Failure::io(format!("write pid file {path}"), &e))
    }

    /// ESRCH where it is gone.
    pub fn check_alive(&self) -> Result<(), Failure> {
        let gone = || Failure::errno(format!("share {}", self.pid), libc::ESRCH);
        match Started::of(self.pid) {
            Ok(now) if now == *self => Ok(()),
            _ => Err(gone()),
        }
    }
}
