//! Hellos and replies out of the bytes of the port.

use podvm_share_wire::bytes::u32_at;
use podvm_share_wire::hello::{Hello, HELLO, MAGIC};
use podvm_share_wire::{MAX_REPLY, OUT_HEADER, TRAILER};

#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Hello(Hello),
    /// Whole, without its trailer.
    Reply(Vec<u8>),
}

/// In step it expects a reply or a hello; out of step (a share died in the middle of a reply) it looks for a hello, byte by byte.
pub struct Framing {
    bytes: Vec<u8>,
    from: usize,
    trailer: Option<[u8; TRAILER]>,
    in_step: bool,
}

impl Framing {
    pub fn new() -> Self {
        Framing {
            bytes: Vec::new(),
            from: 0,
            trailer: None,
            in_step: true,
        }
    }

    pub fn feed(&mut self, data: &[u8]) {
        if self.from > 0 && self.from == self.bytes.len() {
            self.bytes.clear();
            self.from = 0;
        } else if self.from > MAX_REPLY {
            self.bytes.drain(..self.from);
            self.from = 0;
        }
        self.bytes.extend_from_slice(data);
    }

    /// None: more bytes are wanted.
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            if !self.in_step && !self.find_magic() {
                return None;
            }
            let rest = &self.bytes[self.from..];
            let len = u32_at(rest, 0)? as usize;
            if len == u32_at(&MAGIC, 0)? as usize {
                if rest.len() < HELLO {
                    return None;
                }
                let hello = Hello::parse(rest);
                self.from += if hello.is_some() { HELLO } else { 1 };
                self.in_step = hello.is_some();
                if let Some(hello) = hello {
                    self.trailer = Some(hello.trailer());
                    return Some(Frame::Hello(hello));
                }
                continue;
            }
            if !(OUT_HEADER..=MAX_REPLY).contains(&len) {
                self.in_step = false;
                continue;
            }
            if rest.len() < len + TRAILER {
                return None;
            }
            if self.trailer.as_ref().map(|t| &t[..]) != Some(&rest[len..len + TRAILER]) {
                self.in_step = false;
                continue;
            }
            let reply = rest[..len].to_vec();
            self.from += len + TRAILER;
            return Some(Frame::Reply(reply));
        }
    }

    /// Bytes that it holds.
    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.bytes.len()
    }

    /// Skips to the magic, or to what may be the beginning of one.
    fn find_magic(&mut self) -> bool {
        let rest = &self.bytes[self.from..];
        if let Some(at) = rest.windows(MAGIC.len()).position(|window| window == MAGIC) {
            self.from += at;
            return true;
        }
        self.from += rest.len().saturating_sub(MAGIC.len() - 1);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Hello = Hello {
        version: 1,
        nonce: *b"first-share-----",
    };
    const SECOND: Hello = Hello {
        version: 1,
        nonce: *b"second-share----",
    };

    fn reply(unique: u64, body: &[u8], hello: &Hello) -> (Vec<u8>, Vec<u8>) {
        let mut bytes = ((OUT_HEADER + body.len()) as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&unique.to_le_bytes());
        bytes.extend_from_slice(body);
        let bare = bytes.clone();
        bytes.extend_from_slice(&hello.trailer());
        (bytes, bare)
    }

    fn all(framing: &mut Framing) -> Vec<Frame> {
        std::iter::from_fn(|| framing.next()).collect()
    }

    #[test]
    fn bytes_may_come_one_by_one() {
        let (framed, bare) = reply(7, b"hello", &FIRST);
        let mut framing = Framing::new();
        let mut frames = Vec::new();
        for byte in [&FIRST.encode()[..], &framed, &framed].concat() {
            framing.feed(&[byte]);
            frames.extend(all(&mut framing));
        }
        assert_eq!(
            frames,
            [Frame::Hello(FIRST), Frame::Reply(bare.clone()), Frame::Reply(bare)]
        );
    }

    #[test]
    fn a_reply_that_breaks_off_is_thrown_away() {
        let (long, _) = reply(7, &[b'x'; 70_001], &FIRST);
        let (framed, bare) = reply(9, b"new", &SECOND);
        for cut in [1, 4, 15, 16, 20, 69_999, long.len() - 1] {
            let mut framing = Framing::new();
            framing.feed(&FIRST.encode());
            framing.feed(&long[..cut]);
            // The next share says hello, gets no answer, fills up with zeroes and says it again.
            framing.feed(&SECOND.encode());
            framing.feed(&vec![0; MAX_REPLY + 64]);
            framing.feed(&SECOND.encode());
            framing.feed(&framed);
            let frames = all(&mut framing);
            assert_eq!(frames.first(), Some(&Frame::Hello(FIRST)), "{cut}");
            assert_eq!(frames.get(frames.len() - 2), Some(&Frame::Hello(SECOND)), "{cut}");
            assert_eq!(frames.last(), Some(&Frame::Reply(bare.clone())), "{cut}");
            assert!(
                frames.len() <= 4,
                "{cut}: nothing of the broken reply: {}",
                frames.len()
            );
        }
    }

    #[test]
    fn without_a_hello_nothing_is_a_reply() {
        let (framed, _) = reply(7, b"", &FIRST);
        let mut framing = Framing::new();
        framing.feed(&framed);
        assert_eq!(framing.next(), None);
    }
}
