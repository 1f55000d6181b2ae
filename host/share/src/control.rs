//! Who connects here learns of the share's end, when the connection ends, and reads its log: some lines of the past, then each as it comes.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};

const LINES: usize = 32;
/// The newest stay.
const LISTENERS: usize = 8;

#[derive(Default)]
struct State {
    lines: VecDeque<String>,
    listeners: VecDeque<UnixStream>,
}

#[derive(Clone, Default)]
pub struct Control {
    state: Arc<Mutex<State>>,
}

impl Control {
    pub fn log(&self, line: impl Into<String>) {
        let mut line: String = line.into();
        line.push('\n');
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Who does not read loses lines.
        state.listeners.retain(|listener| send(listener, line.as_bytes()));
        if state.lines.len() >= LINES {
            state.lines.pop_front();
        }
        state.lines.push_back(line);
    }

    /// For ever.
    pub fn accept(&self, listener: &UnixListener) {
        for stream in listener.incoming().flatten() {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let past: String = state.lines.iter().map(String::as_str).collect();
            if !send(&stream, past.as_bytes()) {
                continue;
            }
            if state.listeners.len() >= LISTENERS {
                state.listeners.pop_front();
            }
            state.listeners.push_back(stream);
        }
    }
}

/// What does not fit now is lost. False where the other side is gone.
fn send(stream: &UnixStream, bytes: &[u8]) -> bool {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: bytes has its length.
    let sent = unsafe { libc::send(stream.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    sent >= 0 || crate::sys::errno() == libc::EAGAIN
}
