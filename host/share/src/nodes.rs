//! What the guest's kernel has looked up: node numbers, each a descriptor of the very file (O_PATH), which no rename on either side moves.
//!
//! A node is told from others by device, inode *and mount*: the same file by way of two volumes is two nodes, or a read-only volume would lend
//! itself the other's right to write. Numbers are never used again.

use crate::sys::{self, Errno};
use podvm_share_wire::ROOT;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Each is a descriptor and pins an inode of the host: some 1 KiB of kernel memory, counted to the pod.
pub const MOST: usize = 400_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    device: u64,
    inode: u64,
    mount: u64,
}

impl Key {
    pub fn of(stat: &libc::statx) -> Self {
        Key {
            device: (u64::from(stat.stx_dev_major) << 32) | u64::from(stat.stx_dev_minor),
            inode: stat.stx_ino,
            mount: stat.stx_mnt_id,
        }
    }
}

pub struct Node {
    pub fd: OwnedFd,
    /// S_IFMT bits: they never change.
    pub kind: u32,
    key: Key,
    lookups: AtomicU64,
}

impl Node {
    pub fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[derive(Default)]
struct Tables {
    by_number: HashMap<u64, Arc<Node>>,
    by_key: HashMap<Key, u64>,
}

pub struct Nodes {
    tables: RwLock<Tables>,
    next: AtomicU64,
    most: usize,
}

impl Nodes {
    pub fn new(root: OwnedFd, most: usize) -> Result<Self, Errno> {
        let stat = sys::stat(root.as_raw_fd())?;
        let nodes = Nodes {
            tables: RwLock::default(),
            next: AtomicU64::new(ROOT + 1),
            most,
        };
        // Never forgotten.
        nodes.put(ROOT, root, &stat, u64::MAX / 2);
        Ok(nodes)
    }

    /// ESTALE where the number is nobody's (any more).
    pub fn get(&self, number: u64) -> Result<Arc<Node>, Errno> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.by_number.get(&number).cloned().ok_or(libc::ESTALE)
    }

    /// The number of this file, counted once more. ENFILE where there are too many.
    pub fn found(&self, fd: OwnedFd, stat: &libc::statx) -> Result<u64, Errno> {
        let key = Key::of(stat);
        {
            let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(number) = count_again(&tables, &key) {
                return Ok(number);
            }
        }
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = count_again(&tables, &key) {
            return Ok(number);
        }
        if tables.by_number.len() >= self.most {
            return Err(libc::ENFILE);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        insert(&mut tables, number, fd, stat, 1);
        Ok(number)
    }

    /// As an earlier share numbered it. False where it cannot be.
    pub fn restore(&self, number: u64, fd: OwnedFd, stat: &libc::statx, lookups: u64) -> bool {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let taken = tables.by_number.contains_key(&number)
            || tables.by_key.contains_key(&Key::of(stat))
            || tables.by_number.len() >= self.most;
        drop(tables);
        if taken || number <= ROOT || number >= u64::MAX / 2 {
            return false;
        }
        self.put(number, fd, stat, lookups.min(u64::MAX / 2));
        self.reserve(number.saturating_add(1));
        true
    }

    /// Numbers below are not given any more.
    pub fn reserve(&self, below: u64) {
        self.next.fetch_max(below.min(u64::MAX / 2), Ordering::Relaxed);
    }

    pub fn forget(&self, number: u64, times: u64) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let Some(node) = tables.by_number.get(&number) else {
            return;
        };
        // Under the write lock nobody counts.
        let left = node.lookups.load(Ordering::Relaxed).saturating_sub(times);
        node.lookups.store(left, Ordering::Relaxed);
        if left > 0 || number == ROOT {
            return;
        }
        if let Some(node) = tables.by_number.remove(&number) {
            tables.by_key.remove(&node.key);
        }
    }

    pub fn len(&self) -> usize {
        self.tables
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .by_number
            .len()
    }

    pub fn is_empty(&self) -> bool {
        false // the root is always there
    }

    fn put(&self, number: u64, fd: OwnedFd, stat: &libc::statx, lookups: u64) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        insert(&mut tables, number, fd, stat, lookups);
    }
}

fn count_again(tables: &Tables, key: &Key) -> Option<u64> {
    let number = *tables.by_key.get(key)?;
    tables.by_number.get(&number)?.lookups.fetch_add(1, Ordering::Relaxed);
    Some(number)
}

fn insert(tables: &mut Tables, number: u64, fd: OwnedFd, stat: &libc::statx, lookups: u64) {
    let key = Key::of(stat);
    let node = Node {
        fd,
        kind: sys::kind(stat),
        key,
        lookups: AtomicU64::new(lookups),
    };
    tables.by_number.insert(number, Arc::new(node));
    tables.by_key.insert(key, number);
}
