//! Requests of every kind in their right form, with node ids, handles and names that exist, never did, or are no names; then some of them mutated.

use super::random::Random;
use podvm_share_wire::bytes::{request, u32_at, u64_at, InHeader};
use podvm_share_wire::{op, ENTRY_OUT, MAX_DATA, OUT_HEADER, ROOT};

pub struct Messages {
    random: Random,
    unique: u64,
    nodes: Vec<u64>,
    handles: Vec<u64>,
    succeeded: usize,
}

/// Beyond it the oldest make room.
const KNOWN: usize = 64;

impl Messages {
    pub fn new(random: Random) -> Self {
        Messages {
            random,
            unique: 1,
            nodes: vec![ROOT],
            handles: Vec::new(),
            succeeded: 0,
        }
    }

    pub fn succeeded(&self) -> usize {
        self.succeeded
    }

    /// Takes the numbers that the share has given.
    pub fn learn(&mut self, asked: &[u8], reply: &[u8]) {
        let Some(header) = InHeader::parse(asked) else { return };
        if u32_at(reply, 4) != Some(0) {
            return;
        }
        self.succeeded += 1;
        let answer = &reply[OUT_HEADER..];
        let entry = matches!(
            header.opcode,
            op::LOOKUP | op::MKNOD | op::MKDIR | op::SYMLINK | op::LINK | op::CREATE | op::TMPFILE
        );
        if let (true, Some(node)) = (entry, u64_at(answer, 0)) {
            remember(&mut self.nodes, node, &mut self.random);
        }
        let handle = match header.opcode {
            op::OPEN | op::OPENDIR => u64_at(answer, 0),
            op::CREATE | op::TMPFILE => u64_at(answer, ENTRY_OUT),
            _ => None,
        };
        if let Some(handle) = handle {
            remember(&mut self.handles, handle, &mut self.random);
        }
    }

    /// A whole message, whose header tells its true length.
    pub fn next(&mut self) -> Vec<u8> {
        let opcode = match self.random.below(20) {
            0 => self.random.next() as u32,
            1 => self.random.next() as u32 % 60,
            2..=4 => op::LOOKUP,
            5..=6 => self.random.pick(&[op::OPEN, op::CREATE, op::OPENDIR]),
            _ => self.random.pick(KINDS),
        };
        let mut body = self.body(opcode);
        if self.random.once_in(5) {
            self.mutate(&mut body);
        }
        let node = match self.random.below(12) {
            0 => self.random.number(),
            _ => self.random.pick(&self.nodes.clone()),
        };
        let owner = match self.random.below(16) {
            0 => u32::MAX,
            1 => self.random.next() as u32,
            2..=4 => 1234,
            _ => 0,
        };
        self.unique += 2;
        // Sometimes as if an earlier share had been asked already.
        let resent = if self.random.once_in(8) {
            podvm_share_wire::RESENT
        } else {
            0
        };
        request(opcode, self.unique | resent, node, (owner, owner), &body)
    }

    fn mutate(&mut self, body: &mut Vec<u8>) {
        match self.random.below(3) {
            0 => body.truncate(self.random.below(body.len() + 1)),
            1 => {
                let count = self.random.below(64);
                body.extend(self.random.bytes(count));
            }
            _ => {
                for _ in 0..=self.random.below(4) {
                    let at = self.random.below(body.len());
                    if let Some(byte) = body.get_mut(at) {
                        *byte = self.random.next() as u8;
                    }
                }
            }
        }
    }

