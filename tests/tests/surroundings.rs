//! A host that is not as it should be: programs that are missing or broken, a state directory that is read-only, full,
//! somebody else's or in use, a store of another version, no KVM, no cgroups, image files that were swapped, a platform
//! without quotes. Real `cofferd`
//! processes, and where a row needs it real guests: each refusal says what was expected, what was found and what to do,
//! and sessions that run are still brought to their end.

#[path = "surroundings/launch.rs"]
mod launch;
#[path = "surroundings/place.rs"]
mod place;
#[path = "surroundings/quotes.rs"]
mod quotes;
#[path = "surroundings/running.rs"]
mod running;
#[path = "surroundings/start.rs"]
mod start;
#[path = "surroundings/swapped.rs"]
mod swapped;

/// Ends the test with NOT RUN for another user than root.
macro_rules! needs_root {
    ($what:literal) => {
        if !crate::place::is_root() {
            eprintln!("NOT RUN: only root can {}", $what);
            return Ok(());
        }
    };
}
pub(crate) use needs_root;
