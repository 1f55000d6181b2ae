//! Control groups (v2): one for each container, one below it for each command, and one for crun itself while it works.

use crate::{log, sys};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where groups can be made, and what they can do.
pub enum Cgroups {
    /// Controllers: crun applies the limits. `mount` is where cgroup2 is mounted, `base` the agent's folder below it.
    Full { mount: PathBuf, base: String },
    /// A cgroup2 without controllers (hosts of cgroup v1): no limits, but whole trees can be killed.
    Bare { base: PathBuf },
    /// A pod on a host whose controllers are on cgroup v1: whole trees are killed by the group of cgroup2, limits are on those of v1
    /// (cgroup_v1.rs). `mount` is where cgroup2 is mounted, `unified` the pod's folder there, `v1` its folder in each other hierarchy.
    Split {
        mount: PathBuf,
        unified: PathBuf,
        v1: Vec<PathBuf>,
    },
}

const USUAL: &str = "/sys/fs/cgroup";
const WANTED: &str = "+cpu +memory +pids +io +cpuset +hugetlb";

impl Cgroups {
    /// In a VM: all of /sys/fs/cgroup is ours.
    pub fn of_vm() -> io::Result<Self> {
        let mount = PathBuf::from(USUAL);
        enable(&mount)?;
        let base = mount.join("podvm");
        fs::create_dir_all(&base)?;
        enable(&base)?;
        Ok(Cgroups::Full {
            mount,
            base: "podvm".into(),
        })
    }

    /// On a host, in a mount namespace of the agent's own. `home`: where a cgroup2 is mounted if the host has mounted none.
    pub fn of_host(home: &Path) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mounted = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (target, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(target))
        });
        let mount = match mounted {
            Some(mount) => mount,
            None => {
                let own = home.join("cgroup");
                fs::create_dir_all(&own)?;
                sys::mount("cgroup2", &own, "cgroup2", 0, "")?;
                own
            }
        };
        let name = format!("podvm-agent-{}-{}", std::process::id(), sys::hex(&sys::random::<4>()));
        let base = mount.join(&name);
        fs::create_dir(&base)?;
        let controllers = fs::read_to_string(base.join("cgroup.controllers"))?;
        if ["cpu", "memory", "pids"]
            .iter()
            .all(|c| controllers.split_whitespace().any(|found| found == *c))
        {
            enable(&base)?;
            return Ok(Cgroups::Full { mount, base: name });
        }
        log::warn("no cgroup v2 controllers here: containers run without limits");
        // crun refuses hosts that mount both versions. In this mount namespace it shall see one.
        let usual = Path::new(USUAL);
        if mount != usual {
            sys::mount(&mount.to_string_lossy(), usual, "", libc::MS_BIND, "")?;
        }
        Ok(Cgroups::Bare { base: usual.join(name) })
    }

    /// A pod on a host: `folders` are its group in every hierarchy.
    pub fn of_pod(folders: &[PathBuf]) -> io::Result<Self> {
        let (unified, v1): (Vec<_>, Vec<_>) = folders
            .iter()
            .cloned()
            .partition(|f| f.join("cgroup.controllers").exists());
        let missing = || {
            io::Error::new(
                io::ErrorKind::NotFound,
                "wanted a mounted cgroup2, found none: mount it on /sys/fs/cgroup/unified",
            )
        };
        let unified = unified.into_iter().next().ok_or_else(missing)?;
        let mount = unified
            .ancestors()
            .take_while(|dir| dir.join("cgroup.controllers").exists())
            .last()
            .map(Path::to_path_buf)
            .ok_or_else(missing)?;
        if !v1.is_empty() {
            return Ok(Cgroups::Split { mount, unified, v1 });
        }
        enable(&unified)?;
        let base = unified
            .strip_prefix(&mount)
            .unwrap_or(&unified)
            .to_string_lossy()
            .into_owned();
        Ok(Cgroups::Full { mount, base })
    }

    /// Groups of a container in the hierarchies of cgroup v1; none where limits are on cgroup v2 or nowhere.
    pub fn v1(&self, id: &str) -> Vec<PathBuf> {
        match self {
            Cgroups::Split { v1, .. } => v1.iter().map(|dir| dir.join(format!("c-{id}"))).collect(),
            _ => Vec::new(),
        }
    }

    /// What crun has to find on /sys/fs/cgroup instead of what is there: it refuses hosts that mount both versions.
    pub fn shown_to_crun(&self) -> Option<&Path> {
        match self {
            Cgroups::Split { mount, .. } => Some(mount),
            _ => None,
        }
    }

    /// The folder of all that the agent runs.
    pub fn base(&self) -> PathBuf {
        match self {
            Cgroups::Full { mount, base } => mount.join(base),
            Cgroups::Bare { base } => base.clone(),
            Cgroups::Split { unified, .. } => unified.clone(),
        }
    }

    /// The folder of a container's group.
    pub fn container(&self, id: &str) -> PathBuf {
        self.base().join(format!("c-{id}"))
    }

    /// `linux.cgroupsPath`; None where crun shall leave cgroups alone.
    pub fn crun_path(&self, id: &str) -> Option<String> {
        match self {
            Cgroups::Full { base, .. } => Some(format!("/{base}/c-{id}")),
            Cgroups::Bare { .. } | Cgroups::Split { .. } => None,
        }
    }

    /// A group for crun and what it forks before it moves that into the container's, `name` unique. Makes it.
    pub fn work(&self, name: &str) -> io::Result<PathBuf> {
        let dir = self.base().join(format!("x-{name}"));
        fs::create_dir(&dir)?;
        Ok(dir)
    }

    /// Removes the agent's folder (as a process of a host, at its end). A pod's are the server's.
    pub fn remove(&self) {
        if !matches!(self, Cgroups::Split { .. }) {
            remove_tree(&self.base());
        }
    }
}

