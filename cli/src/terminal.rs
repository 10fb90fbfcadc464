//! The local terminal during a call that has one of its own: every key goes to the program, and on every way out the
//! terminal is as it was.

use std::os::fd::AsFd as _;

use anyhow::Context as _;
use coffer_client::calls::TerminalSize;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// The size of a call's terminal when there is none here.
const USUAL: TerminalSize = TerminalSize { rows: 24, columns: 80 };

/// A terminal on standard input that passes everything on; dropped, it is as before.
#[derive(Debug)]
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// Takes over the terminal; none when standard input is something else.
    pub(crate) fn enter() -> anyhow::Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !isatty(&stdin) {
            return Ok(None);
        }
        let before = tcgetattr(&stdin).context("expected to read the settings of the terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        // From here on it is put back, also when this fails half-way.
        let taken = Self { before };
        tcsetattr(&stdin, OptionalActions::Drain, &raw).context("expected to change the settings of the terminal")?;
        Ok(Some(taken))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone has no settings.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// The size of the terminal here, or the usual one.
pub(crate) fn size() -> TerminalSize {
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    [stdin.as_fd(), stdout.as_fd()]
        .into_iter()
        .filter_map(|end| tcgetwinsize(end).ok())
        .map(|size| TerminalSize { rows: size.ws_row, columns: size.ws_col })
        .find(|size| size.rows > 0 && size.columns > 0)
        .unwrap_or(USUAL)
}
