//! `posix-checks FOLDER`: one line per check, "ok NAME" or "not ok NAME: why"; exit code 1 if one failed. As root, in an empty folder.

fn main() {
    let folder = std::env::args().nth(1).expect("usage: posix-checks FOLDER");
    let mut failed = false;
    for (name, result) in podvm_posix_checks::run(folder.as_ref()) {
        match result {
            Ok(()) => println!("ok {name}"),
            Err(why) => {
                failed = true;
                println!("not ok {name}: {why}");
            }
        }
    }
    std::process::exit(failed.into());
}