fn enable(dir: &Path) -> io::Result<()> {
    let available = fs::read_to_string(dir.join("cgroup.controllers"))?;
    for controller in WANTED
        .split(' ')
        .filter(|c| available.split_whitespace().any(|a| a == &c[1..]))
    {
        fs::write(dir.join("cgroup.subtree_control"), controller)?;
    }
    Ok(())
}

/// All processes of a group and of those below it.
pub fn processes(dir: &Path) -> Vec<libc::pid_t> {
    let mut found: Vec<libc::pid_t> = fs::read_to_string(dir.join("cgroup.procs"))
        .map(|text| text.lines().filter_map(|l| l.parse().ok()).collect())
        .unwrap_or_default();
    for child in children(dir) {
        found.extend(processes(&child));
    }
    found
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

/// Kills all processes of a group and those below, and waits until none is left. Ok where there is no such group.
pub async fn kill(dir: &Path, within: Duration) -> io::Result<()> {
    let deadline = Instant::now() + within;
    let mut pause = 1;
    while dir.exists() && populated(dir)? {
        match fs::write(dir.join("cgroup.kill"), "1") {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        if Instant::now() > deadline {
            let left = processes(dir);
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("processes survive SIGKILL: {left:?}"),
            ));
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
        pause = (pause * 2).min(50);
    }
    Ok(())
}

fn populated(dir: &Path) -> io::Result<bool> {
    match fs::read_to_string(dir.join("cgroup.events")) {
        Ok(text) => Ok(value(&text, "populated") == Some(1)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Signals every process of a group. Those that have gone meanwhile are no error.
pub fn signal(dir: &Path, signal: i32) {
    for pid in processes(dir) {
        unsafe { libc::kill(pid, signal) };
    }
}

/// Moves what is left in `from` to `to`, and removes `from`; false where that is not possible (yet).
pub fn dissolve(from: &Path, to: &Path) -> bool {
    for pid in processes(from) {
        if fs::write(to.join("cgroup.procs"), pid.to_string()).is_err() {
            break;
        }
    }
    remove_tree(from)
}

/// Removes a group and those below. False where processes are left in it.
pub fn remove_tree(dir: &Path) -> bool {
    for child in children(dir) {
        remove_tree(&child);
    }
    match fs::remove_dir(dir) {
        Ok(()) => true,
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    }
}

/// The value of a key in a "key value" file such as memory.events.
pub fn value(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Number of processes of the group that the kernel killed for lack of memory.
pub fn oom_kills(dir: &Path) -> u64 {
    fs::read_to_string(dir.join("memory.events"))
        .ok()
        .and_then(|text| value(&text, "oom_kill"))
        .unwrap_or(0)
}

/// An open cgroup.procs: a child writes "0" to it between fork and exec.
pub fn procs_file(dir: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().write(true).open(dir.join("cgroup.procs"))
}

/// Makes a group where there is none yet.
pub fn make(dir: &Path) -> io::Result<()> {
    match sys::check(unsafe { libc::mkdir(sys::cpath(dir)?.as_ptr(), 0o755) }) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_matched_whole() {
        let text = "low 0\noom 2\noom_kill 3\noom_group_kill 1\n";
        assert_eq!(value(text, "oom"), Some(2));
        assert_eq!(value(text, "oom_kill"), Some(3));
        assert_eq!(value(text, "max"), None);
    }
}
