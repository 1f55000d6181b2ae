//! Standard input of a container: a pipe, or its terminal.

use crate::fail::precondition;
use crate::tube::Tube;
use bytes::Bytes;
use tokio::sync::Mutex;
use tonic::Status;

pub struct Input {
    tube: Mutex<Option<Tube>>,
    terminal: bool,
    /// Closed by the end of the first stream that wrote.
    once: bool,
}

impl Input {
    /// `tube` None: the container was made without standard input.
    pub fn new(tube: Option<Tube>, terminal: bool, once: bool) -> Self {
        Input {
            tube: Mutex::new(tube),
            terminal,
            once,
        }
    }

    /// Writes all of it, as fast as the container reads. Ok(false): nobody reads any more.
    pub async fn write(&self, data: &Bytes) -> Result<bool, Status> {
        let tube = self.tube.lock().await;
        let Some(tube) = &*tube else {
            return Err(precondition(
                "the container's standard input is closed, or it was made without",
            ));
        };
        Ok(tube.write_all(data).await.is_ok())
    }

    pub async fn close(&self) {
        let Some(tube) = self.tube.lock().await.take() else {
            return;
        };
        if self.terminal {
            if let Some(byte) = tube.end_of_input() {
                drop(tube.write_all(&[byte]).await);
            }
        }
    }

    /// The end of a stream that wrote something.
    pub async fn end_of_stream(&self) {
        if self.once {
            self.close().await;
        }
    }
}
