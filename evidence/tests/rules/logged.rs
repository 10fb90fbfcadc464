//! The writer and the verifier agree: whatever the notary's core logs, the verifier takes.

use coffer_evidence::bundle::{self, Parts};
use coffer_evidence::call::Disclosed;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{CallId, Digest256, Identity};
use coffer_evidence::leaf::{CauseClass, LimitKind, Method, Opened, Public, Reporter, ScrubStep, StepResult};
use coffer_evidence::verify::{AcceptPrefix, Accepted, CheckResult, Concerns, Options, Verdict, verify_bundle};
use coffer_evidence::writer::{LeafDraft, LogWriter, PRIVATE_PART_MAX};
use proptest::prelude::*;

use crate::judging::options;
use crate::platform::{self, Dates, Tcb};
use crate::session::{Recipe, log_key, opening, seal_with};

/// One thing that a session may do, or try to do.
#[derive(Clone, Debug)]
enum Act {
    Intent { call: u8, identity: u8, method: usize },
    Outcome { call: u8, identity: u8, method: usize, cause: usize },
    Denied { call: u8, identity: u8, method: usize },
    Incomplete { call: u8, identity: u8, method: usize },
    Limit { which: usize },
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
        2 => Just(Act::Checkpoint),
        1 => any::<u32>().prop_map(|ns| Act::TimePasses { ns }),
    ]
}

struct Session {
    writer: LogWriter,
    parts: Parts,
    now: u64,
}

impl Session {
    fn open() -> Self {
        let opening = opening(&Recipe::default());
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
        let mut session = Session { writer, parts, now: 0 };
        let opening_quote = Digest256::of(&opening.quote);
        session.log(None, Public::Open { instance: opening.open.instance(), opening_quote }, None);
        session
    }

    /// What the writer refuses is not logged; what it takes is in the parts.
    fn log(&mut self, call: Option<(u8, u8)>, public: Public, private: Option<Opened>) {
        let identity = |n: u8| Identity::new(["default", "other"][usize::from(n)]).expect("an identity");
        let draft = LeafDraft {
            reporter: Reporter::Agent,
            identity: call.map(|(n, _)| identity(n)),
            call: call.map(|(_, call)| CallId::new([call; 16])),
            monotonic_ns: self.now,
            wall_hint_ms: 0,
            public,
        };
        let Ok(leaf) = self.writer.append(draft, private) else { return };
        self.parts.leaves.push(leaf.bytes);
        if let (Some(private), Some(disclosed)) = (leaf.private, &mut self.parts.disclosed) {
            disclosed.push(Disclosed { index: leaf.index, salt: private.salt, bytes: private.bytes });
        }
    }

    fn checkpoint(&mut self) {
        if let Some((event, note)) = self.writer.checkpoint(&log_key()) {
            self.parts.events.push(event.bytes);
            self.parts.checkpoint = note;
        }
    }

    fn act(&mut self, act: &Act) {
        let private = || Some(Opened { salt: [1; 32], bytes: b"anything that an agent may say".to_vec() });
        match *act {
            Act::Intent { call, identity, method } => {
                let public = Public::Intent { method: Method::ALL[method], rules: Vec::new(), request_steps: 1 };
                self.log(Some((identity, call)), public, private());
            }
            Act::Outcome { call, identity, method, cause } => {
                let (method, cause) = (Method::ALL[method], CauseClass::ALL[cause]);
                let public = Public::Outcome { method, cause, output_steps: 1, input_steps: 0 };
                self.log(Some((identity, call)), public, private());
            }
            Act::Denied { call, identity, method } => {
                let public = Public::Denied { method: Method::ALL[method], rules: Vec::new() };
                self.log(Some((identity, call)), public, private());
            }
            Act::Incomplete { call, identity, method } => {
                self.log(Some((identity, call)), Public::Incomplete { method: Method::ALL[method] }, None);
            }
            Act::Limit { which } => self.log(None, Public::Limit { which: LimitKind::ALL[which] }, None),
            Act::Checkpoint => self.checkpoint(),
            Act::TimePasses { ns } => self.now += u64::from(ns),
        }
    }

    /// The end in its order: outcomes of what still runs, scrub, seal, checkpoint, sealed.
    fn seal(mut self) -> Parts {
        for (identity, call) in self.writer.running_calls().cloned().collect::<Vec<_>>() {
            let n = u8::from(identity.as_str() == "other");
            for method in Method::ALL {
                let public = Public::Outcome {
                    method: *method,
                    cause: CauseClass::OutcomeUnknown,
                    output_steps: 0,
                    input_steps: 0,
                };
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
        let seal = seal_with(&Recipe::default(), &opening(&Recipe::default()), &self.parts, self.writer.root());
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
    fn whatever_is_logged_verifies(acts in prop::collection::vec(act(), 0..60)) {
        let mut session = Session::open();
        for act in &acts {
            session.act(act);
        }
        holds(&session.seal(), &options(), Verdict::Sealed);
    }

    #[test]
    fn whatever_was_logged_before_the_guest_was_killed_verifies_as_a_prefix(
        acts in prop::collection::vec(act(), 0..60),
    ) {
        let mut session = Session::open();
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
        let public = Public::Intent { method: Method::ALL[0], rules: Vec::new(), request_steps: 1 };
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
        let public = Public::Outcome { method, cause, output_steps: 1, input_steps: 0 };
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
