//! `/init` of a VM; or, on a host, `podvm-agent --listen SOCKET --state DIR [--crun PATH]`.

use podvm_agent::agent::Agent;
use podvm_agent::cgroup::Cgroups;
use podvm_agent::container::pidns;
use podvm_agent::link::{port, socket};
use podvm_agent::service::Service;
use podvm_agent::setup::{Mode, Setup};
use podvm_agent::{boot, host_pod, inside, log, modules, reaper, shutdown, sys, userns};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{signal, SignalKind};

const USAGE: &str = "usage: podvm-agent --listen SOCKET --state DIR [--crun PATH]   (as process 1: no arguments)";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some(pidns::ARGUMENT) => pidns::hold(),
        Some(userns::ARGUMENT) => userns::hold(),
        Some(inside::ARGUMENT) => inside::run(&args[1..]),
        _ => {}
    }
    if args.first().is_some_and(|a| a == "--host-pod") {
        return match host_pod::launch(run_host_pod) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE, // told on standard output
        };
    }
    let result = if std::process::id() == 1 && args.iter().all(|a| a != "--listen") {
        run_vm()
    } else {
        run_process(&args)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            log::error(&message);
            ExitCode::FAILURE
        }
    }
}

fn block_on(work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(16)
        .thread_stack_size(192 << 10)
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .map_err(|e| format!("runtime: {e}"))?;
    runtime.block_on(work)
}

/// The VM ends with this process: the kernel panics, and the VMM, told not to reboot, exits.
fn run_vm() -> Result<(), String> {
    boot::boot().map_err(|e| format!("boot: {e}"))?;
    boot::protect();
    let cgroups = Cgroups::of_vm().map_err(|e| format!("cgroups: {e}"))?;
    let setup = Setup {
        mode: Mode::Vm,
        home: "/run/podvm".into(),
        crun: "/bin/crun".into(),
        cgroups,
        host: None,
    };
    block_on(async {
        let agent = begin(setup)?;
        let port = port::open().await.map_err(|e| format!("virtio-serial port: {e}"))?;
        log::info(format!(
            "ready {} ms after the start of the kernel",
            sys::clock_ns(libc::CLOCK_BOOTTIME) / 1_000_000
        ));
        tokio::spawn(async {
            tokio::time::sleep(modules::LATER).await;
            drop(tokio::task::spawn_blocking(modules::load_later).await);
        });
        port::run(Service::new(agent), port).await
    })
}

fn begin(setup: Setup) -> Result<Arc<Agent>, String> {
    setup.prepare().map_err(|e| format!("{}: {e}", setup.home.display()))?;
    let agent = Agent::new(setup).map_err(|e| format!("start: {e}"))?;
    tokio::spawn(async {
        if let Err(e) = reaper::run().await {
            log::error(format!("reaper: {e}"));
        }
    });
    let watching = agent.clone();
    tokio::spawn(async move { watching.oom.run(&watching.events).await });
    Ok(agent)
}

fn run_process(args: &[String]) -> Result<(), String> {
    let option = |name: &str| {
        args.iter()
            .position(|a| a == name)
            .and_then(|at| args.get(at + 1))
            .cloned()
    };
    let (Some(listen_on), Some(state)) = (option("--listen"), option("--state")) else {
        return Err(USAGE.into());
    };
    let crun = option("--crun").map_or_else(|| find_in_path("crun"), |path| Some(path.into()));
    let crun = crun.ok_or("crun: not found in PATH; give --crun PATH")?;
    std::fs::create_dir_all(&state).map_err(|e| format!("{state}: {e}"))?;
    let home = std::fs::canonicalize(&state).map_err(|e| format!("{state}: {e}"))?;
    own_mounts().map_err(|e| format!("mount namespace: {e}"))?;
    sys::check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })
        .map_err(|e| format!("subreaper: {e}"))?;
    boot::protect();
    let cgroups = Cgroups::of_host(&home).map_err(|e| format!("cgroups: {e}"))?;
    let setup = Setup {
        mode: Mode::Process,
        home,
        crun,
        cgroups,
        host: None,
    };
    listen(setup, &listen_on, || ())
}

/// In a process of its own, the pod's namespaces entered. The report goes back while the start can still fail.
fn run_host_pod(
    document: host_pod::Document,
    report: host_pod::Report,
) -> Result<(), (String, Option<host_pod::Report>)> {
    boot::protect();
    let setup = match Cgroups::of_pod(&document.cgroups) {
        Ok(cgroups) => Setup {
            mode: Mode::Process,
            home: document.state.clone(),
            crun: document.crun.clone(),
            cgroups,
            host: Some(document.host_pod()),
        },
        Err(e) => return Err((format!("cgroups: {e}"), Some(report))),
    };
    let mut report = Some(report);
    let result = listen(setup, &document.listen, || drop(report.take()));
    result.map_err(|message| (message, report))
}

fn listen(setup: Setup, listen: &str, ready: impl FnOnce()) -> Result<(), String> {
    block_on(async {
        let agent = begin(setup)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| format!("SIGTERM: {e}"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| format!("SIGINT: {e}"))?;
        let mut ended = agent.ended.subscribe();
        // Last: who sees the socket may already end the agent.
        let listener = socket::listen(Path::new(listen)).map_err(|e| format!("{listen}: {e}"))?;
        log::info(format!("listens on {listen}"));
        ready();
        let result = tokio::select! {
            result = socket::run(Service::new(agent.clone()), listener) => result,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            _ = ended.wait_for(|e| *e) => Ok(()),
        };
        shutdown::clean_up(&agent).await;
        drop(std::fs::remove_file(listen));
        result
    })
}

/// What the agent mounts stays its own, and goes with it; what the host mounts later is seen.
fn own_mounts() -> std::io::Result<()> {
    sys::check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    sys::mount("none", Path::new("/"), "", libc::MS_REC | libc::MS_SLAVE, "")
}

fn find_in_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}
