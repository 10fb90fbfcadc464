//! The call chains of a session (EVIDENCE section 2, rule R12), leaf by leaf: one state machine for the writer, which appends no
//! leaf that this refuses, and for the verifier.
//!
//! ```text
//! channel leaf ─> announced ─hello─> speaking ─header─> speaking ... ─rejected leaf─> closed
//! ```
//! What it holds is bounded: the state of each channel and of each running call, both with a limit. A leaf is judged first and
//! taken after that, so a leaf that is refused changes nothing.

mod fault;
mod judging;

use std::collections::BTreeMap;

use crate::call_header::{NO_PREVIOUS, Said, SignedHeader, Speaker};
use crate::channel::channel_id;
use crate::ids::{CallId, Digest256, Identity, InstanceId};
use crate::intent::Intent;
use crate::leaf::{Leaf, Public};
use crate::numbers::Method;
use crate::sign::PublicKey;

pub use fault::{ChainFault, Concern};

/// The most channels of a session.
pub const CHANNELS_MAX: usize = 16_384;
/// The most calls that run at once under headers.
pub const RUNNING_MAX: usize = 4_096;
/// The most rejected headers of a channel.
pub const REJECTED_MAX: u64 = 100;

/// Which signatures are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signatures {
    /// The last of each channel, at the end: it covers all before it through `prev`.
    Last,
    /// All, as they come.
    Every,
}

#[derive(Clone, Debug)]
struct Channel {
    speaker: Speaker,
    key: PublicKey,
    next: u64,
    prev: Digest256,
    rejected: u64,
    /// The last header and its leaf, while nobody verified its signature.
    unverified: Option<(u64, Box<SignedHeader>)>,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    method: Method,
    commitment: Digest256,
    covered: u64,
}

/// What was found in chains that hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Accepted headers.
    pub headers: u64,
    /// Channels.
    pub channels: u64,
    /// Signatures that were verified.
    pub verified: u64,
    /// The leaf of the owner's first hello.
    pub owner_hello: Option<u64>,
    /// The leaf of the first close that a client signed.
    pub close: Option<u64>,
    /// The first decision without a header.
    pub bare: Option<u64>,
    /// Who asked for calls, under which key.
    pub callers: BTreeMap<Identity, PublicKey>,
}

/// The chains so far.
#[derive(Clone, Debug)]
pub struct Chains {
    intent: Intent,
    instance: InstanceId,
    signatures: Signatures,
    opening_quote: Option<Digest256>,
    channels: BTreeMap<Digest256, Channel>,
    running: BTreeMap<(Identity, CallId), Running>,
    summary: Summary,
}

impl Chains {
    /// Before leaf 0.
    #[must_use]
    pub fn new(intent: &Intent, instance: InstanceId, signatures: Signatures) -> Self {
        Self {
            intent: intent.clone(),
            instance,
            signatures,
            opening_quote: None,
            channels: BTreeMap::new(),
            running: BTreeMap::new(),
            summary: Summary::default(),
        }
    }

    /// Judges the next leaf, and takes it.
    ///
    /// # Errors
    /// [`ChainFault`]; nothing has changed then.
    pub fn see(&mut self, leaf: &Leaf) -> Result<(), ChainFault> {
        self.judge(leaf)?;
        self.take(leaf);
        Ok(())
    }

    /// Takes a leaf that was judged.
    pub fn take(&mut self, leaf: &Leaf) {
        match &leaf.public {
            Public::Open { opening_quote, .. } => self.opening_quote = Some(*opening_quote),
            Public::Channel { speaker, exporter, .. } => self.take_channel(speaker, exporter),
            Public::Rejected { channel, .. } => {
                if let Some(channel) = self.channels.get_mut(channel) {
                    channel.rejected = channel.rejected.saturating_add(1);
                }
            }
            Public::Outcome { .. } => {
                if let Some(call) = leaf.identity.clone().zip(leaf.call) {
                    self.running.remove(&call);
                }
            }
            Public::Intent { header: None, .. } | Public::Denied { header: None, .. } => {
                self.summary.bare = self.summary.bare.or(Some(leaf.index));
            }
            _ => {}
        }
        if let Some(signed) = leaf.public.header() {
            self.take_header(leaf, signed);
        }
    }

    fn take_channel(&mut self, speaker: &Speaker, exporter: &[u8; 32]) {
        let Some(key) = speaker.key(&self.intent) else { return };
        let channel =
            Channel { speaker: speaker.clone(), key, next: 0, prev: NO_PREVIOUS, rejected: 0, unverified: None };
        self.channels.insert(channel_id(&self.instance, exporter), channel);
        self.summary.channels = self.summary.channels.saturating_add(1);
    }

    fn take_header(&mut self, leaf: &Leaf, signed: &SignedHeader) {
        let header = &signed.header;
        let Some(channel) = self.channels.get_mut(&header.channel) else { return };
        channel.next = header.seq.saturating_add(1);
        channel.prev = header.digest();
        let summary = &mut self.summary;
        summary.headers = summary.headers.saturating_add(1);
        match self.signatures {
            Signatures::Every => summary.verified = summary.verified.saturating_add(1),
            Signatures::Last => channel.unverified = Some((leaf.index, Box::new(signed.clone()))),
        }
        let call = leaf.identity.clone().zip(leaf.call);
        match (&header.said, call) {
            (Said::Hello { .. }, _) if header.speaker == Speaker::Owner => {
                summary.owner_hello = summary.owner_hello.or(Some(leaf.index));
            }
            (Said::Close, _) => summary.close = summary.close.or(Some(leaf.index)),
            (Said::Input { offset, .. }, Some(call)) => {
                if let Some(running) = self.running.get_mut(&call) {
                    running.covered = *offset;
                }
            }
            (Said::Call { method, commitment, .. }, Some(call)) if !matches!(leaf.public, Public::Client { .. }) => {
                summary.callers.entry(call.0.clone()).or_insert(channel.key);
                if matches!(leaf.public, Public::Intent { .. }) {
                    self.running.insert(call, Running { method: *method, commitment: *commitment, covered: 0 });
                }
            }
            _ => {}
        }
    }

    /// What holds after the last leaf: the signatures that were left to it.
    ///
    /// # Errors
    /// [`ChainFault::Signature`].
    pub fn finish(self) -> Result<Summary, ChainFault> {
        let mut summary = self.summary;
        for channel in self.channels.values() {
            let Some((leaf, signed)) = &channel.unverified else { continue };
            if !signed.is_signed_by(&channel.key) {
                return Err(ChainFault::Signature { leaf: *leaf, speaker: channel.speaker.clone() });
            }
            summary.verified = summary.verified.saturating_add(1);
        }
        Ok(summary)
    }
}
