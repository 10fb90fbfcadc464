//! What hostile bytes may use up. Memory is what the kernel counts for a process of its own that verifies one bundle; time is
//! held against a good bundle's in the same run, with a factor that only something worse than linear exceeds.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coffer_evidence::bundle::{self, SMALL_FILE_MAX, frame_leaves};
use coffer_evidence::call::{Disclosed, write_disclosed};
use coffer_evidence::cbor::{Value, encode};
use coffer_evidence::collateral::{COLLATERAL_MAX, Collateral};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::Digest256;
use coffer_evidence::leaf::{LimitKind, Public};
use coffer_evidence::private::{EncryptedPart, write_private};
use coffer_evidence::rtmr::{Rtmr3Event, event_bytes};
use coffer_evidence::verify::{Rule, Verdict, verify_bundle};

use crate::archive::{BLOCK, Members, header, indexed, members};
use crate::der::{enclosed, item, signed};
use crate::file::{kernel_kib, peak_kib};
use crate::judging::options;
use crate::session::{opening, plain};
use crate::sources::{sealed_small, small};
use crate::spread::Form;

const MIB: usize = 1024 * 1024;
const SMALL: usize = SMALL_FILE_MAX as usize;
/// Beyond the bundle itself, its members once more and what they are parsed to: in bundles, and for a small one at most.
const MEMORY_FACTOR: usize = 6;
const MEMORY_FLOOR: usize = 64 * MIB;
/// Verifying a byte takes no longer than so many times what a byte of a good small bundle takes, signatures and all.
const TIME_FACTOR: u32 = 10;
/// Set for the process that measures.
const MEASURED: &str = "COFFER_SWEEP_MEASURED";

/// Good bundles take this long: the best of several, because others use this machine too.
fn fastest(archive: &[u8], times: usize) -> Duration {
    let once = || {
        let started = Instant::now();
        std::hint::black_box(verify_bundle(archive, &options()));
        started.elapsed()
    };
    std::iter::repeat_with(once).take(times).min().expect("a time")
}

fn replaced(name: &str, content: Vec<u8>) -> Vec<u8> {
    let mut all = members(&sealed_small());
    all.iter_mut().find(|(known, _)| known == name).expect("the member").1 = content;
    indexed(&all)
}

/// CBOR that is small in bytes and large as a value: arrays in arrays, each as deep as may be.
fn nested(size: usize) -> Vec<u8> {
    let count = (size - 5) / 7;
    let mut bytes = [&[0x9a][..], &u32::try_from(count).expect("short").to_be_bytes()].concat();
    bytes.extend([0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0].repeat(count));
    bytes
}

/// An array of nothing but zeros.
fn flat(size: usize) -> Vec<u8> {
    let count = size - 5;
    let mut bytes = [&[0x9a][..], &u32::try_from(count).expect("short").to_be_bytes()].concat();
    bytes.resize(size, 0);
    bytes
}

/// A map with as many keys as fit.
fn keys(size: usize) -> Vec<u8> {
    let count = u32::try_from((size - 5) / 6).expect("short");
    let mut bytes = [&[0xba][..], &count.to_be_bytes()].concat();
    for key in 0..count {
        bytes.extend([&[0x1a][..], &(key + 0x1_0000).to_be_bytes(), &[0]].concat());
    }
    bytes
}

/// JSON in the same spirit.
fn json(start: &str, again: &str, end: &str, size: usize) -> Vec<u8> {
    [start, &again.repeat((size - start.len() - end.len()) / again.len()), end].concat().into_bytes()
}

fn collateral(change: impl FnOnce(&mut Collateral)) -> Vec<u8> {
    let mut set = Collateral::parse(&sealed_small().open_collateral).expect("collateral");
    change(&mut set);
    set.to_bytes()
}

/// Leaves that parse, as many as fit, and then the events over none of them.
fn leaves(size: usize) -> Vec<u8> {
    let session = opening(&small()).intent.session;
    let one = plain(session, 1, Public::Limit { which: LimitKind::Idle }).to_bytes();
    frame_leaves(&vec![one.clone(); size / (one.len() + 4)])
}

fn events(size: usize) -> Vec<u8> {
    let one = event_bytes(1, &Rtmr3Event::Checkpoint { size: 1, root: Digest256::of(b"") });
    let count = size / (one.len() + 2) - 1;
    encode(&Value::Array(vec![Value::Bytes(one); count]))
}

