//! Out-of-memory kills: inotify on each container's memory.events, without polling.

use crate::cgroup;
use crate::events::Events;
use crate::pb::agent::v1::{event, ContainerOom};
use crate::sys;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;

pub struct OomWatch {
    inotify: AsyncFd<OwnedFd>,
    /// By container id.
    watched: Mutex<HashMap<String, Watched>>,
}

struct Watched {
    dir: PathBuf,
    /// Told already.
    kills: u64,
}

impl OomWatch {
    pub fn new() -> io::Result<Self> {
        let fd = sys::check(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) })?;
        let inotify = sys::watch_fd(unsafe { OwnedFd::from_raw_fd(fd) }, Interest::READABLE)?;
        Ok(OomWatch {
            inotify,
            watched: Mutex::default(),
        })
    }

    /// Begins watching a container's group. Without a memory controller there is nothing to watch.
    pub fn watch(&self, id: &str, dir: &Path) {
        let Ok(file) = sys::cpath(&dir.join("memory.events")) else {
            return;
        };
        let added =
            unsafe { libc::inotify_add_watch(self.inotify.get_ref().as_raw_fd(), file.as_ptr(), libc::IN_MODIFY) };
        if added >= 0 {
            self.lock().insert(
                id.into(),
                Watched {
                    dir: dir.into(),
                    kills: 0,
                },
            );
        }
    }

    /// The kernel drops the watch with the group.
    pub fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Tells of kills that were not told yet.
    pub fn look(&self, events: &Events) {
        for (id, watched) in self.lock().iter_mut() {
            let kills = cgroup::oom_kills(&watched.dir);
            if kills > watched.kills {
                watched.kills = kills;
                events.push(event::Kind::Oom(ContainerOom {
                    container_id: id.clone(),
                    kills,
                }));
            }
        }
    }

    /// Looks whenever a memory.events has changed, for ever.
    pub async fn run(&self, events: &Events) {
        let mut buffer = [0; 4096];
        loop {
            let Ok(mut guard) = self.inotify.readable().await else {
                return;
            };
            match sys::read(self.inotify.get_ref(), &mut buffer) {
                Ok(_) => self.look(events),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(_) => return,
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Watched>> {
        self.watched.lock().unwrap_or_else(|e| e.into_inner())
    }
}
