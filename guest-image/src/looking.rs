//! The commands that look at a built image: `measure`, `verify`, `lint`.

use crate::build::{Ingredients, Packages};
use crate::progress::Progress;
use crate::{LintArgs, MeasureArgs, VerifyArgs};
use anyhow::{Context as _, Result};
use coffer_evidence::manifest::ImageManifest;
use coffer_evidence::sign::PublicKey;
use coffer_image::acpi::Source;
use coffer_image::cache::Cache;
use coffer_image::check::{self, Check, Outcome};
use coffer_image::reference_values::Measured;
use coffer_image::{lint as image_lint, paths};
use serde_json::json;
use std::fs;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) fn measure(args: MeasureArgs) -> Result<ExitCode> {
    let progress = Progress::start();
    // Read from its file, or made, only where it signs or says whose image it is.
    let key = if args.unsigned { None } else { Some(crate::publisher_key(args.publisher_key, &progress)?) };
    let publisher = match (args.publisher, &key) {
        (Some(publisher), _) => publisher,
        (None, Some(key)) => PublicKey::of(key),
        (None, None) => own_public_key()?,
    };
    let measured = Measured::read(&args.directory, &publisher)?;
    let acpi = match Source::given(measured.profile, args.tables.acpi.as_deref()) {
        Some(given) => given,
        None => {
            let directory = args.cache.map_or_else(paths::cache, Ok)?;
            let cache = Cache::open(&directory, || progress.step("waiting for a build to end"))?;
            let (firmware, kernel) = measured.boots();
            let ingredients = Ingredients::gather(cache, None, Packages::Locked(measured.lock().clone()), &progress)?;
            ingredients.acpi(firmware, kernel, args.tables.phys_bits, &progress)?
        }
    };
    let values = measured.values(&acpi)?;
    let mut bytes = match &key {
        None => values.payload(),
        Some(key) => values.sign(key).to_bytes(),
    };
    bytes.push(b'\n');
    std::io::stdout().lock().write_all(&bytes).context("write to stdout")?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn verify(args: &VerifyArgs) -> Result<ExitCode> {
    let publisher = match args.publisher {
        Some(key) => key,
        None => own_public_key()?,
    };
    let profile = ImageManifest::parse(check::open(&args.directory)?.unverified_payload())?.profile;
    let acpi = Source::given(profile, args.acpi.as_deref());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let checks = check::check(&args.directory, &publisher, acpi, now)?;
    let failed = checks.iter().any(|check| check.result == Outcome::Fail);
    if args.json {
        println!("{}", json!({ "verified": !failed, "publisher": publisher.to_string(), "checks": checks }));
    } else {
        for Check { name, result, reason } in &checks {
            let mark = match result {
                Outcome::Pass => "ok  ",
                Outcome::Fail => "FAIL",
                Outcome::NotEvaluated => "-   ",
            };
            println!("{mark} {name}{}{reason}", if reason.is_empty() { "" } else { ": " });
        }
    }
    Ok(ExitCode::from(u8::from(failed)))
}

pub(crate) fn lint(args: &LintArgs) -> Result<ExitCode> {
    let findings = image_lint::directory(&args.directory)?;
    if args.json {
        println!("{}", json!({ "clean": findings.is_empty(), "findings": findings }));
    } else if findings.is_empty() {
        println!("ok: no findings");
    } else {
        for finding in &findings {
            println!("FAIL {finding}");
        }
    }
    Ok(ExitCode::from(u8::from(!findings.is_empty())))
}

/// The public half beside the user's own publisher key.
fn own_public_key() -> Result<PublicKey> {
    let path = paths::publisher_key()?.with_extension("pub");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("expected --publisher KEY or a publisher key of your own ({})", path.display()))?;
    text.trim_end().parse().with_context(|| format!("the public key {}", path.display()))
}
