//! The calls of the contract, each handed to the file that does it.
//!
//! The end of a connection drops the futures of its calls. What changes something therefore runs as a task of its own, to its end.

use crate::agent::Agent;
use crate::container::{create, output, remove, signal, start, update};
use crate::fail::{internal, invalid, precondition, Doing};
use crate::pb::agent::v1::agent_server::Agent as Contract;
use crate::pb::agent::v1::*;
use crate::{crun, dial, events, exec, log, resize, sandbox, shutdown, stats, sys, volume};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Revision of the contract.
const PROTOCOL: u32 = 1;
const LONGEST_WAIT_MS: u32 = 24 * 3600 * 1000;

#[derive(Clone)]
pub struct Service {
    agent: Arc<Agent>,
}

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = ReceiverStream<Result<T, Status>>;

impl Service {
    pub fn new(agent: Arc<Agent>) -> Self {
        Service { agent }
    }

    /// Runs to its end whatever becomes of the caller.
    async fn to_the_end<T, F>(&self, name: &'static str, work: impl FnOnce(Arc<Agent>) -> F) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let result = tokio::spawn(work(self.agent.clone()))
            .await
            .map_err(|e| internal(name, e))?;
        if let Err(status) = &result {
            log::warn(format!("{name}: {:?}: {}", status.code(), status.message()));
        }
        result.map(Response::new)
    }
}

#[tonic::async_trait]
impl Contract for Service {
    async fn hello(&self, request: Request<HelloRequest>) -> Answer<HelloResponse> {
        let request = request.into_inner();
        let agent = &self.agent;
        log::info(format!(
            "server {:?}, protocol {}",
            request.server_version, request.protocol
        ));
        let version = agent
            .crun_version
            .get_or_init(|| async { crun::version(&agent.setup).await.unwrap_or_default() });
        let mode = if agent.setup.is_vm() { "vm" } else { "process" };
        Ok(Response::new(HelloResponse {
            agent_version: env!("CARGO_PKG_VERSION").into(),
            protocol: PROTOCOL,
            instance: agent.instance.clone(),
            features: [
                "output-spool",
                "exec-kill-tree",
                "oom-events",
                "dial",
                "volumes",
                "user-namespace",
                "apparmor",
                "resize",
                mode,
            ]
            .map(String::from)
            .into(),
            kernel: sys::kernel_release(),
            pod_id: agent.sandbox.pod_id(),
            crun_version: version.await.clone(),
            boot_ns: agent.boot_ns,
        }))
    }

    async fn configure_sandbox(&self, request: Request<ConfigureSandboxRequest>) -> Answer<ConfigureSandboxResponse> {
        let request = request.into_inner();
        self.to_the_end("ConfigureSandbox", |agent| async move {
            sandbox::configure(&agent, request).await
        })
        .await
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        let request = request.into_inner();
        self.to_the_end("CreateContainer", |agent| async move {
            create::create(&agent, request).await
        })
        .await
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
        let id = request.into_inner().container_id;
        self.to_the_end("StartContainer", |agent| async move { start::start(&agent, &id).await })
            .await
    }

    async fn signal_container(&self, request: Request<SignalContainerRequest>) -> Answer<SignalContainerResponse> {
        let request = request.into_inner();
        let work = |agent: Arc<Agent>| async move {
            signal::signal(&agent, &request)
                .await
                .map(|()| SignalContainerResponse {})
        };
        self.to_the_end("SignalContainer", work).await
    }

    async fn wait_container(&self, request: Request<WaitContainerRequest>) -> Answer<WaitContainerResponse> {
        let request = request.into_inner();
        let container = self.agent.containers.get(&request.container_id)?;
        let limit = Duration::from_millis(request.timeout_ms.min(LONGEST_WAIT_MS).into());
        let exit = signal::wait(&container, limit).await;
        Ok(Response::new(WaitContainerResponse { exit }))
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        crate::ids::check_id("container_id", &id)?;
        let work =
            |agent: Arc<Agent>| async move { remove::remove(&agent, &id).await.map(|()| RemoveContainerResponse {}) };
        self.to_the_end("RemoveContainer", work).await
    }

    async fn list_containers(&self, _: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        // The number first: an event between the two is seen twice rather than never.
        let last_event_seq = self.agent.events.last();
        let containers = self.agent.containers.all().iter().map(|c| c.info()).collect();
        Ok(Response::new(ListContainersResponse {
            containers,
            last_event_seq,
        }))
    }

    async fn update_container(&self, request: Request<UpdateContainerRequest>) -> Answer<UpdateContainerResponse> {
        let UpdateContainerRequest {
            container_id,
            resources,
            oom_score_adj,
        } = request.into_inner();
        let resources = resources.ok_or_else(|| invalid("resources: wanted some, found none"))?;
        let work = |agent: Arc<Agent>| async move {
            update::update(&agent, &container_id, &resources, oom_score_adj)
                .await
                .map(|()| UpdateContainerResponse {})
        };
        self.to_the_end("UpdateContainer", work).await
    }

    type OutputStream = Stream<OutputChunk>;

    async fn output(&self, request: Request<Streaming<OutputRequest>>) -> Answer<Self::OutputStream> {
        let mut requests = request.into_inner();
        let first = output::first(requests.message().await?)?;
        let container = self.agent.containers.get(&first.container_id)?;
        Ok(Response::new(ReceiverStream::new(
            container.output.read(first, requests)?,
        )))
    }

