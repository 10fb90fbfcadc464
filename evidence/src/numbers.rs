//! Closed lists and their numbers, each in one place: the number on the wire, the name that people read.

macro_rules! closed_list {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal, $text:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
        }

        impl $name {
            /// Every member, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u64 {
                match self { $(Self::$variant => $number,)+ }
            }

            /// Reads the number; `None` outside the list.
            #[must_use]
            pub const fn from_number(number: u64) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }

            /// The name that people read.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

closed_list! {
    /// What a leaf is.
    LeafKind {
        /// First, once.
        Open = 0, "open";
        /// A channel was accepted.
        Channel = 1, "channel";
        /// A header other than a call.
        Client = 2, "client";
        /// Something is about to be done.
        Intent = 3, "intent";
        /// What came of it.
        Outcome = 4, "outcome";
        /// The policy said no.
        Denied = 5, "denied";
        /// A request that is not well ordered or not well formed.
        Rejected = 6, "rejected";
        /// A connection out.
        Egress = 7, "egress";
        /// A model call.
        Model = 8, "model";
        /// A secret was used.
        Secret = 9, "secret";
        /// A limit was reached.
        Limit = 10, "limit";
        /// Something could not be recorded.
        Incomplete = 11, "incomplete";
        /// What was erased.
        Scrub = 12, "scrub";
        /// Last, once.
        Seal = 13, "seal";
    }
}

closed_list! {
    /// Who reports a leaf.
    Reporter {
        /// The agent.
        Agent = 0, "agent";
        /// The gateway.
        Gateway = 1, "gateway";
    }
}

closed_list! {
    /// What a call asks for.
    Method {
        /// Run a program.
        Exec = 1, "exec";
        /// Write one file.
        WriteFile = 2, "write_file";
        /// Read one file.
        ReadFile = 3, "read_file";
        /// List a directory.
        ListDirectory = 4, "list_directory";
        /// Stat one path.
        Stat = 5, "stat";
        /// Unpack a tar stream.
        Upload = 6, "upload";
        /// Pack a tar stream.
        Download = 7, "download";
        /// Remove a file, or a directory with what is in it.
        Remove = 8, "remove";
        /// Give a file or directory another name.
        Move = 9, "move";
        /// Make a directory.
        MakeDirectory = 10, "make_directory";
        /// Tell what changes beneath a directory.
        Watch = 11, "watch";
        /// Work with a git repository.
        Git = 12, "git";
    }
}

closed_list! {
    /// What a request may ask for beside the usual; each method knows at most one of them.
    RequestFlag {
        /// Also what is beneath: remove, watch.
        Recursive = 1, "recursive";
        /// Make the directories above that are missing: make_directory.
        Parents = 2, "parents";
        /// Replace what has the name: move.
        Replace = 3, "replace";
        /// What is staged, not the files as they are: git diff.
        Staged = 4, "staged";
    }
}

closed_list! {
    /// What a git call does.
    GitAction {
        /// Show the state of the work tree.
        Status = 1, "status";
        /// Show differences.
        Diff = 2, "diff";
        /// Show history.
        Log = 3, "log";
        /// Stage.
        Add = 4, "add";
        /// Commit what is staged.
        Commit = 5, "commit";
        /// List, make, switch to or remove a branch.
        Branch = 6, "branch";
        /// Fetch from a repository.
        Fetch = 7, "fetch";
        /// Push to a repository.
        Push = 8, "push";
    }
}

closed_list! {
    /// What is done with a branch.
    BranchAction {
        /// Make it.
        Create = 1, "create";
        /// Work on it.
        Switch = 2, "switch";
        /// Remove it.
        Delete = 3, "delete";
    }
}

closed_list! {
    /// What came of a call.
    CauseClass {
        /// Exit 0, or the operation was done.
        Completed = 1, "completed";
        /// Another exit status, or the operation failed.
        Failed = 2, "failed";
        /// Ended by a signal.
        Signalled = 3, "signalled";
        /// Its time was up.
        TimedOut = 4, "timed_out";
        /// The client cancelled it or went away.
        Cancelled = 5, "cancelled";
        /// The kernel killed it for memory.
        OutOfMemory = 6, "out_of_memory";
        /// The session was closing.
        SessionClosing = 7, "session_closing";
        /// It could not be started.
        FailedToStart = 8, "failed_to_start";
        /// It was never tried.
        NotStarted = 9, "not_started";
        /// Nobody knows.
        OutcomeUnknown = 10, "outcome_unknown";
        /// What it does with files could not be recorded, and the intent demands that.
        RecordIncomplete = 11, "record_incomplete";
    }
}

