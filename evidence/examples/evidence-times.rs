//! Figures of the action log and of the verifier, each against its budget or beside the same work of the library below it.
//! Medians of one run; `scripts/bench evidence` runs it. With `large N`: one log of N
//! leaves, verified where it is. Not a test: nothing fails by being slow.

#[path = "../tests/support/file.rs"]
mod file;
#[path = "../tests/rules/platform.rs"]
#[allow(dead_code, reason = "its own tests use more of it")]
mod platform;
#[path = "../tests/rules/session.rs"]
#[allow(dead_code, reason = "its own tests use more of it")]
mod session;

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use coffer_evidence::bundle::write;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{CallId, Digest256, Identity};
use coffer_evidence::intent::Limits;
use coffer_evidence::leaf::{CauseClass, Method, Opened, Public, Reporter};
use coffer_evidence::verify::{
    AcceptSimulated, EverySignature, Options, TrustAnchor, Verdict, verify_bundle, verify_source,
};
use coffer_evidence::writer::{LeafDraft, LogWriter};
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;
use session::talk::{self, Talk};
use session::{AT, Ending, Recipe, opening, parts, sealed};

/// Calls of the bundle of the budget.
const CALLS: u32 = 1_000;
/// Leaves that are appended; one checkpoint for each 64, as in a guest.
const LEAVES: u32 = 200_000;
const CHECKPOINT_EVERY: u32 = 64;
const RUNS: usize = 21;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn timed(mut work: impl FnMut()) -> Duration {
    work();
    median(
        (0..RUNS)
            .map(|_| {
                let begin = Instant::now();
                work();
                begin.elapsed()
            })
            .collect(),
    )
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn options() -> Options {
    Options { at: AT, accept_simulated: AcceptSimulated::Yes, ..Options::default() }
}

fn append() {
    let recipe = Recipe::default();
    let first = opening(&recipe);
    let mut intent = first.intent.clone();
    intent.limits = Limits { calls: u64::from(LEAVES), leaves: 2 * u64::from(LEAVES), ..Limits::default() };
    let key = session::log_key();
    let rules = vec!["policy0".to_owned()];
    let draft = |call: Option<CallId>, public| LeafDraft {
        reporter: Reporter::Agent,
        identity: call.map(|_| Identity::default_name()),
        call,
        monotonic_ns: 1,
        wall_hint_ms: 0,
        public,
    };
    let (mut log, _) = LogWriter::open(&intent, &first.open);
    let open = Public::Open { instance: first.open.instance(), opening_quote: Digest256::of(&first.quote) };
    log.append(draft(None, open), None).expect("leaf 0");
    let begin = Instant::now();
    for n in 0..LEAVES / 2 {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_le_bytes());
        let call = Some(CallId::new(id));
        let private = || Some(Opened { salt: [7; 32], bytes: vec![0; 128] });
        let asked = Public::Intent { method: Method::Exec, rules: rules.clone(), request_steps: 1, header: None };
        log.append(draft(call, asked), private()).expect("an intent");
        let ended = Public::Outcome {
            method: Method::Exec,
            cause: CauseClass::Completed,
            output_steps: 1,
            input_steps: 0,
            input_covered: None,
        };
        log.append(draft(call, ended), private()).expect("an outcome");
        if n % (CHECKPOINT_EVERY / 2) == 0 {
            log.checkpoint(&key);
        }
    }
    let rate = f64::from(LEAVES) / begin.elapsed().as_secs_f64();
    println!(
        "append: {rate:.0} leaves/s, leaf, tree and a signature for each {CHECKPOINT_EVERY}; the budget is 100,000"
    );
}

fn verify(bundle: &[u8], options: &Options) -> Duration {
    timed(|| assert_eq!(verify_bundle(bundle, options).verdict, Verdict::Sealed))
}

