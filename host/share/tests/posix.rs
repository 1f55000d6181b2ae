//! POSIX, through the relay on this machine's /dev/fuse. The same checks run in a container (test/e2e/share.test.ts).

mod common;

#[test]
fn posix() {
    let relay = common::one_folder();
    let results = podvm_posix_checks::run(&relay.guest("v"));
    assert!(results.len() > 60);
    let failed: Vec<_> = results.into_iter().filter(|(_, result)| result.is_err()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
