//! Starts a command with `crun exec`, detached: its status comes to the reaper.

use super::Group;
use crate::agent::Agent;
use crate::container::create::{input_pipe, output_pipe, read_pid};
use crate::container::Container;
use crate::crun::{Call, Failed, Streams};
use crate::fail::{internal, precondition, Doing};
use crate::pb::oci::v1::Process;
use crate::reaper::{self, Waiter};
use crate::tube::{Console, Tube};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tonic::Status;

const TERMINAL_WITHIN: Duration = Duration::from_secs(30);

pub struct Command<'a> {
    pub args: &'a [String],
    /// Width and height of the terminal, 0: as they come; None: no terminal.
    pub terminal: Option<(u32, u32)>,
    pub stdin: bool,
}

pub struct Running {
    pub pid: libc::pid_t,
    pub waiter: Waiter,
    pub stdin: Option<Tube>,
    pub stdout: Tube,
    pub stderr: Option<Tube>,
    pub terminal: Option<Tube>,
}

pub enum Launched {
    Running(Running),
    /// It cannot be run: a shell's exit code (126, 127) and the reason.
    Refused(i32, String),
}

/// FAILED_PRECONDITION where the container does not run.
pub fn check_running(container: &Container) -> Result<(), Status> {
    if container.exit_record().is_some() {
        return Err(precondition(format!("container {:?} has exited", container.id)));
    }
    if container.started() == 0 {
        return Err(precondition(format!(
            "container {:?} has not been started",
            container.id
        )));
    }
    Ok(())
}

/// Two files that vanish with this.
struct Files {
    process: PathBuf,
    pid: PathBuf,
}

impl Drop for Files {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.process));
        drop(fs::remove_file(&self.pid));
    }
}

pub async fn launch(
    agent: &Agent,
    container: &Container,
    group: &Group,
    command: Command<'_>,
) -> Result<Launched, Status> {
    let number = agent.number();
    let bundle = agent.setup.bundle(&container.id);
    let files = Files {
        process: bundle.join(format!("exec-{number}.json")),
        pid: bundle.join(format!("exec-{number}.pid")),
    };
    let mut process = container.process.clone();
    process.args = command.args.to_vec();
    process.terminal = command.terminal.is_some();
    let text = process_json(&process, command.terminal).doing(|| "process.json")?;
    fs::write(&files.process, text).doing(|| "process.json")?;

    let mut call = Call::new(&agent.setup, "exec")
        .arg("--detach")
        .option("--process", &files.process);
    call = call
        .option("--pid-file", &files.pid)
        .oom_score_adj(container.oom_score_adj)
        .group(Some(group.for_crun()))
        .groups_v1(agent.setup.cgroups.v1(&container.id));
    if let Some(sub) = group.for_command() {
        call = call.option("--cgroup", sub);
    }
    let result = if let Some(size) = command.terminal {
        with_terminal(agent, container, call, command.stdin, size).await
    } else {
        with_pipes(container, call, command.stdin).await
    };
    let mut running = match result? {
        Ok(running) => running,
        Err(failed) => {
            return match failed.shell_code() {
                Some(code) => Ok(Launched::Refused(code, failed.message)),
                None => Err(internal(format!("command in container {:?}", container.id), failed)),
            }
        }
    };
    running.pid = read_pid(&files.pid).doing(|| "pid file of crun")?;
    running.waiter = reaper::adopt(running.pid);
    Ok(Launched::Running(running))
}

/// With the terminal's size, so that the command never sees another.
fn process_json(process: &Process, terminal: Option<(u32, u32)>) -> serde_json::Result<Vec<u8>> {
    let mut json = serde_json::to_value(process)?;
    if let (Some((width, height)), Some(fields)) = (terminal.filter(|(w, h)| *w > 0 && *h > 0), json.as_object_mut()) {
        fields.insert(
            "consoleSize".into(),
            serde_json::json!({ "height": height, "width": width }),
        );
    }
    serde_json::to_vec(&json)
}

type Attempt = Result<Result<Running, Failed>, Status>;

fn running(stdin: Option<Tube>, stdout: Tube, stderr: Option<Tube>, terminal: Option<Tube>) -> Running {
    // Pid and waiter come from the pid file.
    let (_, waiter) = tokio::sync::oneshot::channel();
    Running {
        pid: 0,
        waiter,
        stdin,
        stdout,
        stderr,
        terminal,
    }
}

async fn with_pipes(container: &Container, call: Call<'_>, stdin: bool) -> Attempt {
    let (out, child_out) = output_pipe().doing(|| "pipe")?;
    let (err, child_err) = output_pipe().doing(|| "pipe")?;
    let (input, child_in) = match stdin.then(input_pipe).transpose().doing(|| "pipe")? {
        Some((ours, theirs)) => (Some(ours), Some(theirs)),
        None => (None, None),
    };
    let streams = Streams {
        stdin: child_in,
        stdout: Some(child_out),
        stderr: Some(child_err),
    };
    streams.give_to(container.pipe_owner).doing(|| "pipe")?;
    let result = call.streams(streams).arg(&container.id).run().await;
    Ok(result.map(|()| running(input, out, Some(err), None)))
}

async fn with_terminal(
    agent: &Agent,
    container: &Container,
    call: Call<'_>,
    stdin: bool,
    (width, height): (u32, u32),
) -> Attempt {
    let console = Console::listen(agent.socket_path()).doing(|| "console socket")?;
    let call = call
        .arg("--tty")
        .option("--console-socket", console.path())
        .arg(&container.id);
    let receiving = tokio::time::timeout(TERMINAL_WITHIN, console.receive());
    let both = async { tokio::join!(call.run(), receiving) };
    tokio::pin!(both);
    let (result, terminal) = both.await;
    if let Err(failed) = result {
        return Ok(Err(failed));
    }
    let terminal = terminal
        .doing(|| "terminal from crun")?
        .doing(|| "terminal from crun")?;
    if width > 0 && height > 0 {
        terminal.resize(width, height).doing(|| "size of the terminal")?;
    }
    Ok(Ok(running(
        stdin.then(|| terminal.clone()),
        terminal.clone(),
        None,
        Some(terminal),
    )))
}