/// The same calls, each under a header that its caller signed.
fn end_to_end() -> Vec<u8> {
    fn calls(talk: &mut Talk<'_>) {
        let (_, mut caller) = talk.owner_and_identity();
        for n in 1..=CALLS {
            talk.ask(&mut caller, n);
            talk.completed(n);
        }
    }
    sealed(&Recipe { intent: talk::end_to_end, talk: Some(calls), ..Recipe::default() })
}

/// Both quotes of a bundle by dcap-qvl alone.
fn quotes(recipe: &Recipe) -> Duration {
    let made = parts(recipe, Ending::Sealed);
    let seal = made.seal.as_ref().expect("sealed");
    let set = |bytes: &[u8]| -> QuoteCollateralV3 {
        let ours = coffer_evidence::collateral::Collateral::parse(bytes).expect("collateral");
        serde_json::from_slice(&ours.to_json()).expect("the same in JSON")
    };
    let verifier = QuoteVerifier::<dcap_qvl::configs::DefaultConfig>::new(TrustAnchor::Simulated.der().to_vec());
    let both = [(&made.open_quote, set(&made.open_collateral)), (&seal.quote, set(&seal.collateral))];
    timed(|| {
        for (quote, set) in &both {
            verifier.verify(quote, set, AT).expect("genuine");
        }
    })
}

/// Verifies a bundle where it is, in a process of its own, whose memory is that of the verification.
fn measured(file: &Path) {
    let begin = Instant::now();
    let bundle = file::Bundle(File::open(file).expect("the bundle"));
    assert_eq!(verify_source(&bundle, &options()).expect("it can be read").verdict, Verdict::Sealed);
    println!("{} KiB at most, {:.1} s", file::peak_kib(), begin.elapsed().as_secs_f64());
}

fn in_a_process(bundle: &[u8]) -> String {
    let file = std::env::temp_dir().join(format!("coffer-evidence-times.{}", std::process::id()));
    std::fs::write(&file, bundle).expect("write");
    let child = std::process::Command::new(std::env::current_exe().expect("this program")).arg(&file).output();
    std::fs::remove_file(&file).expect("remove");
    String::from_utf8(child.expect("run").stdout).expect("figures").trim().to_owned()
}

/// A sealed log of so many leaves, without private parts.
fn large(leaves: u32) {
    let mut made = parts(&Recipe { calls: (leaves - 3) / 2, ..Recipe::default() }, Ending::Sealed);
    made.disclosed = None;
    let count = made.leaves.len();
    let bundle = write(&made);
    drop(made);
    println!("large: {}, for {count} leaves in {} MiB", in_a_process(&bundle), bundle.len() >> 20);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {}
        ["large", leaves] => return large(leaves.parse().expect("a number of leaves")),
        [file] => return measured(Path::new(file)),
        more => panic!("expected nothing, `large N` or a bundle, found {more:?}"),
    }
    append();
    let recipe = Recipe { calls: CALLS, ..Recipe::default() };
    let (bundle, empty) = (sealed(&recipe), sealed(&Recipe { calls: 1, ..Recipe::default() }));
    let (whole, small, alone) = (verify(&bundle, &options()), verify(&empty, &options()), quotes(&recipe));
    println!(
        "verify: {:.1} ms for {CALLS} calls, {:.1} ms for one; dcap-qvl alone takes {:.1} ms for the two quotes; the budget is 50",
        milliseconds(whole),
        milliseconds(small),
        milliseconds(alone)
    );
    let signed = end_to_end();
    let every = Options { every_signature: EverySignature::Yes, ..options() };
    println!(
        "end-to-end: {:.1} ms for {CALLS} calls under {CALLS} headers, the last of each channel verified; {:.1} ms with every \
         signature; the budget is 50",
        milliseconds(verify(&signed, &options())),
        milliseconds(verify(&signed, &every))
    );
    println!("memory: {} in a process that verifies {CALLS} calls; the budget is 65536 KiB", in_a_process(&bundle));
    let per_call = (bundle.len() - empty.len()) / (CALLS as usize - 1);
    println!("size: {} bytes for one call, {per_call} more for each; the budget is 65536 and 1024", empty.len());
    large(1_000_000);
}
