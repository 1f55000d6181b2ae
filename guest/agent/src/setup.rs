//! What the agent is and where its things lie: decided once at start.

use crate::cgroup::Cgroups;
use crate::host_pod::HostPod;
use std::path::{Path, PathBuf};

/// As PID 1 of a VM, or as a process of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Vm,
    Process,
}

pub struct Setup {
    pub mode: Mode,
    /// /run/podvm in a VM.
    pub home: PathBuf,
    pub crun: PathBuf,
    pub cgroups: Cgroups,
    /// A pod on the host (only with Mode::Process).
    pub host: Option<HostPod>,
}

impl Setup {
    pub fn is_vm(&self) -> bool {
        self.mode == Mode::Vm
    }

    /// Bundle of a container. `id` is a checked one.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.home.join("c").join(id)
    }

    /// Folder of a container's writable layer.
    pub fn layer(&self, id: &str) -> PathBuf {
        self.scratch().join(id)
    }

    pub fn scratch(&self) -> PathBuf {
        match &self.host {
            Some(host) => host.scratch.clone(),
            None => self.home.join("scratch"),
        }
    }

    pub fn images(&self) -> PathBuf {
        self.home.join("images")
    }

    /// What volumes keep in memory, a folder for each.
    pub fn volumes(&self) -> PathBuf {
        self.home.join("volumes")
    }

    /// Volumes on the scratch disk. No container id begins with a dot.
    pub fn scratch_volumes(&self) -> PathBuf {
        self.scratch().join(".volumes")
    }

    /// Paths inside volumes, mounted here while a container is made.
    pub fn pins(&self) -> PathBuf {
        self.home.join("pins")
    }

    /// Where the pod's share is mounted.
    pub fn share(&self) -> PathBuf {
        self.home.join("share")
    }

    pub fn shm(&self) -> PathBuf {
        match &self.host {
            Some(host) if !host.own_ipc => "/dev/shm".into(),
            _ => self.home.join("shm"),
        }
    }

    /// The pod's hosts, resolv.conf, hostname.
    pub fn pod_files(&self) -> PathBuf {
        if self.is_vm() {
            Path::new("/etc").into()
        } else {
            self.home.join("etc")
        }
    }

    /// An id-mapped mount of a container, while that is made.
    pub fn mapped(&self, id: &str, number: usize) -> PathBuf {
        self.home.join("mapped").join(format!("{id}-{number}"))
    }

    /// State of crun.
    pub fn crun_root(&self) -> PathBuf {
        self.home.join("crun")
    }

    /// Makes the folders.
    pub fn prepare(&self) -> std::io::Result<()> {
        for dir in [
            self.home.join("c"),
            self.scratch(),
            self.images(),
            self.volumes(),
            self.shm(),
            self.pod_files(),
            self.crun_root(),
        ] {
            std::fs::create_dir_all(dir)?;
        }
        // Containers in a user namespace of their own pass through; nobody else lists it.
        std::fs::set_permissions(&self.home, std::os::unix::fs::PermissionsExt::from_mode(0o711))
    }
}
