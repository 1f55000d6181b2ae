//! A share that has lost its mind: what it sends must not make the agent panic, wait for what never comes, or keep more than one reply. The same bytes at every
//! run.

use super::framing::{Frame, Framing};
use super::track::Track;
use podvm_share_wire::bytes::{request, InHeader};
use podvm_share_wire::hello::Hello;
use podvm_share_wire::restore::{HandleRecord, NodeRecord, END, HANDLES, NODES};
use podvm_share_wire::{op, ENTRY_OUT, IN_HEADER, MAX_REPLY, OUT_HEADER};

const HELLO: Hello = Hello {
    version: 1,
    nonce: *b"0123456789abcdef",
};

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

fn reply(random: &mut Random) -> Vec<u8> {
    let body = random.below(3000);
    let mut bytes = ((OUT_HEADER + body) as u32).to_le_bytes().to_vec();
    bytes.extend(random.bytes(OUT_HEADER - 4 + body));
    bytes.extend(HELLO.trailer());
    bytes
}

#[test]
fn any_bytes_on_the_port() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut framing = Framing::new();
        let (mut fed, mut hellos) = (0, 0);
        for _ in 0..60 {
            let mut bytes = match random.below(5) {
                0 => HELLO.encode().to_vec(),
                1 => {
                    let length = random.pick(&[0, 1, 15, MAX_REPLY as u32 + 1, u32::MAX, MAX_REPLY as u32, 5000]);
                    length.to_le_bytes().to_vec()
                }
                2 => {
                    let count = random.below(5000);
                    random.bytes(count)
                }
                _ => reply(&mut random),
            };
            if random.below(6) == 0 {
                let at = random.below(bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            fed += bytes.len();
            let cut = random.below(bytes.len() + 1);
            for part in [&bytes[..cut], &bytes[cut..]] {
                framing.feed(part);
                while let Some(frame) = framing.next() {
                    match frame {
                        Frame::Hello(_) => hellos += 1,
                        Frame::Reply(reply) => assert!((OUT_HEADER..=MAX_REPLY).contains(&reply.len())),
                    }
                }
                assert!(
                    framing.kept() <= fed.min(2 * (MAX_REPLY + 64)),
                    "seed {seed}: {}",
                    framing.kept()
                );
            }
        }
        assert!(hellos > 0, "seed {seed}");
        // Whatever came before: the next share is heard once it has filled up.
        framing.feed(&vec![0; MAX_REPLY + 64]);
        framing.feed(&HELLO.encode());
        let last = std::iter::from_fn(|| framing.next()).last();
        assert_eq!(last, Some(Frame::Hello(HELLO)), "seed {seed}");
    }
}

#[test]
fn any_replies_to_what_the_kernel_asked() {
    for seed in 0..40 {
        let mut random = Random(1000 + seed);
        let mut track = Track::default();
        for _ in 0..400 {
            let asked = asked(&mut random);
            let count = random.pick(&[0, 8, 16, 100, ENTRY_OUT, ENTRY_OUT + 16, 700]);
            let mut reply = vec![0; OUT_HEADER];
            reply.extend(random.bytes(count));
            // Mostly numbers that it has given before, and the ends of their range.
            for at in [OUT_HEADER, OUT_HEADER + ENTRY_OUT] {
                let number = random.pick(&[0, 1, 2, 3, 4, 5, u64::MAX, u64::MAX - 1]);
                if let Some(field) = reply.get_mut(at..at + 8) {
                    field.copy_from_slice(&number.to_le_bytes());
                }
            }
            track.asked(&asked);
            track.answered(&asked, &reply);
        }
        assert_whole(&track.messages());
    }
}

fn asked(random: &mut Random) -> Vec<u8> {
    let opcode = random.pick(&[
        op::LOOKUP,
        op::MKNOD,
        op::MKDIR,
        op::SYMLINK,
        op::LINK,
        op::CREATE,
        op::TMPFILE,
        op::OPEN,
        op::OPENDIR,
        op::READDIRPLUS,
        op::UNLINK,
        op::RENAME,
        op::RENAME2,
        op::FORGET,
        op::BATCH_FORGET,
        op::RELEASE,
    ]);
    let before = random.pick(&[0, 4, 8, 16]);
    let mut body: Vec<u8> = (0..before).map(|_| random.pick(&[0, 0, 1, 2, 255])).collect();
    for _ in 0..2 {
        body.extend_from_slice(random.pick(&[&b"a"[..], b"b", b"c", b"", b".."]));
        body.push(0);
    }
    body.truncate(random.below(body.len() + 8));
    request(opcode, 2, random.pick(&[1, 2, 3, 4, 5, u64::MAX]), (0, 0), &body)
}

/// What a new share is told: records that it can read, and one end.
fn assert_whole(messages: &[Vec<u8>]) {
    for (i, message) in messages.iter().enumerate() {
        let opcode = InHeader::parse(message).expect("a header").opcode;
        let mut rest = &message[IN_HEADER..];
        assert_eq!(opcode == END, i + 1 == messages.len());
        while opcode != END && !rest.is_empty() {
            rest = match opcode {
                NODES => NodeRecord::parse(rest).expect("a node").1,
                HANDLES => HandleRecord::parse(rest).expect("a handle").1,
                other => panic!("opcode {other:x}"),
            };
        }
    }
}
