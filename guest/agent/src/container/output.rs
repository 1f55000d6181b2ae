//! A container's output: read from its pipes or terminal into the spools, sent to one reader at a time.

use crate::fail::{internal, invalid, missing};
use crate::pb::agent::v1::{OutputChunk, OutputRequest, Stream};
use crate::spool::{Chunk, Spool, LARGEST_CHUNK};
use crate::sys::now_ns;
use crate::tube::Tube;
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// How long after the first process' exit others may hold the pipe.
const DRAIN: Duration = Duration::from_secs(2);
/// After the drain no more than this is read from a pipe that somebody still fills: a pipe's largest capacity.
const LAST_BYTES: usize = 1 << 20;

pub struct Output {
    spools: [Mutex<Spool>; 2],
    /// Counts whatever a pump or reader may wait for: data, eof, acknowledgements, a new reader, removal.
    changed: watch::Sender<u64>,
    exited: watch::Sender<Option<Instant>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Number of the newest reader.
    reader: u64,
    removed: bool,
}

impl Output {
    pub fn new(spool_size: u32) -> Arc<Self> {
        Arc::new(Output {
            spools: [Mutex::new(Spool::new(spool_size)), Mutex::new(Spool::new(spool_size))],
            changed: watch::Sender::new(0),
            exited: watch::Sender::new(None),
            state: Mutex::default(),
        })
    }

    /// Starts reading a stream; None: it has nothing (stderr of a terminal) and ends at once.
    pub fn pump(self: &Arc<Self>, stream: Stream, tube: Option<Tube>) {
        let output = self.clone();
        tokio::spawn(async move {
            if let Some(tube) = tube {
                output.read_all(stream, &tube).await;
            }
            output.spool(stream).close(now_ns());
            output.change();
        });
    }

    /// The first process has exited: what is open now ends soon.
    pub fn exited(&self) {
        self.exited.send_replace(Some(Instant::now()));
    }

    /// The container is being removed: readers and pumps end.
    pub fn remove(&self) {
        self.state().removed = true;
        self.exited();
        self.change();
    }

    async fn read_all(&self, stream: Stream, tube: &Tube) {
        let mut exited = self.exited.subscribe();
        let mut buffer = vec![0; LARGEST_CHUNK];
        loop {
            let Some(room) = self.room(stream).await else { return };
            let until = *exited.borrow_and_update();
            let read = match until {
                Some(exit) => match tokio::time::timeout_at(exit + DRAIN, tube.read(&mut buffer[..room])).await {
                    Ok(read) => read,
                    Err(_) => break,
                },
                None => tokio::select! {
                    read = tube.read(&mut buffer[..room]) => read,
                    _ = exited.changed() => continue,
                },
            };
            match read {
                Ok(n) if n > 0 => self.push(stream, &buffer[..n]),
                _ => return,
            }
        }
        let mut left = LAST_BYTES;
        while left > 0 {
            let Some(room) = self.room(stream).await else { return };
            match tube.try_read(&mut buffer[..room]) {
                Ok(Some(n)) if n > 0 => {
                    self.push(stream, &buffer[..n]);
                    left = left.saturating_sub(n);
                }
                _ => return,
            }
        }
    }

    /// Waits until the spool takes more; None: the container is being removed.
    async fn room(&self, stream: Stream) -> Option<usize> {
        let mut changed = self.changed.subscribe();
        loop {
            if self.state().removed {
                return None;
            }
            match self.spool(stream).room() {
                0 => {}
                room => return Some(room),
            }
            changed.changed().await.ok()?;
        }
    }

    fn push(&self, stream: Stream, data: &[u8]) {
        self.spool(stream).push(Bytes::copy_from_slice(data), now_ns());
        self.change();
    }

