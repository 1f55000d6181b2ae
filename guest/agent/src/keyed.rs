//! A lock for each id: calls that change the same thing follow each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::OwnedMutexGuard;

/// Above this many the locks that nobody holds are dropped.
const MANY: usize = 2048;

#[derive(Default)]
pub struct Keyed {
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Keyed {
    /// Waits for the other calls on the same id.
    pub async fn lock(&self, id: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(|e| e.into_inner());
            if locks.len() > MANY {
                locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            }
            locks.entry(id.into()).or_default().clone()
        };
        lock.lock_owned().await
    }
}
