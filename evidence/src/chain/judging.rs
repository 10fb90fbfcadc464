//! Whether a leaf goes on with the chains: every check of rule R12, none of which changes anything.

use super::{CHANNELS_MAX, ChainFault, Chains, REJECTED_MAX, RUNNING_MAX, Running, Signatures};
use crate::call_header::{CallHeader, HeaderType, Said, SignedHeader, Speaker};
use crate::channel::channel_id;
use crate::ids::Digest256;
use crate::intent::Authority;
use crate::leaf::{Leaf, Public, size_steps};
use crate::numbers::Method;

impl Chains {
    /// Whether the chains may go on with this leaf.
    ///
    /// # Errors
    /// [`ChainFault`].
    pub fn judge(&self, leaf: &Leaf) -> Result<(), ChainFault> {
        match &leaf.public {
            Public::Channel { speaker, exporter, .. } => self.judge_channel(leaf, speaker, exporter),
            Public::Client { header } => self.judge_client(leaf, header),
            Public::Intent { method, header, .. } | Public::Denied { method, header, .. } => match header {
                None => self.judge_bare(leaf.index),
                Some(header) => self.judge_decision(leaf, *method, header),
            },
            Public::Outcome { input_steps, input_covered, .. } => {
                self.judge_outcome(leaf, *input_steps, *input_covered)
            }
            Public::Rejected { channel, .. } => self.judge_rejected(leaf, channel),
            _ => Ok(()),
        }
    }

    fn judge_channel(&self, leaf: &Leaf, speaker: &Speaker, exporter: &[u8; 32]) -> Result<(), ChainFault> {
        let (index, channel) = (leaf.index, channel_id(&self.instance, exporter));
        if leaf.identity.as_ref() != speaker.identity() {
            return Err(ChainFault::Differs { leaf: index, field: "identity" });
        }
        if leaf.call.is_some() {
            return Err(ChainFault::Differs { leaf: index, field: "call" });
        }
        if speaker.key(&self.intent).is_none() {
            return Err(ChainFault::NoSuchSpeaker { leaf: index, speaker: speaker.clone() });
        }
        if self.channels.contains_key(&channel) {
            return Err(ChainFault::ChannelTwice { leaf: index, channel });
        }
        if self.channels.len() >= CHANNELS_MAX {
            return Err(ChainFault::TooMany { leaf: index, limit: CHANNELS_MAX as u64, what: "channels" });
        }
        Ok(())
    }

    fn judge_bare(&self, leaf: u64) -> Result<(), ChainFault> {
        if self.intent.authority == Authority::EndToEnd || self.summary.headers > 0 {
            return Err(ChainFault::NoHeader { leaf });
        }
        Ok(())
    }

    fn judge_client(&self, leaf: &Leaf, signed: &SignedHeader) -> Result<(), ChainFault> {
        same_place(leaf, &signed.header)?;
        self.judge_header(leaf.index, signed)?;
        let index = leaf.index;
        let running = leaf.identity.clone().zip(leaf.call).and_then(|call| self.running.get(&call));
        // A header for a call that is over, or for none, is in its chain and does nothing.
        let Some(running) = running else { return Ok(()) };
        match signed.header.said {
            Said::Call { method, commitment, .. } if (method, commitment) != (running.method, running.commitment) => {
                Err(ChainFault::CallReused { leaf: index })
            }
            Said::Input { offset, .. } if offset < running.covered => {
                Err(ChainFault::Offset { leaf: index, covered: running.covered, found: offset })
            }
            _ => Ok(()),
        }
    }

    fn judge_decision(&self, leaf: &Leaf, method: Method, signed: &SignedHeader) -> Result<(), ChainFault> {
        let index = leaf.index;
        same_place(leaf, &signed.header)?;
        let Said::Call { method: asked, .. } = signed.header.said else {
            return Err(ChainFault::Type { leaf: index, expected: "call", found: signed.header.said.kind() });
        };
        if asked != method {
            return Err(ChainFault::Differs { leaf: index, field: "method" });
        }
        self.judge_header(index, signed)?;
        if self.intent.authority == Authority::EndToEnd && self.summary.owner_hello.is_none() {
            return Err(ChainFault::BeforeOwner { leaf: index });
        }
        if let Some(close) = self.summary.close {
            return Err(ChainFault::AfterClose { leaf: index, close });
        }
        if matches!(leaf.public, Public::Intent { .. }) && self.running.len() >= RUNNING_MAX {
            return Err(ChainFault::TooMany { leaf: index, limit: RUNNING_MAX as u64, what: "running calls" });
        }
        Ok(())
    }

