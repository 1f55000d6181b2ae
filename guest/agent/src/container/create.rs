//! CreateContainer: image, root file system, config.json, `crun create`.

use super::input::Input;
use super::output::Output;
use super::{remove, watch, Container, MOST};
use crate::agent::Agent;
use crate::crun::{Call, Failed, Streams};
use crate::fail::{internal, invalid, precondition, Doing};
use crate::idmap::Mapped;
use crate::ids::{check_id, check_serial};
use crate::pb::agent::v1::{CreateContainerRequest, CreateContainerResponse, PidNamespace, Stream, UserSpec};
use crate::pb::oci::v1::{Process, Spec};
use crate::rootfs::{self, Rootfs};
use crate::tube::{Console, Tube};
use crate::userns::{Ranges, UserNamespace};
use crate::users::Identity;
use crate::volume::Held;
use crate::{apparmor, cgroup_v1, device, guest_devices, modules, reaper, spec, sys, users};
use prost::Message;
use std::fs;
use std::hash::BuildHasher;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::Status;

/// What a pipe may hold: each change of process costs an emulated guest all that it had cached of address translation.
const PIPE: libc::c_int = 256 << 10;
const TERMINAL_WITHIN: Duration = Duration::from_secs(30);

/// Makes the container, or answers as before where the same request made it. After a failure nothing is left.
pub async fn create(agent: &Arc<Agent>, request: CreateContainerRequest) -> Result<CreateContainerResponse, Status> {
    check(agent, &request)?;
    let id = request.container_id.clone();
    let fingerprint = agent.hasher.hash_one(request.encode_to_vec());
    let _lock = agent.containers.lock(&id).await;
    if let Some(existing) = agent.containers.find(&id) {
        if existing.request == fingerprint {
            return Ok(existing.answer.clone());
        }
        return Err(Status::already_exists(format!(
            "container {id:?} was made by another request"
        )));
    }
    if agent.containers.all().len() >= MOST {
        return Err(Status::resource_exhausted(format!(
            "wanted at most {MOST} containers, found as many"
        )));
    }
    if administers_network(&request) {
        drop(tokio::task::spawn_blocking(modules::load_later).await);
    }
    let serial = request.image.as_ref().map(|i| i.serial.clone()).unwrap_or_default();
    let lower = agent
        .images
        .acquire(&agent.setup, &serial)
        .await
        .doing(|| format!("image of container {id:?}"))?;
    match build(agent, request, fingerprint, &lower).await {
        Ok(answer) => Ok(answer),
        Err(status) => {
            if let Err(e) = remove::undo(agent, &id).await {
                crate::log::error(format!("after the failed creation of {id}: {e}"));
            }
            agent.images.release(&serial).await;
            Err(status)
        }
    }
}

/// Such a container may want a bridge, a tap or a tunnel at once.
fn administers_network(request: &CreateContainerRequest) -> bool {
    let capabilities = request
        .spec
        .as_ref()
        .and_then(|s| s.process.as_ref()?.capabilities.as_ref());
    capabilities.is_some_and(|c| c.bounding.iter().any(|name| name == "CAP_NET_ADMIN"))
}

fn check(agent: &Agent, request: &CreateContainerRequest) -> Result<(), Status> {
    check_id("container_id", &request.container_id)?;
    let serial = request.image.as_ref().map_or("", |image| image.serial.as_str());
    match serial.strip_prefix("dir:") {
        Some(dir) if !agent.setup.is_vm() => {
            // These would be taken for separators in the options of overlay.
            if !Path::new(dir).is_absolute() || dir.contains([',', ':', '\\', '\0']) {
                return Err(invalid(format!(
                    "image.serial: wanted dir:/absolute/path without [,:\\], found {serial:?}"
                )));
            }
        }
        _ => check_serial(serial)?,
    }
    let spec = request
        .spec
        .as_ref()
        .ok_or_else(|| invalid("spec: wanted one, found none"))?;
    spec::check(spec, !agent.setup.is_vm())?;
    device::check(&request.devices)?;
    if agent.sandbox.pod_id().is_empty() {
        return Err(precondition("wanted ConfigureSandbox before the first container"));
    }
    Ok(())
}

