//! Notices that a client is gone: whatever owns the answer is dropped by the server, and this with it.

use tokio_util::sync::{CancellationToken, DropGuard};

/// Cancels its token when dropped.
#[derive(Debug)]
pub struct Presence(#[allow(dead_code, reason = "held for its drop")] DropGuard);

/// A pair: the one lives with the client, the other tells that it does not any more.
pub fn presence() -> (Presence, CancellationToken) {
    let token = CancellationToken::new();
    (Presence(token.clone().drop_guard()), token)
}
