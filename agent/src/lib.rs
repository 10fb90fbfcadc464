//! The guest agent: a few processes of one static binary.
//!
//! | process | uid | what it may do | what it parses |
//! |---|---|---|---|
//! | `init` | 0 | everything; starts only what the notary logged | its own two links |
//! | `notary` | 900 | holds log key, RTMR3 and quotes | config, its two links |
//! | `agent` | 901 | talks to the outside | gRPC, control link, tools' reports |
//! | `grants` | 904 | nothing; ends before the first tool starts | the policy |
//! | `observer` | 905 | sees what tools open; files by handle, leases | the kernel's events, its link |
//! | tools | 10000+n | their identity's files | whatever they like |
//!
//! The library exists so that tests can drive each part on an ordinary machine.

pub mod agent;
pub mod channel;
pub mod fixed;
pub mod frames;
pub mod grants;
mod inherited;
pub mod init;
pub mod machine;
pub mod notary;
pub mod observer;
pub mod sealed;
pub mod tool;