closed_list! {
    /// Why the record of a call's files may miss something.
    RecordLoss {
        /// More files than are kept of one call, or of all.
        Files = 1, "files";
        /// More happened at once than was kept until it was looked at.
        Overflow = 2, "overflow";
        /// Something happened in a place of several running calls, and which of them did it is not known.
        Unattributed = 3, "unattributed";
        /// A file whose path is not known any more, or is too long to be told.
        Unnamed = 4, "unnamed";
        /// The record itself would be too large.
        Size = 5, "size";
        /// Nobody looked: the observer could not.
        Unobserved = 6, "unobserved";
    }
}

closed_list! {
    /// Which limit was reached.
    LimitKind {
        /// Leaves.
        Leaves = 1, "leaves";
        /// Calls.
        Calls = 2, "calls";
        /// Time to live.
        Ttl = 3, "ttl";
        /// Idle time.
        Idle = 4, "idle";
        /// Bytes of private parts.
        PrivateBytes = 5, "private_bytes";
    }
}

closed_list! {
    /// A step of the scrub in the guest.
    ScrubStep {
        /// Every call's cgroup was killed and is empty.
        CallsEnded = 1, "calls_ended";
        /// Secrets of tools were zeroised.
        ToolSecrets = 2, "tool_secrets";
        /// /workspace was unmounted and its memory freed.
        Workspace = 3, "workspace_unmounted";
        /// /tmp was unmounted and its memory freed.
        Temporary = 4, "tmp_unmounted";
        /// A scan found no process of an identity and no mount left.
        SelfCheck = 5, "self_check";
    }
}

closed_list! {
    /// How a scrub step ended.
    StepResult {
        /// Done.
        Done = 0, "done";
        /// Tried, failed.
        Failed = 1, "failed";
        /// There was nothing to do.
        NothingToDo = 2, "nothing_to_do";
    }
}

closed_list! {
    /// Who closed the session.
    ClosedBy {
        /// A client, with a signed close.
        Client = 0, "client";
        /// The agent.
        Agent = 1, "agent";
        /// The host.
        Host = 2, "host";
    }
}

closed_list! {
    /// Why the session ended.
    Reason {
        /// The user asked.
        UserClosed = 0, "user_closed";
        /// Time to live.
        TtlExpired = 1, "ttl_expired";
        /// No call for too long.
        IdleTimeout = 2, "idle_timeout";
        /// The host is being emptied.
        HostDrained = 3, "host_drained";
        /// The host went away.
        HostLost = 4, "host_lost";
        /// The guest panicked.
        GuestPanicked = 5, "guest_panicked";
        /// The guest went silent.
        GuestUnresponsive = 6, "guest_unresponsive";
        /// The opening quote did not verify.
        AttestationFailed = 7, "attestation_failed";
        /// The policy was violated.
        PolicyViolation = 8, "policy_violation";
        /// A limit was reached.
        LimitReached = 9, "limit_reached";
        /// The guest did not come up.
        BootTimeout = 10, "boot_timeout";
        /// No memory.
        OutOfMemory = 11, "out_of_memory";
        /// Found without an owner and ended.
        OrphanReclaimed = 12, "orphan_reclaimed";
        /// A fault of Coffer.
        Internal = 13, "internal";
    }
}

closed_list! {
    /// What a call header is for.
    HeaderType {
        /// The client verified the opening and goes on.
        Hello = 0, "hello";
        /// A call is asked for.
        Call = 1, "call";
        /// Input of a call.
        Input = 2, "input";
        /// A checkpoint was seen.
        Ack = 3, "ack";
        /// A signal to a call.
        Signal = 4, "signal";
        /// A call is to end.
        Cancel = 5, "cancel";
        /// The session is to end.
        Close = 6, "close";
    }
}

closed_list! {
    /// Why a header was not taken into its chain.
    Rejection {
        /// It is not one in its one form.
        Malformed = 0, "malformed";
        /// seq is not the last plus one, or prev is not the last header's.
        OutOfOrder = 1, "out_of_order";
        /// It names another instance, channel or speaker.
        OfAnotherChannel = 2, "of_another_channel";
        /// The speaker's key did not sign it.
        Signature = 3, "signature";
        /// Its speaker may not say this.
        NotPermitted = 4, "not_permitted";
        /// The call id is in use with another commitment.
        CallReused = 5, "call_reused";
        /// Its body does not open its commitment.
        Commitment = 6, "commitment";
        /// An offset that falls.
        Offset = 7, "offset";
        /// It acknowledges what is no checkpoint of this log.
        Checkpoint = 8, "checkpoint";
    }
}
