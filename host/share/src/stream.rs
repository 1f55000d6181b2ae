//! The byte stream to the agent, from the share's side.
//!
//! A worker takes a request while it holds the reading side, carries it out, and writes the reply while it holds the writing side: no queue, so
//! what is under way is bounded by the number of workers, and a guest that asks faster waits.

use podvm_share_wire::bytes::u32_at;
use podvm_share_wire::hello::{Hello, ACKNOWLEDGEMENT};
use podvm_share_wire::{IN_HEADER, MAX_REPLY, MAX_REQUEST};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Small requests come several at once.
const BUFFER: usize = 64 << 10;
/// How long the agent gets before it is taken to be in the middle of an earlier share's reply.
const FIRST_PATIENCE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(2);

pub type Requests = BufReader<UnixStream>;

/// Says hello until the agent acknowledges it, which may take as long as the guest takes to mount. Skips what comes before. The requests then
/// follow on the reader.
pub fn greet(stream: &UnixStream, hello: &Hello) -> io::Result<Requests> {
    let mut reader = BufReader::with_capacity(BUFFER, stream.try_clone()?);
    let mut writer = stream;
    writer.write_all(&hello.encode())?;
    let wanted = hello.acknowledgement();
    let mut window = [0u8; ACKNOWLEDGEMENT];
    stream.set_read_timeout(Some(FIRST_PATIENCE))?;
    while window != wanted {
        let mut byte = [0];
        match reader.read_exact(&mut byte) {
            Ok(()) => {
                window.copy_within(1.., 0);
                window[ACKNOWLEDGEMENT - 1] = byte[0];
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock || e.kind() == io::ErrorKind::TimedOut => {
                // Zeroes bring whatever reply the agent still waits for to its end; without the right trailer it is thrown away.
                writer.write_all(&vec![0; MAX_REPLY + 64])?;
                writer.write_all(&hello.encode())?;
                stream.set_read_timeout(Some(PATIENCE))?;
            }
            Err(e) => return Err(e),
        }
    }
    stream.set_read_timeout(None)?;
    Ok(reader)
}

/// The next whole message into `message`. An error where the stream is at its end or out of form.
pub fn next_message(reader: &mut impl Read, message: &mut Vec<u8>) -> io::Result<()> {
    let mut length = [0u8; 4];
    reader.read_exact(&mut length)?;
    let len = u32_at(&length, 0).unwrap_or(0) as usize;
    if !(IN_HEADER..=MAX_REQUEST).contains(&len) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the guest sent a message of {len} bytes"),
        ));
    }
    message.resize(len, 0);
    message[..4].copy_from_slice(&length);
    reader.read_exact(&mut message[4..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use podvm_share_wire::bytes::request;

    #[test]
    fn lengths_are_bounded() {
        let mut message = Vec::new();
        for bad in [0u32, 4, 39, MAX_REQUEST as u32 + 1, u32::MAX] {
            let bytes = [&bad.to_le_bytes()[..], &[0; 64]].concat();
            assert!(next_message(&mut &bytes[..], &mut message).is_err(), "{bad}");
        }
        let good = request(1, 2, 3, (0, 0), b"x\0");
        next_message(&mut &good[..], &mut message).expect("a message");
        assert_eq!(message, good);
        assert!(next_message(&mut &good[..good.len() - 1], &mut message).is_err());
    }

    #[test]
    fn stale_bytes_before_the_acknowledgement_are_skipped() {
        let (share, mut agent) = UnixStream::pair().expect("a pair");
        let hello = Hello {
            version: 1,
            nonce: *b"0123456789abcdef",
        };
        let stale = Hello {
            version: 1,
            nonce: *b"another-share---",
        };
        let first = request(1, 2, 3, (0, 0), b"");
        agent.write_all(b"half of a reque").expect("write");
        agent.write_all(&stale.acknowledgement()).expect("write");
        agent.write_all(&hello.acknowledgement()).expect("write");
        agent.write_all(&first).expect("write");
        let mut reader = greet(&share, &hello).expect("greeted");
        let mut message = Vec::new();
        next_message(&mut reader, &mut message).expect("a message");
        assert_eq!(message, first);
    }
}
