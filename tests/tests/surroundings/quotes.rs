//! A platform that gives no quote, or half of one: the session is never Ready, or never sealed, and says why. Real guests; the
//! faults are the simulator's, asked for by its argument.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use coffer_tests::host::binaries;
use coffer_tests::needs_an_image;

use crate::place::Place;

/// A guest that boots beside others, and the deadline of a quote.
const LIMIT: Duration = Duration::from_secs(240);

/// A place whose simulator is given these words.
fn with_fault(image: &std::path::Path, fault: &str) -> anyhow::Result<Place> {
    let (mut place, copy) = Place::with_copy_of(image)?;
    // The jail shows the image's directory, and not that of the programs.
    let real = copy.join("simulator");
    std::fs::copy(binaries().join("coffer-tdx-sim"), &real)?;
    let real = real.display().to_string();
    let script = format!("[ \"$1\" = serve ] && exec {real:?} \"$@\" {fault}\nexec {real:?} \"$@\"");
    let script = place.script("faulty-simulator", &script)?;
    place.config += &format!("[simulator]\ncommand = {:?}\n", script.display().to_string());
    place.start()?;
    Ok(place)
}

/// The session of this fault is closed without ever having been Ready; its message holds these words.
fn never_ready(image: &std::path::Path, fault: &str, words: &[&str]) -> anyhow::Result<()> {
    let mut place = with_fault(image, fault)?;
    let begin = Instant::now();
    let created = place.coffer(&["session", "create", "--wait"])?;
    assert_eq!(created.status.code(), Some(69), "{fault}: {created:?}\n{}", place.diagnostics());
    let listed: serde_json::Value = serde_json::from_str(&place.ok(&["session", "list", "--all", "--json"])?)?;
    let id = listed["sessions"][0]["id"].as_str().context("id")?;
    let closed = place.closed(id)?;
    println!("{fault}: {} after {:.1?}: {}", closed["reason"], begin.elapsed(), closed["message"]);
    assert_eq!((&closed["outcome"], &closed["reason"]), (&"aborted".into(), &"attestation_failed".into()), "{closed}");
    assert_eq!(closed["closed_by"], "agent", "{closed}");
    let message = closed["message"].as_str().unwrap_or_default();
    for word in words {
        assert!(message.contains(word), "{fault}: no {word:?} in {message}\n{}", place.diagnostics());
    }
    assert!(!place.diagnostics().contains("phase=ready"), "{fault}: {}", place.diagnostics());
    assert!(begin.elapsed() < LIMIT, "{fault}: {:?}", begin.elapsed());
    assert_eq!(place.residue(id), Vec::<String>::new(), "{fault}");
    assert!(!place.state().join("evidence").join(format!("{id}.evidence")).exists(), "{fault}: evidence of nothing");
    assert_eq!(place.stop()?, Some(0), "{fault}");
    Ok(())
}

#[test]
fn a_platform_that_gives_no_quote_gives_no_session_and_the_session_says_why() -> anyhow::Result<()> {
    let image = needs_an_image!();
    let rows: [(&str, &[&str]); 3] = [
        ("--fault busy", &["no quote within 30 s", "the platform was busy until the end"]),
        ("--fault stall", &["no quote within 30 s", "outblob did not answer"]),
        ("--fault short", &["quote: "]),
    ];
    std::thread::scope(|scope| {
        let image = &image;
        let row = |(fault, words): (&'static str, &'static [&'static str])| {
            scope.spawn(move || never_ready(image, fault, words))
        };
        for row in rows.map(row) {
            row.join().map_err(|_| anyhow::anyhow!("a row failed"))??;
        }
        Ok(())
    })
}

#[test]
fn a_session_whose_final_quote_is_cut_short_is_not_sealed_and_its_prefix_holds() -> anyhow::Result<()> {
    let image = needs_an_image!();
    let mut place = with_fault(&image, "--fault short --fault-after 1")?;
    let id = place.session()?;
    place.ok(&["session", "exec", &id, "--", "true"])?;
    drop(place.coffer(&["session", "close", &id])?);
    let closed = place.closed(&id)?;
    println!("{}: {}", closed["reason"], closed["message"]);
    assert_eq!((&closed["outcome"], &closed["reason"]), (&"aborted".into(), &"internal".into()), "{closed}");
    assert!(closed["message"].as_str().is_some_and(|said| said.contains("quote: ")), "{closed}");
    let verdict = place.verdict(&id)?;
    assert_eq!((&verdict["verdict"], &verdict["outcome"]), (&"aborted".into(), &"aborted".into()), "{verdict}");
    assert_eq!(place.residue(&id), Vec::<String>::new());
    assert_eq!(place.stop()?, Some(0));
    Ok(())
}
