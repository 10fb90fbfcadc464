//! The client of Coffer: keys of the user, intents, sessions, tool calls, trees of files, evidence. Used by the `coffer`
//! command. It prints nothing and ends no process.
//!
//! In this version sessions are delegated: calls go through `cofferd`. The attested channel will live here too.

pub mod calls;
pub mod connection;
pub mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod intents;
pub mod keys;
pub mod sessions;
pub mod tree;

pub use connection::Client;
pub use error::{ClientError, OUTCOME_UNKNOWN};
