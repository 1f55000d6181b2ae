//! Numbers and names out of untrusted bytes: whatever is missing is None, nothing panics.

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

/// The bytes from `at` to the next zero, which must be there.
pub fn text_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    let end = rest.iter().position(|b| *b == 0)?;
    Some(&rest[..end])
}

/// Whether it can name an entry of a folder.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= crate::MAX_NAME
        && name != b"."
        && name != b".."
        && !name.contains(&b'/')
        && !name.contains(&0)
}

/// The head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InHeader {
    pub len: usize,
    pub opcode: u32,
    pub unique: u64,
    pub node: u64,
    pub uid: u32,
    pub gid: u32,
}

impl InHeader {
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Some(InHeader {
            len: u32_at(bytes, 0)? as usize,
            opcode: u32_at(bytes, 4)?,
            unique: u64_at(bytes, 8)?,
            node: u64_at(bytes, 16)?,
            uid: u32_at(bytes, 24)?,
            gid: u32_at(bytes, 28)?,
        })
    }
}

/// A request with this body, for tests and for what the agent itself asks.
pub fn request(opcode: u32, unique: u64, node: u64, ids: (u32, u32), body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(crate::IN_HEADER + body.len());
    bytes.extend_from_slice(&((crate::IN_HEADER + body.len()) as u32).to_le_bytes());
    bytes.extend_from_slice(&opcode.to_le_bytes());
    bytes.extend_from_slice(&unique.to_le_bytes());
    bytes.extend_from_slice(&node.to_le_bytes());
    bytes.extend_from_slice(&ids.0.to_le_bytes());
    bytes.extend_from_slice(&ids.1.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_none() {
        assert_eq!(u32_at(&[1, 0, 0], 0), None);
        assert_eq!(u32_at(&[1, 0, 0, 0], usize::MAX), None);
        assert_eq!(u64_at(&[0; 8], 1), None);
        assert_eq!(text_at(b"abc", 0), None);
        assert_eq!(text_at(b"abc\0d\0", 4), Some(&b"d"[..]));
        assert_eq!(text_at(b"abc", 9), None);
    }

    #[test]
    fn names() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
            assert!(!is_name(bad), "{bad:?}");
        }
        for good in [&b"..."[..], b"..data", b"\xff\xfe", &[b'x'; 255]] {
            assert!(is_name(good), "{good:?}");
        }
    }

    #[test]
    fn header_of_a_request() {
        let bytes = request(3, 7, 9, (1000, 1001), b"xy");
        let header = InHeader::parse(&bytes).expect("a header");
        assert_eq!((header.len, header.opcode, header.unique, header.node), (42, 3, 7, 9));
        assert_eq!((header.uid, header.gid), (1000, 1001));
        assert_eq!(InHeader::parse(&bytes[..31]), None);
    }
}
