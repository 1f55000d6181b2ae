//! Size of a container's writable layer: counted by walking it, at most every 10 s.

use crate::container::Container;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const FRESH: Duration = Duration::from_secs(10);
/// A layer that takes longer is counted on in the background; until then the older figures hold.
const WAIT: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Usage {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    counted: Option<Instant>,
    counting: bool,
    bytes: u64,
    inodes: u64,
}

/// (bytes, inodes).
pub async fn of(container: &Arc<Container>) -> (u64, u64) {
    if begin(&container.usage) {
        let container = container.clone();
        let counting = tokio::task::spawn_blocking(move || {
            let (mut bytes, mut inodes) = (0, 0);
            count(&container.layer.join("upper"), &mut bytes, &mut inodes);
            let mut state = container.usage.lock();
            *state = State {
                counted: Some(Instant::now()),
                counting: false,
                bytes,
                inodes,
            };
        });
        drop(tokio::time::timeout(WAIT, counting).await);
    }
    let state = container.usage.lock();
    (state.bytes, state.inodes)
}

fn begin(usage: &Usage) -> bool {
    let mut state = usage.lock();
    if state.counting || state.counted.is_some_and(|at| at.elapsed() < FRESH) {
        return false;
    }
    state.counting = true;
    true
}

impl Usage {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What vanishes while it is counted is left out. A file with several names counts once for each.
fn count(dir: &Path, bytes: &mut u64, inodes: &mut u64) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        *bytes += meta.blocks() * 512;
        *inodes += 1;
        if meta.is_dir() {
            count(&entry.path(), bytes, inodes);
        }
    }
}
