//! ConfigureSandbox: makes the VM one pod's. In order: time, entropy, hostname, DNS and hosts, network, sysctls, scratch, shm, pid namespace.

mod clock;
mod files;
mod storage;
mod sysctl;

use crate::agent::Agent;
use crate::container::pidns::Holder;
use crate::fail::{internal, invalid, precondition, Doing};
use crate::pb::agent::v1::{ConfigureSandboxRequest, ConfigureSandboxResponse};
use crate::{log, net, sys};
use std::fs;
use std::sync::Mutex;
use tonic::Status;

#[derive(Default)]
pub struct Sandbox {
    /// One configuration at a time.
    busy: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Empty until all of it succeeded.
    pod_id: String,
    holder: Option<Holder>,
}

impl Sandbox {
    /// "" until configured.
    pub fn pod_id(&self) -> String {
        self.lock().pod_id.clone()
    }

    /// Process that holds the pod's pid namespace.
    pub fn pid_holder(&self) -> Option<libc::pid_t> {
        self.lock().holder.as_ref().map(|h| h.pid)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Repeated with the same pod it sets only the time. After a failure it may be repeated: each step is right when done already.
pub async fn configure(agent: &Agent, request: ConfigureSandboxRequest) -> Result<ConfigureSandboxResponse, Status> {
    let sandbox = &agent.sandbox;
    let _busy = sandbox.busy.lock().await;
    check(&request)?;
    let pod_id = sandbox.pod_id();
    if !pod_id.is_empty() && pod_id != request.pod_id {
        return Err(precondition(format!(
            "this VM is pod {pod_id:?}'s, found {:?}",
            request.pod_id
        )));
    }
    let vm = agent.setup.is_vm();
    if vm && request.realtime_ns != 0 {
        clock::set(request.realtime_ns).doing(|| "clock")?;
    }
    if !pod_id.is_empty() {
        return machine();
    }
    if vm {
        if !request.entropy.is_empty() {
            clock::add_entropy(&request.entropy).doing(|| "entropy")?;
        }
    }
    let host = agent.setup.host.as_ref();
    if vm || host.is_some_and(|h| h.own_uts) {
        set_hostname(&request.hostname).doing(|| "hostname")?;
    }
    files::write(&agent.setup.pod_files(), &request).doing(|| "resolv.conf, hosts, hostname")?;
    if let Some(host) = host {
        files::take_from_host(&agent.setup.pod_files(), host, request.dns.is_none())
            .doing(|| "resolv.conf, hosts, hostname of the host")?;
        sysctl::check_own(&request.sysctls, host)?;
    }
    if vm {
        net::configure(&request.network.clone().unwrap_or_default()).await?;
    }
    if vm || host.is_some() {
        sysctl::apply(&request.sysctls)?;
    }
    storage::scratch(&agent.setup, request.scratch.as_ref()).await?;
    storage::shm(&agent.setup, request.shm_size).doing(|| "shared memory")?;
    if request.shared_pid_namespace && sandbox.pid_holder().is_none() {
        let holder = Holder::start().doing(|| "pid namespace of the pod")?;
        sandbox.lock().holder = Some(holder);
    }
    sandbox.lock().pod_id = request.pod_id.clone();
    log::info(format!("configured for pod {}", request.pod_id));
    machine()
}

fn check(request: &ConfigureSandboxRequest) -> Result<(), Status> {
    if request.pod_id.is_empty() || request.pod_id.len() > 128 || request.pod_id.contains(|c: char| c.is_control()) {
        return Err(invalid("pod_id: wanted 1 to 128 printable characters"));
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    if request.hostname.len() > 64 || !request.hostname.bytes().all(legal) {
        return Err(invalid(format!(
            "hostname: wanted at most 64 characters of [A-Za-z0-9.-], found {:?}",
            request.hostname
        )));
    }
    if !request.entropy.is_empty() && !(32..=4096).contains(&request.entropy.len()) {
        return Err(invalid(format!(
            "entropy: wanted 32 to 4096 bytes, found {}",
            request.entropy.len()
        )));
    }
    files::check(request)?;
    sysctl::check(&request.sysctls)
}

fn set_hostname(name: &str) -> std::io::Result<()> {
    if name.is_empty() {
        return Ok(());
    }
    sys::check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

fn machine() -> Result<ConfigureSandboxResponse, Status> {
    let memory = fs::read_to_string("/proc/meminfo").map_err(|e| internal("/proc/meminfo", e))?;
    let memory_total = crate::stats::guest::meminfo(&memory, "MemTotal");
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    Ok(ConfigureSandboxResponse { memory_total, cpus })
}
