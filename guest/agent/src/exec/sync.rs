//! ExecSync: a command, its output, its exit code; at the time-out nothing of it is left.

use super::launch::{check_running, launch, Command, Launched};
use super::{Group, DRAIN};
use crate::agent::Agent;
use crate::container::Container;
use crate::fail::{internal, Doing};
use crate::pb::agent::v1::{ExecSyncRequest, ExecSyncResponse};
use crate::spec::check_args;
use crate::tube::Tube;
use bytes::Bytes;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tonic::Status;

const PER_STREAM: usize = 16 << 20;
/// Both must fit into one message.
const TOGETHER: usize = 19 << 20;
/// What all calls may hold at a time: the guest's memory is the pod's.
const OF_ALL: usize = 64 << 20;

pub async fn exec_sync(agent: &Arc<Agent>, request: ExecSyncRequest) -> Result<ExecSyncResponse, Status> {
    check_args(&request.args)?;
    let container = agent.containers.get(&request.container_id)?;
    check_running(&container)?;
    let slot = agent.execs.slots.clone().try_acquire_owned();
    let _slot = slot.map_err(|_| Status::resource_exhausted(format!("{} commands run already", super::MOST)))?;
    let mut group = Group::make(agent, &container).doing(|| "cgroup")?;
    let limit = match request.timeout_ms {
        0 => None,
        ms => Some(tokio::time::Instant::now() + Duration::from_millis(ms.into())),
    };
    let mut outputs = Outputs::new(agent, request.max_output_bytes);
    let result = run(agent, &container, &group, &request.args, &mut outputs, limit).await;
    let answer = match result {
        Ok(Some(code)) => Ok(outputs.answer(code, false)),
        Ok(None) => {
            group.kill().await.map_err(|e| internal("kill at the time-out", e))?;
            Ok(outputs.answer(137, true))
        }
        Err(status) => Err(status),
    };
    if answer.is_err() {
        group
            .kill()
            .await
            .map_err(|e| internal("kill of a command that failed", e))?;
    }
    group.finish();
    answer
}

/// Its exit code; None: the time is up.
async fn run(
    agent: &Agent,
    container: &Container,
    group: &Group,
    args: &[String],
    outputs: &mut Outputs,
    limit: Option<tokio::time::Instant>,
) -> Result<Option<i32>, Status> {
    let command = Command {
        args,
        terminal: None,
        stdin: false,
    };
    let Some(launched) = until(limit, launch(agent, container, group, command)).await else {
        return Ok(None);
    };
    let running = match launched? {
        Launched::Running(running) => running,
        Launched::Refused(code, reason) => {
            outputs.stderr.take(reason.as_bytes());
            return Ok(Some(code));
        }
    };
    let (exited, exit_seen) = watch::channel(false);
    let waiting = async {
        let exit = until(limit, running.waiter).await;
        // Killed at once, so that the pipes end; the caller does it again and takes the error.
        if exit.is_none() {
            drop(group.kill().await);
        }
        exited.send_replace(true);
        exit
    };
    let reading_err = async {
        if let Some(stderr) = &running.stderr {
            read(stderr, &mut outputs.stderr, exit_seen.clone()).await;
        }
    };
    let reading_out = read(&running.stdout, &mut outputs.stdout, exit_seen.clone());
    let (exit, (), ()) = tokio::join!(waiting, reading_out, reading_err);
    match exit {
        None => Ok(None),
        Some(exit) => exit.map(|e| Some(e.code)).map_err(|e| internal("exit status", e)),
    }
}

async fn until<T>(limit: Option<tokio::time::Instant>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout_at(limit, work).await.ok(),
        None => Some(work.await),
    }
}

/// Up to the end, or until the command has exited and the pipe is still held 2 s later.
async fn read(tube: &Tube, output: &mut Collected, mut exited: watch::Receiver<bool>) {
    let mut buffer = vec![0; 32 << 10];
    let drained = async {
        // The sender lives until the exit.
        drop(exited.wait_for(|e| *e).await);
        tokio::time::sleep(DRAIN).await;
    };
    tokio::pin!(drained);
    loop {
        let n = tokio::select! {
            read = tube.read(&mut buffer) => read.unwrap_or(0),
            () = &mut drained => 0,
        };
        if n == 0 {
            return;
        }
        output.take(&buffer[..n]);
    }
}

/// One stream of output.
struct Collected {
    data: Vec<u8>,
    limit: usize,
    truncated: bool,
    /// Of both streams of this call.
    together: Arc<AtomicUsize>,
    agent: Arc<Agent>,
}

impl Collected {
    /// Keeps what fits, drops the rest.
    fn take(&mut self, data: &[u8]) {
        let room = (self.limit - self.data.len())
            .min(TOGETHER.saturating_sub(self.together.load(Ordering::Relaxed)))
            .min(OF_ALL.saturating_sub(self.agent.execs.held.load(Ordering::Relaxed)));
        let n = room.min(data.len());
        self.truncated |= n < data.len();
        self.data.extend_from_slice(&data[..n]);
        self.together.fetch_add(n, Ordering::Relaxed);
        self.agent.execs.held.fetch_add(n, Ordering::Relaxed);
    }
}

impl Drop for Collected {
    fn drop(&mut self) {
        self.agent.execs.held.fetch_sub(self.data.len(), Ordering::Relaxed);
    }
}

struct Outputs {
    stdout: Collected,
    stderr: Collected,
}

impl Outputs {
    fn new(agent: &Arc<Agent>, wanted: u32) -> Self {
        let limit = if wanted == 0 {
            PER_STREAM
        } else {
            (wanted as usize).min(PER_STREAM)
        };
        let together = Arc::new(AtomicUsize::new(0));
        let stream = || Collected {
            data: Vec::new(),
            limit,
            truncated: false,
            together: together.clone(),
            agent: agent.clone(),
        };
        Outputs {
            stdout: stream(),
            stderr: stream(),
        }
    }

    fn answer(&self, exit_code: i32, timed_out: bool) -> ExecSyncResponse {
        ExecSyncResponse {
            stdout: Bytes::copy_from_slice(&self.stdout.data),
            stderr: Bytes::copy_from_slice(&self.stderr.data),
            exit_code,
            timed_out,
            truncated: self.stdout.truncated || self.stderr.truncated,
        }
    }
}
