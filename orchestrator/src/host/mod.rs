//! What belongs to the host itself: its state directory, its key, processes and cgroups of sessions, clean-up and the
//! receipt for it.

pub(crate) mod api_socket;
pub(crate) mod blocking;
pub(crate) mod cgroup;
pub(crate) mod file_kind;
pub(crate) mod key;
pub(crate) mod process;
pub(crate) mod room;
pub(crate) mod scrub;
pub(crate) mod session_dir;
pub(crate) mod state_dir;
