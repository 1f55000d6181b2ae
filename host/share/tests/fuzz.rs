//! A hostile guest: made-up and mutated messages on the stream of the real podvm-share, with all its confinement. As root.
//!
//! The same messages at every run. The share must not panic, be killed or hang, must stay within its memory, and must leave alone what is no volume,
//! or one that is read-only. Built with overflow checks, as tests are.

mod common;
mod fuzzing;

use fuzzing::guest::Guest;
use fuzzing::messages::Messages;
use fuzzing::random::Random;
use podvm_share_wire::bytes::request;
use podvm_share_wire::restore::{HandleRecord, NodeRecord, END, HANDLES, NODES};
use podvm_share_wire::{op, MAX_REQUEST, ROOT};

#[test]
fn requests() {
    let mut guest = Guest::new("requests");
    guest.acknowledge();
    guest.end_of_restoring();
    let threads = guest.threads();
    let outside = guest.outside();
    let mut messages = Messages::new(Random::new(1));
    for _ in 0..600 {
        let burst: Vec<Vec<u8>> = (0..32).map(|_| messages.next()).collect();
        for (asked, reply) in guest.exchange(&burst) {
            messages.learn(&asked, &reply);
        }
    }
    assert!(messages.succeeded() > 1000, "only {} succeeded", messages.succeeded());
    assert_eq!(guest.threads(), threads, "a worker has panicked");
    assert!(guest.most_memory_kib() < 64 << 10, "{} KiB", guest.most_memory_kib());
    assert_eq!(guest.outside(), outside);
    guest.hang_up();
    assert_eq!(guest.end(), Some(0), "the guest's end is the share's");
}

#[test]
fn streams_out_of_form_end_it_in_order() {
    let mut random = Random::new(2);
    let mut lengths = vec![0u32, 1, 39, MAX_REQUEST as u32 + 1, u32::MAX, i32::MAX as u32];
    lengths.push(random.next() as u32 | 1 << 30);
    for length in lengths {
        let mut guest = Guest::new("lengths");
        guest.acknowledge();
        guest.end_of_restoring();
        let outside = guest.outside();
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(random.bytes(64));
        guest.send(&bytes);
        assert_eq!(guest.end(), Some(0), "length {length}");
        assert_eq!(guest.outside(), outside);
    }
}

#[test]
fn what_is_told_of_an_earlier_share() {
    for seed in 0..12 {
        let mut random = Random::new(100 + seed);
        let mut guest = Guest::new("restore");
        let outside = guest.outside();
        let noise = random.below(300);
        guest.send(&random.bytes(noise)); // before the acknowledgement: skipped
        guest.acknowledge();
        for _ in 0..20 {
            guest.send(&told(&mut random, seed % 3 == 0));
        }
        // Out of form: it has ended, in order. Else it serves.
        guest.send(&request(END, 0, 0, (0, 0), &random.bytes(16)));
        guest.send(&request(op::GETATTR, 77, ROOT, (0, 0), &[0; 16]));
        if guest.answers(77) {
            guest.hang_up();
        }
        assert_eq!(guest.end(), Some(0), "seed {seed}");
        assert_eq!(guest.outside(), outside);
    }
}

/// Records, whole or not, of nodes and handles that nobody was given.
fn told(random: &mut Random, break_it: bool) -> Vec<u8> {
    let mut body = Vec::new();
    let nodes = random.below(2) == 0;
    for _ in 0..random.below(20) {
        if nodes {
            let record = NodeRecord {
                node: random.number(),
                parent: random.pick(&[ROOT, 2, 3, u64::MAX]),
                lookups: random.number(),
                inode: random.number(),
                name: random.pick(&[&b"v"[..], b"ro", b"folder", b"file", b"out", b"nothing"]),
            };
            record.encode(&mut body);
        } else {
            let record = HandleRecord {
                handle: random.number(),
                node: random.pick(&[ROOT, 2, 3, u64::MAX]),
                flags: random.next() as u32,
                directory: random.below(2) == 0,
            };
            record.encode(&mut body);
        }
    }
    if break_it && !body.is_empty() {
        let at = random.below(body.len());
        body[at] ^= 1 << random.below(8);
    }
    request(if nodes { NODES } else { HANDLES }, 0, 0, (0, 0), &body)
}