    fn spool(&self, stream: Stream) -> MutexGuard<'_, Spool> {
        self.spools[stream as usize].lock().unwrap_or_else(|e| e.into_inner())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn change(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn acknowledge(&self, request: &OutputRequest) -> Result<(), Status> {
        for (stream, offset) in [
            (Stream::Stdout, request.stdout_offset),
            (Stream::Stderr, request.stderr_offset),
        ] {
            let mut spool = self.spool(stream);
            if !spool.acknowledge(offset) {
                return Err(Status::out_of_range(format!(
                    "{}: offset {offset} is above its length {}",
                    stream.as_str_name(),
                    spool.end()
                )));
            }
        }
        self.change();
        Ok(())
    }

    /// Becomes the one reader. Everything below the request's offsets is acknowledged.
    pub fn read(
        self: &Arc<Self>,
        first: OutputRequest,
        requests: Streaming<OutputRequest>,
    ) -> Result<mpsc::Receiver<Result<OutputChunk, Status>>, Status> {
        let id = first.container_id.clone();
        self.acknowledge(&first)?;
        let number = {
            let mut state = self.state();
            state.reader += 1;
            state.reader
        };
        self.change();
        let (sender, receiver) = mpsc::channel(4);
        let reader = Reader {
            output: self.clone(),
            id,
            number,
            sender,
            cursors: [first.stdout_offset, first.stderr_offset],
            ended: [false; 2],
        };
        tokio::spawn(reader.run(requests));
        Ok(receiver)
    }
}

struct Reader {
    output: Arc<Output>,
    id: String,
    number: u64,
    sender: mpsc::Sender<Result<OutputChunk, Status>>,
    cursors: [u64; 2],
    /// The eof chunk was sent.
    ended: [bool; 2],
}

impl Reader {
    async fn run(mut self, mut requests: Streaming<OutputRequest>) {
        let sender = self.sender.clone();
        let output = self.output.clone();
        let acknowledging = async move {
            loop {
                match requests.message().await {
                    Ok(Some(request)) => output.acknowledge(&request)?,
                    Ok(None) => return Ok(()),
                    Err(status) => return Err(status),
                }
            }
        };
        let result = {
            let sending = self.send_all();
            tokio::pin!(acknowledging, sending);
            let mut half_closed = false;
            loop {
                tokio::select! {
                    result = &mut sending => break result,
                    result = &mut acknowledging, if !half_closed => match result {
                        Ok(()) => half_closed = true,
                        Err(status) => break Err(status),
                    },
                    () = sender.closed() => return,
                }
            }
        };
        if let Err(status) = result {
            drop(sender.send(Err(status)).await);
        }
    }

    async fn send_all(&mut self) -> Result<(), Status> {
        let mut changed = self.output.changed.subscribe();
        loop {
            changed.mark_unchanged();
            {
                let state = self.output.state();
                if state.reader != self.number {
                    return Err(Status::aborted("a newer Output call reads this container"));
                }
                if state.removed {
                    return Err(missing(&self.id));
                }
            }
            let mut sent = false;
            for stream in [Stream::Stdout, Stream::Stderr] {
                sent |= self.send_one(stream).await?;
            }
            if !sent {
                if self.finished() {
                    return Ok(());
                }
                changed.changed().await.map_err(|e| internal("output", e))?;
            }
        }
    }

    async fn send_one(&mut self, stream: Stream) -> Result<bool, Status> {
        let at = stream as usize;
        let (chunk, eof) = {
            let spool = self.output.spool(stream);
            (
                spool.from(self.cursors[at]),
                spool.eof_ns().map(|time| (time, spool.end())),
            )
        };
        let message = match (chunk, eof) {
            (Some(Chunk { offset, time_ns, data }), _) => {
                self.cursors[at] = offset + data.len() as u64;
                OutputChunk {
                    stream: stream.into(),
                    offset,
                    time_ns,
                    data,
                    eof: false,
                }
            }
            (None, Some((time_ns, offset))) if !self.ended[at] => {
                self.ended[at] = true;
                OutputChunk {
                    stream: stream.into(),
                    offset,
                    time_ns,
                    data: Bytes::new(),
                    eof: true,
                }
            }
            _ => return Ok(false),
        };
        self.sender
            .send(Ok(message))
            .await
            .map_err(|_| Status::cancelled("the reader has gone"))?;
        Ok(true)
    }

    fn finished(&self) -> bool {
        [Stream::Stdout, Stream::Stderr].into_iter().all(|stream| {
            let spool = self.output.spool(stream);
            self.ended[stream as usize] && spool.acknowledged() == spool.end()
        })
    }
}

/// The stream's number on the wire, checked.
pub fn first(request: Option<OutputRequest>) -> Result<OutputRequest, Status> {
    request.ok_or_else(|| invalid("Output: wanted a first request with container_id, found the end of the stream"))
}
