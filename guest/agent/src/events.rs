//! Events and log records as streams: what is kept, then live.

use crate::log;
use crate::pb::agent::v1::{event, Event, EventsLost, LogRecord};
use crate::ring::Ring;
use crate::sys::now_ns;
use tokio::sync::mpsc;
use tonic::Status;

const KEPT: usize = 1024;
const BATCH: usize = 64;

pub type Receiver<T> = mpsc::Receiver<Result<T, Status>>;

pub struct Events {
    ring: std::sync::Arc<Ring<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Events {
            ring: std::sync::Arc::new(Ring::new(KEPT)),
        }
    }
}

impl Events {
    pub fn push(&self, kind: event::Kind) {
        self.ring.push(|seq| Event {
            seq,
            time_ns: now_ns(),
            kind: Some(kind),
        });
    }

    pub fn last(&self) -> u64 {
        self.ring.last()
    }

    /// From `after` + 1 on. Where some of those are gone, `lost` comes first, with the number of the last that is gone.
    pub fn stream(&self, after: u64) -> Result<Receiver<Event>, Status> {
        check(after, self.ring.last())?;
        let ring = self.ring.clone();
        Ok(follow(
            after,
            move |after, sender| {
                let batch = ring.after(after, BATCH);
                if batch.first > after + 1 {
                    let lost = event::Kind::Lost(EventsLost { first_seq: batch.first });
                    sender.push(Event {
                        seq: batch.first - 1,
                        time_ns: now_ns(),
                        kind: Some(lost),
                    });
                }
                let last = batch.first + batch.records.len() as u64 - 1;
                sender.extend(batch.records);
                last
            },
            self.ring.follow(),
        ))
    }
}

/// The agent's log from `after` + 1 on; records that are gone are left out (their numbers show it).
pub fn logs(after: u64) -> Result<Receiver<LogRecord>, Status> {
    check(after, log::ring().last())?;
    Ok(follow(
        after,
        |after, sender| {
            let batch = log::ring().after(after, BATCH);
            let last = batch.first + batch.records.len() as u64 - 1;
            sender.extend(batch.records);
            last
        },
        log::ring().follow(),
    ))
}

fn check(after: u64, last: u64) -> Result<(), Status> {
    if after > last {
        return Err(Status::out_of_range(format!(
            "after_seq: wanted at most {last}, the newest, found {after}"
        )));
    }
    Ok(())
}

/// Sends what `next` appends for a position, which returns the new position; then waits for more.
fn follow<T: Send + 'static>(
    mut position: u64,
    next: impl Fn(u64, &mut Vec<T>) -> u64 + Send + 'static,
    mut news: tokio::sync::watch::Receiver<u64>,
) -> Receiver<T> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            news.mark_unchanged();
            let mut records = Vec::new();
            position = next(position, &mut records);
            if records.is_empty() {
                tokio::select! {
                    changed = news.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
            for record in records {
                if sender.send(Ok(record)).await.is_err() {
                    return;
                }
            }
        }
    });
    receiver
}
