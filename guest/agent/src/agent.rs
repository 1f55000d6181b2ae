//! The agent as a whole: what the calls work on.

use crate::container::Table;
use crate::dial;
use crate::events::Events;
use crate::exec::Execs;
use crate::images::Images;
use crate::oom::OomWatch;
use crate::sandbox::Sandbox;
use crate::setup::Setup;
use crate::sys;
use crate::volume::Volumes;
use std::hash::RandomState;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use tokio::sync::Semaphore;

pub struct Agent {
    pub setup: Setup,
    /// Random per start.
    pub instance: String,
    pub boot_ns: u64,
    /// Fingerprints of requests.
    pub hasher: RandomState,
    pub sandbox: Sandbox,
    pub images: Images,
    pub volumes: Volumes,
    pub containers: Table,
    pub execs: Execs,
    /// Connections of Dial.
    pub dials: Arc<Semaphore>,
    pub events: Events,
    pub oom: OomWatch,
    pub crun_version: tokio::sync::OnceCell<String>,
    /// Set by Shutdown: the process ends.
    pub ended: tokio::sync::watch::Sender<bool>,
    counter: AtomicU64,
}

impl Agent {
    pub fn new(setup: Setup) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Agent {
            setup,
            instance: sys::hex(&sys::random::<16>()),
            boot_ns: sys::clock_ns(libc::CLOCK_BOOTTIME) as u64,
            hasher: RandomState::new(),
            sandbox: Sandbox::default(),
            images: Images::default(),
            volumes: Volumes::default(),
            containers: Table::default(),
            execs: Execs::default(),
            dials: Arc::new(Semaphore::new(dial::MOST)),
            events: Events::default(),
            oom: OomWatch::new()?,
            crun_version: Default::default(),
            ended: tokio::sync::watch::Sender::new(false),
            counter: AtomicU64::new(1),
        }))
    }

    /// Unique in this agent.
    pub fn number(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// A fresh name for a console socket; short, since socket paths are.
    pub fn socket_path(&self) -> PathBuf {
        self.setup.home.join(format!("tty-{}", self.number()))
    }
}
