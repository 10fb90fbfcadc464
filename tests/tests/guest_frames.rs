//! The frames between init, notary and agent are those of `evidence/formats.cddl`, and `docs/formats.md` shows them.

#[path = "../../evidence/tests/support/examples.rs"]
mod examples;
#[path = "../../evidence/tests/support/grammar.rs"]
mod grammar;

use coffer_agent::frames::Frame;
use coffer_agent::frames::grant::Granted;
use coffer_agent::frames::log::{Call, Refusal, ToAgent as NotaryToAgent, ToNotary as AgentToNotary};
use coffer_agent::frames::observe::{Coverage, ToInit as ObserverToInit, ToObserver};
use coffer_agent::frames::start::{Cause, Exit, SIGNALS, ToAgent as InitToAgent, ToInit as AgentToInit};
use coffer_agent::frames::tool::{Change, ChangeKind, Entry, Kind, Of, Report, WatchEnd};
use coffer_agent::frames::warrant::{Gaps, ReportFile, ToInit as NotaryToInit, ToNotary as InitToNotary};

use examples::{block, compare_or_bless};
use grammar::{Sample, closed_list, grammar_accepts, judge};

/// A frame without its length.
fn body<F: Frame>(frame: &F) -> Vec<u8> {
    frame.encode().split_off(4)
}

fn reads<F: Frame>(body: &[u8]) -> bool {
    let length = u32::try_from(body.len()).expect("a short frame").to_le_bytes();
    F::decode(&[&length, body].concat()).is_ok()
}

fn sample<F: Frame>(form: &'static str, rule: &'static str, frame: &F) -> Sample {
    Sample { form, rule, bytes: body(frame), reader: Some(reads::<F>), stricter: &[] }
}

fn call() -> Call {
    Call {
        identity: "default".to_owned(),
        call: [0xca; 16],
        client_salt: [0xc1; 32],
        request: b"request".to_vec(),
        program: Some("/usr/bin/git".to_owned()),
        paths: vec!["/workspace".to_owned()],
        rules: vec!["run-installed".to_owned()],
    }
}

