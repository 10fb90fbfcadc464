//! The writer and the verifier agree: whatever the notary's core logs, the verifier takes.

use std::collections::BTreeMap;

use coffer_evidence::bundle::{self, Parts};
use coffer_evidence::call::Disclosed;
use coffer_evidence::call_header::{Said, Seen, SignedHeader, Speaker};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{CallId, Digest256, Identity};
use coffer_evidence::intent::{Authority, Intent};
use coffer_evidence::leaf::{
    CauseClass, LimitKind, Method, Opened, Public, Rejection, Reporter, ScrubStep, StepResult, size_steps,
};
use coffer_evidence::sign::PublicKey;
use coffer_evidence::verify::{
    AcceptPrefix, Accepted, CheckResult, Concerns, EverySignature, Options, Verdict, verify_bundle,
};
use coffer_evidence::writer::{LeafDraft, LogWriter, PRIVATE_PART_MAX};
use proptest::prelude::*;

use crate::judging::options;
use crate::platform::{self, Dates, Tcb};
use crate::session::talk::{Caller, Talk, end_to_end, end_to_end_strict, identity_key, witness_key};
use crate::session::{Ending, Recipe, key, log_key, opening, owner, plain, seal_with};

/// One thing that a session may do, or try to do.
#[derive(Clone, Debug)]
enum Act {
    Intent { call: u8, identity: u8, method: usize },
    Outcome { call: u8, identity: u8, method: usize, cause: usize },
    Denied { call: u8, identity: u8, method: usize },
    Incomplete { call: u8, identity: u8, method: usize },
    Limit { which: usize },
    Channel { speaker: usize },
    Said { channel: u8, what: u8, call: u8, offset: u16, lie: bool },
    Rejected { channel: u8, why: usize },
    Checkpoint,
    TimePasses { ns: u32 },
}

fn act() -> impl Strategy<Value = Act> {
    let (call, identity, method) = (0u8..6, 0u8..2, 0usize..Method::ALL.len());
    prop_oneof![
        4 => (call.clone(), identity.clone(), method.clone())
            .prop_map(|(call, identity, method)| Act::Intent { call, identity, method }),
        6 => (call.clone(), identity.clone(), method.clone(), 0usize..CauseClass::ALL.len())
            .prop_map(|(call, identity, method, cause)| Act::Outcome { call, identity, method, cause }),
        1 => (call.clone(), identity.clone(), method.clone())
            .prop_map(|(call, identity, method)| Act::Denied { call, identity, method }),
        1 => (call, identity, method).prop_map(|(call, identity, method)| Act::Incomplete { call, identity, method }),
        1 => (0usize..LimitKind::ALL.len()).prop_map(|which| Act::Limit { which }),
        2 => (0usize..4).prop_map(|speaker| Act::Channel { speaker }),
        6 => (0u8..4, 0u8..7, 0u8..6, any::<u16>(), prop::bool::weighted(0.1))
            .prop_map(|(channel, what, call, offset, lie)| Act::Said { channel, what, call, offset, lie }),
        1 => (0u8..4, 0usize..Rejection::ALL.len()).prop_map(|(channel, why)| Act::Rejected { channel, why }),
        2 => Just(Act::Checkpoint),
        1 => any::<u32>().prop_map(|ns| Act::TimePasses { ns }),
    ]
}

struct Session {
    recipe: Recipe,
    writer: LogWriter,
    parts: Parts,
    now: u64,
    /// Channels that were accepted, with what their clients sign next.
    callers: Vec<Caller>,
    /// Bytes of input that headers cover, by call.
    covered: BTreeMap<(u8, u8), u64>,
    seen: Option<Seen>,
}

/// The kinds of session, as a test may choose one.
fn kinds() -> impl Strategy<Value = fn(&mut Intent)> {
    fn two(intent: &mut Intent) {
        intent.identities.insert(name(1), PublicKey::of(&key(16)));
    }
    let kinds: [fn(&mut Intent); 4] = [
        |_| {},
        |intent| {
            two(intent);
            end_to_end(intent);
        },
        |intent| {
            two(intent);
            end_to_end_strict(intent);
        },
        // Delegated, by clients that sign.
        two,
    ];
    prop::sample::select(kinds.to_vec())
}

fn name(n: u8) -> Identity {
    Identity::new(["default", "other"][usize::from(n)]).expect("an identity")
}

impl Session {
    fn open() -> Self {
        Self::of(Recipe::default())
    }

