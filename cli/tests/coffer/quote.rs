//! `coffer quote` and `coffer policy appraisal`: real quotes with the published results, and quotes of the simulator made
//! here. Real ones come from `COFFER_VECTORS`, or `../shared/vectors` beside the repository; without them, NOT RUN.

use std::path::{Path, PathBuf};

use coffer_evidence::fields::Canonical as _;

use crate::evidence::write;
use crate::platform::{self, Dates, MID_NOVEMBER, Tcb, Td};
use crate::{code, json, output, stderr, stdout};

const TDX_QUOTE: &str = "dcap-qvl/tdx_quote";
const TDX_COLLATERAL: &str = "dcap-qvl/tdx_quote_collateral.json";
const OUTDATED: &str = "dcap-qvl/tdx_quote_outdated";
const OUTDATED_COLLATERAL: &str = "dcap-qvl/tdx_quote_outdated_collateral.json";
const GCP: &str = "attested-tls/gcp-tdx-1782809233226668671";
const GCP_COLLATERAL: &str = "attested-tls/gcp-tdx-collateral-1782809233226668671.yaml";
const DEBUG: &str = "trustee/tdx_quote_4.dat";
const DSTACK: &str = "dstack/quote-report.json";
const CCEL: &str = "trustee/CCEL_data_ovmf";

fn vector(name: &str) -> Option<String> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors");
    let folder = std::env::var_os("COFFER_VECTORS").map_or(beside, PathBuf::from);
    let path = folder.join(name);
    if !path.is_file() {
        println!("NOT RUN: {name} is not in COFFER_VECTORS");
        return None;
    }
    Some(path.canonicalize().expect("a path").display().to_string())
}

#[test]
fn real_quotes_are_judged_as_published_each_for_its_own_cause() {
    let home = tempfile::tempdir().expect("a directory");
    let table: [(&str, &str, u64, Result<(), &str>); 9] = [
        (TDX_QUOTE, TDX_COLLATERAL, 1_750_415_547, Ok(())),
        (TDX_QUOTE, TDX_COLLATERAL, 1_750_329_146, Err("issue date is in the future")),
        (TDX_QUOTE, TDX_COLLATERAL, 1_753_000_000, Err("TCBInfo expired")),
        (TDX_QUOTE, OUTDATED_COLLATERAL, 1_771_498_731, Err("Fmspc mismatch")),
        (OUTDATED, OUTDATED_COLLATERAL, 1_771_498_731, Err("No matching TCB level found")),
        // Collateral for another platform: the debug bit stands before it.
        (DEBUG, OUTDATED_COLLATERAL, 1_771_498_731, Err("DEBUG (bit 0) is set")),
        (GCP, GCP_COLLATERAL, 1_782_893_539, Ok(())),
        (GCP, GCP_COLLATERAL, 1_785_398_028, Err("TCBInfo expired")),
        (DSTACK, OUTDATED_COLLATERAL, 1_771_498_731, Ok(())),
    ];
    for (quote, collateral, at, expected) in table {
        let (Some(quote), Some(collateral)) = (vector(quote), vector(collateral)) else { continue };
        let at = at.to_string();
        let arguments = ["quote", "verify", "--json", "--quote", &quote, "--collateral", &collateral, "--at", &at];
        let ran = output(home.path(), &arguments);
        let report = json(&ran);
        match expected {
            Ok(()) => {
                assert_eq!((code(&ran), &report["accepted"]), (Some(0), &"yes".into()), "{quote} at {at}: {report}");
                assert_eq!((&report["platform"], &report["tcb_status"]), (&"tdx".into(), &"UpToDate".into()));
            }
            Err(cause) => {
                assert_eq!((code(&ran), &report["accepted"]), (Some(1), &"no".into()), "{quote} at {at}: {report}");
                let reason = report["checks"][0]["reason"].as_str().expect("a reason");
                assert!(reason.contains(cause), "{quote} at {at}: expected {cause}, found {reason}");
            }
        }
    }
}

