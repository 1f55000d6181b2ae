//! ConfigureSandbox: makes the VM one pod's. In order: time, entropy, hostname, DNS and hosts, network, sysctls, scratch, shm, pid namespace.

mod clock;
mod files;
mod storage;
pub mod sysctl;

use crate::agent::Agent;
use crate::container::pidns::Holder;
use crate::fail::{internal, invalid, precondition, Doing};
use crate::inside::{self, Settings};
use crate::pb::agent::v1::{ConfigureSandboxRequest, ConfigureSandboxResponse};
use crate::userns::{Ranges, UserNamespace};
use crate::{log, net, sys};
use std::fs;
use std::sync::{Arc, Mutex};
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
    user_namespace: Option<Arc<UserNamespace>>,
    /// Of the pid namespace that the containers share.
    pid_holder: Option<libc::pid_t>,
}

impl Sandbox {
    /// "" until configured.
    pub fn pod_id(&self) -> String {
        self.lock().pod_id.clone()
    }

    /// Process that holds the pod's pid namespace.
    pub fn pid_holder(&self) -> Option<libc::pid_t> {
        self.lock().pid_holder
    }

    /// None: the pod's users are the guest's, and so are its network, IPC and UTS namespaces.
    pub fn user_namespace(&self) -> Option<Arc<UserNamespace>> {
        self.lock().user_namespace.clone()
    }

    /// Process whose network namespace is the pod's; None: it is the guest's own.
    pub fn network_holder(&self) -> Option<libc::pid_t> {
        self.lock().user_namespace.as_ref().map(|u| u.pid)
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
    if !vm && request.user_namespace.is_some() {
        return Err(precondition("user_namespace: a pod without a VM cannot have one"));
    }
    if vm && !request.entropy.is_empty() {
        clock::add_entropy(&request.entropy).doing(|| "entropy")?;
    }
    let host = agent.setup.host.as_ref();
    if vm || host.is_some_and(|h| h.own_uts) {
        set_hostname(&request.hostname).doing(|| "hostname")?;
    }
    let user_namespace = user_namespace(agent, &request).await?;
    files::write(&agent.setup.pod_files(), &request).doing(|| "resolv.conf, hosts, hostname")?;
    if let Some(host) = host {
        files::take_from_host(&agent.setup.pod_files(), host, request.dns.is_none())
            .doing(|| "resolv.conf, hosts, hostname of the host")?;
        sysctl::check_own(&request.sysctls, host)?;
    }
    if vm {
        let network = request.network.clone().unwrap_or_default();
        net::configure(&network, sandbox.network_holder()).await?;
    }
    if vm || host.is_some() {
        set_sysctls(user_namespace.as_deref(), &request)
            .await
            .map_err(invalid)?;
    }
    storage::scratch(&agent.setup, request.scratch.as_ref()).await?;
    storage::shm(&agent.setup, request.shm_size).doing(|| "shared memory")?;
    if request.shared_pid_namespace && sandbox.pid_holder().is_none() {
        share_pids(sandbox, user_namespace.as_deref()).doing(|| "pid namespace of the pod")?;
    }
    sandbox.lock().pod_id = request.pod_id.clone();
    log::info(format!("configured for pod {}", request.pod_id));
    machine()
}

/// Made once, where the request wants one.
async fn user_namespace(
    agent: &Agent,
    request: &ConfigureSandboxRequest,
) -> Result<Option<Arc<UserNamespace>>, Status> {
    let Some(wanted) = &request.user_namespace else {
        return Ok(None);
    };
    let ranges = Ranges::parse(wanted)?;
    if let Some(made) = agent.sandbox.user_namespace().filter(|made| made.ranges == ranges) {
        return Ok(Some(made));
    }
    let made = UserNamespace::start(ranges)
        .await
        .doing(|| "user namespace of the pod")?;
    let made = Arc::new(made);
    agent.sandbox.lock().user_namespace = Some(made.clone());
    Ok(Some(made))
}

async fn set_sysctls(user_namespace: Option<&UserNamespace>, request: &ConfigureSandboxRequest) -> Result<(), String> {
    let sysctls = request.sysctls.clone();
    let Some(user_namespace) = user_namespace else {
        return sysctl::apply(&sysctls);
    };
    let (of_namespaces, of_the_guest) = sysctls.into_iter().partition(|(name, _)| sysctl::of_namespaces(name));
    sysctl::apply(&of_the_guest)?;
    let settings = Settings {
        hostname: request.hostname.clone(),
        sysctls: of_namespaces,
    };
    inside::set(user_namespace.pid, &settings).await
}

/// The holder of the user namespace is process 1 of a pid namespace already.
fn share_pids(sandbox: &Sandbox, user_namespace: Option<&UserNamespace>) -> std::io::Result<()> {
    if let Some(user_namespace) = user_namespace {
        sandbox.lock().pid_holder = Some(user_namespace.pid);
        return Ok(());
    }
    let holder = Holder::start()?;
    let mut state = sandbox.lock();
    state.pid_holder = Some(holder.pid);
    state.holder = Some(holder);
    Ok(())
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
    if let Some(wanted) = &request.user_namespace {
        Ranges::parse(wanted)?;
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
