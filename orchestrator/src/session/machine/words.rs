//! What a session's machine is told and what it asks for. Stored in the journal by name.

use serde::{Deserialize, Serialize};

use crate::session::types::{Ending, GuestExit};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// The owner task started.
    Begin,
    /// Context id and uid are set aside.
    Reserved,
    /// They could not be.
    ReserveFailed(String),
    /// Every process of the session runs.
    Launched,
    /// Not all could be started; those that were are ended.
    LaunchFailed(String),
    /// The guest sent its open map and opening quote.
    GuestOpened,
    /// They hold, and the agent answers.
    OpeningVerified,
    /// They do not.
    OpeningRefused(String),
    /// Somebody on this side wants the session to end.
    CloseRequested(Ending),
    /// The agent ends the session by itself.
    GuestClosing(Ending),
    /// The agent says that it powers off without a seal.
    GuestFailed(String),
    /// What the guest sent contradicts itself.
    GuestViolated(String),
    /// This host cannot keep what the guest sends, or cannot store its evidence: no fault of the guest.
    HostFailed(String),
    /// The sealed core arrived.
    GuestSealed,
    /// A sealed bundle is verified and stored; who closed it and why is in the seal.
    EvidenceSealed(Ending),
    /// The bundle does not verify.
    EvidenceRefused(String),
    /// The control channel ended.
    LinkLost,
    /// The control channel is back.
    LinkRestored,
    /// A guest ended that never was Ready, and a file of its image is not what was checked before the launch.
    ImageChanged(String),
    /// The machine is gone.
    GuestGone(GuestExit),
    /// A prefix bundle is stored.
    PrefixStored,
    /// There is none, and why.
    NothingToPreserve(String),
    /// Clean-up is done; what could not be removed.
    Scrubbed(Vec<String>),
    /// The receipt is stored, or could not be: the session ends all the same.
    Receipted(Option<String>),
    /// A stored deadline is over.
    DeadlinePassed,
    /// The control plane was restarted; no effect is under way.
    HostRestarted,
    /// The machine that an earlier life started runs, and is served again.
    Adopted,
    /// It does not, or cannot be.
    AdoptFailed(String),
    /// The agent of an adopted machine answers calls.
    Reconnected,
    /// It does not.
    ReconnectFailed(String),
}

/// What is to be done. Each is performed once per journaled step and answered by an event, except where noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Effect {
    /// Set aside a context id and a uid.
    Reserve,
    /// Start link, simulator and machine.
    Launch,
    /// Take over the machine that an earlier life started: what the guest said before is then heard again.
    Adopt,
    /// Connect to the agent of an adopted machine.
    Reconnect,
    /// Verify the opening and connect to the agent.
    VerifyOpening,
    /// Relay calls from now on. No answer.
    AcceptCalls,
    /// Refuse new calls. No answer.
    RefuseCalls,
    /// Ask the agent to seal. Answered by the agent.
    AskGuestToClose,
    /// Assemble, verify and store the sealed bundle.
    PreserveSealed,
    /// Tell the agent that it may power off. Answered by the machine's end.
    AcknowledgeStored,
    /// End calls that still run: their outcome is unknown. No answer.
    EndCalls,
    /// Kill the machine, or give up launching it.
    StopGuest,
    /// Assemble, verify and store a prefix.
    PreservePrefix,
    /// Remove what the host holds, step by step, then look again.
    Scrub,
    /// Sign what was done and put it into the bundle.
    WriteReceipt,
}