    fn of(recipe: Recipe) -> Self {
        let opening = opening(&recipe);
        let (writer, event) = LogWriter::open(&opening.intent, &opening.open);
        let parts = Parts {
            config: opening.config.clone(),
            policy: Recipe::default().policy.as_bytes().to_vec(),
            image_dsse: opening.image_dsse.clone(),
            open_map: opening.open.to_bytes(),
            open_quote: opening.quote.clone(),
            open_collateral: platform::collateral(Dates::NOVEMBER, Tcb::UP_TO_DATE).to_bytes(),
            ccel: None,
            events: vec![event.bytes],
            leaves: Vec::new(),
            checkpoint: String::new(),
            encrypted: None,
            disclosed: Some(Vec::new()),
            seal: None,
            receipt: None,
        };
        let mut session =
            Session { recipe, writer, parts, now: 0, callers: Vec::new(), covered: BTreeMap::new(), seen: None };
        let opening_quote = Digest256::of(&opening.quote);
        session.log(None, Public::Open { instance: opening.open.instance(), opening_quote }, None);
        if opening.intent.authority == Authority::EndToEnd {
            // Without these two nothing else is taken: most sessions begin with them.
            session.channel(0);
            session.channel(2);
        }
        session
    }

    /// Whether the writer took it. What it refuses is not logged; what it takes is in the parts.
    fn log(&mut self, call: Option<(u8, u8)>, public: Public, private: Option<Opened>) -> bool {
        let (identity, call) = (call.map(|(n, _)| name(n)), call.map(|(_, call)| CallId::new([call; 16])));
        self.append(identity, call, public, private)
    }

    fn append(
        &mut self,
        identity: Option<Identity>,
        call: Option<CallId>,
        public: Public,
        private: Option<Opened>,
    ) -> bool {
        let draft =
            LeafDraft { reporter: Reporter::Agent, identity, call, monotonic_ns: self.now, wall_hint_ms: 0, public };
        let Ok(leaf) = self.writer.append(draft, private) else { return false };
        self.parts.leaves.push(leaf.bytes);
        if let (Some(private), Some(disclosed)) = (leaf.private, &mut self.parts.disclosed) {
            disclosed.push(Disclosed { index: leaf.index, salt: private.salt, bytes: private.bytes });
        }
        true
    }

    /// The header that this identity signs for the call on its last channel, where it has one; and that channel.
    fn asked(&self, identity: u8, call: u8, method: Method) -> Option<(usize, Caller, Box<SignedHeader>)> {
        let speaker = Speaker::Identity(name(identity));
        let at = self.callers.iter().rposition(|caller| caller.next.speaker == speaker)?;
        let mut caller = self.callers[at].clone();
        let commitment = Digest256::of(&[call]);
        let header = caller.sign(Said::Call { call: CallId::new([call; 16]), method, commitment });
        Some((at, caller, Box::new(header)))
    }

    /// A decision, under a header where its identity has a channel.
    fn decide(&mut self, identity: u8, call: u8, method: Method, public: impl Fn(Option<Box<SignedHeader>>) -> Public) {
        let private = || Some(Opened { salt: [1; 32], bytes: b"anything that an agent may say".to_vec() });
        match self.asked(identity, call, method) {
            None => {
                self.log(Some((identity, call)), public(None), private());
            }
            Some((at, caller, header)) => {
                if self.log(Some((identity, call)), public(Some(header)), private()) {
                    self.callers[at] = caller;
                    self.covered.insert((identity, call), 0);
                }
            }
        }
    }

    /// What an outcome says of its input, where headers asked for the call.
    fn covered(&self, identity: u8, call: u8) -> Option<u64> {
        self.covered.get(&(identity, call)).copied()
    }

    fn channel(&mut self, speaker: usize) {
        let (speaker, key) = [
            (Speaker::Owner, owner()),
            (Speaker::Witness(0), witness_key()),
            (Speaker::Identity(name(0)), identity_key()),
            (Speaker::Identity(name(1)), key(16)),
        ][speaker]
            .clone();
        let exporter = [u8::try_from(self.callers.len()).expect("few channels"); 32];
        let opening = opening(&self.recipe);
        let mut talk = Talk::new(&opening, Ending::Killed, plain(opening.intent.session, 0, Public::Seal { count: 0 }));
        let caller = talk.channel(&speaker, &key, exporter[0]);
        let public = Public::Channel { speaker, nonce: [0; 32], exporter };
        if self.append(caller.next.speaker.identity().cloned(), None, public, None) {
            self.callers.push(caller);
            // A client that goes on says hello at once, and some never do.
            if self.callers.len() % 5 != 4 {
                self.say(self.callers.len() - 1, talk.hello(), false);
            }
        }
    }