async fn build(
    agent: &Arc<Agent>,
    request: CreateContainerRequest,
    fingerprint: u64,
    lower: &Path,
) -> Result<CreateContainerResponse, Status> {
    let id = &request.container_id;
    let setup = &agent.setup;
    let bundle = setup.bundle(id);
    let layer = setup.layer(id);
    let rootfs = bundle.join("rootfs");
    let user_namespace = agent.sandbox.user_namespace();
    make_rootfs(lower, &layer, &bundle, user_namespace.as_deref()).doing(|| "root file system")?;
    let root = Rootfs::open(&rootfs).doing(|| "root file system")?;
    let identity = who(&root, request.user.clone().unwrap_or_default())?;
    let outside = user_namespace.as_deref().map(|u| inside_of(u, &identity)).transpose()?;
    copy_pod_files(&setup.pod_files(), &bundle, user_namespace.as_deref()).doing(|| "hosts, resolv.conf, hostname")?;
    // On a host the profile is loaded already: that is where it comes from.
    if setup.is_vm() {
        load_profile(&request)?;
    }
    let devices = if request.all_devices {
        guest_devices::all(user_namespace.is_some(), &request.devices).doing(|| "devices of the guest")?
    } else {
        Vec::new()
    };

    let asked = request.spec.clone().unwrap_or_default();
    let held = Held::of(agent, &asked).await?;
    let facts = spec::Facts {
        rootfs: &rootfs,
        files: &bundle,
        shm: &setup.shm(),
        volumes: &held.paths,
        identity: &identity,
        pid_namespace: pid_namespace(agent, &request)?,
        user_namespace: user_namespace.as_deref(),
        devices,
        cgroups_path: setup.cgroups.crun_path(id),
    };
    let mut spec = spec::complete(asked, facts);
    device::add(&mut spec, &request.devices, &identity).await?;
    let process = spec.process.clone().unwrap_or_default();
    make_cwd(&root, &process.cwd, user_namespace.as_deref())
        .doing(|| format!("working directory {:?}", process.cwd))?;
    // Until crun has taken its own copies.
    let _mapped = map_mounts(&mut spec, |number| setup.mapped(id, number), user_namespace.as_deref())?;
    write_config(&spec, &bundle).doing(|| "config.json")?;

    let cgroup = setup.cgroups.container(id);
    let wanted = request.spec.as_ref().and_then(|s| s.process.as_ref()?.oom_score_adj);
    let oom_score_adj = if outside.is_some() { wanted.unwrap_or(0) } else { 0 };
    let streams = run_crun(agent, &request, &process, &bundle, outside, oom_score_adj).await?;
    let pid = read_pid(&bundle.join("pid")).doing(|| "pid file of crun")?;
    let waiter = reaper::adopt(pid);
    let v1 = setup.cgroups.v1(id);
    let resources = spec.linux.and_then(|l| l.resources).unwrap_or_default();
    cgroup_v1::place(&v1, pid, &resources).doing(|| "cgroup")?;
    let output = Output::new(request.spool_size);
    output.pump(Stream::Stdout, streams.stdout);
    output.pump(Stream::Stderr, streams.stderr);
    let answer = CreateContainerResponse {
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups.clone(),
        pid: pid as u32,
    };
    let container = Arc::new(Container {
        id: id.clone(),
        request: fingerprint,
        answer: answer.clone(),
        pid,
        created_ns: sys::now_ns(),
        process,
        oom_score_adj,
        pipe_owner: outside,
        image: request.image.map(|i| i.serial).unwrap_or_default(),
        cgroup,
        cgroups_v1: v1,
        layer,
        volumes: held.uses,
        output,
        input: Input::new(streams.stdin, streams.terminal.is_some(), request.stdin_once),
        terminal: streams.terminal,
        started_ns: Mutex::new(0),
        exit: tokio::sync::watch::Sender::new(None),
        usage: Default::default(),
    });
    agent.containers.insert(container.clone());
    watch::start(agent, container, waiter);
    Ok(answer)
}

/// The image below, a writable layer above. The layer lives no longer than the container, so it need not survive a crash: volatile
/// spares its syncs. In a user namespace the image is seen through it, so that its files have owners inside; overlay keeps a view of its own of what
/// it was given, so that ours can go. The writable layer holds the guest's ids: overlay makes its work folders as root of the guest, which in such a
/// view is no one.
fn make_rootfs(lower: &Path, layer: &Path, bundle: &Path, user_namespace: Option<&UserNamespace>) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let (upper, work, rootfs) = (layer.join("upper"), layer.join("work"), bundle.join("rootfs"));
    fs::create_dir_all(&rootfs)?;
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let view = match user_namespace {
        Some(user_namespace) => {
            let Ranges { uids, gids } = user_namespace.ranges;
            chown(&upper, Some(uids.base), Some(gids.base))?;
            Some(Mapped::mount(lower, bundle.join("lower"), user_namespace.pid)?)
        }
        None => None,
    };
    let meta = fs::metadata(lower)?;
    fs::set_permissions(&upper, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        view.as_ref().map_or(lower, Mapped::path).display(),
        upper.display(),
        work.display()
    );
    sys::mount("overlay", &rootfs, "overlay", 0, &options)
}

