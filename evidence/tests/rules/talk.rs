//! Sessions in which clients sign what they ask for: who says what, leaf by leaf. A test may lie in any place; what comes after a lie is
//! signed and chained as if it were true.

use coffer_evidence::call::{Disclosed, OutcomePrivate};
use coffer_evidence::call_header::{CallHeader, ClientPrivate, NO_PREVIOUS, Said, Seen, SignedHeader, Speaker};
use coffer_evidence::channel::channel_id;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{CallId, Digest256, Identity};
use coffer_evidence::intent::{Authority, Durability, Intent};
use coffer_evidence::leaf::{CauseClass, Leaf, Method, Opened, Public, Rejection, size_steps};
use coffer_evidence::sign::PublicKey;
use coffer_evidence::tree::{Tree, leaf_hash};
use ed25519_dalek::SigningKey;

use super::{AT, Ending, Opening, call_id, key, owner, plain, private_intent, salt};

/// The key of the one identity of the fixtures, and that of the one witness of [`end_to_end`].
pub(crate) fn identity_key() -> SigningKey {
    key(6)
}

pub(crate) fn witness_key() -> SigningKey {
    key(7)
}

pub(crate) fn identity() -> Speaker {
    Speaker::Identity(Identity::default_name())
}

/// What makes an intent one of an end-to-end session.
pub(crate) fn end_to_end(intent: &mut Intent) {
    intent.authority = Authority::EndToEnd;
    intent.recipients = vec![[0x2a; 32]];
    intent.witnesses = vec![PublicKey::of(&witness_key())];
}

/// The same, strict.
pub(crate) fn end_to_end_strict(intent: &mut Intent) {
    end_to_end(intent);
    intent.durability = Durability::Strict;
}

/// One end of a channel, with what it signs next.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) key: SigningKey,
    pub(crate) next: CallHeader,
}

impl Caller {
    /// The next header, signed; the one after it follows from it.
    pub(crate) fn sign(&mut self, said: Said) -> SignedHeader {
        let header = CallHeader { said, ..self.next.clone() };
        (self.next.seq, self.next.prev) = (header.seq + 1, header.digest());
        header.sign(&self.key)
    }
}

/// What one call of the fixtures asks for.
pub(crate) fn asked(n: u32) -> Said {
    let private = private_intent(n);
    let private = coffer_evidence::call::IntentPrivate::parse(&private.bytes).expect("our own");
    let commitment = Opened { salt: private.client_salt, bytes: private.request }.commitment();
    Said::Call { call: call_id(n), method: Method::Exec, commitment }
}

/// Input of a call, with what is behind its commitment.
pub(crate) fn input(n: u32, offset: u64) -> (Said, ClientPrivate) {
    let committed = Digest256::of(&vec![7; usize::try_from(offset).expect("a length")]).as_bytes().to_vec();
    let private = ClientPrivate { client_salt: salt(n, 0x20), committed };
    let commitment = Opened { salt: private.client_salt, bytes: private.committed.clone() }.commitment();
    (Said::Input { call: call_id(n), commitment, offset }, private)
}

/// The record as it grows.
pub(crate) struct Talk<'a> {
    pub(crate) opening: &'a Opening,
    pub(crate) ending: Ending,
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) disclosed: Vec<Disclosed>,
    /// Sizes at which a checkpoint was made.
    pub(crate) checkpoints: Vec<u64>,
    /// Over the leaves up to the last of them.
    tree: Tree,
}

impl<'a> Talk<'a> {
    pub(crate) fn new(opening: &'a Opening, ending: Ending, first: Leaf) -> Self {
        Talk { opening, ending, leaves: vec![first], disclosed: Vec::new(), checkpoints: Vec::new(), tree: Tree::new() }
    }

    fn put(&mut self, identity: Option<Identity>, call: Option<CallId>, public: Public, private: Option<Opened>) {
        let index = self.leaves.len() as u64;
        let commitment = private.as_ref().map(Opened::commitment);
        self.leaves.push(Leaf { identity, call, commitment, ..plain(self.opening.intent.session, index, public) });
        self.disclosed.extend(private.map(|private| Disclosed { index, salt: private.salt, bytes: private.bytes }));
    }

    /// A channel was accepted; nothing was said on it yet.
    pub(crate) fn channel(&mut self, speaker: &Speaker, key: &SigningKey, exporter: u8) -> Caller {
        let exporter = [exporter; 32];
        let public = Public::Channel { speaker: speaker.clone(), nonce: [0x0c; 32], exporter };
        self.put(speaker.identity().cloned(), None, public, None);
        let instance = self.opening.open.instance();
        let next = CallHeader {
            instance,
            channel: channel_id(&instance, &exporter),
            speaker: speaker.clone(),
            seq: 0,
            prev: NO_PREVIOUS,
            said: Said::Close,
        };
        Caller { key: key.clone(), next }
    }

    pub(crate) fn hello(&self) -> Said {
        let opening_quote = Digest256::of(&self.opening.quote);
        Said::Hello { opening_quote, time: AT, collateral: Digest256::of(b"the client's collateral") }
    }

