//! The share at work.

use crate::control::Control;
use crate::fs::{FileSystem, Request, Restored};
use crate::reply::Reply;
use crate::stream::{self, Requests};
use podvm_share_wire::hello::Hello;
use podvm_share_wire::TRAILER;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

/// More would only wait for the one stream.
pub const WORKERS: usize = 4;

pub struct Service {
    pub fs: FileSystem,
    pub stream: UnixStream,
    pub control: Control,
}

/// What the workers wait for.
pub struct Session {
    requests: Mutex<Requests>,
    replies: Mutex<UnixStream>,
    trailer: [u8; TRAILER],
}

impl Service {
    /// Greets the agent and takes what it tells of an earlier share.
    pub fn begin(&self, hello: &Hello) -> io::Result<Session> {
        let mut requests = stream::greet(&self.stream, hello)?;
        let mut message = Vec::new();
        let mut restored = Restored::default();
        loop {
            stream::next_message(&mut requests, &mut message)?;
            let request = Request::parse(&message).ok_or(io::ErrorKind::InvalidData)?;
            let last = self.fs.restore(request.header.opcode, request.body, &mut restored);
            if last.map_err(io::Error::from_raw_os_error)? {
                break;
            }
        }
        self.control.log(format!(
            "serves the guest; of an earlier share: {} nodes, {} open files, {} stale",
            restored.nodes, restored.handles, restored.lost
        ));
        Ok(Session {
            requests: Mutex::new(requests),
            replies: Mutex::new(self.stream.try_clone()?),
            trailer: hello.trailer(),
        })
    }

    /// One worker, until the stream ends.
    pub fn work(&self, session: &Session) -> io::Result<()> {
        let mut message = Vec::new();
        let mut reply = Reply::new();
        loop {
            {
                let mut requests = session.requests.lock().unwrap_or_else(PoisonError::into_inner);
                stream::next_message(&mut *requests, &mut message)?;
            }
            let request = Request::parse(&message).ok_or(io::ErrorKind::InvalidData)?;
            reply.clear();
            let result = match self.fs.handle(&request, &mut reply) {
                Ok(false) => continue,
                Ok(true) => Ok(()),
                Err(errno) => Err(errno),
            };
            let bytes = reply.finish(request.header.unique, result, &session.trailer);
            let mut replies = session.replies.lock().unwrap_or_else(PoisonError::into_inner);
            replies.write_all(bytes)?;
        }
    }
}
