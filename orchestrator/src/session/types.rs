//! Words of the session's life: phases, outcomes, moments. Plain data, stored in the journal by name, so that a
//! journal can be read by people. No behaviour but conversions.

use std::fmt;

use coffer_evidence::seal::{ClosedBy, Reason};
use serde::{Deserialize, Serialize};

/// Unix time in milliseconds. Deadlines are stored as such so that they survive a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Timestamp(pub(crate) u64);

impl Timestamp {
    /// Later by this many milliseconds.
    pub(crate) fn after(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Unix seconds.
    pub(crate) fn seconds(self) -> u64 {
        self.0 / 1000
    }
}

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Admitted and journaled; nothing is held yet.
    Requested,
    /// A context id and a uid are being set aside.
    Scheduled,
    /// Processes are being started.
    Launching,
    /// The guest boots, then its opening quote is verified.
    Attesting,
    /// Calls are relayed.
    Ready,
    /// No new call; the guest has been asked to seal, or does so by itself.
    Draining,
    /// The sealed core is here: verified, stored, then the guest powers off.
    Sealing,
    /// Everything of it on the host is being removed.
    Scrubbing,
    /// The end.
    Closed,
}

impl Phase {
    /// The name in diagnostics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Scheduled => "scheduled",
            Self::Launching => "launching",
            Self::Attesting => "attesting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Sealing => "sealing",
            Self::Scrubbing => "scrubbing",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is left of a closed session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// A sealed bundle is stored.
    Sealed,
    /// A genuine prefix at most.
    Aborted,
}

/// Why and by whom, whatever the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ending {
    /// Why.
    #[serde(with = "reason_by_name")]
    pub(crate) reason: Reason,
    /// Who.
    #[serde(with = "closed_by_by_name")]
    pub(crate) closed_by: ClosedBy,
}

impl Ending {
    /// Decided on this side.
    pub(crate) const fn by_host(reason: Reason) -> Self {
        Self { reason, closed_by: ClosedBy::Host }
    }

    /// Decided in the guest.
    pub(crate) const fn by_agent(reason: Reason) -> Self {
        Self { reason, closed_by: ClosedBy::Agent }
    }
}

/// How a guest was found to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GuestExit {
    /// It powered itself off.
    PoweredOff,
    /// It rebooted: one boot per session, so that is the end. A panicking kernel reboots at once.
    Reset,
    /// It reported a panic.
    Panicked,
    /// The machine stood still, which it never does by itself, and was ended.
    Halted,
    /// The machine's process was ended by this signal.
    Killed(i32),
    /// The machine's process ended with this status without being asked to.
    Failed(i32),
    /// The kernel killed the machine's process for memory.
    OutOfMemory,
    /// It ended, and this life of the control plane could not see how.
    Lost,
}

impl fmt::Display for GuestExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("the guest powered itself off"),
            Self::Reset => f.write_str("the guest rebooted, as a panicking kernel does"),
            Self::Panicked => f.write_str("the guest's kernel panicked"),
            Self::Halted => f.write_str(
                "the machine stood still because its accelerator or a disk failed; what QEMU said is in cofferd's diagnostics",
            ),
            Self::Killed(signal) => write!(f, "the machine's process was ended by signal {signal}"),
            Self::Failed(status) => write!(f, "the machine's process ended with status {status}; what it said is in cofferd's diagnostics"),
            Self::OutOfMemory => f.write_str("the machine's process was killed for memory"),
            Self::Lost => f.write_str("the machine is gone, and nobody saw how it ended"),
        }
    }
}

macro_rules! by_name {
    ($module:ident, $type:ty) => {
        pub(crate) mod $module {
            use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

            pub(crate) fn serialize<S: Serializer>(value: &$type, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(value.as_str())
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let name = String::deserialize(deserializer)?;
                let found = <$type>::ALL.iter().find(|v| v.as_str() == name);
                found.copied().ok_or_else(|| D::Error::custom(format!("expected a known name, found {name:?}")))
            }
        }
    };
}

by_name!(reason_by_name, coffer_evidence::seal::Reason);
by_name!(closed_by_by_name, coffer_evidence::seal::ClosedBy);
