//! The system calls of a serving share; every other kills it.

use crate::failure::{check, Failure};

const ALLOWED: &[libc::c_long] = &[
    // Streams and files.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_accept4,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_copy_file_range,
    libc::SYS_fstatfs,
    libc::SYS_statx,
    libc::SYS_getdents64,
    // Names.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_readlinkat,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_getxattr,
    libc::SYS_listxattr,
    libc::SYS_removexattr,
    // As whom.
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    // Memory, threads, time, the end.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mprotect,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_tgkill,
    libc::SYS_tkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
];

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// Of struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// For all threads of the process.
pub fn enter() -> Result<(), Failure> {
    const SET_MODE_FILTER: libc::c_ulong = 1;
    const TSYNC: libc::c_ulong = 1;
    let program = program();
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: filter and the program it points at outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, TSYNC, &raw const filter) };
    // More than 0: the thread that could not be.
    if result > 0 {
        return Err(Failure::errno(
            format!("system call filter of thread {result}"),
            libc::ESRCH,
        ));
    }
    check("system call filter", result).map(drop)
}

/// Numbers of the x32 table have a bit of their own, so none of them is equal to one of these.
fn program() -> Vec<libc::sock_filter> {
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut program = vec![
        step(LOAD, ARCHITECTURE, 0, 0),
        step(JUMP_EQUAL, AUDIT_ARCH_X86_64, 1, 0),
        step(RETURN, KILL_PROCESS, 0, 0),
        step(LOAD, NUMBER, 0, 0),
    ];
    for number in ALLOWED {
        program.push(step(JUMP_EQUAL, *number as u32, 0, 1));
        program.push(step(RETURN, ALLOW, 0, 0));
    }
    program.push(step(RETURN, KILL_PROCESS, 0, 0));
    program
}
