//! Policies to start from. They are files of this crate, written for people: `policies/*.cedar`.

/// What a session has whose creator names no policy: an agent called `default` that works in `/workspace`.
pub const DEFAULT: &str = include_str!("../policies/default.cedar");
/// An identity that looks and changes nothing.
pub const READER: &str = include_str!("../policies/reader.cedar");
/// An identity that writes code.
pub const CODER: &str = include_str!("../policies/coder.cedar");
/// An identity that runs tests and changes no source.
pub const TESTER: &str = include_str!("../policies/tester.cedar");
/// An identity that pushes and holds the secret for it.
pub const RELEASER: &str = include_str!("../policies/releaser.cedar");
/// All four in one session.
pub const TEAM: &str = include_str!("../policies/team.cedar");
