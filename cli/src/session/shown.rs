//! A session as it is shown: words for the numbers of the interface, a line for people, a stable JSON form.

use coffer_client::sessions::Which;
use coffer_evidence::ids::SessionId;
use coffer_proto::control::v1::{ClosedBy, Outcome, Phase, Reason, Session};
use serde::Serialize;

use crate::command::Context;
use crate::exit::Status;
use crate::image::platform_word;
use crate::output::{Form, Output, printable};
use crate::time::shown_ms;

/// `ready`
pub(crate) fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Unspecified => "unknown",
        Phase::Requested => "requested",
        Phase::Scheduled => "scheduled",
        Phase::Launching => "launching",
        Phase::Attesting => "attesting",
        Phase::Ready => "ready",
        Phase::Draining => "draining",
        Phase::Sealing => "sealing",
        Phase::Scrubbing => "scrubbing",
        Phase::Closed => "closed",
    }
}

/// `sealed`
pub(crate) fn outcome_word(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Unspecified => None,
        Outcome::Sealed => Some("sealed"),
        Outcome::Aborted => Some("aborted"),
    }
}

/// `user_closed`
pub(crate) fn reason_word(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::Unspecified => return None,
        Reason::UserClosed => "user_closed",
        Reason::TtlExpired => "ttl_expired",
        Reason::IdleTimeout => "idle_timeout",
        Reason::HostDrained => "host_drained",
        Reason::HostLost => "host_lost",
        Reason::GuestPanicked => "guest_panicked",
        Reason::GuestUnresponsive => "guest_unresponsive",
        Reason::AttestationFailed => "attestation_failed",
        Reason::PolicyViolation => "policy_violation",
        Reason::LimitReached => "limit_reached",
        Reason::BootTimeout => "boot_timeout",
        Reason::OutOfMemory => "out_of_memory",
        Reason::OrphanReclaimed => "orphan_reclaimed",
        Reason::Internal => "internal",
    })
}

fn closed_by_word(closed_by: ClosedBy) -> Option<&'static str> {
    match closed_by {
        ClosedBy::Unspecified => None,
        ClosedBy::Client => Some("client"),
        ClosedBy::Agent => Some("agent"),
        ClosedBy::Host => Some("host"),
    }
}

/// The JSON form of a session. Times are unix milliseconds, 0 where there is none.
#[derive(Debug, Serialize)]
pub(crate) struct SessionShown {
    id: String,
    phase: &'static str,
    outcome: Option<&'static str>,
    reason: Option<&'static str>,
    closed_by: Option<&'static str>,
    platform: &'static str,
    image: String,
    instance: Option<String>,
    created_at_ms: i64,
    phase_since_ms: i64,
    expires_at_ms: i64,
    tenant: String,
    authority: String,
    message: String,
    timeline: Vec<Entered>,
    scrub_failures: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Entered {
    phase: &'static str,
    entered_at_ms: i64,
}

impl SessionShown {
    pub(crate) fn new(session: &Session) -> Self {
        let entered = |time: &coffer_proto::control::v1::PhaseTime| Entered {
            phase: phase_word(time.phase()),
            entered_at_ms: time.entered_at_ms,
        };
        Self {
            id: SessionId::from_bytes(&session.id).map_or_else(|_| hex::encode(&session.id), |id| id.to_string()),
            phase: phase_word(session.phase()),
            outcome: outcome_word(session.outcome()),
            reason: reason_word(session.reason()),
            closed_by: closed_by_word(session.closed_by()),
            platform: platform_word(session.platform()),
            image: hex::encode(&session.image),
            instance: (!session.instance.is_empty()).then(|| hex::encode(&session.instance)),
            created_at_ms: session.created_at_ms,
            phase_since_ms: session.phase_since_ms,
            expires_at_ms: session.expires_at_ms,
            tenant: session.tenant.clone(),
            authority: session.authority.clone(),
            message: session.message.clone(),
            timeline: session.timeline.iter().map(entered).collect(),
            scrub_failures: session.scrub_failures.clone(),
        }
    }

    /// `aborted, guest_panicked, by host: what the host says`
    pub(crate) fn ending(&self) -> String {
        let mut words: Vec<String> = [self.outcome, self.reason].into_iter().flatten().map(str::to_owned).collect();
        words.extend(self.closed_by.map(|by| format!("by {by}")));
        let mut ending = words.join(", ");
        if !self.message.is_empty() {
            ending.push_str(&format!(": {}", printable(&self.message)));
        }
        ending
    }

    /// One line.
    pub(crate) fn line(&self) -> String {
        let created = shown_ms(self.created_at_ms);
        let line = format!("{}  {:<9}  {:<9}  {created}  {}", self.id, self.phase, self.platform, self.ending());
        line.trim_end().to_owned()
    }

    /// All of it, in the form that is asked for.
    pub(crate) fn tell(&self, output: &Output) -> anyhow::Result<()> {
        if output.form == Form::Json {
            return output.json(self);
        }
        let rows = [
            ("session", self.id.clone()),
            ("phase", self.phase.to_owned()),
            ("ending", self.ending()),
            ("platform", self.platform.to_owned()),
            ("authority", printable(&self.authority)),
            ("tenant", printable(&self.tenant)),
            ("image", format!("sha256:{}", self.image)),
            ("instance", self.instance.clone().unwrap_or_default()),
            ("created", shown_ms(self.created_at_ms)),
            ("expires", shown_ms(self.expires_at_ms)),
        ];
        for (label, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
            output.line(format_args!("{label:<11}{value}"))?;
        }
        for entered in &self.timeline {
            output.line(format_args!("  {}  {}", shown_ms(entered.entered_at_ms), entered.phase))?;
        }
        for failure in &self.scrub_failures {
            output.line(format_args!("left behind  {}", printable(failure)))?;
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct List {
    sessions: Vec<SessionShown>,
}

/// `coffer session list`
pub(super) async fn list(context: &Context, which: Which) -> anyhow::Result<Status> {
    let sessions = context.client().await?.list(which).await?;
    let sessions: Vec<SessionShown> = sessions.iter().map(SessionShown::new).collect();
    match context.output.form {
        Form::Json => context.output.json(&List { sessions })?,
        Form::People => {
            for session in &sessions {
                context.output.line(session.line())?;
            }
            if sessions.is_empty() {
                let hint = if which == Which::Open { "; --all lists closed ones, too" } else { "" };
                context.output.note(format_args!("no session{hint}"));
            }
        }
    }
    Ok(Status::DONE)
}