    fn body(&mut self, opcode: u32) -> Vec<u8> {
        let mut body = Body(Vec::new());
        let handle = self.handle();
        let (mode, flags) = (self.mode(), self.flags());
        match opcode {
            op::LOOKUP | op::UNLINK | op::RMDIR => body.name(&self.name()),
            op::FORGET => body.u64(self.random.number()),
            op::GETATTR => body.u64(self.random.number()).u64(handle),
            op::SETATTR => {
                body.u32(self.random.next() as u32).u32(0).u64(handle);
                body.u64(self.size()).u64(self.random.number());
                for _ in 0..3 {
                    body.u64(self.random.number());
                }
                for _ in 0..4 {
                    body.u32(self.random.number() as u32);
                }
                body.u32(mode).u32(0).u32(1234).u32(1234).u32(0)
            }
            op::SYMLINK => {
                let target = self.random.pick(&["/", "../outside/secret", "file", "/etc/passwd", ""]);
                body.name(&self.name()).name(target.as_bytes())
            }
            op::MKNOD => {
                let kind = self.random.pick(&[
                    libc::S_IFIFO,
                    libc::S_IFCHR,
                    libc::S_IFBLK,
                    libc::S_IFSOCK,
                    libc::S_IFREG,
                    0,
                ]);
                body.u32(mode | kind)
                    .u32(self.random.number() as u32)
                    .u32(0)
                    .u32(0)
                    .name(&self.name())
            }
            op::MKDIR => body.u32(mode).u32(0).name(&self.name()),
            op::RENAME => body.u64(self.node()).name(&self.name()).name(&self.name()),
            op::RENAME2 => {
                let how = self.random.pick(&[0, 1, 2, 3, 4, u32::MAX]);
                body.u64(self.node())
                    .u32(how)
                    .u32(0)
                    .name(&self.name())
                    .name(&self.name())
            }
            op::LINK => body.u64(self.node()).name(&self.name()),
            op::OPEN | op::OPENDIR => body.u32(flags).u32(0),
            op::CREATE | op::TMPFILE => body.u32(flags).u32(mode).u32(0).u32(0).name(&self.name()),
            op::READ | op::READDIR | op::READDIRPLUS => {
                let size = self.random.pick(&[0, 1, 100, 4096, MAX_DATA as u32, u32::MAX]);
                body.u64(handle)
                    .u64(self.offset())
                    .u32(size)
                    .u32(0)
                    .u64(0)
                    .u32(0)
                    .u32(0)
            }
            op::WRITE => {
                let length = self.random.pick(&[0, 1, 100, 5000, MAX_DATA]);
                let told = if self.random.once_in(6) {
                    self.random.number() as u32
                } else {
                    length as u32
                };
                body.u64(handle)
                    .u64(self.offset())
                    .u32(told)
                    .u32(0)
                    .u64(0)
                    .u32(0)
                    .u32(0);
                body.0.resize(40 + length, b'w');
                &mut body
            }
            op::RELEASE | op::RELEASEDIR => {
                self.handles.retain(|known| *known != handle);
                body.u64(handle).u64(0).u64(0)
            }
            op::FLUSH | op::FSYNC | op::FSYNCDIR => body.u64(handle).u32(self.random.next() as u32).u32(0).u64(0),
            op::SETXATTR => {
                let value = self.random.below(300);
                let told = if self.random.once_in(4) {
                    self.random.number() as u32
                } else {
                    value as u32
                };
                body.u32(told).u32(self.random.next() as u32 % 4).name(self.attribute());
                body.0.extend(self.random.bytes(value));
                &mut body
            }
            op::GETXATTR | op::LISTXATTR => {
                let size = self.random.pick(&[0, 1, 100, 65_536, u32::MAX]);
                body.u32(size).u32(0).name(self.attribute())
            }
            op::REMOVEXATTR => body.name(self.attribute()),
            op::INIT => body
                .u32(7)
                .u32(self.random.number() as u32)
                .u64(self.random.next())
                .u64(0),
            op::BATCH_FORGET => {
                body.u32(self.random.pick(&[0, 1, 2, u32::MAX])).u32(0);
                body.u64(self.random.number()).u64(self.random.number())
            }
            op::FALLOCATE => body
                .u64(handle)
                .u64(self.offset())
                .u64(self.random.number())
                .u32(self.random.below(128) as u32)
                .u32(0),
            op::LSEEK => body
                .u64(handle)
                .u64(self.random.number())
                .u32(self.random.below(7) as u32)
                .u32(0),
            op::COPY_FILE_RANGE => {
                body.u64(handle).u64(self.offset()).u64(self.node()).u64(self.handle());
                let flags = if self.random.once_in(4) { self.random.next() } else { 0 };
                body.u64(self.offset()).u64(self.random.number()).u64(flags)
            }
            _ => {
                let count = self.random.below(200);
                body.0.extend(self.random.bytes(count));
                &mut body
            }
        };
        body.0
    }

