//! Open files and folders of the guest.

use crate::sys::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

pub const MOST: usize = 65_536;

pub enum Handle {
    File(File),
    Folder(Mutex<Folder>),
}

pub struct Folder {
    pub fd: OwnedFd,
    /// Where the next getdents64 reads; None: not known.
    pub at: Option<u64>,
}

#[derive(Default)]
pub struct Handles {
    table: RwLock<HashMap<u64, Arc<Handle>>>,
    next: AtomicU64,
}

impl Handles {
    /// ENFILE where there are too many.
    pub fn add(&self, handle: Handle) -> Result<u64, Errno> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= MOST {
            return Err(libc::ENFILE);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        table.insert(number, Arc::new(handle));
        Ok(number)
    }

    /// As an earlier share numbered it.
    pub fn restore(&self, number: u64, handle: Handle) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.len() < MOST && number < u64::MAX / 2 {
            table.insert(number, Arc::new(handle));
            self.next.fetch_max(number, Ordering::Relaxed);
        }
    }

    /// Numbers below are not given any more.
    pub fn reserve(&self, below: u64) {
        self.next
            .fetch_max(below.min(u64::MAX / 2).saturating_sub(1), Ordering::Relaxed);
    }

    pub fn remove(&self, number: u64) {
        let removed = {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            table.remove(&number)
        };
        drop(removed); // closing may take long (a network file system): not under the lock
    }

    /// ESTALE: it could not be opened again after an earlier share died (EBADF is what the guest's kernel itself would say).
    pub fn get(&self, number: u64) -> Result<Arc<Handle>, Errno> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(&number).cloned().ok_or(libc::ESTALE)
    }
}
