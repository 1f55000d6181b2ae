//! Checks of a file system: each in a folder of its own, by name, with what went wrong.

mod links;
mod locks;
mod names;
mod owners;
mod raw;
mod regular;
mod times;

use std::path::Path;

/// What went wrong, for a reader.
pub type Outcome = Result<(), String>;
type Check = (&'static str, fn(&Path) -> Outcome);

/// All checks, in a folder that is empty and root's. As root.
pub fn run(folder: &Path) -> Vec<(&'static str, Outcome)> {
    // Modes are what the checks say.
    unsafe { libc::umask(0) };
    let all = [
        regular::CHECKS,
        names::CHECKS,
        links::CHECKS,
        owners::CHECKS,
        times::CHECKS,
        locks::CHECKS,
    ];
    let mut results = Vec::new();
    for (i, (name, check)) in all.concat().into_iter().enumerate() {
        let own = folder.join(format!("check-{i}"));
        let result = std::fs::create_dir(&own).map_err(|e| format!("its folder: {e}"));
        results.push((name, result.and_then(|()| check(&own))));
        drop(std::fs::remove_dir_all(&own));
    }
    results
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Outcome {
    if found == wanted {
        Ok(())
    } else {
        Err(format!("{what}: found {found:?}, wanted {wanted:?}"))
    }
}

trait Said<T> {
    /// With what was being done.
    fn said(self, doing: &str) -> Result<T, String>;
}

impl<T, E: std::fmt::Display> Said<T> for Result<T, E> {
    fn said(self, doing: &str) -> Result<T, String> {
        self.map_err(|e| format!("{doing}: {e}"))
    }
}

/// It must fail with that errno.
fn refused<T>(what: &str, result: std::io::Result<T>, errno: i32) -> Outcome {
    match result {
        Ok(_) => Err(format!("{what}: succeeded, wanted errno {errno}")),
        Err(e) => same(what, e.raw_os_error(), Some(errno)),
    }
}