    fn node(&mut self) -> u64 {
        if self.random.once_in(8) {
            return self.random.number();
        }
        self.random.pick(&self.nodes.clone())
    }

    fn handle(&mut self) -> u64 {
        if self.handles.is_empty() || self.random.once_in(8) {
            return self.random.number();
        }
        self.random.pick(&self.handles.clone())
    }

    fn name(&mut self) -> Vec<u8> {
        let long = [b'x'; 256];
        let name: &[u8] = match self.random.below(12) {
            0 => self.random.pick(&[
                &b""[..],
                b".",
                b"..",
                b"a/b",
                b"/",
                b"../outside",
                b"/etc/passwd",
                b"folder/..",
                &long,
            ]),
            1 => self.random.pick(&[&long[..255], b"\xff\xfe", b"..data", b" "]),
            2 => b"out",
            3..=5 => self.random.pick(&[&b"v"[..], b"ro"]),
            _ => self.random.pick(&[&b"file"[..], b"folder", b"a", b"b", b"c", b"d"]),
        };
        name.to_vec()
    }

    fn attribute(&mut self) -> &'static [u8] {
        self.random.pick(&[
            &b"user.a"[..],
            b"user.",
            b"trusted.overlay.opaque",
            b"security.capability",
            b"security.selinux",
            b"system.posix_acl_access",
            b"",
            b"user.podvm.trusted.x",
        ])
    }

    fn mode(&mut self) -> u32 {
        self.random.pick(&[0o644, 0o755, 0o7777, 0, u32::MAX >> 16 & 0o7777])
    }

    fn flags(&mut self) -> u32 {
        if self.random.once_in(5) {
            return self.random.next() as u32;
        }
        let access = self.random.below(3) as u32;
        access
            | self.random.pick(&[
                0,
                libc::O_TRUNC,
                libc::O_APPEND,
                libc::O_EXCL,
                libc::O_PATH,
                libc::O_TMPFILE,
            ]) as u32
    }

    fn offset(&mut self) -> u64 {
        if self.random.once_in(4) {
            return self.random.number();
        }
        self.random.next() % 100_000
    }

    fn size(&mut self) -> u64 {
        if self.random.once_in(4) {
            return self.random.number();
        }
        self.random.next() % 100_000
    }
}

/// Builder of a body.
struct Body(Vec<u8>);

impl Body {
    fn u32(&mut self, number: u32) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn u64(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn name(&mut self, name: &[u8]) -> &mut Self {
        self.0.extend_from_slice(name);
        self.0.push(0);
        self
    }
}

fn remember(known: &mut Vec<u64>, number: u64, random: &mut Random) {
    if number == 0 || known.contains(&number) {
        return;
    }
    if known.len() >= KNOWN {
        let oldest = 1 + random.below(known.len() - 1); // never the root
        known.swap_remove(oldest);
    }
    known.push(number);
}

const KINDS: &[u32] = &[
    op::LOOKUP,
    op::FORGET,
    op::GETATTR,
    op::SETATTR,
    op::READLINK,
    op::SYMLINK,
    op::MKNOD,
    op::MKDIR,
    op::UNLINK,
    op::RMDIR,
    op::RENAME,
    op::LINK,
    op::OPEN,
    op::READ,
    op::WRITE,
    op::STATFS,
    op::RELEASE,
    op::FSYNC,
    op::SETXATTR,
    op::GETXATTR,
    op::LISTXATTR,
    op::REMOVEXATTR,
    op::FLUSH,
    op::INIT,
    op::OPENDIR,
    op::READDIR,
    op::RELEASEDIR,
    op::FSYNCDIR,
    op::CREATE,
    op::INTERRUPT,
    op::DESTROY,
    op::BATCH_FORGET,
    op::FALLOCATE,
    op::READDIRPLUS,
    op::RENAME2,
    op::LSEEK,
    op::COPY_FILE_RANGE,
    op::SYNCFS,
    op::TMPFILE,
];
