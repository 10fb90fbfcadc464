//! What can stop a boot: the stage, what was being done, and the system's answer.

use std::io;
use thiserror::Error;

/// A step of the boot that failed. Every one of them ends in power-off.
#[derive(Debug, Error)]
pub enum BootError {
    /// A system call or file operation.
    #[error("{stage}: {what}")]
    System {
        /// The step of the boot.
        stage: &'static str,
        /// What was being done, with the name of the thing.
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel, the host or the image offered something else than the boot insists on.
    #[error("{stage}: {found}; expected {expected}")]
    Unexpected {
        /// The step of the boot.
        stage: &'static str,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
}

impl BootError {
    /// The whole chain on one line, for the console.
    pub fn line(&self) -> String {
        match self {
            BootError::System { source, .. } => format!("{self}: {source}"),
            BootError::Unexpected { .. } => self.to_string(),
        }
    }
}

/// Puts the stage and the thing being done on an error of the system.
pub trait Context<T> {
    /// Wraps the error.
    fn context(self, stage: &'static str, what: impl FnOnce() -> String) -> Result<T, BootError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, stage: &'static str, what: impl FnOnce() -> String) -> Result<T, BootError> {
        self.map_err(|source| BootError::System { stage, what: what(), source: source.into() })
    }
}
