//! The beginning of a connection (docs/agent-protocol.md): finds the server's hellos among stale bytes. Pure; the link does
//! the reading and writing.

pub const HELLO_LEN: usize = 32;
pub const MAGIC: &[u8; 16] = b"\xff\xff\xff\xff\xff\xff\xff\xffPODVMHEL";

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing decided yet: read more.
    Read,
    /// Send these bytes back, then ask again.
    Echo([u8; HELLO_LEN]),
    /// The connection begins with these bytes of HTTP/2.
    Begin(Vec<u8>),
}

#[derive(Default)]
pub struct Hello {
    buffer: Vec<u8>,
    greeted: bool,
    skipped: u64,
}

impl Hello {
    /// Bytes as they were read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes thrown away so far.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    pub fn step(&mut self) -> Step {
        if self.greeted && self.buffer.first().is_some_and(|b| *b != 0xff) {
            return Step::Begin(std::mem::take(&mut self.buffer));
        }
        if let Some(at) = self.buffer.windows(MAGIC.len()).position(|w| w == MAGIC) {
            self.skip(at);
            if self.buffer.len() < HELLO_LEN {
                return Step::Read;
            }
            let mut hello = [0; HELLO_LEN];
            hello.copy_from_slice(&self.buffer[..HELLO_LEN]);
            self.buffer.drain(..HELLO_LEN);
            self.greeted = true;
            return Step::Echo(hello);
        }
        // Keep only what can be the beginning of a magic; other bytes after a hello mean that it was none.
        let longest = self.buffer.len().min(MAGIC.len() - 1);
        let keep = (0..=longest)
            .rev()
            .find(|n| MAGIC.starts_with(&self.buffer[self.buffer.len() - n..]));
        let drop = self.buffer.len() - keep.unwrap_or(0);
        if drop > 0 {
            self.greeted = false;
            self.skip(drop);
        }
        Step::Read
    }

    fn skip(&mut self, count: usize) {
        self.buffer.drain(..count);
        self.skipped += count as u64;
    }
}

/// Whether these bytes are exactly one hello.
pub fn is_hello(bytes: &[u8]) -> bool {
    bytes.len() == HELLO_LEN && bytes.starts_with(MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(counter: u32) -> [u8; HELLO_LEN] {
        let mut bytes = [7; HELLO_LEN];
        bytes[..16].copy_from_slice(MAGIC);
        bytes[28..].copy_from_slice(&counter.to_le_bytes());
        bytes
    }

    fn run(chunks: &[&[u8]]) -> (Vec<[u8; HELLO_LEN]>, Option<Vec<u8>>, u64) {
        let mut state = Hello::default();
        let mut echoes = vec![];
        for chunk in chunks {
            state.feed(chunk);
            loop {
                match state.step() {
                    Step::Read => break,
                    Step::Echo(bytes) => echoes.push(bytes),
                    Step::Begin(bytes) => return (echoes, Some(bytes), state.skipped()),
                }
            }
        }
        (echoes, None, state.skipped())
    }

    #[test]
    fn every_complete_hello_is_echoed_and_the_rest_is_http() {
        let bytes = [&hello(0)[..], &hello(1)[..], b"PRI * HTTP/2.0"].concat();
        assert_eq!(
            run(&[&bytes]),
            (vec![hello(0), hello(1)], Some(b"PRI * HTTP/2.0".to_vec()), 0)
        );
    }

    #[test]
    fn the_same_byte_by_byte_after_stale_bytes() {
        let bytes = [&b"stale \xff\xff\xff\xff frame"[..], &[0xff; 11], &hello(3)[8..], b"P"].concat();
        let chunks: Vec<&[u8]> = bytes.chunks(1).collect();
        // 11 + 8 bytes of 0xff: the last eight belong to the hello.
        let (echoes, begin, skipped) = run(&chunks);
        assert_eq!((echoes, begin), (vec![hello(3)], Some(b"P".to_vec())));
        assert_eq!(skipped, 16 + 3);
    }

    #[test]
    fn without_hello_nothing_begins_and_nothing_is_kept() {
        let mut state = Hello::default();
        for _ in 0..1000 {
            state.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff");
            assert_eq!(state.step(), Step::Read);
            assert!(state.buffer.len() < MAGIC.len());
        }
    }

    #[test]
    fn garbage_that_begins_like_a_hello_is_none() {
        let bytes = [&hello(0)[..], b"\xff\xffgarbage", b"PRI * HTTP/2.0"].concat();
        assert_eq!(run(&[&bytes]).1, None);
    }

    #[test]
    fn exactly_one_hello() {
        assert!(is_hello(&hello(5)));
        assert!(!is_hello(&hello(5)[..31]));
        assert!(!is_hello(b"12345678901234567890123456789012"));
    }
}