fn disclosed(size: usize) -> Vec<u8> {
    let count = (size / 41 - 1) as u64;
    let parts: Vec<Disclosed> = (0..count).map(|index| Disclosed { index, salt: [0; 32], bytes: Vec::new() }).collect();
    write_disclosed(&parts)
}

/// A genuine revocation list with as many entries as fit; its signature is no longer one.
fn revoked(list: &[u8], size: usize) -> Vec<u8> {
    let entry = [&[0x30, 0x15, 2, 4, 1, 2, 3, 4, 0x17, 0x0d][..], b"261101000000Z"].concat();
    let (signed, rest) = signed(list);
    let fields = &signed[item(signed).0..];
    // They stand before the extensions, which are the last.
    let mut extensions = 0;
    while fields[extensions] != 0xa0 {
        extensions += item(&fields[extensions..]).1;
    }
    let (before, extensions) = fields.split_at(extensions);
    let entries = enclosed(0x30, &entry.repeat(size / entry.len()));
    enclosed(0x30, &[&enclosed(0x30, &[before, &entries, extensions].concat()), rest].concat())
}

/// What is hostile at `size` bytes, by name.
fn hostile(size: usize) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut put = |what: &str, archive: Vec<u8>| all.push((what.to_owned(), archive));
    let read_as_cbor = [
        "config.cbor",
        "open.cbor",
        "open.collateral",
        "events.cbor",
        "disclosed.cbor",
        "seal.cbor",
        "seal.collateral",
    ];
    for name in read_as_cbor {
        put(&format!("{name}: nested"), replaced(name, nested(size)));
        put(&format!("{name}: flat"), replaced(name, flat(size)));
        put(&format!("{name}: keys"), replaced(name, keys(size)));
    }
    put("leaves that parse", replaced("leaves", leaves(size)));
    put("leaves of no bytes", replaced("leaves", vec![0; size]));
    put("events that parse", replaced("events.cbor", events(size)));
    put("disclosed parts that parse", replaced("disclosed.cbor", disclosed(size)));
    for name in ["image.dsse", "statement.dsse"] {
        put(&format!("{name}: nested"), replaced(name, json("", "[", "", size)));
        let many =
            json("{\"payload\":\"\",\"payloadType\":\"\",\"signatures\":[", "{\"keyid\":\"\",\"sig\":\"\"},", "", size);
        put(&format!("{name}: signatures"), replaced(name, many));
        let long = json("{\"payload\":\"", "AAAA", "\",\"payloadType\":\"\",\"signatures\":[]}", size);
        put(&format!("{name}: payload"), replaced(name, long));
    }
    put("quote: zeros after it", replaced("open.quote", [sealed_small().open_quote, vec![0; size]].concat()));
    put("ccel: events", replaced("ccel", [sealed_small().ccel.expect("a log"), vec![4; size]].concat()));
    put("checkpoint: lines", replaced("checkpoint", vec![b'\n'; size]));
    put("policy: long", replaced("policy", vec![b'\n'; size]));
    // A part of a collateral set, which has a cap of its own.
    let size = size.min(COLLATERAL_MAX - 64 * 1024);
    put(
        "root's revocations",
        replaced("open.collateral", collateral(|set| set.root_ca_crl = revoked(&set.root_ca_crl, size))),
    );
    put("revocations", replaced("seal.collateral", collateral(|set| set.pck_crl = revoked(&set.pck_crl, size))));
    let text = json("{\"issueDate\":\"2026-11-01T00:00:00Z\",\"a\":", "[", "", size);
    put("TCB info: nested", replaced("open.collateral", collateral(|set| set.tcb_info = text)));
    let text = json("{\"issueDate\":\"2026-11-01T00:00:00Z\",\"tcbLevels\":[", "{},", "{}]}", size);
    put("TCB info: levels", replaced("open.collateral", collateral(|set| set.tcb_info = text)));
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let chain = json("", certificate, "", size);
    put("chain: certificates", replaced("seal.collateral", collateral(|set| set.tcb_info_issuer_chain = chain)));
    let chain = json("-----BEGIN CERTIFICATE-----\n", "\n", "", size);
    put("chain: lines", replaced("open.collateral", collateral(|set| set.pck_crl_issuer_chain = chain)));
    all
}