    fn say(&mut self, at: usize, said: Said, lie: bool) {
        let mut caller = self.callers[at].clone();
        let mut header = caller.sign(said);
        if lie {
            header.signature[0] ^= 1;
        }
        let (identity, call) = (header.header.speaker.identity().cloned(), header.header.said.call());
        let input = match &header.header.said {
            Said::Input { offset, .. } => Some(*offset),
            _ => None,
        };
        if self.append(identity.clone(), call, Public::Client { header: Box::new(header) }, None) {
            self.callers[at] = caller;
            let n = u8::from(identity.as_ref() == Some(&name(1)));
            let covered = call.and_then(|call| self.covered.get_mut(&(n, call.as_bytes()[0])));
            if let (Some(covered), Some(offset)) = (covered, input) {
                *covered = offset;
            }
        }
    }

    fn checkpoint(&mut self) {
        if let Some((event, note)) = self.writer.checkpoint(&log_key()) {
            self.seen = Some(Seen { size: self.writer.size(), root: self.writer.root() });
            self.parts.events.push(event.bytes);
            self.parts.checkpoint = note;
        }
    }

    fn act(&mut self, act: &Act) {
        let private = || Some(Opened { salt: [1; 32], bytes: b"anything that an agent may say".to_vec() });
        match *act {
            Act::Intent { call, identity, method } => {
                let method = Method::ALL[method];
                self.decide(identity, call, method, |header| Public::Intent {
                    method,
                    rules: Vec::new(),
                    request_steps: 1,
                    header,
                });
            }
            Act::Outcome { call, identity, method, cause } => {
                let (method, cause) = (Method::ALL[method], CauseClass::ALL[cause]);
                let input_covered = self.covered(identity, call);
                let input_steps = size_steps(input_covered.unwrap_or(0));
                let public = Public::Outcome { method, cause, output_steps: 1, input_steps, input_covered };
                self.log(Some((identity, call)), public, private());
            }
            Act::Denied { call, identity, method } => {
                let method = Method::ALL[method];
                self.decide(identity, call, method, |header| Public::Denied { method, rules: Vec::new(), header });
            }
            Act::Channel { speaker } => self.channel(speaker),
            Act::Said { channel, what, call, offset, lie } => {
                let (at, call) = (usize::from(channel), CallId::new([call; 16]));
                if at >= self.callers.len() {
                    return;
                }
                let commitment = Digest256::of(call.as_bytes());
                let said = match (what, self.seen) {
                    (0, _) => Said::Input { call, commitment, offset: u64::from(offset) },
                    (1, _) => Said::Signal { call, commitment },
                    (2, _) => Said::Cancel { call },
                    (3, _) if offset < 4_000 => Said::Close,
                    (4, _) => {
                        Said::Call { call, method: Method::ALL[0], commitment: Digest256::of(&call.as_bytes()[..1]) }
                    }
                    (_, Some(seen)) => Said::Ack { seen },
                    (_, None) => return,
                };
                self.say(at, said, lie);
            }
            Act::Rejected { channel, why } => {
                let Some(caller) = self.callers.get(usize::from(channel)) else { return };
                let public = Public::Rejected { reason: Rejection::ALL[why], channel: caller.next.channel };
                self.append(None, None, public, None);
            }
            Act::Incomplete { call, identity, method } => {
                self.log(Some((identity, call)), Public::Incomplete { method: Method::ALL[method] }, None);
            }
            Act::Limit { which } => {
                self.log(None, Public::Limit { which: LimitKind::ALL[which] }, None);
            }
            Act::Checkpoint => self.checkpoint(),
            Act::TimePasses { ns } => self.now += u64::from(ns),
        }
    }

    /// The end in its order: outcomes of what still runs, scrub, seal, checkpoint, sealed.
    fn seal(mut self) -> Parts {
        for (identity, call) in self.writer.running_calls().cloned().collect::<Vec<_>>() {
            let n = u8::from(identity.as_str() == "other");
            // Whatever the call was; what nobody acknowledged did not start.
            for (method, cause) in Method::ALL
                .iter()
                .flat_map(|method| [CauseClass::OutcomeUnknown, CauseClass::NotStarted].map(|cause| (*method, cause)))
            {
                let input_covered = self.covered(n, call.as_bytes()[0]);
                let public = Public::Outcome { method, cause, output_steps: 0, input_steps: 0, input_covered };
                let private = Some(Opened { salt: [2; 32], bytes: Vec::new() });
                self.log(Some((n, call.as_bytes()[0])), public, private);
            }
        }
        let steps = ScrubStep::ALL.iter().map(|step| (*step, StepResult::Done)).collect();
        self.log(None, Public::Scrub { steps }, None);
        self.log(None, Public::Seal { count: self.writer.size() + 1 }, None);
        self.checkpoint();
        let event = self.writer.sealed().expect("a sealed event");
        self.parts.events.push(event.bytes);
        let seal = seal_with(&self.recipe, &opening(&self.recipe), &self.parts, self.writer.root());
        Parts { seal: Some(seal), ..self.parts }
    }
}