fn exit(cause: Cause) -> Exit {
    let (code, signal) = (Some(0), Some(15));
    Exit { cause, code, signal, wall_ms: 12, user_us: 3_000, system_us: 1_000, max_rss_kib: 4_096 }
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn of_notary() -> Vec<Sample> {
    const UP: &str = "agent-to-notary";
    const DOWN: &str = "notary-to-agent";
    const INIT: &str = "notary-to-init";
    let outcome = AgentToNotary::Outcome { intent: 1, private: bytes("outcome"), output: 9_000, input: 0 };
    let admitted = NotaryToAgent::Admitted { config: bytes("config"), policy: bytes("policy") };
    let opened = NotaryToAgent::Opened { open_map: bytes("open map"), quote: bytes("quote") };
    let sealed =
        NotaryToAgent::Sealed { seal_map: bytes("seal map"), quote: bytes("quote"), statement: bytes("statement") };
    let identities = NotaryToInit::Admitted { identities: vec![text("default")], gaps: Gaps::Fatal };
    let permit = NotaryToInit::Permit { intent: 1, identity: text("default"), request: [0x5e; 32] };
    let failed = NotaryToInit::Failed { stage: text("registers"), detail: text("mrowner differs") };
    vec![
        sample("log-intent", UP, &AgentToNotary::Intent(call())),
        sample("log-denied", UP, &AgentToNotary::Denied(call())),
        sample("log-outcome", UP, &outcome),
        sample("log-seal", UP, &AgentToNotary::Seal { reason: 0, closed_by: 2 }),
        sample("log-sign", UP, &AgentToNotary::Sign { intent: 1, commit: bytes("commit") }),
        sample("admitted", DOWN, &admitted),
        sample("opened", DOWN, &opened),
        sample("appended", DOWN, &NotaryToAgent::Appended { index: 1 }),
        sample("refused", DOWN, &NotaryToAgent::Refused { refusal: Refusal::Full }),
        sample("record", DOWN, &NotaryToAgent::Record { frame: bytes("mirror frame") }),
        sample("log-sealed", DOWN, &sealed),
        sample("signed", DOWN, &NotaryToAgent::Signed { signature: text("signature") }),
        sample("identities", INIT, &identities),
        sample("permit", INIT, &permit),
        sample("open-file", INIT, &NotaryToInit::Open { file: ReportFile::Outblob }),
        sample("scrub", INIT, &NotaryToInit::Scrub),
        sample("notary-failed", INIT, &failed),
    ]
}

fn of_init() -> Vec<Sample> {
    const UP: &str = "agent-to-init";
    const DOWN: &str = "init-to-agent";
    const NOTARY: &str = "init-to-notary";
    let not_started = InitToAgent::NotStarted { intent: 1, stage: text("exec"), errno: 13 };
    vec![
        sample("start-call", UP, &AgentToInit::Start { intent: 1, request: bytes("request") }),
        sample("cancel-call", UP, &AgentToInit::Cancel { intent: 1 }),
        sample("end-calls", UP, &AgentToInit::EndCalls),
        sample("power-off", UP, &AgentToInit::PowerOff),
        sample("signal-call", UP, &AgentToInit::Signal { intent: 1, signal: 15 }),
        sample("started", DOWN, &InitToAgent::Started { intent: 1 }),
        sample("not-started", DOWN, &not_started),
        sample("exited", DOWN, &InitToAgent::Exited { intent: 1, exit: exit(Cause::TimedOut) }),
        sample("fatal", DOWN, &InitToAgent::Fatal { stage: text("root"), detail: text("no disk") }),
        sample("scrubbed", NOTARY, &InitToNotary::Scrubbed { steps: vec![[1, 0], [2, 2]] }),
        sample("file-opened", NOTARY, &InitToNotary::Opened),
        sample("file-not-opened", NOTARY, &InitToNotary::NotOpened { errno: 2 }),
        sample("call-not-started", NOTARY, &InitToNotary::NotStarted { intent: 1 }),
        sample("recorded", NOTARY, &InitToNotary::Recorded { intent: 1, coverage: Coverage::Whole }),
    ]
}

fn of_observer() -> Vec<Sample> {
    const DOWN: &str = "init-to-observer";
    const UP: &str = "observer-to-init";
    let begin =
        ToObserver::Begin { intent: 1, uid: 10_000, group: text("default/4c0a1f6e-7e0c-4d9f-8b51-6b1e0a5a7c11") };
    vec![
        sample("observe-place", DOWN, &ToObserver::Place { uid: 10_000 }),
        sample("observe-names", DOWN, &ToObserver::Names),
        sample("observe-begin", DOWN, &begin),
        sample("observe-finish", DOWN, &ToObserver::Finish { intent: 1 }),
        sample("observe-forget", DOWN, &ToObserver::Forget { intent: 1 }),
        sample("observe-process", DOWN, &ToObserver::Process { intent: 1, pid: 99 }),
        sample("observed", UP, &ObserverToInit::Observed { intent: 1, coverage: Coverage::Partial }),
        sample("record-lost", UP, &ObserverToInit::Lost { intent: 1 }),
    ]
}

fn of_grants() -> Vec<Sample> {
    let paths = vec![text("/usr/bin/git"), text("/workspace")];
    vec![sample("grants", "grants", &Granted { identity: text("default"), paths, access: vec![[24], [7]] })]
}

fn change(kind: ChangeKind, of: Of) -> Change {
    Change { kind, path: bytes("notes.txt"), from: bytes("draft.txt"), of }
}

fn of_tools() -> Vec<Sample> {
    const RULE: &str = "tool-report";
    let entry = Entry {
        name: bytes("notes.txt"),
        kind: Kind::Symlink,
        size: 9,
        mode: 0o777,
        modified_ms: 1_793_491_200_000,
        target: bytes("other.txt"),
    };
    vec![
        sample("tool-entry", RULE, &Report::Entry(entry)),
        sample("tool-done", RULE, &Report::Done { files: 2, bytes: 9, left_out: 1 }),
        sample("tool-failed", RULE, &Report::Failed { stage: text("open"), errno: 2 }),
        sample("tool-more", RULE, &Report::More { after: bytes("src/main.rs") }),
        sample("tool-change", RULE, &Report::Change(change(ChangeKind::Moved, Of::Leaf))),
        sample("tool-lagged", RULE, &Report::Lagged),
        sample("tool-watch-end", RULE, &Report::WatchEnd(WatchEnd::Idle)),
        sample("tool-sign", RULE, &Report::Sign { commit: bytes("commit") }),
        sample("tool-said", RULE, &Report::Said { text: bytes("fatal: no commits") }),
    ]
}

fn samples() -> Vec<Sample> {
    of_notary().into_iter().chain(of_init()).chain(of_observer()).chain(of_grants()).chain(of_tools()).collect()
}

#[test]
fn code_and_grammar_agree_on_every_frame_and_on_every_change_of_it() {
    let samples = samples();
    let refused: usize = samples.iter().map(judge).sum();
    assert!(samples.len() >= 35 && refused > 1_000, "{} samples, {refused} refusals", samples.len());
}

/// Each frame of a list, so that the number of each member is seen to be in the grammar's list, and one more is not.
#[test]
fn closed_lists_of_frames_have_the_numbers_of_the_code() {
    let causes = [
        Cause::Ended,
        Cause::TimedOut,
        Cause::Cancelled,
        Cause::OutOfMemory,
        Cause::SessionClosing,
        Cause::RecordIncomplete,
    ];
    assert_eq!(closed_list("exit-cause").len(), causes.len());
    for (number, cause) in causes.into_iter().enumerate() {
        let frame = body(&InitToAgent::Exited { intent: 1, exit: exit(cause) });
        assert!(grammar_accepts("exited", &frame));
        // Kind, intent, cause: the third value of a map of small numbers.
        assert_eq!(usize::from(frame[6]), number, "{cause:?}");
    }
    let refusals = [Refusal::CallReused, Refusal::Full, Refusal::Unacceptable];
    assert_eq!(closed_list("refusal").len(), refusals.len());
    for (number, refusal) in refusals.into_iter().enumerate() {
        assert_eq!(usize::from(body(&NotaryToAgent::Refused { refusal })[4]), number, "{refusal:?}");
    }
    let files = [ReportFile::Inblob, ReportFile::Outblob, ReportFile::Generation, ReportFile::Provider];
    for ((number, word), file) in closed_list("report-file").into_iter().zip(files) {
        assert_eq!((u64::from(body(&NotaryToInit::Open { file })[4]), file.name()), (number, word.as_str()));
    }
    assert_eq!(closed_list("entry-kind").len(), 4);
    let signals: Vec<u64> = closed_list("call-signal").into_keys().collect();
    assert_eq!(signals, SIGNALS.map(|signal| u64::from(signal.unsigned_abs())));
    for signal in SIGNALS {
        assert!(grammar_accepts("signal-call", &body(&AgentToInit::Signal { intent: 1, signal })));
    }
    let kinds = [ChangeKind::Created, ChangeKind::Modified, ChangeKind::Deleted, ChangeKind::Moved];
    assert_eq!(closed_list("change-kind").len(), kinds.len());
    for (number, kind) in kinds.into_iter().enumerate() {
        // Kind of the frame, kind of the change: the second value of a map of small numbers.
        assert_eq!(usize::from(body(&Report::Change(change(kind, Of::Leaf)))[4]), number, "{kind:?}");
    }
    assert_eq!(closed_list("change-of").len(), 2);
    for (number, of) in [Of::Leaf, Of::Directory].into_iter().enumerate() {
        assert_eq!(
            body(&Report::Change(change(ChangeKind::Created, of))).last().copied().map(usize::from),
            Some(number)
        );
    }
    let ends = [WatchEnd::Timeout, WatchEnd::Idle, WatchEnd::Gone];
    assert_eq!(closed_list("watch-end").len(), ends.len());
    for (number, end) in ends.into_iter().enumerate() {
        assert_eq!(usize::from(body(&Report::WatchEnd(end))[4]), number, "{end:?}");
    }
}

#[test]
fn the_page_of_examples_shows_every_frame_of_the_guest() {
    let blocks: Vec<(String, String)> =
        samples().iter().map(|sample| (sample.form.to_owned(), block(sample))).collect();
    compare_or_bless(&coffer_tests::repository().join("docs/formats.md"), &blocks);
}