    /// What holds of a header wherever it stands.
    fn judge_header(&self, leaf: u64, signed: &SignedHeader) -> Result<(), ChainFault> {
        let header = &signed.header;
        let (found, seq) = (header.said.kind(), header.seq);
        if let Some(other) = self.summary.bare {
            return Err(ChainFault::SomeHeaders { leaf, other });
        }
        if header.instance != self.instance {
            return Err(ChainFault::Instance { leaf });
        }
        let known = self.channels.get(&header.channel);
        let channel = known.ok_or(ChainFault::NoSuchChannel { leaf, channel: header.channel })?;
        if header.speaker != channel.speaker {
            return Err(ChainFault::OtherSpeaker { leaf, channel: header.channel, found: header.speaker.clone() });
        }
        if channel.rejected > 0 {
            return Err(ChainFault::Closed { leaf, channel: header.channel });
        }
        if seq != channel.next {
            return Err(ChainFault::Seq { leaf, channel: header.channel, expected: channel.next, found: seq });
        }
        if header.prev != channel.prev {
            return Err(ChainFault::Prev { leaf, channel: header.channel });
        }
        if (found == HeaderType::Hello) != (seq == 0) {
            return Err(ChainFault::Hello { leaf, found, seq });
        }
        if let Said::Hello { opening_quote, .. } = header.said
            && Some(opening_quote) != self.opening_quote
        {
            return Err(ChainFault::Quote { leaf });
        }
        if !may_say(&header.speaker, found) {
            return Err(ChainFault::NotPermitted { leaf, speaker: header.speaker.clone(), found });
        }
        if self.signatures == Signatures::Every && !signed.is_signed_by(&channel.key) {
            return Err(ChainFault::Signature { leaf, speaker: header.speaker.clone() });
        }
        Ok(())
    }

    fn judge_outcome(&self, leaf: &Leaf, steps: u64, told: Option<u64>) -> Result<(), ChainFault> {
        let running = leaf.identity.clone().zip(leaf.call).and_then(|call| self.running.get(&call));
        let Some(Running { covered, .. }) = running.copied() else {
            // No header asked for this call, so none covers its input.
            return told.map_or(Ok(()), |told| Err(ChainFault::Covered { leaf: leaf.index, covered: 0, told }));
        };
        let told = told.unwrap_or(0);
        if told != covered {
            return Err(ChainFault::Covered { leaf: leaf.index, covered, told });
        }
        if steps > size_steps(covered) {
            return Err(ChainFault::Unsigned { leaf: leaf.index, steps, covered });
        }
        Ok(())
    }

    fn judge_rejected(&self, leaf: &Leaf, channel: &Digest256) -> Result<(), ChainFault> {
        // Before the hello a guest counts what it refuses, and logs nothing.
        let known = self.channels.get(channel).filter(|channel| channel.next > 0);
        let index = leaf.index;
        let known = known.ok_or(ChainFault::NoSuchChannel { leaf: index, channel: *channel })?;
        if leaf.identity.as_ref() != known.speaker.identity() {
            return Err(ChainFault::Differs { leaf: index, field: "identity" });
        }
        if known.rejected >= REJECTED_MAX {
            return Err(ChainFault::TooMany {
                leaf: index,
                limit: REJECTED_MAX,
                what: "rejected headers in one channel",
            });
        }
        Ok(())
    }
}

/// A leaf is about the identity and call of its header.
fn same_place(leaf: &Leaf, header: &CallHeader) -> Result<(), ChainFault> {
    let differs = |field| Err(ChainFault::Differs { leaf: leaf.index, field });
    if leaf.identity.as_ref() != header.speaker.identity() {
        return differs("identity");
    }
    if leaf.call != header.said.call() {
        return differs("call");
    }
    Ok(())
}

/// Owner and witnesses run nothing in the guest; a witness does not end what is not its own.
const fn may_say(speaker: &Speaker, said: HeaderType) -> bool {
    match speaker {
        Speaker::Identity(_) => true,
        Speaker::Owner => matches!(said, HeaderType::Hello | HeaderType::Ack | HeaderType::Close),
        Speaker::Witness(_) => matches!(said, HeaderType::Hello | HeaderType::Ack),
    }
}
