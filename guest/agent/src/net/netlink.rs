//! Just enough of rtnetlink: one request, one acknowledgement.

use crate::sys;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const HEADER: usize = 16;

pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// A request being put together: header, family header, attributes.
pub struct Message {
    bytes: Vec<u8>,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let socket = sys::check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) })?;
        Ok(Netlink {
            socket: unsafe { OwnedFd::from_raw_fd(socket) },
            sequence: 0,
        })
    }

    /// Sends it and waits for the kernel's answer, which comes at once.
    pub fn request(&mut self, message: &Message) -> io::Result<()> {
        self.sequence += 1;
        let bytes = message.finished(self.sequence);
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut answer = [0; 8192];
        loop {
            let n = sys::read(&self.socket, &mut answer)?;
            if let Some(result) = acknowledgement(&answer[..n], self.sequence) {
                return result;
            }
        }
    }
}

/// None: not the answer to this request.
fn acknowledgement(answer: &[u8], sequence: u32) -> Option<io::Result<()>> {
    let number = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if number(8)? != sequence || i32::from(kind) != libc::NLMSG_ERROR {
        return None;
    }
    match number(HEADER)? as i32 {
        0 => Some(Ok(())),
        error => Some(Err(io::Error::from_raw_os_error(-error))),
    }
}

impl Message {
    /// `flags`: beside REQUEST and ACK.
    pub fn new(kind: u16, flags: u16, family_header: &[u8]) -> Self {
        let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(family_header);
        Message { bytes }
    }

    pub fn bytes(&mut self, attribute: u16, value: &[u8]) {
        let length = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&attribute.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub fn u32(&mut self, attribute: u16, value: u32) {
        self.bytes(attribute, &value.to_ne_bytes());
    }

    pub fn text(&mut self, attribute: u16, value: &str) {
        self.bytes(attribute, &[value.as_bytes(), b"\0"].concat());
    }

    pub fn nested_u32(&mut self, outer: u16, inner: u16, value: u32) {
        let mut nested = Message { bytes: Vec::new() };
        nested.u32(inner, value);
        self.bytes(outer, &nested.bytes);
    }

    fn finished(&self, sequence: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_the_length_is_the_whole() {
        let mut message = Message::new(16, 0, &[0; 16]);
        message.text(3, "eth0");
        message.nested_u32(8, 2, 1400);
        let bytes = message.finished(7);
        assert_eq!(bytes.len(), 16 + 16 + 12 + 12);
        assert_eq!(bytes[..4], 56u32.to_ne_bytes());
        assert_eq!(bytes[8..12], 7u32.to_ne_bytes());
        assert_eq!(bytes[32..36], [9, 0, 3, 0]);
        assert_eq!(&bytes[36..44], b"eth0\0\0\0\0");
        assert_eq!(bytes[44..52], [12, 0, 8, 0, 8, 0, 2, 0]);
    }

    #[test]
    fn answers() {
        let mut answer = [0; 36];
        answer[4..6].copy_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
        answer[8] = 7;
        assert!(acknowledgement(&answer, 7).unwrap().is_ok());
        assert!(acknowledgement(&answer, 8).is_none());
        answer[16..20].copy_from_slice(&(-libc::EEXIST).to_ne_bytes());
        assert_eq!(
            acknowledgement(&answer, 7).unwrap().unwrap_err().raw_os_error(),
            Some(libc::EEXIST)
        );
        assert!(acknowledgement(&answer[..10], 7).is_none());
    }
}
