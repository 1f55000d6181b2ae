//! Three threads between /dev/fuse and the port: `ask` carries the kernel's requests to the share, `answer` its replies back, `resume` tells a new
//! share what the kernel knows and sends again what has no answer.
//!
//! Locks, in this order: `out` is held by whoever writes to the port, for a whole message or a whole resumption; `state` is held for moments. What
//! the kernel asked is in `state` before it is written, so that a share's death at any byte loses nothing. `answer` never waits for the
//! port: a share that cannot write its replies would not read either.

use super::framing::{Frame, Framing};
use super::port::Port;
use super::track::Track;
use crate::log;
use podvm_share_wire::bytes::{u32_at, u64_at, InHeader};
use podvm_share_wire::hello::Hello;
use podvm_share_wire::{op, MAX_DATA, MAX_REQUEST, OUT_HEADER, RESENT, VERSION};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// What is asked and has no answer yet is kept, to be sent again: at most this much. Beyond it the kernel's requests wait in the kernel.
const UNANSWERED_BYTES: usize = 4 * MAX_DATA;
const UNANSWERED: usize = 256;
const STACK: usize = 128 << 10;

/// What a thread does until the file system is unmounted.
type Work = fn(&Pump) -> io::Result<()>;

struct Unanswered {
    request: Vec<u8>,
    /// A share may have seen it.
    sent: bool,
}

#[derive(Default)]
struct State {
    /// The share that spoke last, and how many there have been.
    hello: Option<Hello>,
    generation: u64,
    unanswered: BTreeMap<u64, Unanswered>,
    bytes: usize,
    track: Track,
    over: bool,
}

pub struct Pump {
    device: File,
    port: Port,
    /// Generation of the share that knows all that the kernel knows; 0: none.
    out: Mutex<u64>,
    state: Mutex<State>,
    changed: Condvar,
    answered: watch::Sender<bool>,
}