    async fn input(&self, request: Request<Streaming<InputRequest>>) -> Answer<InputResponse> {
        let mut requests = request.into_inner();
        let mut container = None;
        let mut written = 0;
        let mut reads = true;
        while let Some(request) = requests.message().await? {
            let container = match &mut container {
                Some(container) => container,
                none => none.insert(self.agent.containers.get(&request.container_id)?),
            };
            if !request.data.is_empty() && reads {
                reads = container.input.write(&request.data).await?;
                if reads {
                    written += request.data.len() as u64;
                }
            }
            if request.close {
                container.input.close().await;
            }
        }
        match container {
            Some(container) if written > 0 => container.input.end_of_stream().await,
            Some(_) => {}
            None => {
                return Err(invalid(
                    "Input: wanted a first request with container_id, found the end of the stream",
                ))
            }
        }
        Ok(Response::new(InputResponse { written }))
    }

    async fn resize_terminal(&self, request: Request<ResizeTerminalRequest>) -> Answer<ResizeTerminalResponse> {
        let request = request.into_inner();
        let container = self.agent.containers.get(&request.container_id)?;
        let terminal = if request.exec_id.is_empty() {
            container.terminal.clone()
        } else {
            let found = self.agent.execs.terminal(&request.container_id, &request.exec_id);
            found.ok_or_else(|| {
                Status::not_found(format!("no running exec {:?} in {:?}", request.exec_id, container.id))
            })?
        };
        let terminal = terminal.ok_or_else(|| precondition("wanted a terminal, found none"))?;
        terminal
            .resize(request.width, request.height)
            .doing(|| "size of the terminal")?;
        Ok(Response::new(ResizeTerminalResponse {}))
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        // Not to its end: a caller that has gone wants the command killed (Group does it when dropped).
        exec::sync::exec_sync(&self.agent, request.into_inner())
            .await
            .map(Response::new)
    }

    type ExecStream = Stream<ExecResponse>;

    async fn exec(&self, request: Request<Streaming<ExecRequest>>) -> Answer<Self::ExecStream> {
        let mut requests = request.into_inner();
        let start = exec::stream::first(requests.message().await?)?;
        let responses = exec::stream::exec(self.agent.clone(), start, requests).await?;
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    type DialStream = Stream<DialResponse>;

    async fn dial(&self, request: Request<Streaming<DialRequest>>) -> Answer<Self::DialStream> {
        let mut requests = request.into_inner();
        let port = dial::first(requests.message().await?)?;
        let responses = dial::dial(
            self.agent.dials.clone(),
            self.agent.sandbox.network_holder(),
            port,
            requests,
        )
        .await?;
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn put_volume(&self, request: Request<PutVolumeRequest>) -> Answer<PutVolumeResponse> {
        let request = request.into_inner();
        self.to_the_end("PutVolume", |agent| async move {
            volume::put(&agent, request).await.map(|()| PutVolumeResponse {})
        })
        .await
    }

    async fn sync_volume(&self, request: Request<Streaming<SyncVolumeRequest>>) -> Answer<SyncVolumeResponse> {
        // Without commit nothing is to be brought to an end, and the switch itself does not wait.
        let synced = volume::sync(&self.agent, request.into_inner()).await;
        synced.map(|()| Response::new(SyncVolumeResponse {}))
    }

    async fn read_volume(&self, request: Request<ReadVolumeRequest>) -> Answer<ReadVolumeResponse> {
        let data = volume::read(&self.agent, request.into_inner()).await?;
        Ok(Response::new(ReadVolumeResponse { data: data.into() }))
    }

    async fn remove_volume(&self, request: Request<RemoveVolumeRequest>) -> Answer<RemoveVolumeResponse> {
        let id = request.into_inner().volume_id;
        let work =
            |agent: Arc<Agent>| async move { volume::remove(&agent, &id).await.map(|()| RemoveVolumeResponse {}) };
        self.to_the_end("RemoveVolume", work).await
    }

    type AcceptSocketStream = Stream<DialResponse>;

    async fn accept_socket(
        &self,
        request: Request<Streaming<AcceptSocketRequest>>,
    ) -> Answer<Self::AcceptSocketStream> {
        let mut requests = request.into_inner();
        let first = requests.message().await?;
        let responses = volume::accept(&self.agent, first, requests)?;
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    type EventsStream = Stream<Event>;

    async fn events(&self, request: Request<EventsRequest>) -> Answer<Self::EventsStream> {
        let stream = self.agent.events.stream(request.into_inner().after_seq)?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type LogsStream = Stream<LogRecord>;

    async fn logs(&self, request: Request<LogsRequest>) -> Answer<Self::LogsStream> {
        Ok(Response::new(ReceiverStream::new(events::logs(
            request.into_inner().after_seq,
        )?)))
    }

    async fn stats(&self, request: Request<StatsRequest>) -> Answer<StatsResponse> {
        stats::stats(&self.agent, &request.into_inner().container_ids)
            .await
            .map(Response::new)
    }

    async fn resize(&self, request: Request<ResizeRequest>) -> Answer<ResizeResponse> {
        let request = request.into_inner();
        self.to_the_end("Resize", |agent| async move { resize::resize(&agent, request).await })
            .await
    }

    async fn shutdown(&self, request: Request<ShutdownRequest>) -> Answer<ShutdownResponse> {
        let grace = Duration::from_millis(request.into_inner().grace_ms.min(LONGEST_WAIT_MS).into());
        self.to_the_end("Shutdown", move |agent| async move {
            shutdown::prepare(&agent, grace).await;
            shutdown::power_off(agent);
            Ok(ShutdownResponse {})
        })
        .await
    }
}