fn who(root: &Rootfs, user: UserSpec) -> Result<Identity, Status> {
    let passwd = root
        .text("/etc/passwd")
        .map_err(|e| precondition(format!("the image's /etc/passwd: {e}")))?;
    let group = root
        .text("/etc/group")
        .map_err(|e| precondition(format!("the image's /etc/group: {e}")))?;
    users::resolve(&user, &passwd, &group).map_err(|e| invalid(format!("user: {e}")))
}

/// Of the container's root, which may write them.
fn copy_pod_files(pod: &Path, bundle: &Path, user_namespace: Option<&UserNamespace>) -> io::Result<()> {
    for name in ["hosts", "resolv.conf", "hostname"] {
        fs::copy(pod.join(name), bundle.join(name))?;
        if let Some(UserNamespace { ranges, .. }) = user_namespace {
            chown(bundle.join(name), Some(ranges.uids.base), Some(ranges.gids.base))?;
        }
    }
    Ok(())
}

/// The guest's uid and gid of who runs. Ids that the user namespace has not cannot run.
fn inside_of(user_namespace: &UserNamespace, identity: &Identity) -> Result<(u32, u32), Status> {
    let Ranges { uids, gids } = user_namespace.ranges;
    let missing = |what: &str, id: u32, size: u32| {
        invalid(format!(
            "user: {what} {id} is not in the pod's user namespace, which has 0 to {}",
            size - 1
        ))
    };
    let uid = uids.outside(identity.uid);
    let uid = uid.ok_or_else(|| missing("uid", identity.uid, uids.size))?;
    let gid = gids.outside(identity.gid);
    let gid = gid.ok_or_else(|| missing("gid", identity.gid, gids.size))?;
    match identity.groups.iter().find(|group| gids.outside(**group).is_none()) {
        Some(group) => Err(missing("group", *group, gids.size)),
        None => Ok((uid, gid)),
    }
}

fn make_cwd(root: &Rootfs, cwd: &str, user_namespace: Option<&UserNamespace>) -> io::Result<()> {
    match user_namespace {
        None => root.make_dir(cwd),
        Some(UserNamespace { ranges, .. }) => {
            rootfs::made_as(ranges.uids.base, ranges.gids.base, || root.make_dir(cwd))
        }
    }
}

fn load_profile(request: &CreateContainerRequest) -> Result<(), Status> {
    if request.apparmor_policy.is_empty() {
        return Ok(());
    }
    let process = request.spec.as_ref().and_then(|s| s.process.as_ref());
    let profile = process.and_then(|p| p.apparmor_profile.as_deref()).unwrap_or("");
    apparmor::load(&request.apparmor_policy, profile)
}

/// Mounts that ask for it are replaced by views of their sources that are mapped to the pod's user namespace.
fn map_mounts(
    spec: &mut Spec,
    place: impl Fn(usize) -> PathBuf,
    user_namespace: Option<&UserNamespace>,
) -> Result<Vec<Mapped>, Status> {
    let mut views = Vec::new();
    for (number, mount) in spec.mounts.iter_mut().enumerate() {
        let asked = std::mem::take(&mut mount.uid_mappings);
        let groups = std::mem::take(&mut mount.gid_mappings);
        // Done here, and not by crun once more.
        mount.options.retain(|option| option != "idmap" && option != "ridmap");
        if asked.is_empty() && groups.is_empty() {
            continue;
        }
        let at = &mount.destination;
        let own = user_namespace.filter(|u| asked == [u.ranges.uids.mapping()] && groups == [u.ranges.gids.mapping()]);
        let user_namespace = own.ok_or_else(|| {
            invalid(format!(
                "mount on {at:?}: wanted the mappings of the pod's user namespace"
            ))
        })?;
        let source = Path::new(mount.source.as_deref().unwrap_or_default());
        let view = Mapped::mount(source, place(number), user_namespace.pid).map_err(|e| {
            precondition(format!(
                "mount on {at:?}: its file system cannot be mapped to the pod's user namespace: {e}"
            ))
        })?;
        mount.source = Some(view.path().to_string_lossy().into_owned());
        views.push(view);
    }
    Ok(views)
}

fn pid_namespace(agent: &Agent, request: &CreateContainerRequest) -> Result<Option<String>, Status> {
    let joined = |pid: libc::pid_t| Ok(Some(format!("/proc/{pid}/ns/pid")));
    match request.pid_namespace() {
        PidNamespace::Container => Ok(Some(String::new())),
        PidNamespace::Node => Ok(None),
        PidNamespace::Pod => match agent.sandbox.pid_holder() {
            Some(pid) => joined(pid),
            None => Err(precondition(
                "pid_namespace POD: wanted a sandbox with shared_pid_namespace",
            )),
        },
        PidNamespace::Target => {
            let target = agent.containers.get(&request.pid_target_container_id)?;
            if target.exit_record().is_some() {
                return Err(precondition(format!(
                    "pid_namespace TARGET: container {:?} has exited",
                    target.id
                )));
            }
            joined(target.pid)
        }
    }
}

