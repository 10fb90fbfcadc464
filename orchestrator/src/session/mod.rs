//! A session from its request to its end. `machine` and `admission` decide and know nothing of tokio; `driver` owns one
//! session and performs; `registry` finds them.

#[cfg(test)]
pub(crate) mod acted;
pub(crate) mod admission;
pub(crate) mod calls;
pub(crate) mod control;
pub(crate) mod conversation;
pub(crate) mod driver;
pub(crate) mod evidence;
pub(crate) mod gate;
pub(crate) mod launch;
pub(crate) mod log;
pub(crate) mod machine;
pub(crate) mod mirror;
pub(crate) mod perform;
pub(crate) mod record;
pub(crate) mod registry;
pub(crate) mod signal;
pub(crate) mod types;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod lifecycle_tests;
