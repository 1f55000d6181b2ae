//! What podvm-share and the agent say to each other on their byte stream (docs/volumes.md, "The relay").
//!
//! Both directions carry FUSE messages as the kernel's `linux/fuse.h` has them: little endian, the length first. A connection begins
//! with a hello of the share and the agent's acknowledgement; then the agent tells what the kernel still knows of an earlier share.

pub mod bytes;
pub mod hello;
pub mod restore;

/// Of hello, restore records and the limits below.
pub const VERSION: u32 = 1;

/// Most bytes of one READ or WRITE. Larger ones are not faster: the guest takes them from the port in pages.
pub const MAX_DATA: usize = 512 << 10;
/// The kernel asks for max_write and 4096 bytes of room for one request.
pub const MAX_REQUEST: usize = MAX_DATA + 4096;
pub const MAX_REPLY: usize = OUT_HEADER + MAX_DATA;
/// After every reply: the first bytes of the connection's nonce. A reply that an earlier share left unfinished never ends with it.
pub const TRAILER: usize = 8;

pub const IN_HEADER: usize = 40;
pub const OUT_HEADER: usize = 16;
pub const ENTRY_OUT: usize = 128;
pub const DIRENT: usize = 24;

/// NAME_MAX.
pub const MAX_NAME: usize = 255;
pub const ROOT: u64 = 1;
/// Bit of `unique`: this request may have been carried out by an earlier share already.
pub const RESENT: u64 = 1 << 63;

/// Opcodes of linux/fuse.h.
pub mod op {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SYNCFS: u32 = 50;
    pub const TMPFILE: u32 = 51;
}