#[test]
fn a_policy_decides_about_a_real_platform() {
    let (Some(quote), Some(collateral)) = (vector(TDX_QUOTE), vector(TDX_COLLATERAL)) else { return };
    let home = tempfile::tempdir().expect("a directory");
    let mrtd = "91eb2b44d141d4ece09f0c75c2c53d247a3c68edd7fafe8a3520c942a604a407de03ae6dc5f87f27428b2538873118b7";
    let other = "00".repeat(48);
    let rows = [
        (String::new(), None),
        // Every platform of a large cloud is all three.
        ("dynamic_platform = false".to_owned(), Some("a dynamic platform is not allowed")),
        ("cached_keys = false".to_owned(), Some("cached keys is not allowed")),
        ("smt = false".to_owned(), Some("SMT is not allowed")),
        ("minimum_evaluation_data_number = 17".to_owned(), None),
        ("minimum_evaluation_data_number = 18".to_owned(), Some("at least 18")),
        ("tcb_statuses = [\"OutOfDate\"]".to_owned(), Some("UpToDate is not an accepted status")),
        (format!("[[platforms]]\nid = \"{}\"\nregion = \"eu\"", "00".repeat(16)), Some("not on the policy's list")),
        (format!("[expect]\nmrtd = \"{mrtd}\""), None),
        (format!("[expect]\nmrtd = \"{other}\""), Some("mrtd: expected")),
    ];
    for (line, refused) in rows {
        let policy = home.path().join("policy.toml");
        std::fs::write(&policy, format!("anchor = \"intel\"\n{line}\n")).expect("write");
        let policy = policy.display().to_string();
        let fixed = ["quote", "verify", "--json", "--at", "1750415547", "--quote", &quote, "--collateral", &collateral];
        let ran = output(home.path(), &[&fixed[..], &["--policy", &policy]].concat());
        let report = json(&ran);
        assert_eq!(code(&ran), Some(u8::from(refused.is_some()).into()), "{line}: {report}");
        if let Some(why) = refused {
            assert!(report["checks"].to_string().contains(why), "{line}: expected {why}, found {report}");
        }
    }
    let expect = format!("rtmr3={}", "00".repeat(48));
    let fixed = ["quote", "verify", "--at", "1750415547", "--quote", &quote, "--collateral", &collateral];
    assert_eq!(code(&output(home.path(), &[&fixed[..], &["--expect", &expect]].concat())), Some(0));
    let ran = output(home.path(), &[&fixed[..], &["--report-data", &"00".repeat(64)]].concat());
    assert_eq!(code(&ran), Some(1), "{}", stdout(&ran));
    assert_eq!(code(&output(home.path(), &[&fixed[..], &["--expect", "rtmr9=00"]].concat())), Some(64));
    assert_eq!(code(&output(home.path(), &[&fixed[..], &["--trust-anchor", "simulated"]].concat())), Some(1));
}

#[test]
fn a_quote_of_the_simulator_is_accepted_only_by_name_and_read_in_every_form() {
    let home = tempfile::tempdir().expect("a directory");
    let write = |name: &str, bytes: &[u8]| write(home.path(), name, bytes).display().to_string();
    let bytes = platform::quote_with_chain(&Td::default(), &[7; 64], platform::PCK_DER, platform::ROOT_DER);
    let set = platform::collateral(Dates::NOVEMBER, Tcb::UP_TO_DATE);
    let (raw, digits) = (write("quote", &bytes), write("quote.hex", format!("{}\n", hex::encode(&bytes)).as_bytes()));
    let report = write("report.json", format!("{{\"quote\":\"{}\"}}", hex::encode(&bytes)).as_bytes());
    let padded = write("padded", &[bytes.as_slice(), &[0; 100]].concat());
    let (in_bundle, in_json) = (write("set.cbor", &set.to_bytes()), write("set.json", &set.to_json()));
    let root = write("root.der", platform::ROOT_DER);
    let at = MID_NOVEMBER.to_string();
    let verify = |quote: &str, set: &str, more: &[&str]| {
        let fixed = ["quote", "verify", "--json", "--at", &at, "--quote", quote, "--collateral", set];
        output(home.path(), &[&fixed[..], more].concat())
    };
    for quote in [&raw, &digits, &report, &padded] {
        for set in [&in_bundle, &in_json] {
            let simulated = ["--trust-anchor", "simulated"];
            let refused = verify(quote, set, &simulated);
            assert_eq!(code(&refused), Some(1), "{}", stderr(&refused));
            assert!(stdout(&refused).contains("anyone can forge this"), "{}", stdout(&refused));
            let accepted = verify(quote, set, &[&simulated[..], &["--accept-simulated"]].concat());
            assert_eq!((code(&accepted), &json(&accepted)["platform"]), (Some(0), &"simulated".into()));
        }
    }
    // The label follows the bytes of the root, however it was named; Intel's root verifies nothing of it.
    let by_file = verify(&raw, &in_json, &["--trust-anchor", &root, "--accept-simulated"]);
    assert_eq!((code(&by_file), &json(&by_file)["platform"]), (Some(0), &"simulated".into()));
    let by_intel = verify(&raw, &in_json, &["--accept-simulated"]);
    assert_eq!(code(&by_intel), Some(1));
    assert!(stdout(&by_intel).contains("none of the trust anchors"), "{}", stdout(&by_intel));

    let shown = json(&output(home.path(), &["quote", "show", "--json", &padded]));
    assert_eq!(
        (&shown["quote"]["reportdata"], &shown["quote"]["bytes_of_padding"]),
        (&"07".repeat(64).into(), &100.into())
    );
}

