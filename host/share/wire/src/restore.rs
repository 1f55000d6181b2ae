//! What the agent tells a new share of the one before: the nodes that the guest's kernel still knows, parents first, and its open files.
//! As requests with opcodes of their own, without answers; what cannot be restored is stale to whoever uses it.

use crate::bytes::{is_name, u32_at, u64_at};

/// Body: node records.
pub const NODES: u32 = 0x5056_0001;
/// Body: handle records.
pub const HANDLES: u32 = 0x5056_0002;
/// Body: the lowest node and handle numbers that are free. Ends the restoring.
pub const END: u32 = 0x5056_0003;

/// Most bytes of records in one message.
pub const BATCH: usize = 32 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord<'a> {
    pub node: u64,
    pub parent: u64,
    /// How often the kernel has looked it up and not forgotten it.
    pub lookups: u64,
    /// As the share told it: another file of that name is not this node.
    pub inode: u64,
    pub name: &'a [u8],
}

impl<'a> NodeRecord<'a> {
    pub fn encode(&self, to: &mut Vec<u8>) {
        for number in [self.node, self.parent, self.lookups, self.inode] {
            to.extend_from_slice(&number.to_le_bytes());
        }
        to.extend_from_slice(&(self.name.len() as u32).to_le_bytes());
        to.extend_from_slice(self.name);
    }

    /// The first record of `bytes`, and what follows it.
    pub fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let length = u32_at(bytes, 32)? as usize;
        let name = bytes.get(36..36usize.checked_add(length)?)?;
        let record = NodeRecord {
            node: u64_at(bytes, 0)?,
            parent: u64_at(bytes, 8)?,
            lookups: u64_at(bytes, 16)?,
            inode: u64_at(bytes, 24)?,
            name,
        };
        is_name(name).then_some((record, &bytes[36 + length..]))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleRecord {
    pub handle: u64,
    pub node: u64,
    /// open(2) flags.
    pub flags: u32,
    pub directory: bool,
}

impl HandleRecord {
    pub const SIZE: usize = 24;

    pub fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.handle.to_le_bytes());
        to.extend_from_slice(&self.node.to_le_bytes());
        to.extend_from_slice(&self.flags.to_le_bytes());
        to.extend_from_slice(&u32::from(self.directory).to_le_bytes());
    }

    pub fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let record = HandleRecord {
            handle: u64_at(bytes, 0)?,
            node: u64_at(bytes, 8)?,
            flags: u32_at(bytes, 16)?,
            directory: u32_at(bytes, 20)? != 0,
        };
        Some((record, &bytes[Self::SIZE..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let node = NodeRecord {
            node: 5,
            parent: 1,
            lookups: 3,
            inode: 99,
            name: b"caf\xe9",
        };
        let handle = HandleRecord {
            handle: 4,
            node: 5,
            flags: 2,
            directory: false,
        };
        let mut bytes = Vec::new();
        node.encode(&mut bytes);
        node.encode(&mut bytes);
        let (first, rest) = NodeRecord::parse(&bytes).expect("a record");
        assert_eq!(first, node);
        assert_eq!(
            NodeRecord::parse(rest).map(|(n, rest)| (n, rest.len())),
            Some((node, 0))
        );
        let mut bytes = Vec::new();
        handle.encode(&mut bytes);
        assert_eq!(HandleRecord::parse(&bytes), Some((handle, &[][..])));
        assert_eq!(HandleRecord::parse(&bytes[1..]), None);
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        let mut bytes = vec![0; 36];
        bytes[32..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(NodeRecord::parse(&bytes), None);
    }
}