fn write_config(spec: &Spec, bundle: &Path) -> io::Result<()> {
    let text = serde_json::to_vec(spec).map_err(io::Error::other)?;
    fs::write(bundle.join("config.json"), text)
}

/// The agent's ends.
struct Ends {
    stdin: Option<Tube>,
    stdout: Option<Tube>,
    stderr: Option<Tube>,
    terminal: Option<Tube>,
}

async fn run_crun(
    agent: &Agent,
    request: &CreateContainerRequest,
    process: &Process,
    bundle: &Path,
    pipe_owner: Option<(u32, u32)>,
    oom_score_adj: i32,
) -> Result<Ends, Status> {
    let setup = &agent.setup;
    let group = bare_group(agent, request)?;
    let call = Call::new(setup, "create")
        .option("--bundle", bundle)
        .option("--pid-file", bundle.join("pid"))
        .oom_score_adj(oom_score_adj)
        .group(group);
    if process.terminal {
        let console = Console::listen(agent.socket_path()).doing(|| "console socket")?;
        let call = call
            .option("--console-socket", console.path())
            .arg(&request.container_id);
        let receiving = tokio::time::timeout(TERMINAL_WITHIN, console.receive());
        tokio::pin!(receiving);
        let running = call.run();
        tokio::pin!(running);
        let terminal = tokio::select! {
            result = &mut running => {
                result.map_err(crun_status)?;
                receiving.await
            }
            terminal = &mut receiving => {
                running.await.map_err(crun_status)?;
                terminal
            }
        };
        let terminal = terminal
            .doing(|| "terminal from crun")?
            .doing(|| "terminal from crun")?;
        let stdin = request.stdin.then(|| terminal.clone());
        return Ok(Ends {
            stdin,
            stdout: Some(terminal.clone()),
            stderr: None,
            terminal: Some(terminal),
        });
    }
    let (out, child_out) = output_pipe().doing(|| "pipe")?;
    let (err, child_err) = output_pipe().doing(|| "pipe")?;
    let (stdin, child_in) = if request.stdin {
        input_pipe().map(|(a, b)| (Some(a), Some(b)))
    } else {
        Ok((None, None))
    }
    .doing(|| "pipe")?;
    let streams = Streams {
        stdin: child_in,
        stdout: Some(child_out),
        stderr: Some(child_err),
    };
    streams.give_to(pipe_owner).doing(|| "pipe")?;
    call.streams(streams)
        .arg(&request.container_id)
        .run()
        .await
        .map_err(crun_status)?;
    Ok(Ends {
        stdin,
        stdout: Some(out),
        stderr: Some(err),
        terminal: None,
    })
}

/// Where crun does not place processes itself, crun runs in the container's group, and its children stay there.
fn bare_group(agent: &Agent, request: &CreateContainerRequest) -> Result<Option<PathBuf>, Status> {
    let cgroups = &agent.setup.cgroups;
    if cgroups.crun_path(&request.container_id).is_some() {
        return Ok(None);
    }
    let dir = cgroups.container(&request.container_id);
    crate::cgroup::make(&dir).doing(|| "cgroup")?;
    Ok(Some(dir))
}

/// (agent's end, child's end) of a pipe that the child writes.
pub fn output_pipe() -> io::Result<(Tube, OwnedFd)> {
    let (read, write) = sys::pipe()?;
    sys::set_pipe_size(&read, PIPE);
    Ok((Tube::new(read)?, write))
}

/// (agent's end, child's end) of a pipe that the child reads.
pub fn input_pipe() -> io::Result<(Tube, OwnedFd)> {
    let (read, write) = sys::pipe()?;
    sys::set_pipe_size(&write, PIPE);
    Ok((Tube::new(write)?, read))
}

/// A command that cannot be run is the caller's mistake, all else ours.
fn crun_status(failed: Failed) -> Status {
    match failed.shell_code() {
        Some(_) => invalid(failed.message),
        None => internal("container", failed),
    }
}

pub fn read_pid(file: &Path) -> io::Result<libc::pid_t> {
    let text = fs::read_to_string(file)?;
    match text.trim().parse() {
        Ok(pid) if pid > 1 => Ok(pid),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{text:?} is no pid"),
        )),
    }
}
