//! What a call is asked for, what it is ordered while it runs, and what it tells.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use coffer_proto::guest::v1 as guest;

/// A program to run.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// As whom; empty is `default`.
    pub identity: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Below /workspace; empty is /workspace.
    pub cwd: String,
    /// Added to the fixed environment.
    pub env: HashMap<String, String>,
    /// None: the default of the session.
    pub timeout: Option<Duration>,
    /// How long the call runs on without a client. None: the default of the session.
    pub reattach: Option<Duration>,
    /// A terminal of this size instead of three streams.
    pub terminal: Option<TerminalSize>,
}

/// The size of a terminal, each at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl From<TerminalSize> for guest::TerminalSize {
    fn from(size: TerminalSize) -> Self {
        Self { rows: size.rows.into(), columns: size.columns.into() }
    }
}

/// What a call tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It runs, under the intent of this index; told once.
    Started(u64),
    /// The next bytes of stdout, or of a terminal.
    Stdout(Bytes),
    /// The next bytes of stderr.
    Stderr(Bytes),
    /// There is room for input again.
    InputTaken,
    /// It is over.
    Exited(Box<guest::Exited>),
}

/// What a call is asked to do, beside taking input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// This signal goes to the program's process group.
    Signal(i32),
    /// The terminal has another size.
    Resize(TerminalSize),
    /// SIGTERM, and after a grace SIGKILL.
    Cancel,
}
