//! Output of one stream, kept until the server has acknowledged it. Pure; container/output.rs does the reading and sending.

use bytes::Bytes;
use std::collections::VecDeque;

/// What a chunk costs beside its data, so that many small ones are bounded too.
const OVERHEAD: usize = 96;
/// With its head it fits into 64 KiB, which is what the buffers on its way are.
pub const LARGEST_CHUNK: usize = 60 << 10;
pub const DEFAULT_SIZE: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub offset: u64,
    pub time_ns: i64,
    pub data: Bytes,
}

impl Chunk {
    pub fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

pub struct Spool {
    chunks: VecDeque<Chunk>,
    /// Everything below is acknowledged.
    acknowledged: u64,
    end: u64,
    used: usize,
    size: usize,
    eof_ns: Option<i64>,
}

impl Spool {
    /// `size`: bytes, 0 for the default; bounded to 64 KiB … 16 MiB.
    pub fn new(size: u32) -> Self {
        let size = if size == 0 {
            DEFAULT_SIZE
        } else {
            (size as usize).clamp(64 << 10, 16 << 20)
        };
        Spool {
            chunks: VecDeque::new(),
            acknowledged: 0,
            end: 0,
            used: 0,
            size,
            eof_ns: None,
        }
    }

    /// Bytes that may be pushed now; 0: full.
    pub fn room(&self) -> usize {
        self.size.saturating_sub(self.used + OVERHEAD).min(LARGEST_CHUNK)
    }

    pub fn push(&mut self, data: Bytes, time_ns: i64) {
        self.used += data.len() + OVERHEAD;
        let chunk = Chunk {
            offset: self.end,
            time_ns,
            data,
        };
        self.end = chunk.end();
        self.chunks.push_back(chunk);
    }

    pub fn close(&mut self, time_ns: i64) {
        self.eof_ns.get_or_insert(time_ns);
    }

    /// When the stream ended.
    pub fn eof_ns(&self) -> Option<i64> {
        self.eof_ns
    }

    /// Length of the stream so far.
    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Drops what lies below `offset`. False: the offset is above the end, nothing changes. Going back is no error and changes nothing.
    pub fn acknowledge(&mut self, offset: u64) -> bool {
        if offset > self.end {
            return false;
        }
        self.acknowledged = self.acknowledged.max(offset);
        while self.chunks.front().is_some_and(|c| c.end() <= self.acknowledged) {
            if let Some(chunk) = self.chunks.pop_front() {
                self.used -= chunk.data.len() + OVERHEAD;
            }
        }
        true
    }

    /// The rest, from `offset` on, of the chunk that holds it; where those bytes are gone, the first that is kept.
    pub fn from(&self, offset: u64) -> Option<Chunk> {
        let offset = offset.max(self.acknowledged);
        let chunk = self.chunks.get(self.chunks.partition_point(|c| c.end() <= offset))?;
        let skip = usize::try_from(offset.saturating_sub(chunk.offset)).ok()?;
        Some(Chunk {
            offset: chunk.offset + skip as u64,
            time_ns: chunk.time_ns,
            data: chunk.data.slice(skip..),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> Spool {
        let mut spool = Spool::new(0);
        spool.push(Bytes::from_static(b"hello "), 1);
        spool.push(Bytes::from_static(b"world"), 2);
        spool
    }

    #[test]
    fn a_chunk_sent_again_is_the_same() {
        let spool = filled();
        let first = spool.from(0).unwrap();
        assert_eq!((first.offset, first.time_ns, &first.data[..]), (0, 1, &b"hello "[..]));
        assert_eq!(spool.from(0), Some(first));
        assert_eq!(spool.from(6).unwrap().time_ns, 2);
        assert_eq!(spool.from(11), None);
    }

    #[test]
    fn from_within_a_chunk_comes_its_rest_with_its_time_and_end() {
        let rest = filled().from(2).unwrap();
        assert_eq!(
            (rest.offset, rest.time_ns, &rest.data[..], rest.end()),
            (2, 1, &b"llo "[..], 6)
        );
    }

    #[test]
    fn acknowledged_bytes_are_dropped_by_whole_chunks() {
        let mut spool = filled();
        let full = spool.used;
        assert!(spool.acknowledge(3));
        assert_eq!(spool.used, full);
        assert_eq!(&spool.from(0).unwrap().data[..], b"lo ");
        assert!(spool.acknowledge(6));
        assert!(spool.used < full);
        assert!(spool.acknowledge(1));
        assert_eq!(spool.acknowledged(), 6);
        assert_eq!(spool.from(0).unwrap().offset, 6);
        assert!(!spool.acknowledge(12));
        assert!(spool.acknowledge(11));
        assert_eq!((spool.from(0), spool.used, spool.end()), (None, 0, 11));
    }

    #[test]
    fn full_means_no_room_until_acknowledged() {
        let mut spool = Spool::new(64 << 10);
        while spool.room() > 0 {
            let n = spool.room().min(1000);
            spool.push(Bytes::from(vec![0; n]), 1);
        }
        assert!(spool.used <= 64 << 10);
        spool.acknowledge(2000);
        assert!(spool.room() > 0);
    }

    #[test]
    fn single_bytes_are_bounded_too() {
        let mut spool = Spool::new(64 << 10);
        let mut count = 0;
        while spool.room() > 0 {
            spool.push(Bytes::from_static(b"x"), 1);
            count += 1;
        }
        assert!(count < 700, "{count}");
    }

    #[test]
    fn size_is_bounded() {
        assert_eq!(Spool::new(1).size, 64 << 10);
        assert_eq!(Spool::new(u32::MAX).size, 16 << 20);
    }
}
