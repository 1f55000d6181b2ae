//! podvm-share: serves a pod's live folders and files to its VM (docs/volumes.md). Documents on standard input, one line of JSON as answer.

use podvm_share::failure::Failure;
use podvm_share::{attach, document, run};

const USAGE: &str = "usage: podvm-share run|attach|detach < DOCUMENT";

fn main() {
    let verb = std::env::args().nth(1);
    let answer = match verb.as_deref() {
        Some("run") => document::read()
            .and_then(|d| run::run(&d))
            .map(|started| serde_json::to_string(&started)),
        Some("attach") => document::read()
            .and_then(|d| attach::attach(&d))
            .map(|()| Ok("{}".into())),
        Some("detach") => document::read()
            .and_then(|d| attach::detach(&d))
            .map(|()| Ok("{}".into())),
        _ => Err(Failure::invalid(USAGE)),
    };
    match answer {
        Ok(line) => println!("{}", line.unwrap_or_default()),
        Err(failure) => {
            println!("{}", failure.to_json());
            std::process::exit(1);
        }
    }
}
