//! Running another program to its end. Knows nothing about which programs there are.

use std::io;
use std::process::{Command, Stdio};

/// At most this much of a failed program's stderr goes into the error, in bytes.
const STDERR_TAIL: usize = 2048;

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such program.
    #[error("expected the program `{program}`, found none: install it ({package} on Debian)")]
    Missing {
        /// The name that was looked for.
        program: String,
        /// The Debian package that brings it.
        package: &'static str,
    },
    /// It could not be started or waited for.
    #[error("running `{program}`")]
    Start {
        /// The program.
        program: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// It ran and failed.
    #[error("expected `{program}` to succeed, found {status}; it said: {said}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit status in words.
        status: String,
        /// The end of what it wrote to stderr.
        said: String,
    },
}

/// Runs `command` without stdin and gives back its stdout. `package` is the Debian package that brings the program.
pub fn run(command: &mut Command, package: &'static str) -> Result<Vec<u8>, CommandError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CommandError::Missing { program, package });
        }
        Err(source) => return Err(CommandError::Start { program, source }),
    };
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(CommandError::Failed { program, status: output.status.to_string(), said: tail(&output.stderr) })
}

fn tail(stderr: &[u8]) -> String {
    let from = stderr.len().saturating_sub(STDERR_TAIL);
    String::from_utf8_lossy(&stderr[from..]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_quoted_and_a_missing_one_names_its_package() {
        let failed = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"]), "dash").unwrap_err().to_string();
        assert!(failed.contains("why") && failed.contains('3'), "{failed}");
        let missing = run(&mut Command::new("/nonexistent/program"), "the-package").unwrap_err().to_string();
        assert!(missing.contains("the-package"), "{missing}");
    }

    #[test]
    fn only_the_end_of_a_long_complaint_is_kept() {
        let long = [b"x".repeat(STDERR_TAIL), b"the end".to_vec()].concat();
        assert_eq!(tail(&long).len(), STDERR_TAIL);
        assert!(tail(&long).ends_with("the end"));
    }
}
