//! What the kernel knows of the share: nodes by number with the name by which each was last seen, and open files. Learnt from the requests and
//! replies that pass; told to a share that takes another's place.

use podvm_share_wire::bytes::{is_name, text_at, u32_at, u64_at, InHeader};
use podvm_share_wire::restore::{HandleRecord, NodeRecord, BATCH, END, HANDLES, NODES};
use podvm_share_wire::{bytes, op, DIRENT, ENTRY_OUT, IN_HEADER, OUT_HEADER, ROOT};
use std::collections::HashMap;
use std::sync::Arc;

/// Of fuse_entry_out: the attributes begin here, with the inode number.
const ENTRY_INODE: usize = 40;
const RENAME_EXCHANGE: u32 = 2;

struct Node {
    /// None: it has no name any more that we know of. Only its open files live on, until the share dies.
    place: Option<(u64, Arc<[u8]>)>,
    lookups: u64,
    inode: u64,
}

#[derive(Default)]
pub struct Track {
    nodes: HashMap<u64, Node>,
    places: HashMap<(u64, Arc<[u8]>), u64>,
    handles: HashMap<u64, HandleRecord>,
    free_node: u64,
    free_handle: u64,
}

impl Track {
    /// A request that the kernel wants no answer to, or whose effect on us does not depend on it.
    pub fn asked(&mut self, request: &[u8]) {
        let Some(header) = InHeader::parse(request) else { return };
        let body = &request[IN_HEADER.min(request.len())..];
        match header.opcode {
            op::FORGET => self.forget(header.node, u64_at(body, 0).unwrap_or(0)),
            op::BATCH_FORGET => {
                for record in body.get(8..).unwrap_or(&[]).chunks_exact(16) {
                    if let (Some(node), Some(times)) = (u64_at(record, 0), u64_at(record, 8)) {
                        self.forget(node, times);
                    }
                }
            }
            op::RELEASE | op::RELEASEDIR => {
                if let Some(handle) = u64_at(body, 0) {
                    self.handles.remove(&handle);
                }
            }
            _ => {}
        }
    }

    /// A request that succeeded, with its reply.
    pub fn answered(&mut self, request: &[u8], reply: &[u8]) -> Option<()> {
        let header = InHeader::parse(request)?;
        let (body, answer) = (request.get(IN_HEADER..)?, reply.get(OUT_HEADER..)?);
        match header.opcode {
            op::LOOKUP => self.entry(header.node, text_at(body, 0)?, answer),
            op::MKNOD => self.entry(header.node, text_at(body, 16)?, answer),
            op::MKDIR => self.entry(header.node, text_at(body, 8)?, answer),
            op::SYMLINK => self.entry(header.node, text_at(body, 0)?, answer),
            op::LINK => self.entry(header.node, text_at(body, 8)?, answer),
            op::CREATE => {
                self.entry(header.node, text_at(body, 16)?, answer)?;
                self.opened(u64_at(answer, 0)?, u64_at(answer, ENTRY_OUT)?, u32_at(body, 0)?, false)
            }
            op::TMPFILE => {
                self.nameless(answer)?;
                self.opened(u64_at(answer, 0)?, u64_at(answer, ENTRY_OUT)?, u32_at(body, 0)?, false)
            }
            op::OPEN => self.opened(header.node, u64_at(answer, 0)?, u32_at(body, 0)?, false),
            op::OPENDIR => self.opened(header.node, u64_at(answer, 0)?, u32_at(body, 0)?, true),
            op::READDIRPLUS => self.listed(header.node, answer),
            op::UNLINK | op::RMDIR => {
                self.vacate(header.node, text_at(body, 0)?);
                Some(())
            }
            op::RENAME => self.renamed(header.node, u64_at(body, 0)?, &body[8..], 0),
            op::RENAME2 => self.renamed(header.node, u64_at(body, 0)?, body.get(16..)?, u32_at(body, 8)?),
            _ => Some(()),
        }
    }