/// Nothing about the truth stands in the way. The private parts here say nothing sensible, so acceptance may.
fn holds(parts: &Parts, options: &Options, verdict: Verdict) {
    let report = verify_bundle(&bundle::write(parts), options);
    let broken = report.checks.iter().find(|check| {
        check.concerns == Concerns::Truth && matches!(check.result, CheckResult::Fail | CheckResult::CannotTell)
    });
    assert_eq!(broken, None);
    assert_eq!(report.verdict, verdict);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_logged_verifies(intent in kinds(), acts in prop::collection::vec(act(), 0..60)) {
        let mut session = Session::of(Recipe { intent, ..Recipe::default() });
        for act in &acts {
            session.act(act);
        }
        let every = Options { every_signature: EverySignature::Yes, ..options() };
        holds(&session.seal(), &every, Verdict::Sealed);
    }

    #[test]
    fn whatever_was_logged_before_the_guest_was_killed_verifies_as_a_prefix(
        intent in kinds(),
        acts in prop::collection::vec(act(), 0..60),
    ) {
        let mut session = Session::of(Recipe { intent, ..Recipe::default() });
        for act in &acts {
            session.act(act);
        }
        session.checkpoint();
        let asked = Options { accept_prefix: AcceptPrefix::Yes, ..options() };
        holds(&session.parts, &asked, Verdict::Aborted);
    }
}

/// Calls with the largest requests, all of them still running, that end with the largest outcomes.
#[test]
fn whatever_is_logged_verifies_when_every_running_call_ends_with_the_largest_outcome() {
    let largest = |salt: u8| Some(Opened { salt: [salt; 32], bytes: vec![0; PRIVATE_PART_MAX] });
    let mut session = Session::open();
    let mut running = 0;
    for call in 0..=255 {
        let public = Public::Intent { method: Method::ALL[0], rules: Vec::new(), request_steps: 1, header: None };
        let before = session.writer.size();
        session.log(Some((0, call)), public, largest(1));
        if session.writer.size() == before {
            break;
        }
        running += 1;
    }
    assert!((32..255).contains(&running), "{running} calls at once");
    for call in 0..running {
        let (method, cause) = (Method::ALL[0], CauseClass::ALL[0]);
        let public = Public::Outcome { method, cause, output_steps: 1, input_steps: 0, input_covered: None };
        session.log(Some((0, call)), public, largest(2));
    }
    assert_eq!(session.writer.running_calls().count(), 0);
    holds(&session.seal(), &options(), Verdict::Sealed);
}

#[test]
fn a_private_part_that_contradicts_its_leaf_is_genuine_and_not_accepted() {
    let mut session = Session::open();
    session.act(&Act::Intent { call: 1, identity: 0, method: 0 });
    session.act(&Act::Outcome { call: 1, identity: 0, method: 0, cause: 0 });
    let report = verify_bundle(&bundle::write(&session.seal()), &options());
    assert_eq!((report.verdict, report.accepted), (Verdict::Sealed, Accepted::No), "{}", report.human());
    let names: Vec<&str> = report.obstacles().map(|check| check.name).collect();
    assert_eq!(names, ["plain private parts agree with leaves"]);
}

/// The acts above reach what they are for: headers are taken, in end-to-end sessions nothing without them, and lies never.
#[test]
fn the_writer_takes_headers_in_their_order_and_no_lie() {
    let mut session = Session::of(Recipe { intent: end_to_end_strict, ..Recipe::default() });
    let size = |session: &Session| session.writer.size();
    assert_eq!(size(&session), 5, "leaf 0, two channels, two hellos");
    session.act(&Act::Intent { call: 1, identity: 1, method: 0 });
    assert_eq!(size(&session), 5, "an identity without a channel");
    session.act(&Act::Intent { call: 1, identity: 0, method: 0 });
    session.act(&Act::Outcome { call: 1, identity: 0, method: 0, cause: 0 });
    assert_eq!(size(&session), 6, "an effect that nobody acknowledged");
    session.act(&Act::Checkpoint);
    session.act(&Act::Said { channel: 1, what: 5, call: 1, offset: 0, lie: true });
    assert_eq!(size(&session), 6, "an ack with another signature");
    session.act(&Act::Said { channel: 1, what: 5, call: 1, offset: 0, lie: false });
    session.act(&Act::Said { channel: 1, what: 0, call: 1, offset: 9, lie: false });
    session.act(&Act::Said { channel: 1, what: 0, call: 1, offset: 8, lie: false });
    assert_eq!(size(&session), 8, "an ack, and input of which the second header covers less");
    session.act(&Act::Outcome { call: 1, identity: 0, method: 0, cause: 0 });
    assert_eq!(size(&session), 9);
    holds(&session.seal(), &options(), Verdict::Sealed);
}
