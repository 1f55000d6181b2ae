//! AppArmor of the guest's kernel: compiled policies that the server took from the host's.

use crate::fail::{internal, invalid, precondition};
use crate::sys;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use tonic::Status;

const SECURITYFS: &str = "/sys/kernel/security";
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// Of a compiled policy.
const MOST: usize = 4 << 20;

/// Loads the policy (a profile of the same name is replaced by an equal one) and makes sure that it brought the profile.
pub fn load(policy: &[u8], profile: &str) -> Result<(), Status> {
    if policy.len() > MOST || profile.is_empty() {
        return Err(invalid(format!(
            "apparmor_policy: wanted at most {MOST} bytes and spec.process.apparmor_profile, found {} bytes and {profile:?}",
            policy.len()
        )));
    }
    if !enabled() {
        return Err(precondition(format!(
            "AppArmor profile {profile:?}: the guest's kernel has no AppArmor, or it is off"
        )));
    }
    mount_securityfs().map_err(|e| internal("securityfs", e))?;
    replace(policy).map_err(|e| {
        invalid(format!(
            "AppArmor profile {profile:?}: the guest's kernel ({}) refuses the policy: {e}; compile it for the features of that kernel (apparmor_parser --policy-features)",
            sys::kernel_release()
        ))
    })?;
    let loaded = fs::read_to_string(Path::new(SECURITYFS).join("apparmor/profiles"))
        .map_err(|e| internal("list of AppArmor profiles", e))?;
    if !lists(&loaded, profile) {
        return Err(invalid(format!(
            "AppArmor profile {profile:?}: the policy brought no profile of that name"
        )));
    }
    Ok(())
}

fn enabled() -> bool {
    fs::read_to_string(ENABLED).is_ok_and(|text| text.starts_with('Y'))
}

/// Only when the first profile comes: few pods have one.
fn mount_securityfs() -> io::Result<()> {
    if Path::new(SECURITYFS).join("apparmor").exists() {
        return Ok(());
    }
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    sys::mount("securityfs", Path::new(SECURITYFS), "securityfs", flags, "")
}

/// The kernel takes a policy in one write.
fn replace(policy: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(Path::new(SECURITYFS).join("apparmor/.replace"))?;
    let written = file.write(policy)?;
    if written != policy.len() {
        return Err(io::Error::other(format!("{written} of {} bytes taken", policy.len())));
    }
    Ok(())
}

/// "NAME (enforce)" a line.
fn lists(text: &str, profile: &str) -> bool {
    text.lines()
        .any(|line| line.rsplit_once(" (").is_some_and(|(name, _)| name == profile))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_found_by_their_whole_name() {
        let text = "deny-write (enforce)\n/usr/bin/man (complain)\nodd (name) (enforce)\n";
        assert!(lists(text, "deny-write"));
        assert!(lists(text, "/usr/bin/man"));
        assert!(lists(text, "odd (name)"));
        assert!(!lists(text, "deny"));
    }

    #[test]
    fn too_large_or_nameless_policies_are_refused() {
        assert_eq!(load(&[], "").unwrap_err().code(), tonic::Code::InvalidArgument);
        assert_eq!(
            load(&vec![0; MOST + 1], "p").unwrap_err().code(),
            tonic::Code::InvalidArgument
        );
    }
}
