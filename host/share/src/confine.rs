//! What the share gives up before it serves.

use crate::failure::{check, Failure};

/// What is left, and only towards files (the user namespace owns nothing else): make and change files of any user, as that user.
const KEPT: [u32; 8] = [
    0,  // CHOWN
    1,  // DAC_OVERRIDE
    2,  // DAC_READ_SEARCH
    3,  // FOWNER
    4,  // FSETID
    6,  // SETGID
    7,  // SETUID
    31, // SETFCAP
];

/// Open files: one per node and handle, as far as the server's own hard limit goes; and no core dumps, no locked memory. Answers how many nodes
/// there is room for.
pub fn limit_resources() -> Result<usize, Failure> {
    let mut files = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: files and limit outlive the calls.
    unsafe {
        check(
            "ask for limits",
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files).into(),
        )?;
        let wanted = ((crate::nodes::MOST + crate::handles::MOST) as libc::rlim_t).min(files.rlim_max);
        for (name, resource, value) in [
            ("nofile", libc::RLIMIT_NOFILE, wanted),
            ("core", libc::RLIMIT_CORE, 0),
            ("memlock", libc::RLIMIT_MEMLOCK, 0),
            ("msgqueue", libc::RLIMIT_MSGQUEUE, 0),
            // Buffers and stacks of the workers and the tables of nodes come to a tenth of it.
            ("as", libc::RLIMIT_AS, 1 << 30),
        ] {
            let limit = libc::rlimit {
                rlim_cur: value,
                rlim_max: value,
            };
            check(
                format!("limit {name} to {value}"),
                libc::setrlimit(resource as _, &raw const limit).into(),
            )?;
        }
        Ok(wanted as usize / 7 * 6)
    }
}

/// In a user namespace whose ids are the host's (uid_map "0 0 4294967295"): files keep their owners, while no capability reaches anything of the
/// host but files. Threads made later inherit all of it.
pub fn drop_privileges() -> Result<(), Failure> {
    const SECBITS: libc::c_ulong = 1 << 2 | 1 << 3; // NO_SETUID_FIXUP and its lock
                                                    // SAFETY: these take numbers; setgroups with a count of 0 reads nothing.
    unsafe {
        check("drop groups", libc::setgroups(0, std::ptr::null()).into())?;
        check("set group", libc::setresgid(0, 0, 0).into())?;
        check("set user", libc::setresuid(0, 0, 0).into())?;
        check(
            "keep capabilities",
            libc::prctl(libc::PR_SET_SECUREBITS, SECBITS, 0, 0, 0).into(),
        )?;
        for capability in 0..=63 {
            if KEPT.contains(&capability) {
                continue;
            }
            // EINVAL: one past the last that this kernel knows.
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 {
                break;
            }
        }
        check(
            "no new privileges",
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into(),
        )?;
    }
    keep_capabilities()
}

fn keep_capabilities() -> Result<(), Failure> {
    /// _LINUX_CAPABILITY_VERSION_3: capget(2).
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let mask: u32 = KEPT.iter().fold(0, |mask, capability| mask | 1 << capability);
    // Two of {effective, permitted, inheritable}, the low 32 capabilities first.
    let sets = [mask, mask, 0, 0, 0, 0];
    // SAFETY: both outlive the call.
    check("drop capabilities", unsafe {
        libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr())
    })
    .map(drop)
}
