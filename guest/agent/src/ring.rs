//! The last N records of something, numbered from 1 without gaps, with live followers: events and logs.

use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::sync::watch;

pub struct Ring<T> {
    records: Mutex<Records<T>>,
    last: watch::Sender<u64>,
    capacity: usize,
}

struct Records<T> {
    /// Number of the newest record; 0 where there was none.
    last: u64,
    kept: VecDeque<T>,
}

/// What a follower gets next.
pub struct Batch<T> {
    /// Number of the first record in `records`.
    pub first: u64,
    pub records: Vec<T>,
}

impl<T: Clone> Ring<T> {
    pub fn new(capacity: usize) -> Self {
        let records = Mutex::new(Records {
            last: 0,
            kept: VecDeque::new(),
        });
        Ring {
            records,
            last: watch::Sender::new(0),
            capacity,
        }
    }

    /// Appends what `make` returns for its number.
    pub fn push(&self, make: impl FnOnce(u64) -> T) {
        let last = {
            let mut records = self.lock();
            records.last += 1;
            let record = make(records.last);
            if records.kept.len() == self.capacity {
                records.kept.pop_front();
            }
            records.kept.push_back(record);
            records.last
        };
        self.last.send_replace(last);
    }

    pub fn last(&self) -> u64 {
        self.lock().last
    }

    /// Number of the oldest record kept; one above the newest where none is.
    pub fn first(&self) -> u64 {
        let records = self.lock();
        records.last + 1 - records.kept.len() as u64
    }

    /// At most `limit` records above number `after`; where some of them are gone, `first` is higher than `after` + 1.
    pub fn after(&self, after: u64, limit: usize) -> Batch<T> {
        let records = self.lock();
        let oldest = records.last + 1 - records.kept.len() as u64;
        let first = oldest.max(after + 1);
        let skip = usize::try_from(first - oldest).unwrap_or(usize::MAX);
        Batch {
            first,
            records: records.kept.iter().skip(skip).take(limit).cloned().collect(),
        }
    }

    /// Tells of every new record.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Records<T>> {
        self.records.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_no_gaps_and_old_records_go() {
        let ring = Ring::new(3);
        assert_eq!((ring.first(), ring.last()), (1, 0));
        for _ in 0..5 {
            ring.push(|n| n);
        }
        assert_eq!((ring.first(), ring.last()), (3, 5));
        let all = ring.after(0, 10);
        assert_eq!((all.first, all.records), (3, vec![3, 4, 5]));
        let some = ring.after(3, 1);
        assert_eq!((some.first, some.records), (4, vec![4]));
        assert!(ring.after(5, 10).records.is_empty());
        assert!(ring.after(99, 10).records.is_empty());
    }

    #[test]
    fn followers_see_that_something_came() {
        let ring = Ring::new(3);
        let mut follower = ring.follow();
        follower.mark_unchanged();
        ring.push(|n| n);
        assert!(follower.has_changed().unwrap());
    }
}
