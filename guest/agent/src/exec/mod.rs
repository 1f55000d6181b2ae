//! Commands in containers.
//!
//! A command's processes live in a cgroup of their own below the container's, so that all of them can be killed, whatever they
//! forked. crun itself works in a third group, outside the container's limits; it is killed first, so that nothing can be
//! moved into the command's group any more while that is killed.

pub mod launch;
pub mod stream;
pub mod sync;

use crate::cgroup;
use crate::log;
use crate::tube::Tube;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Commands at a time.
pub const MOST: usize = 256;
/// How long after a command's exit others may hold its pipes.
pub const DRAIN: Duration = Duration::from_secs(2);
const DIES_WITHIN: Duration = Duration::from_secs(10);

pub struct Execs {
    pub slots: Arc<Semaphore>,
    /// Bytes of output that all ExecSync calls hold.
    pub held: AtomicUsize,
    /// Running Exec streams, by container and exec id: their terminals, where they have one.
    streams: Mutex<HashMap<(String, String), Option<Tube>>>,
}

impl Default for Execs {
    fn default() -> Self {
        Execs {
            slots: Arc::new(Semaphore::new(MOST)),
            held: AtomicUsize::new(0),
            streams: Mutex::default(),
        }
    }
}

impl Execs {
    /// Takes an id; None: it is taken. Given back when dropped.
    pub fn register(agent: &Arc<crate::agent::Agent>, container: &str, exec: &str) -> Option<Registered> {
        let key = (container.to_string(), exec.to_string());
        let mut streams = agent.execs.lock();
        if streams.contains_key(&key) {
            return None;
        }
        streams.insert(key.clone(), None);
        Some(Registered {
            agent: agent.clone(),
            key,
        })
    }

    /// The terminal of a running command. None: no such command; Some(None): it has no terminal.
    pub fn terminal(&self, container: &str, exec: &str) -> Option<Option<Tube>> {
        self.lock().get(&(container.to_string(), exec.to_string())).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Option<Tube>>> {
        self.streams.lock().unwrap_or_else(|e| e.into_inner())
    }
}

pub struct Registered {
    agent: Arc<crate::agent::Agent>,
    key: (String, String),
}

impl Registered {
    pub fn set_terminal(&self, terminal: Option<Tube>) {
        self.agent.execs.lock().insert(self.key.clone(), terminal);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.agent.execs.lock().remove(&self.key);
    }
}

/// The groups of one command. Killed when dropped unfinished.
pub struct Group {
    /// Where crun works; None where the command's own group does for both.
    work: Option<PathBuf>,
    /// The command's.
    own: PathBuf,
    /// The container's.
    parent: PathBuf,
    finished: bool,
}

impl Group {
    pub fn make(agent: &crate::agent::Agent, container: &crate::container::Container) -> std::io::Result<Self> {
        let number = agent.number();
        let parent = container.cgroup.clone();
        let own = parent.join(format!("exec-{number}"));
        cgroup::make(&own)?;
        let mut group = Group {
            work: None,
            own,
            parent,
            finished: false,
        };
        if agent.setup.cgroups.crun_path(&container.id).is_some() {
            group.work = Some(agent.setup.cgroups.work(&format!("exec-{number}"))?);
        }
        Ok(group)
    }

    /// Where crun runs.
    pub fn for_crun(&self) -> PathBuf {
        self.work.as_ref().unwrap_or(&self.own).clone()
    }

    /// `crun exec --cgroup`: below the container's; None where crun leaves cgroups alone.
    pub fn for_command(&self) -> Option<String> {
        self.work.as_ref()?;
        Some(self.own.file_name()?.to_string_lossy().into_owned())
    }

    /// Kills every process of the command; afterwards none is left.
    pub async fn kill(&self) -> std::io::Result<()> {
        if let Some(work) = &self.work {
            cgroup::kill(work, DIES_WITHIN).await?;
        }
        cgroup::kill(&self.own, DIES_WITHIN).await
    }

    /// The command has ended: what it left running in the background stays, as part of the container.
    pub fn finish(&mut self) {
        self.finished = true;
        if let Some(work) = &self.work {
            cgroup::remove_tree(work);
        }
        // Where that fails it goes with the container.
        cgroup::dissolve(&self.own, &self.parent);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let mut rest = Group {
            work: self.work.take(),
            own: self.own.clone(),
            parent: self.parent.clone(),
            finished: true,
        };
        tokio::spawn(async move {
            if let Err(e) = rest.kill().await {
                log::error(format!("kill of a command: {e}"));
            }
            rest.finish();
        });
    }
}
