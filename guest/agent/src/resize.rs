//! Resize: as many CPUs run as the pod shall have. The kernel brings memory online by itself (memhp_default_state), CPUs it does not.

use crate::agent::Agent;
use crate::fail::{internal, precondition, Doing};
use crate::pb::agent::v1::{ResizeRequest, ResizeResponse};
use crate::stats::guest::meminfo;
use crate::{modules, sys};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tonic::Status;

const CPUS: &str = "/sys/devices/system/cpu";
const LONGEST_MS: u32 = 60_000;
/// An ACPI event, and the kernel's work on it, have no file that could be watched.
const PAUSE: Duration = Duration::from_millis(10);

/// Returns when exactly `cpus` are online (0: at once). Those that are there are brought online or taken offline; those that the VMM has just
/// plugged in are waited for.
pub async fn resize(agent: &Agent, request: ResizeRequest) -> Result<ResizeResponse, Status> {
    if !agent.setup.is_vm() {
        return Err(precondition("resize: there is no VM around this agent"));
    }
    // Memory comes with a driver of its own.
    drop(tokio::task::spawn_blocking(modules::load_later).await);
    let end = Instant::now() + Duration::from_millis(request.timeout_ms.min(LONGEST_MS).into());
    let wanted = request.cpus;
    while wanted != 0 && sys::cpus_online() != wanted {
        // Not on this thread, which serves the link: a CPU takes a while to come up.
        tokio::task::spawn_blocking(move || bring_to(Path::new(CPUS), sys::cpus_online(), wanted))
            .await
            .map_err(|e| internal("CPUs", e))?
            .doing(|| "CPUs")?;
        let online = sys::cpus_online();
        if online == wanted {
            break;
        }
        if Instant::now() > end {
            return Err(Status::deadline_exceeded(format!(
                "wanted {wanted} CPUs online, found {online}: the VM has no others"
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Ok(ResizeResponse {
        cpus: sys::cpus_online(),
        memory_total: meminfo(&memory, "MemTotal"),
    })
}

/// From `now` online to `wanted`, as far as there are CPUs to switch: the lowest numbers on, the highest off.
fn bring_to(folder: &Path, now: u32, wanted: u32) -> io::Result<()> {
    if now < wanted {
        for switch in switches(folder, "0")?.into_iter().take((wanted - now) as usize) {
            fs::write(switch, "1")?;
        }
    } else {
        for switch in switches(folder, "1")?.into_iter().rev().take((now - wanted) as usize) {
            fs::write(switch, "0")?;
        }
    }
    Ok(())
}

/// `cpuN/online` of those that say so, by number. The first CPU has no such file.
fn switches(folder: &Path, state: &str) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(folder)?
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("cpu")?.parse().ok()?;
            let switch = entry.path().join("online");
            (fs::read_to_string(&switch).ok()?.trim() == state).then_some((number, switch))
        })
        .collect();
    found.sort();
    Ok(found.into_iter().map(|(_, switch)| switch).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_number_up_and_down() {
        let folder = std::env::temp_dir().join(format!("podvm-cpus-{}", std::process::id()));
        for (name, state) in [
            ("cpu10", Some("0")),
            ("cpu2", Some("0\n")),
            ("cpu1", Some("1")),
            ("cpu0", None),
            ("cpufreq", Some("0")),
        ] {
            fs::create_dir_all(folder.join(name)).unwrap();
            if let Some(state) = state {
                fs::write(folder.join(name).join("online"), state).unwrap();
            }
        }
        let path = |name: &str| folder.join(name).join("online");
        assert_eq!(switches(&folder, "0").unwrap(), [path("cpu2"), path("cpu10")]);
        bring_to(&folder, 2, 3).unwrap();
        assert_eq!(switches(&folder, "0").unwrap(), [path("cpu10")]);
        bring_to(&folder, 3, 2).unwrap();
        assert_eq!(switches(&folder, "1").unwrap(), [path("cpu1")]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
