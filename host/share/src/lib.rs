//! podvm-share: the host's end of the FUSE relay (docs/volumes.md).

pub mod attach;
pub mod confine;
pub mod control;
pub mod credentials;
pub mod document;
pub mod failure;
pub mod fs;
pub mod handles;
pub mod mounts;
pub mod nodes;
pub mod process;
pub mod reply;
pub mod run;
pub mod seccomp;
pub mod serve;
pub mod stream;
pub mod sys;
