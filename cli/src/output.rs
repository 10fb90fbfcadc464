//! The two outputs: data on stdout, people's text on stderr. A closed stdout is an error that ends the command quietly;
//! a closed stderr is none.

use std::io::{IsTerminal as _, Write as _};

pub(crate) use coffer_evidence::verify::printable;
use serde::Serialize;

use crate::exit::OutputClosed;

/// For whom stdout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Lines to read.
    People,
    /// JSON, one value a line.
    Json,
}

/// Whether stderr is a terminal, where a line can be drawn over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Drawn,
    None,
}

/// What a colour says; on a terminal, and never alone: the words say it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Good,
    Bad,
    Doubtful,
    Strong,
}

impl Colour {
    const fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Bad => "1;31",
            Self::Doubtful => "33",
            Self::Strong => "1",
        }
    }
}

/// Whether stdout is a terminal that shows colours, and nobody has asked for none (`NO_COLOR`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Painting {
    On,
    Off,
}

/// Where text goes.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) form: Form,
    progress: Progress,
    painting: Painting,
}

impl Output {
    pub(crate) fn new(form: Form) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let plain = dumb || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            form,
            progress: if std::io::stderr().is_terminal() && !dumb { Progress::Drawn } else { Progress::None },
            painting: if std::io::stdout().is_terminal() && !plain { Painting::On } else { Painting::Off },
        }
    }

    /// A text of one line in a colour, where colours are shown.
    pub(crate) fn paint(&self, colour: Option<Colour>, text: &str) -> String {
        match (self.painting, colour) {
            (Painting::On, Some(colour)) => format!("\x1b[{}m{text}\x1b[0m", colour.code()),
            _ => text.to_owned(),
        }
    }

    /// Bytes as they are, on stdout.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => anyhow::Error::new(OutputClosed),
            _ => crate::exit::failure(crate::exit::INPUT_OUTPUT, format!("write to standard output: {error}")),
        })
    }

    /// A line on stdout.
    pub(crate) fn line(&self, line: impl std::fmt::Display) -> anyhow::Result<()> {
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// A value as one line of JSON on stdout.
    pub(crate) fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(serde_json::to_string(value)?)
    }

    /// Text on stdout that is made while it is written, and may be larger than memory.
    pub(crate) const fn stream(&self) -> Stream<'_> {
        Stream { output: self, waiting: String::new() }
    }

    /// A sentence for people, on stderr.
    pub(crate) fn note(&self, text: impl std::fmt::Display) {
        self.done();
        drop(writeln!(std::io::stderr(), "coffer: {text}"));
    }

    /// A line about a text of the user, on stderr, that begins with its place there.
    pub(crate) fn complaint(&self, text: impl std::fmt::Display) {
        self.done();
        drop(writeln!(std::io::stderr(), "{text}"));
    }

    /// What is going on, drawn over the last of its kind; only on a terminal.
    pub(crate) fn progress(&self, text: impl std::fmt::Display) {
        if self.progress == Progress::Drawn {
            drop(write!(std::io::stderr(), "\r\x1b[K{text}"));
            drop(std::io::stderr().flush());
        }
    }

    /// Whether progress is shown to anybody.
    pub(crate) fn draws(&self) -> bool {
        self.progress == Progress::Drawn
    }

    /// Wipes what [`Output::progress`] drew.
    pub(crate) fn done(&self) {
        self.progress("");
    }

    /// A callback that shows how much was moved, at most ten times a second.
    pub(crate) fn moving(&self, what: &'static str) -> impl FnMut(u64) + Send + 'static + use<> {
        let output = self.clone();
        let mut last = None;
        move |bytes: u64| {
            let now = std::time::Instant::now();
            let due = last.is_none_or(|last| now.duration_since(last).as_millis() >= 100);
            if due && output.progress == Progress::Drawn {
                last = Some(now);
                output.progress(format_args!("{what} {:.1} MiB", mebibytes(bytes)));
            }
        }
    }
}

/// Text that waits to be written.
const STREAM_PIECE: usize = 64 * 1024;

/// Text on its way to stdout, in pieces. What waits when it is dropped is not written: an error ended it.
pub(crate) struct Stream<'o> {
    output: &'o Output,
    waiting: String,
}

impl Stream<'_> {
    pub(crate) fn push(&mut self, text: &str) -> anyhow::Result<()> {
        self.waiting.push_str(text);
        if self.waiting.len() >= STREAM_PIECE { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> anyhow::Result<()> {
        let piece = std::mem::take(&mut self.waiting);
        self.output.bytes(piece.as_bytes())
    }

    /// Writes what waits.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        self.write()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(printable("a b\x1b[2J\n\u{202e}"), "a b\\u{1b}[2J\\n\\u{202e}");
    }
}
