//! The error that stands on standard output: which step, errno, and a sentence.

use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::io;

#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    pub step: String,
    /// 0 where no system call failed.
    pub errno: i32,
    pub message: String,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    error: Failure,
}

impl Failure {
    pub fn io(step: impl Display, error: &io::Error) -> Self {
        Failure {
            step: step.to_string(),
            errno: error.raw_os_error().unwrap_or(0),
            message: error.to_string(),
        }
    }

    pub fn errno(step: impl Display, errno: i32) -> Self {
        Self::io(step, &io::Error::from_raw_os_error(errno))
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Failure {
            step: "document".into(),
            errno: 0,
            message: message.into(),
        }
    }

    pub fn to_json(self) -> String {
        serde_json::to_string(&Answer { error: self }).unwrap_or_default()
    }

    pub fn from_json(text: &str) -> Self {
        serde_json::from_str::<Answer>(text).map_or_else(
            |_| Failure {
                step: "start".into(),
                errno: 0,
                message: format!("ended without an answer: {text:?}"),
            },
            |answer| answer.error,
        )
    }
}

/// -1 becomes the failure of that step.
pub fn check(step: impl Display, result: libc::c_long) -> Result<libc::c_long, Failure> {
    if result < 0 {
        Err(Failure::io(step, &io::Error::last_os_error()))
    } else {
        Ok(result)
    }
}
