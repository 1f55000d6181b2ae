//! What the launcher answers when a step fails: the step's name, the errno and a sentence.
use serde::{Deserialize, Serialize};
use std::io;

#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    pub step: String,
    /// Linux number; 0 where no system call failed.
    pub errno: i32,
    pub message: String,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    error: Failure,
}

impl Failure {
    pub fn io(step: impl Into<String>, err: &io::Error) -> Self {
        Self {
            step: step.into(),
            errno: err.raw_os_error().unwrap_or(0),
            message: err.to_string(),
        }
    }

    pub fn last(step: impl Into<String>) -> Self {
        Self::io(step, &io::Error::last_os_error())
    }

    /// The document, or something on this machine, is not as it must be.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            step: "document".into(),
            errno: 0,
            message: message.into(),
        }
    }

    /// One line: {"error":{"step":…,"errno":…,"message":…}}
    pub fn to_json(&self) -> String {
        let error = Failure {
            step: self.step.clone(),
            errno: self.errno,
            message: self.message.clone(),
        };
        serde_json::to_string(&Answer { error }).unwrap_or_default()
    }

    pub fn from_json(text: &str) -> Self {
        serde_json::from_str::<Answer>(text)
            .map(|a| a.error)
            .unwrap_or_else(|_| Self {
                step: "child".into(),
                errno: 0,
                message: format!("died while it said {text:?}"),
            })
    }
}

/// The system call's answer, or the failure of `step` with the current errno where it is negative.
pub fn check(step: &str, answer: libc::c_int) -> Result<libc::c_int, Failure> {
    if answer < 0 {
        return Err(Failure::last(step));
    }
    Ok(answer)
}
