//! INIT: what the two sides can do. Deterministic: a share that comes after another answers the same, and nothing of it need be told again.

use super::Request;
use crate::reply::Reply;
use crate::sys::Errno;
use podvm_share_wire::MAX_DATA;

const MAJOR: u32 = 7;
/// Revision of linux/fuse.h that the structures here are of (Linux 5.13).
const MINOR: u32 = 33;

const ASYNC_READ: u32 = 1 << 0;
const ATOMIC_O_TRUNC: u32 = 1 << 3;
const BIG_WRITES: u32 = 1 << 5;
const AUTO_INVAL_DATA: u32 = 1 << 12;
const DO_READDIRPLUS: u32 = 1 << 13;
const READDIRPLUS_AUTO: u32 = 1 << 14;
const PARALLEL_DIROPS: u32 = 1 << 18;
const MAX_PAGES: u32 = 1 << 22;
const HANDLE_KILLPRIV_V2: u32 = 1 << 28;

/// Without WRITEBACK_CACHE: with it the guest alone would own size and times of a file, and what the host or another pod appends would be
/// lost. Without POSIX_LOCKS and FLOCK_LOCKS: locks are the guest's own. Without HANDLE_KILLPRIV_V2 every write would first ask
/// for an extended attribute; with it set-uid bits are cleared by the host's kernel, which sees a writer without CAP_FSETID.
const WANTED: u32 = ASYNC_READ
    | ATOMIC_O_TRUNC
    | BIG_WRITES
    | AUTO_INVAL_DATA
    | DO_READDIRPLUS
    | READDIRPLUS_AUTO
    | PARALLEL_DIROPS
    | MAX_PAGES
    | HANDLE_KILLPRIV_V2;

/// Requests that the kernel sends without a process that waits (readahead, asynchronous writes).
const BACKGROUND: u16 = 32;

pub fn init(request: &Request, reply: &mut Reply) -> Result<(), Errno> {
    let (major, minor) = (request.u32(0)?, request.u32(4)?);
    // 7.23 is the first with today's structures: Linux 3.15.
    if major != MAJOR || minor < 23 {
        return Err(libc::EPROTO);
    }
    reply.u32(MAJOR);
    reply.u32(minor.min(MINOR));
    reply.u32(request.u32(8)?.max(MAX_DATA as u32)); // readahead; the kernel takes the smaller of this and the device's
    reply.u32(request.u32(12)? & WANTED);
    reply.u16(BACKGROUND);
    reply.u16(BACKGROUND / 4 * 3);
    reply.u32(MAX_DATA as u32);
    reply.u32(1); // granularity of times: nanoseconds
    reply.u16((MAX_DATA / 4096) as u16);
    reply.zeroes(2 + 4 * 8);
    Ok(())
}