#[test]
fn files_that_are_no_quotes_are_told_and_exit_74() {
    let home = tempfile::tempdir().expect("a directory");
    let write = |name: &str, bytes: &[u8]| write(home.path(), name, bytes).display().to_string();
    let bytes = platform::quote_with_chain(&Td::default(), &[7; 64], platform::PCK_DER, platform::ROOT_DER);
    let cut = bytes.len() - 1;
    for (name, bytes, word) in [
        ("empty", &b""[..], "truncated"),
        ("cut", &bytes[..cut], "truncated"),
        ("digits", b"0abx", "hexadecimal"),
        ("report", b"{\"event_log\":\"\"}", "`quote`"),
        ("large", &vec![b' '; 5 << 20], "at most"),
    ] {
        let ran = output(home.path(), &["quote", "show", &write(name, bytes)]);
        assert_eq!(code(&ran), Some(74), "{name}: {}", stderr(&ran));
        assert!(stderr(&ran).contains(word), "{name}: expected {word}, found {}", stderr(&ran));
    }
    let quote = write("quote", &bytes);
    for (name, bytes) in [("yaml", &b"a: [b"[..]), ("json", b"{}"), ("cbor", b"\xa1\x01\x02")] {
        let set = write(name, bytes);
        let ran = output(home.path(), &["quote", "verify", "--quote", &quote, "--collateral", &set]);
        assert_eq!(code(&ran), Some(74), "{name}: {}", stderr(&ran));
    }
}

#[test]
fn real_event_logs_replay_to_their_registers_and_a_changed_one_does_not() {
    let home = tempfile::tempdir().expect("a directory");
    if let Some(report) = vector(DSTACK) {
        let replay =
            |log: &str| output(home.path(), &["quote", "replay", "--json", "--event-log", log, "--quote", &report]);
        let ran = replay(&report);
        let replayed = json(&ran);
        assert_eq!(code(&ran), Some(0), "{replayed}");
        let registers = replayed["registers"].as_array().expect("registers");
        assert!(registers.len() == 4 && registers.iter().all(|register| register["result"] == "pass"), "{replayed}");
        let own = |event: &&serde_json::Value| event["rtmr"] == 3;
        let events: Vec<_> = replayed["events"].as_array().expect("events").iter().filter(own).collect();
        assert!(events.len() == 8 && events.iter().all(|event| event["recomputed"] == true), "{replayed}");

        // A payload that is changed beside its digest leaves the registers, and does not count; a digest moves its register.
        let text = std::fs::read_to_string(&report).expect("read");
        let log: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let mut log: serde_json::Value = serde_json::from_str(log["event_log"].as_str().expect("a log")).expect("JSON");
        let last = log.as_array().expect("a list").len() - 1;
        log[last]["event_payload"] = "00".into();
        let changed = home.path().join("changed.json");
        std::fs::write(&changed, log.to_string()).expect("write");
        let ran = replay(&changed.display().to_string());
        let replayed = json(&ran);
        assert_eq!((code(&ran), &replayed["events"][last]["recomputed"]), (Some(0), &false.into()));
        log[last]["digest"] = "00".repeat(48).into();
        std::fs::write(&changed, log.to_string()).expect("write");
        let ran = replay(&changed.display().to_string());
        let replayed = json(&ran);
        let results: Vec<_> = (0..4).map(|n| replayed["registers"][n]["result"].as_str().expect("a result")).collect();
        assert_eq!((code(&ran), results), (Some(1), vec!["pass", "pass", "pass", "fail"]));
    }
    if let Some(log) = vector(CCEL) {
        let ran = output(home.path(), &["quote", "replay", "--event-log", &log]);
        assert_eq!(code(&ran), Some(0), "{}", stderr(&ran));
        let text = stdout(&ran);
        assert!(text.contains("rtmr2 94eaf7a7bf398ed8d888c91057ae0261802e4f3df084213a76ca7f0b5055ac9d"), "{text}");
        assert!(text.contains("(opaque") && text.contains("Exit Boot Services Invocation"), "{text}");
    }
    let nonsense = home.path().join("nonsense");
    std::fs::write(&nonsense, b"nonsense").expect("write");
    let ran = output(home.path(), &["quote", "replay", "--event-log", &nonsense.display().to_string()]);
    assert_eq!(code(&ran), Some(74), "{}", stderr(&ran));
}

#[test]
fn a_policy_is_made_once_checked_and_its_mistakes_are_told() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("appraisal.toml").display().to_string();
    let made = output(home.path(), &["policy", "appraisal", "init", &path]);
    assert_eq!(code(&made), Some(0), "{}", stderr(&made));
    let again = output(home.path(), &["policy", "appraisal", "init", &path]);
    assert_eq!(code(&again), Some(74), "a policy is never written over: {}", stderr(&again));
    let checked = output(home.path(), &["policy", "appraisal", "check", "--json", &path]);
    assert_eq!((code(&checked), &json(&checked)["tcb_statuses"][0]), (Some(0), &"UpToDate".into()));
    std::fs::write(&path, "anchor = \"intel\"\nowner = []\n").expect("write");
    let wrong = output(home.path(), &["policy", "appraisal", "check", &path]);
    assert_eq!(code(&wrong), Some(64), "{}", stderr(&wrong));
    assert!(stderr(&wrong).contains("unknown field `owner`"), "{}", stderr(&wrong));
}
