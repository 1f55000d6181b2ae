//! What the fuzz tests share.

pub mod guest;
pub mod messages;
pub mod random;
