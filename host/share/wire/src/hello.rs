//! How a connection begins. Stale bytes of an earlier one may lie before it in both directions: the share looks for its own nonce, which
//! nobody could know before; the agent looks for the magic, at once where it expects a reply, and byte by byte once the stream is out of step.

use crate::bytes::u32_at;

pub const NONCE: usize = 16;
/// As a length it is larger than any message.
pub const MAGIC: [u8; 16] = *b"PODVM-SHARE-HELO";
const ACK: [u8; 16] = *b"PODVM-SHARE-ACK.";
/// Magic, version, nonce.
pub const HELLO: usize = 16 + 4 + NONCE;
pub const ACKNOWLEDGEMENT: usize = 16 + 4 + NONCE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub version: u32,
    pub nonce: [u8; NONCE],
}

impl Hello {
    pub fn encode(&self) -> [u8; HELLO] {
        self.message(MAGIC)
    }

    /// None where it is something else.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.get(..16)? != MAGIC {
            return None;
        }
        Some(Hello {
            version: u32_at(bytes, 16)?,
            nonce: bytes.get(20..HELLO)?.try_into().ok()?,
        })
    }

    pub fn acknowledgement(&self) -> [u8; ACKNOWLEDGEMENT] {
        self.message(ACK)
    }

    /// What ends every reply of this connection.
    pub fn trailer(&self) -> [u8; crate::TRAILER] {
        let mut trailer = [0; crate::TRAILER];
        trailer.copy_from_slice(&self.nonce[..crate::TRAILER]);
        trailer
    }

    fn message(&self, magic: [u8; 16]) -> [u8; HELLO] {
        let mut bytes = [0; HELLO];
        bytes[..16].copy_from_slice(&magic);
        bytes[16..20].copy_from_slice(&self.version.to_le_bytes());
        bytes[20..].copy_from_slice(&self.nonce);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let hello = Hello {
            version: 7,
            nonce: *b"0123456789abcdef",
        };
        assert_eq!(Hello::parse(&hello.encode()), Some(hello));
        assert_eq!(Hello::parse(&hello.acknowledgement()), None);
        assert_eq!(Hello::parse(&hello.encode()[..HELLO - 1]), None);
        assert_eq!(&hello.trailer(), b"01234567");
        assert!(u32_at(&MAGIC, 0).unwrap_or_default() as usize > crate::MAX_REPLY);
    }
}