impl Pump {
    /// Runs until the file system is unmounted. The receiver becomes true when the kernel's first request has been answered.
    pub fn start(device: File, port: OwnedFd) -> io::Result<watch::Receiver<bool>> {
        let pump = Arc::new(Pump {
            device,
            port: Port::new(port)?,
            out: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            answered: watch::Sender::new(false),
        });
        let receiver = pump.answered.subscribe();
        let work: [(&str, Work); 3] = [
            ("share-ask", Pump::ask),
            ("share-answer", Pump::answer),
            ("share-resume", Pump::resume),
        ];
        for (name, work) in work {
            let pump = pump.clone();
            let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK);
            thread.spawn(move || {
                if let Err(e) = work(&pump) {
                    log::error(format!("{name}: {e}"));
                }
                pump.state().over = true;
                pump.changed.notify_all();
            })?;
        }
        Ok(receiver)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn out(&self) -> MutexGuard<'_, u64> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self) -> io::Result<()> {
        let mut buffer = vec![0; MAX_REQUEST];
        loop {
            self.wait_for_room();
            let n = match (&self.device).read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                // Interrupted; the request is gone again; nothing there.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::ENOENT | libc::EAGAIN)) => continue,
                // Unmounted.
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
                Err(e) => return Err(e),
            };
            self.ask_one(&buffer[..n])?;
        }
    }

    fn wait_for_room(&self) {
        let full = |state: &mut State| {
            !state.over && (state.bytes >= UNANSWERED_BYTES || state.unanswered.len() >= UNANSWERED)
        };
        drop(self.changed.wait_while(self.state(), full));
    }

    fn ask_one(&self, request: &[u8]) -> io::Result<()> {
        let header = InHeader::parse(request).ok_or(io::ErrorKind::InvalidData)?;
        if header.opcode == op::INTERRUPT {
            // The share finishes what it has begun, so the kernel need not say this any more.
            return self.answer_kernel(&refusal(header.unique, libc::ENOSYS));
        }
        let mut out = self.out();
        let generation = {
            let mut state = self.state();
            state.track.asked(request);
            let sendable = *out != 0 && *out == state.generation;
            if !matches!(header.opcode, op::FORGET | op::BATCH_FORGET) {
                state.bytes += request.len();
                let unanswered = Unanswered {
                    request: request.to_vec(),
                    sent: sendable,
                };
                state.unanswered.insert(header.unique, unanswered);
            }
            if !sendable {
                return Ok(()); // the next share gets it when it comes
            }
            state.generation
        };
        if !self.port.write(request, || self.state().generation != generation)? {
            *out = 0;
        }
        Ok(())
    }

    fn answer(&self) -> io::Result<()> {
        let mut framing = Framing::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = self.port.read(&mut buffer)?;
            framing.feed(&buffer[..n]);
            while let Some(frame) = framing.next() {
                match frame {
                    Frame::Hello(hello) => self.greeted(hello),
                    Frame::Reply(mut reply) => self.answer_one(&mut reply)?,
                }
            }
        }
    }

    fn greeted(&self, hello: Hello) {
        if hello.version != VERSION {
            log::error(format!(
                "the host's share speaks version {}, wanted {VERSION}: its volumes wait",
                hello.version
            ));
            return;
        }
        let mut state = self.state();
        if state.hello == Some(hello) {
            return; // it had to say it twice
        }
        state.hello = Some(hello);
        state.generation += 1;
        self.changed.notify_all();
    }

    fn answer_one(&self, reply: &mut [u8]) -> io::Result<()> {
        let unique = u64_at(reply, 8).ok_or(io::ErrorKind::InvalidData)? & !RESENT;
        reply[8..16].copy_from_slice(&unique.to_le_bytes());
        let opcode = {
            let mut state = self.state();
            // None: an earlier share's, or one that was asked twice and has its answer.
            let Some(Unanswered { request, .. }) = state.unanswered.remove(&unique) else {
                return Ok(());
            };
            state.bytes -= request.len();
            if u32_at(reply, 4) == Some(0) {
                state.track.answered(&request, reply);
            }
            self.changed.notify_all();
            InHeader::parse(&request).map_or(0, |header| header.opcode)
        };
        self.answer_kernel(reply)?;
        if opcode == op::INIT {
            self.answered.send_replace(true);
        }
        Ok(())
    }

    fn answer_kernel(&self, reply: &[u8]) -> io::Result<()> {
        match (&self.device).write(reply) {
            Ok(_) => Ok(()),
            // Nobody waits for it any more; or unmounted, which `ask` finds out.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EPERM)) => Ok(()),
            Err(e) => {
                // A reply that the kernel takes for malformed ends its request with an error; the others go on.
                log::error(format!("share: a reply of {} bytes: {e}", reply.len()));
                Ok(())
            }
        }
    }

    fn resume(&self) -> io::Result<()> {
        let mut done = 0;
        loop {
            let (hello, generation) = {
                let same = |state: &mut State| !state.over && state.generation == done;
                let state = self.changed.wait_while(self.state(), same);
                let state = state.unwrap_or_else(PoisonError::into_inner);
                if state.over {
                    return Ok(());
                }
                (state.hello, state.generation)
            };
            done = generation;
            if let Some(hello) = hello {
                self.resume_with(&hello, generation)?;
            }
        }
    }

    fn resume_with(&self, hello: &Hello, generation: u64) -> io::Result<()> {
        // Whoever writes for an earlier share sees that it is over, and lets go.
        let mut out = self.out();
        let messages = {
            let mut state = self.state();
            let mut messages = vec![hello.acknowledgement().to_vec()];
            messages.extend(state.track.messages());
            for unanswered in state.unanswered.values_mut() {
                messages.push(again(unanswered));
                unanswered.sent = true;
            }
            messages
        };
        for message in messages {
            if !self.port.write(&message, || self.state().generation != generation)? {
                *out = 0;
                return Ok(());
            }
        }
        *out = generation;
        if generation > 1 {
            log::info("another share has taken over");
        }
        Ok(())
    }
}

/// The request, marked where an earlier share may have carried it out.
fn again(unanswered: &Unanswered) -> Vec<u8> {
    let mut request = unanswered.request.clone();
    if unanswered.sent {
        let unique = u64_at(&request, 8).unwrap_or(0) | RESENT;
        request[8..16].copy_from_slice(&unique.to_le_bytes());
    }
    request
}

fn refusal(unique: u64, errno: i32) -> [u8; OUT_HEADER] {
    let mut reply = [0; OUT_HEADER];
    reply[..4].copy_from_slice(&(OUT_HEADER as u32).to_le_bytes());
    reply[4..8].copy_from_slice(&(-errno).to_le_bytes());
    reply[8..].copy_from_slice(&unique.to_le_bytes());
    reply
}
