//! What the journal keeps of a session: its state machine and what is needed to find, show and end it. No secrets.

use std::collections::BTreeMap;

use coffer_evidence::ids::{Digest256, InstanceId, SessionId};
use coffer_evidence::manifest::Profile;
use serde::{Deserialize, Serialize};

use super::admission::Admitted;
use super::machine::{Effect, Event, Machine, Timings};
use super::types::{Phase, Timestamp};

/// One session. Stored as JSON, so that a journal can be read by people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionRecord {
    #[serde(with = "text")]
    pub(crate) id: SessionId,
    pub(crate) created_at: Timestamp,
    pub(crate) tenant: String,
    pub(crate) authority: String,
    #[serde(with = "text")]
    pub(crate) image: Digest256,
    pub(crate) profile: Profile,
    pub(crate) labels: BTreeMap<String, String>,
    /// Canonical bytes of the configuration, hex.
    #[serde(with = "hex_bytes")]
    pub(crate) config: Vec<u8>,
    /// The policy text.
    #[serde(with = "hex_bytes")]
    pub(crate) policy: Vec<u8>,
    /// vsock context id, once set aside.
    pub(crate) cid: Option<u32>,
    /// The uid of its processes, once set aside; none when `cofferd` is not root.
    pub(crate) uid: Option<u32>,
    /// Known once the opening verified.
    pub(crate) instance: Option<String>,
    /// When each phase was entered.
    pub(crate) timeline: Vec<(Phase, Timestamp)>,
    /// End of the time to live; known from Ready on.
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) machine: Machine,
}

/// One journaled step: what happened, and what is then done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) at: Timestamp,
    pub(crate) event: Event,
    pub(crate) effects: Vec<Effect>,
}

impl SessionRecord {
    /// A session that was just admitted.
    pub(crate) fn new(admitted: &Admitted, profile: Profile, timings: Timings, now: Timestamp) -> Self {
        Self {
            id: admitted.intent.session,
            created_at: now,
            tenant: admitted.intent.tenant.clone(),
            authority: admitted.intent.authority.as_str().to_owned(),
            image: admitted.intent.image,
            profile,
            labels: admitted.labels.clone(),
            config: admitted.config.clone(),
            policy: admitted.policy.clone(),
            cid: None,
            uid: None,
            instance: None,
            timeline: vec![(Phase::Requested, now)],
            expires_at: None,
            machine: Machine::new(timings, now),
        }
    }

    /// Feeds the machine and keeps the timeline.
    pub(crate) fn apply(&mut self, event: Event, now: Timestamp) -> Step {
        let effects = self.machine.handle(event.clone(), now);
        let phase = self.machine.phase();
        if self.timeline.last().is_none_or(|(last, _)| *last != phase) {
            self.timeline.push((phase, now));
        }
        if let Some(expires_at) = self.machine.expires_at() {
            self.expires_at = Some(expires_at);
        }
        Step { at: now, event, effects }
    }

    /// Whether it is over.
    pub(crate) fn is_closed(&self) -> bool {
        self.machine.phase() == Phase::Closed
    }

    /// The instance, once known.
    pub(crate) fn instance(&self) -> Option<InstanceId> {
        self.instance.as_deref().and_then(|text| text.parse().ok())
    }
}

mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

mod hex_bytes {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod fixtures {
    //! Sessions for tests of this crate.

    use super::*;
    use crate::session::admission::fixtures::{NOW, intent, signed};
    use coffer_evidence::sign::PublicKey;
    use ed25519_dalek::SigningKey;

    pub(crate) const TIMINGS: Timings = Timings {
        reserve: 30_000,
        boot: 300_000,
        verify: 30_000,
        ttl: 3_600_000,
        ttl_slack: 10_000,
        seal: 60_000,
        power_off: 40_000,
        silence: 10_000,
        stop: 10_000,
        preserve: 30_000,
        scrub: 30_000,
        receipt: 10_000,
    };

    pub(crate) fn record(id: u8) -> SessionRecord {
        let (intent, owner_sig) = signed(&intent([id; 16], Digest256::of(b"image")));
        let request = crate::session::admission::Request {
            intent: &intent,
            owner_sig: &owner_sig,
            policy: coffer_policy::texts::DEFAULT.as_bytes(),
            labels: BTreeMap::new(),
        };
        let host_key = PublicKey::of(&SigningKey::from_bytes(&[13; 32]));
        let admitted = crate::session::admission::check_intent(request, host_key, NOW).expect("admitted");
        SessionRecord::new(&admitted, Profile::Simulated, TIMINGS, NOW)
    }
}
