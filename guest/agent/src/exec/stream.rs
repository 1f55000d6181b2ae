//! Exec: a command with live streams. When its caller has gone, every process of it is killed.

use super::launch::{check_running, launch, Command, Launched, Running};
use super::{Execs, Group, Registered, DRAIN};
use crate::agent::Agent;
use crate::alloc::WhileStreaming;
use crate::fail::{internal, invalid, Doing};
use crate::ids::check_id;
use crate::log;
use crate::pb::agent::v1::exec_request::Kind as In;
use crate::pb::agent::v1::exec_response::Kind as Out;
use crate::pb::agent::v1::{ExecRequest, ExecResponse, ExecStart, ExitRecord};
use crate::reaper::Exit;
use crate::spec::check_args;
use crate::sys::now_ns;
use crate::tube::{take, Tube, PIECE};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

type Sender = mpsc::Sender<Result<ExecResponse, Status>>;

pub async fn exec(
    agent: Arc<Agent>,
    start: ExecStart,
    requests: Streaming<ExecRequest>,
) -> Result<mpsc::Receiver<Result<ExecResponse, Status>>, Status> {
    check_id("exec_id", &start.exec_id)?;
    check_args(&start.args)?;
    let container = agent.containers.get(&start.container_id)?;
    check_running(&container)?;
    let slot = agent.execs.slots.clone().try_acquire_owned();
    let slot = slot.map_err(|_| Status::resource_exhausted(format!("{} commands run already", super::MOST)))?;
    let registered = Execs::register(&agent, &start.container_id, &start.exec_id).ok_or_else(|| {
        Status::already_exists(format!(
            "exec {:?} of {:?} is running",
            start.exec_id, start.container_id
        ))
    })?;
    let group = Group::make(&agent, &container).doing(|| "cgroup")?;
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let (_slot, _buffers) = (slot, WhileStreaming);
        let mut group = group;
        let gone = sender.clone();
        let work = run(&agent, &container, &group, &start, registered, requests, &sender);
        let finished = tokio::select! {
            result = work => Some(result),
            // Nobody listens any more: the group is killed below.
            () = gone.closed() => None,
        };
        let killed = match &finished {
            Some(Ok(())) => Ok(()),
            _ => group.kill().await,
        };
        if let Err(e) = killed {
            log::error(format!("kill of a command in {}: {e}", container.id));
        }
        group.finish();
        if let Some(Err(status)) = finished {
            drop(sender.send(Err(status)).await);
        }
    });
    Ok(receiver)
}

async fn run(
    agent: &Arc<Agent>,
    container: &crate::container::Container,
    group: &Group,
    start: &ExecStart,
    registered: Registered,
    requests: Streaming<ExecRequest>,
    sender: &Sender,
) -> Result<(), Status> {
    let command = Command {
        args: &start.args,
        terminal: start.tty.then_some((start.width, start.height)),
        stdin: start.stdin,
    };
    let Running {
        pid,
        mut waiter,
        stdin,
        stdout,
        stderr,
        terminal,
    } = match launch(agent, container, group, command).await? {
        Launched::Running(running) => running,
        Launched::Refused(code, reason) => {
            send(sender, Out::Stderr(Bytes::from(reason + "\n"))).await?;
            let record = ExitRecord {
                exit_code: code,
                signal: 0,
                oom_killed: false,
                time_ns: now_ns(),
            };
            return send(sender, Out::Exit(record)).await;
        }
    };
    registered.set_terminal(terminal.clone());
    send(sender, Out::StartedPid(pid as u32)).await?;

    let writing = tokio::spawn(write(requests, stdin, start.tty));
    let outputs = async {
        let err = async {
            match &stderr {
                Some(stderr) => forward(stderr, sender, Out::Stderr).await,
                None => Ok(()),
            }
        };
        let (out, err) = tokio::join!(forward(&stdout, sender, Out::Stdout), err);
        out.and(err)
    };
    tokio::pin!(outputs);
    let mut outputs_done = false;
    let exit = loop {
        tokio::select! {
            exit = &mut waiter => break exit,
            result = &mut outputs, if !outputs_done => {
                result?;
                outputs_done = true;
            }
        }
    };
    if !outputs_done {
        // Others may hold the pipes: 2 s for what is still in them.
        if let Ok(result) = tokio::time::timeout(DRAIN, outputs).await {
            result?;
        }
    }
    writing.abort();
    let Exit { code, signal, time_ns } = exit.map_err(|e| internal("exit status", e))?;
    send(
        sender,
        Out::Exit(ExitRecord {
            exit_code: code,
            signal,
            oom_killed: false,
            time_ns,
        }),
    )
    .await
}

async fn send(sender: &Sender, kind: Out) -> Result<(), Status> {
    let message = ExecResponse { kind: Some(kind) };
    sender
        .send(Ok(message))
        .await
        .map_err(|_| Status::cancelled("the caller has gone"))
}

/// What is there goes in one message: a program that writes little at a time would else cost a message each.
async fn forward(tube: &Tube, sender: &Sender, kind: fn(Bytes) -> Out) -> Result<(), Status> {
    let mut buffer = BytesMut::with_capacity(PIECE);
    while let Ok(1..) = tube.read_more(&mut buffer).await {
        send(sender, kind(take(&mut buffer))).await?;
    }
    Ok(())
}

/// Requests to standard input. The end of the stream closes it too.
async fn write(mut requests: Streaming<ExecRequest>, mut stdin: Option<Tube>, terminal: bool) {
    while let Ok(Some(request)) = requests.message().await {
        match request.kind {
            Some(In::Stdin(data)) => {
                if let Some(tube) = &stdin {
                    if tube.write_all(&data).await.is_err() {
                        stdin = None;
                    }
                }
            }
            Some(In::CloseStdin(true)) => close(&mut stdin, terminal).await,
            _ => {}
        }
    }
    close(&mut stdin, terminal).await;
}

async fn close(stdin: &mut Option<Tube>, terminal: bool) {
    let Some(tube) = stdin.take() else { return };
    if terminal {
        if let Some(byte) = tube.end_of_input() {
            drop(tube.write_all(&[byte]).await);
        }
    }
}

/// The first request of a stream.
pub fn first(request: Option<ExecRequest>) -> Result<ExecStart, Status> {
    match request.and_then(|r| r.kind) {
        Some(In::Start(start)) => Ok(start),
        _ => Err(invalid("Exec: wanted `start` first")),
    }
}