    /// A channel with its hello.
    pub(crate) fn open(&mut self, speaker: &Speaker, key: &SigningKey, exporter: u8) -> Caller {
        let mut caller = self.channel(speaker, key, exporter);
        let hello = self.hello();
        self.say(&mut caller, hello);
        caller
    }

    /// The two channels that most sessions have.
    pub(crate) fn owner_and_identity(&mut self) -> (Caller, Caller) {
        let owner = self.open(&Speaker::Owner, &owner(), 1);
        (owner, self.open(&identity(), &identity_key(), 2))
    }

    pub(crate) fn say(&mut self, caller: &mut Caller, said: Said) {
        let header = caller.sign(said);
        self.client(header);
    }

    /// A client leaf with this header, whatever it says.
    pub(crate) fn client(&mut self, header: SignedHeader) {
        let (identity, call) = (header.header.speaker.identity().cloned(), header.header.said.call());
        self.put(identity, call, Public::Client { header: Box::new(header) }, None);
    }

    /// Input of a call, disclosed as far as it is committed to.
    pub(crate) fn input(&mut self, caller: &mut Caller, n: u32, offset: u64) {
        let (said, private) = input(n, offset);
        let header = Box::new(caller.sign(said));
        let private = Opened { salt: salt(n, 0x10), bytes: private.to_bytes() };
        let identity = caller.next.speaker.identity().cloned();
        self.put(identity, Some(call_id(n)), Public::Client { header }, Some(private));
    }

    /// An intent leaf under the next header of the caller.
    pub(crate) fn ask(&mut self, caller: &mut Caller, n: u32) {
        let header = caller.sign(asked(n));
        self.intent(n, Some(header));
    }

    pub(crate) fn intent(&mut self, n: u32, header: Option<SignedHeader>) {
        let rules = vec![super::PERMIT_ALL_RULE.to_owned()];
        let public = Public::Intent { method: Method::Exec, rules, request_steps: 1, header: header.map(Box::new) };
        self.put(Some(Identity::default_name()), Some(call_id(n)), public, Some(private_intent(n)));
    }

    pub(crate) fn denied(&mut self, caller: &mut Caller, n: u32) {
        let header = Some(Box::new(caller.sign(asked(n))));
        let public = Public::Denied { method: Method::Exec, rules: Vec::new(), header };
        self.put(Some(Identity::default_name()), Some(call_id(n)), public, Some(private_intent(n)));
    }

    pub(crate) fn outcome(&mut self, n: u32, cause: CauseClass, input_covered: Option<u64>) {
        let input_steps = size_steps(input_covered.unwrap_or(0));
        let public = Public::Outcome { method: Method::Exec, cause, output_steps: 0, input_steps, input_covered };
        let private = Opened { salt: salt(n, 0x40), bytes: OutcomePrivate::new(cause).to_bytes() };
        self.put(Some(Identity::default_name()), Some(call_id(n)), public, Some(private));
    }

    pub(crate) fn completed(&mut self, n: u32) {
        self.outcome(n, CauseClass::Completed, None);
    }

    pub(crate) fn rejected(&mut self, caller: &Caller, reason: Rejection) {
        let public = Public::Rejected { reason, channel: caller.next.channel };
        self.put(caller.next.speaker.identity().cloned(), None, public, None);
    }

    /// A checkpoint over all leaves so far, as a client sees it.
    pub(crate) fn checkpoint(&mut self) -> Seen {
        let covered = usize::try_from(self.tree.size()).expect("a size");
        self.leaves[covered..].iter().for_each(|leaf| self.tree.append(leaf_hash(&leaf.to_bytes())));
        self.checkpoints.push(self.tree.size());
        Seen { size: self.tree.size(), root: self.tree.root() }
    }

    /// The next checkpoint, seen and acknowledged.
    pub(crate) fn ack(&mut self, caller: &mut Caller) {
        let seen = self.checkpoint();
        self.say(caller, Said::Ack { seen });
    }
}

/// Two calls, the second with input; a killed session ends in the second.
pub(crate) fn usual(talk: &mut Talk<'_>) {
    let (_, mut caller) = talk.owner_and_identity();
    talk.ask(&mut caller, 1);
    talk.completed(1);
    talk.ask(&mut caller, 2);
    talk.input(&mut caller, 2, 4096);
    talk.input(&mut caller, 2, 5000);
    if talk.ending == Ending::Sealed {
        talk.outcome(2, CauseClass::Completed, Some(5000));
    }
}

/// The same, where each effect waits for the caller's ack; a killed session ends with the second ack outstanding.
pub(crate) fn acknowledged(talk: &mut Talk<'_>) {
    let (_, mut caller) = talk.owner_and_identity();
    talk.ask(&mut caller, 1);
    talk.ack(&mut caller);
    talk.completed(1);
    talk.ask(&mut caller, 2);
    if talk.ending == Ending::Sealed {
        talk.ack(&mut caller);
        talk.completed(2);
    }
}

/// The same, released by a witness.
pub(crate) fn witnessed(talk: &mut Talk<'_>) {
    let (_, mut caller) = talk.owner_and_identity();
    let mut witness = talk.open(&Speaker::Witness(0), &witness_key(), 3);
    talk.ask(&mut caller, 1);
    talk.ask(&mut caller, 2);
    talk.ack(&mut witness);
    talk.completed(2);
    talk.completed(1);
}
