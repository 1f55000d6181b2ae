//! Containers: what the agent knows of each, and the table of all.
//!
//! ```text
//!   CreateContainer        StartContainer            first process ends
//!  ─────────────────▶ CREATED ──────────▶ RUNNING ─────────────────────▶ EXITED ──▶ RemoveContainer
//!                        └──────────── killed before its start ────────────▲
//! ```

pub mod create;
pub mod input;
pub mod output;
pub mod pidns;
pub mod remove;
pub mod signal;
pub mod start;
pub mod update;
pub mod watch;

use crate::fail::missing;
use crate::keyed::Keyed;
use crate::pb::agent::v1::{ContainerInfo, ContainerState, CreateContainerResponse, ExitRecord};
use crate::pb::oci::v1::Process;
use crate::tube::Tube;
use crate::volume::Use;
use input::Input;
use output::Output;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::OwnedMutexGuard;
use tonic::Status;

pub const MOST: usize = 1024;

pub struct Container {
    pub id: String,
    /// Fingerprint of the request that made it.
    pub request: u64,
    pub answer: CreateContainerResponse,
    pub pid: libc::pid_t,
    pub created_ns: i64,
    /// What commands inherit: user, environment, capabilities …
    pub process: Process,
    pub oom_score_adj: i32,
    /// The guest's uid and gid that own the ends of pipes which the container's processes get; None: crun sees to it.
    pub pipe_owner: Option<(u32, u32)>,
    pub image: String,
    pub cgroup: PathBuf,
    /// Its groups in the hierarchies of cgroup v1, where those have the controllers.
    pub cgroups_v1: Vec<PathBuf>,
    pub layer: PathBuf,
    /// Those that it mounts: not to be removed before it.
    pub volumes: Vec<Use>,
    pub output: Arc<Output>,
    pub input: Input,
    pub terminal: Option<Tube>,
    /// 0: not started.
    pub started_ns: Mutex<i64>,
    pub exit: tokio::sync::watch::Sender<Option<ExitRecord>>,
    pub usage: crate::stats::usage::Usage,
}

impl Container {
    pub fn exit_record(&self) -> Option<ExitRecord> {
        *self.exit.borrow()
    }

    pub fn started(&self) -> i64 {
        *self.started_ns.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn info(&self) -> ContainerInfo {
        let exit = self.exit_record();
        let started_ns = self.started();
        let state = match (&exit, started_ns) {
            (Some(_), _) => ContainerState::Exited,
            (None, 0) => ContainerState::Created,
            (None, _) => ContainerState::Running,
        };
        ContainerInfo {
            container_id: self.id.clone(),
            state: state.into(),
            pid: self.pid as u32,
            created_ns: self.created_ns,
            started_ns,
            exit,
        }
    }
}

/// All containers, and a lock for each id: calls that change the same container follow each other.
#[derive(Default)]
pub struct Table {
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    locks: Keyed,
}

impl Table {
    /// NOT_FOUND where there is none.
    pub fn get(&self, id: &str) -> Result<Arc<Container>, Status> {
        self.find(id).ok_or_else(|| missing(id))
    }

    pub fn find(&self, id: &str) -> Option<Arc<Container>> {
        self.lock_table().get(id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Container>> {
        self.lock_table().values().cloned().collect()
    }

    pub fn insert(&self, container: Arc<Container>) {
        self.lock_table().insert(container.id.clone(), container);
    }

    pub fn forget(&self, id: &str) {
        self.lock_table().remove(id);
    }

    /// Waits for other calls on the same id.
    pub async fn lock(&self, id: &str) -> OwnedMutexGuard<()> {
        self.locks.lock(id).await
    }

    fn lock_table(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(|e| e.into_inner())
    }
}