    /// Messages for a new share: nodes, parents first; open files; the end.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let mut batch = Vec::new();
        let mut flush = |batch: &mut Vec<u8>, opcode: u32, least: usize| {
            if batch.len() > least {
                messages.push(bytes::request(opcode, 0, 0, (0, 0), batch));
                batch.clear();
            }
        };
        let mut children: HashMap<u64, Vec<(u64, &Node)>> = HashMap::new();
        for (number, node) in &self.nodes {
            if let Some((parent, _)) = &node.place {
                children.entry(*parent).or_default().push((*number, node));
            }
        }
        let mut parents = vec![ROOT];
        while let Some(parent) = parents.pop() {
            for (number, node) in children.remove(&parent).unwrap_or_default() {
                let Some((_, name)) = &node.place else { continue };
                let record = NodeRecord {
                    node: number,
                    parent,
                    lookups: node.lookups,
                    inode: node.inode,
                    name,
                };
                record.encode(&mut batch);
                parents.push(number);
                flush(&mut batch, NODES, BATCH);
            }
        }
        flush(&mut batch, NODES, 0);
        for handle in self.handles.values() {
            handle.encode(&mut batch);
            flush(&mut batch, HANDLES, BATCH);
        }
        flush(&mut batch, HANDLES, 0);
        batch.extend_from_slice(&self.free_node.to_le_bytes());
        batch.extend_from_slice(&self.free_handle.to_le_bytes());
        flush(&mut batch, END, 0);
        messages
    }

    fn entry(&mut self, parent: u64, name: &[u8], answer: &[u8]) -> Option<()> {
        let number = u64_at(answer, 0)?;
        if number == 0 || !is_name(name) {
            return Some(());
        }
        self.seen(number, u64_at(answer, ENTRY_INODE)?);
        self.put(number, parent, name.into());
        Some(())
    }

    fn nameless(&mut self, answer: &[u8]) -> Option<()> {
        self.seen(u64_at(answer, 0)?, u64_at(answer, ENTRY_INODE)?);
        Some(())
    }

    fn seen(&mut self, number: u64, inode: u64) {
        self.free_node = self.free_node.max(number.saturating_add(1));
        let node = self.nodes.entry(number).or_insert(Node {
            place: None,
            lookups: 0,
            inode,
        });
        node.lookups = node.lookups.saturating_add(1);
    }

    fn opened(&mut self, node: u64, handle: u64, flags: u32, directory: bool) -> Option<()> {
        self.free_handle = self.free_handle.max(handle.saturating_add(1));
        let record = HandleRecord {
            handle,
            node,
            flags,
            directory,
        };
        self.handles.insert(handle, record);
        Some(())
    }

    fn listed(&mut self, parent: u64, mut answer: &[u8]) -> Option<()> {
        while answer.len() >= ENTRY_OUT + DIRENT {
            let length = u32_at(answer, ENTRY_OUT + 16)? as usize;
            let name = answer.get(ENTRY_OUT + DIRENT..)?.get(..length)?;
            if name != b"." && name != b".." {
                self.entry(parent, name, answer)?;
            }
            answer = answer.get((ENTRY_OUT + DIRENT + length).next_multiple_of(8)..)?;
        }
        Some(())
    }

    fn renamed(&mut self, from: u64, to: u64, names: &[u8], flags: u32) -> Option<()> {
        let old = text_at(names, 0)?;
        let new = text_at(names, old.len() + 1)?;
        let (moved, other) = (self.vacate(from, old), self.vacate(to, new));
        if let Some(moved) = moved {
            self.put(moved, to, new.into());
        }
        if flags & RENAME_EXCHANGE != 0 {
            if let Some(other) = other {
                self.put(other, from, old.into());
            }
        }
        Some(())
    }

    /// Whatever has this name has it no longer.
    fn vacate(&mut self, parent: u64, name: &[u8]) -> Option<u64> {
        let number = self.places.remove(&(parent, Arc::from(name)))?;
        if let Some(node) = self.nodes.get_mut(&number) {
            node.place = None;
        }
        Some(number)
    }

    fn put(&mut self, number: u64, parent: u64, name: Arc<[u8]>) {
        let place = (parent, name);
        if self.places.get(&place) == Some(&number) {
            return;
        }
        self.vacate(parent, &place.1);
        let Some(node) = self.nodes.get_mut(&number) else {
            return;
        };
        if let Some(before) = node.place.replace(place.clone()) {
            self.places.remove(&before);
        }
        self.places.insert(place, number);
    }

    fn forget(&mut self, number: u64, times: u64) {
        let Some(node) = self.nodes.get_mut(&number) else {
            return;
        };
        node.lookups = node.lookups.saturating_sub(times);
        if node.lookups == 0 {
            if let Some(place) = self.nodes.remove(&number).and_then(|node| node.place) {
                self.places.remove(&place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podvm_share_wire::bytes::request;

    fn ask(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        request(opcode, 2, node, (0, 0), body)
    }

    fn entry(node: u64) -> Vec<u8> {
        let mut reply = vec![0; OUT_HEADER + ENTRY_OUT];
        reply[OUT_HEADER..OUT_HEADER + 8].copy_from_slice(&node.to_le_bytes());
        reply[OUT_HEADER + ENTRY_INODE..OUT_HEADER + ENTRY_INODE + 8].copy_from_slice(&(node + 1000).to_le_bytes());
        reply
    }

    fn told(track: &Track) -> Vec<(u64, u64, String, u64)> {
        let mut nodes = Vec::new();
        for message in track.messages() {
            let header = InHeader::parse(&message).expect("a header");
            let mut rest = &message[IN_HEADER..];
            while header.opcode == NODES && !rest.is_empty() {
                let (record, after) = NodeRecord::parse(rest).expect("a record");
                assert_eq!(record.inode, record.node + 1000);
                let name = String::from_utf8_lossy(record.name).into_owned();
                nodes.push((record.node, record.parent, name, record.lookups));
                rest = after;
            }
        }
        nodes
    }

    fn sample() -> Track {
        let mut track = Track::default();
        track.answered(&ask(op::LOOKUP, 1, b"vol\0"), &entry(2));
        track.answered(&ask(op::MKDIR, 2, b"\0\0\0\0\0\0\0\0sub\0"), &entry(3));
        track.answered(&ask(op::LOOKUP, 3, b"file\0"), &entry(4));
        track.answered(&ask(op::LOOKUP, 3, b"file\0"), &entry(4));
        track
    }

    #[test]
    fn parents_first_with_counts() {
        let expected = [
            (2, 1, "vol".to_string(), 1),
            (3, 2, "sub".to_string(), 1),
            (4, 3, "file".to_string(), 2),
        ];
        assert_eq!(told(&sample()), expected);
    }

    #[test]
    fn forgotten_once_it_was_looked_up_for_the_last_time() {
        let mut track = sample();
        track.asked(&ask(op::FORGET, 4, &1u64.to_le_bytes()));
        assert_eq!(told(&track).len(), 3);
        track.asked(&ask(op::FORGET, 4, &1u64.to_le_bytes()));
        assert_eq!(told(&track).len(), 2);
    }

    #[test]
    fn renames_move_what_is_below() {
        let mut track = sample();
        let mut body = 1u64.to_le_bytes().to_vec();
        body.copy_from_slice(&2u64.to_le_bytes());
        body.extend_from_slice(b"sub\0other\0");
        track.answered(&ask(op::RENAME, 2, &body), &[0; OUT_HEADER]);
        assert_eq!(told(&track)[1], (3, 2, "other".into(), 1));
        assert_eq!(told(&track)[2].1, 3);
    }

    #[test]
    fn exchange_swaps_two() {
        let mut track = sample();
        track.answered(&ask(op::LOOKUP, 2, b"b\0"), &entry(5));
        let mut body = 2u64.to_le_bytes().to_vec();
        body.extend_from_slice(&RENAME_EXCHANGE.to_le_bytes());
        body.extend_from_slice(&[0; 4]);
        body.extend_from_slice(b"sub\0b\0");
        track.answered(&ask(op::RENAME2, 2, &body), &[0; OUT_HEADER]);
        let names: HashMap<u64, String> = told(&track).into_iter().map(|n| (n.0, n.2)).collect();
        assert_eq!((names[&3].as_str(), names[&5].as_str()), ("b", "sub"));
    }

    #[test]
    fn removed_names_are_not_told() {
        let mut track = sample();
        track.answered(&ask(op::UNLINK, 3, b"file\0"), &[0; OUT_HEADER]);
        assert_eq!(told(&track).len(), 2);
        // Replaced: the name is the new file's.
        track.answered(&ask(op::LOOKUP, 3, b"file\0"), &entry(9));
        assert_eq!(told(&track)[2].0, 9);
    }

    #[test]
    fn handles_until_they_are_released() {
        let mut track = sample();
        let mut open = vec![0; OUT_HEADER + 16];
        open[OUT_HEADER] = 77;
        track.answered(&ask(op::OPEN, 4, &2u64.to_le_bytes()), &open);
        let handles = |track: &Track| {
            let messages = track.messages();
            let found = messages
                .iter()
                .find(|m| InHeader::parse(m).map(|h| h.opcode) == Some(HANDLES));
            found.and_then(|m| HandleRecord::parse(&m[IN_HEADER..]).map(|(record, _)| record))
        };
        let expected = HandleRecord {
            handle: 77,
            node: 4,
            flags: 2,
            directory: false,
        };
        assert_eq!(handles(&track), Some(expected));
        track.asked(&ask(op::RELEASE, 4, &77u64.to_le_bytes()));
        assert_eq!(handles(&track), None);
    }
}
