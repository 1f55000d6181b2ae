//! What the child does between fork and exec: every step takes something away.
use crate::descriptors;
use crate::document::Document;
use crate::failure::{check, Failure};
use crate::root;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};

/// Returns only when a step failed. `errors` is moved to a number that the VMM is not given.
pub fn confine_and_execute(document: &Document, sockets: &[OwnedFd], errors: &mut File) -> Failure {
    match descriptors::raise(errors.as_raw_fd()) {
        Ok(high) => *errors = File::from(high),
        Err(failure) => return failure,
    }
    match confine(document, sockets) {
        Ok(()) => execute(document),
        Err(failure) => failure,
    }
}

fn confine(document: &Document, sockets: &[OwnedFd]) -> Result<(), Failure> {
    // SAFETY: takes numbers.
    unsafe {
        check("setsid", libc::setsid())?;
        libc::umask(0o022); // for the folders of the new root
    }
    // /proc and /dev/net/tun are out of reach once the root is entered.
    if let Some(adjustment) = document.oom_score_adj {
        fs::write("/proc/self/oom_score_adj", adjustment.to_string())
            .map_err(|e| Failure::io(format!("set oom_score_adj {adjustment}"), &e))?;
    }
    enter_namespaces(document)?;
    let tap = document
        .tap
        .as_ref()
        .map(descriptors::open_tap)
        .transpose()?;
    root::enter(document)?;
    descriptors::arrange(document, sockets, tap)?;
    set_limits(document)?;
    if !document.huge_pages {
        // SAFETY: takes numbers. Kept over exec: prctl(2).
        check("disable huge pages", unsafe {
            libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0)
        })?;
    }
    drop_privileges(document.uid, document.gid)
}

fn enter_namespaces(document: &Document) -> Result<(), Failure> {
    let mut fresh = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    match &document.netns {
        Some(path) => {
            let step = format!("enter network namespace {path}");
            let file = File::open(path).map_err(|e| Failure::io(&step, &e))?;
            // SAFETY: takes numbers.
            check(&step, unsafe {
                libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET)
            })?;
        }
        None => fresh |= libc::CLONE_NEWNET,
    }
    // SAFETY: takes numbers; the process has one thread.
    check("unshare namespaces", unsafe { libc::unshare(fresh) })?;
    Ok(())
}

fn set_limits(document: &Document) -> Result<(), Failure> {
    let limits = &document.rlimits;
    for (name, resource, value) in [
        ("nofile", libc::RLIMIT_NOFILE, limits.nofile),
        ("nproc", libc::RLIMIT_NPROC, limits.nproc),
        ("memlock", libc::RLIMIT_MEMLOCK, limits.memlock),
        ("core", libc::RLIMIT_CORE, 0),
        ("msgqueue", libc::RLIMIT_MSGQUEUE, 0),
    ] {
        let limit = libc::rlimit {
            rlim_cur: value,
            rlim_max: value,
        };
        // SAFETY: limit outlives the call.
        check(&format!("limit {name} to {value}"), unsafe {
            libc::setrlimit(resource as _, &raw const limit)
        })?;
    }
    Ok(())
}

/// Order matters: the bounding set and the groups need the capabilities that the change of user takes away.
fn drop_privileges(uid: u32, gid: u32) -> Result<(), Failure> {
    // SAFETY: these take numbers; setgroups with a count of 0 reads nothing.
    unsafe {
        for capability in 0..=63 {
            // EINVAL: one past the last that this kernel knows.
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 {
                if capability == 0 || *libc::__errno_location() != libc::EINVAL {
                    return Err(Failure::last(format!(
                        "drop capability {capability} from the bounding set"
                    )));
                }
                break;
            }
        }
        check(
            "drop ambient capabilities",
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_CLEAR_ALL,
                0,
                0,
                0,
            ),
        )?;
        check("drop groups", libc::setgroups(0, std::ptr::null()))?;
        check("set group", libc::setresgid(gid, gid, gid))?;
        check("set user", libc::setresuid(uid, uid, uid))?;
        check(
            "set no_new_privs",
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        )?;
        check(
            "set not dumpable",
            libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0),
        )?;
        libc::umask(0o077);
    }
    drop_capabilities()
}

/// Inheritable ones survive the change of user; all three sets become empty.
fn drop_capabilities() -> Result<(), Failure> {
    /// _LINUX_CAPABILITY_VERSION_3: capget(2).
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let none = [0u32; 6];
    // SAFETY: header is {version, pid}, none is two {effective, permitted, inheritable}; both outlive the call.
    check("drop capabilities", unsafe {
        libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr())
    } as i32)?;
    Ok(())
}

fn execute(document: &Document) -> Failure {
    let strings = |items: Vec<String>| -> Result<Vec<CString>, Failure> {
        items
            .into_iter()
            .map(|s| CString::new(s).map_err(|_| Failure::invalid("a NUL in args or env")))
            .collect()
    };
    let argv = strings(
        std::iter::once(&document.program)
            .chain(&document.args)
            .cloned()
            .collect(),
    );
    let envp = strings(
        document
            .env
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect(),
    );
    let (argv, envp) = match (argv, envp) {
        (Ok(argv), Ok(envp)) => (argv, envp),
        (Err(failure), _) | (_, Err(failure)) => return failure,
    };
    let pointers = |items: &[CString]| -> Vec<*const libc::c_char> {
        items
            .iter()
            .map(|s| s.as_ptr())
            .chain(std::iter::once(std::ptr::null()))
            .collect()
    };
    let (argv_pointers, envp_pointers) = (pointers(&argv), pointers(&envp));
    // SAFETY: both arrays end with a null pointer and point at strings that outlive the call.
    unsafe {
        libc::execve(
            argv[0].as_ptr(),
            argv_pointers.as_ptr(),
            envp_pointers.as_ptr(),
        )
    };
    Failure::last(format!("execute {}", document.program))
}
