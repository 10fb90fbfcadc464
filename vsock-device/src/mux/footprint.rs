//! The door for fuzzing: how much a guest makes the device hold.

use super::Mux;

/// Sizes of everything that grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Connections, and programs that have not finished their `CONNECT` line.
    pub connections: usize,
    /// Sockets by their token.
    pub tokens: usize,
    /// Connections that wait for their turn.
    pub turn: usize,
    /// Refusals that wait.
    pub refusals: usize,
    /// The most payload that waits for one socket, in bytes.
    pub outgoing: usize,
    /// The longest unfinished `CONNECT` line in bytes.
    pub line: usize,
}

impl Mux {
    /// What is held now.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        Footprint {
            connections: self.connections(),
            tokens: self.tokens.len(),
            turn: self.turn.len(),
            refusals: self.refusals.len(),
            outgoing: self.peers.values().map(|peer| peer.outgoing.len()).max().unwrap_or(0),
            line: self.callers.values().map(|caller| caller.line.len()).max().unwrap_or(0),
        }
    }
}