#[test]
fn no_hostile_bytes_take_longer_than_good_ones_by_more_than_a_factor() {
    let good = bundle::write(&sealed_small());
    assert_eq!(verify_bundle(&good, &options()).verdict, Verdict::Sealed);
    let large = if Form::asked() == Form::Long { 8 * MIB } else { 2 * MIB };
    for size in [good.len(), large] {
        let cases = hostile(size);
        for (what, archive) in &cases {
            let report = verify_bundle(archive, &options());
            assert_eq!(report.verdict, Verdict::Invalid, "{what}\n{}", report.human());
            assert!(report.obstacles().all(|check| check.rule != Rule::R1), "{what}: the framing is good");
            assert!(report.human().len() < 16 * 1024, "{what}: a report of {} bytes", report.human().len());
            // Once more with the good one beside it: both meet the same load.
            let bundles = u32::try_from(archive.len().div_ceil(good.len())).expect("few");
            let (taken, good) = (fastest(archive, 2), fastest(&good, 5));
            let most = good * bundles * TIME_FACTOR;
            assert!(taken <= most, "{what}: {taken:?} for {} bytes, a good bundle {good:?}", archive.len());
        }
        println!("sweep time, members of {size} bytes: {} bundles", cases.len());
    }
}

/// In the process that measures: verifies what comes in, and prints what it took beyond holding it.
fn measure() {
    let mut archive = Vec::new();
    std::io::stdin().lock().read_to_end(&mut archive).expect("a bundle");
    archive.shrink_to_fit();
    // The peak so far was that of reading.
    std::fs::write("/proc/self/clear_refs", "5").expect("reset the peak");
    let before = kernel_kib("VmRSS:");
    let report = verify_bundle(&archive, &options());
    println!("{:?} {}", report.verdict, peak_kib().saturating_sub(before));
}

/// Verdict, and the peak in bytes beyond the bundle.
fn measured(archive: &[u8]) -> (String, usize) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "bounds::the_memory_of_a_verification_is_bounded_by_its_bundle", "--nocapture"]);
    command.env(MEASURED, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().expect("start it");
    child.stdin.take().expect("its input").write_all(archive).expect("hand it the bundle");
    let output = child.wait_with_output().expect("its output");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.lines().find(|line| line.starts_with("Invalid ") || line.starts_with("Sealed "));
    let (verdict, peak) = last.and_then(|line| line.split_once(' ')).unwrap_or_else(|| panic!("measured: {text}"));
    (verdict.to_owned(), peak.parse::<usize>().expect("KiB") * 1024)
}

#[test]
fn the_memory_of_a_verification_is_bounded_by_its_bundle() {
    if std::env::var_os(MEASURED).is_some() {
        return measure();
    }
    let all = members(&sealed_small());
    // The cap is for a whole member, and some of these are a part of one.
    let mut cases = hostile(if Form::asked() == Form::Long { SMALL - 64 * 1024 } else { SMALL / 8 });
    for (what, archive) in &cases {
        let report = verify_bundle(archive, &options());
        assert!(report.obstacles().all(|check| check.rule != Rule::R1), "{what}: the framing is good");
    }
    // Claims of the largest sizes that a header can hold, and nothing behind them.
    for (name, size) in [("index.cbor", SMALL), ("leaves", (1 << 33) - 4096), ("leaves", (1 << 33) - 1)] {
        cases.push((format!("{name} of {size} claimed"), [&header(name, size), [0; BLOCK].as_slice()].concat()));
    }
    let mut count = 0;
    let mut judge = |what: &str, archive: &[u8], expected: &str| {
        let (verdict, peak) = measured(archive);
        let most = MEMORY_FLOOR + MEMORY_FACTOR * archive.len();
        assert_eq!(verdict, expected, "{what}");
        assert!(peak <= most, "{what}: {} MiB for a bundle of {} MiB", peak / MIB, archive.len() / MIB);
        println!("{what}: {} MiB", peak / MIB);
        count += 1;
    };
    for (what, archive) in &cases {
        judge(what, archive, "Invalid");
    }
    // The largest that holds: what nothing looks into, at its cap.
    let mut largest: Members = all;
    let before = largest.iter().position(|(name, _)| name == "disclosed.cbor").expect("disclosed parts");
    // Two heads of arrays, the index, and the head of the ciphertext.
    let part = EncryptedPart { index: 1, ciphertext: vec![0x5a; SMALL - 8] };
    largest.insert(before, ("private.bin".to_owned(), write_private(&[part])));
    largest.insert(before, ("private.age".to_owned(), vec![0xa5; SMALL]));
    let evidence = vec![1; SMALL];
    largest.push((format!("endpoint/{}", Digest256::of(&evidence)), evidence));
    judge("three members at their cap", &indexed(&largest), "Sealed");
    println!("sweep memory: {count} bundles");
}
