//! Errors as gRPC statuses: one short constructor for each code of the contract.

use std::fmt::Display;
use tonic::Status;

pub fn invalid(message: impl Into<String>) -> Status {
    Status::invalid_argument(message)
}

pub fn missing(id: &str) -> Status {
    Status::not_found(format!("no container {id:?} in this VM"))
}

pub fn precondition(message: impl Into<String>) -> Status {
    Status::failed_precondition(message)
}

/// INTERNAL: what was being done, and the error.
pub fn internal(doing: impl Display, error: impl Display) -> Status {
    Status::internal(format!("{doing}: {error}"))
}

/// Turns an `io::Result` into a status with what was being done.
pub trait Doing<T> {
    /// `what` completes "cannot …": it is the beginning of the message.
    fn doing<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Status>;
}

impl<T, E: Display> Doing<T> for Result<T, E> {
    fn doing<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Status> {
        self.map_err(|e| internal(what(), e))
    }
}
