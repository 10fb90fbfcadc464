//! `coffer quote verify`: one quote, one collateral set, one trust anchor, and what a policy asks of the platform.

use std::path::PathBuf;

use clap::Args;
use coffer_evidence::verify::{
    Answer, AppraisalPolicy, ExpectedRegister, Moment, Padding, Platform, PlatformPolicy, RegisterName, TrustAnchor,
    VerifiedQuote, verify_quote,
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{collateral, read_quote, show};
use crate::exit::{Status, USAGE, failure};
use crate::file::{read_policy, small};
use crate::output::{Form, Output, printable};
use crate::time::{now, parse_time, shown_s};

pub(super) const EXIT_HELP: &str = "\
Exit status: 0 accepted; 1 not accepted; 64 usage; 74 a file could not be read.
Without --policy an up-to-date platform is accepted, however it is set up.";

/// A root certificate takes some hundred bytes.
const ANCHOR_MAX: usize = 64 * 1024;

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The quote: its bytes, their hexadecimal digits, or a JSON report with a field `quote`
    #[arg(long, value_name = "FILE")]
    quote: PathBuf,
    /// Its collateral: JSON, YAML, or as it is in a bundle
    #[arg(long, value_name = "FILE")]
    collateral: PathBuf,
    /// Judge at this time: RFC 3339 or unix seconds [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<u64>,
    /// The only root that is trusted: `intel`, `simulated`, or a certificate in DER [default: intel]
    #[arg(long, value_name = "ANCHOR", conflicts_with = "policy")]
    trust_anchor: Option<String>,
    /// An appraisal policy: its anchor, its platforms, what it asks of them, and its expected registers
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Expect a register: mrtd, rtmr0 to rtmr3, mrseam, mrconfigid, mrowner or mrownerconfig, as NAME=HEX
    #[arg(long, value_name = "NAME=HEX", value_parser = parse_register)]
    expect: Vec<ExpectedRegister>,
    /// Expect these 64 bytes of report data, in hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = parse_report_data)]
    report_data: Option<[u8; 64]>,
    /// Accept a quote of the simulator, which anyone can forge
    #[arg(long)]
    accept_simulated: bool,
}

fn parse_register(text: &str) -> Result<ExpectedRegister, String> {
    let parsed = text.split_once('=').and_then(|(key, value)| {
        let name = RegisterName::ALL.into_iter().find(|name| name.key() == key)?;
        ExpectedRegister::parse(name, value)
    });
    let names = RegisterName::ALL.map(RegisterName::key).join(", ");
    parsed.ok_or_else(|| format!("expected one of {names}, then = and 96 hexadecimal digits"))
}

fn parse_report_data(text: &str) -> Result<[u8; 64], String> {
    let bytes = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| "expected 128 hexadecimal digits".to_owned())
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    result: &'static str,
    reason: String,
}

impl Row {
    fn of(name: impl Into<String>, held: Result<String, String>) -> Self {
        let (result, reason) = held.map_or_else(|why| ("fail", why), |what| ("pass", what));
        Self { name: name.into(), result, reason }
    }
}

#[derive(Debug, Default, Serialize)]
struct Report {
    schema: &'static str,
    accepted: &'static str,
    at: u64,
    platform: Option<&'static str>,
    tcb_status: Option<String>,
    advisories: Vec<String>,
    evaluation_data_number: Option<u32>,
    fmspc: Option<String>,
    ppid: Option<String>,
    as_of: Option<u64>,
    expires: Option<u64>,
    checks: Vec<Row>,
    quote: Map<String, Value>,
}

/// `coffer quote verify`
pub(super) fn verify(output: &Output, args: &VerifyArgs) -> anyhow::Result<Status> {
    let bytes = read_quote(&args.quote)?;
    let collateral = collateral::read(&args.collateral)?;
    let at = args.at.unwrap_or_else(now);
    let policy = args.policy.as_deref().map(read_policy).transpose()?;
    let anchors = match &policy {
        Some(policy) => policy.anchors(),
        None => vec![anchor(args.trust_anchor.as_deref().unwrap_or("intel"))?],
    };
    let mut report = Report { schema: "coffer.quote-verdict.v1", at, ..Report::default() };
    const NAME: &str = "quote, chain and collateral";
    match verify_quote(&bytes, &collateral, &anchors, Moment::At(at), Padding::Zeros) {
        Err(refusal) => report.checks.push(Row::of(NAME, Err(refusal.to_string()))),
        Ok(quote) => {
            report.checks.push(Row::of(NAME, Ok(format!("at {}", shown_s(at)))));
            report.checks.extend(appraise(&quote, policy.as_ref(), args, at));
            fill(&mut report, &quote, bytes.len());
        }
    }
    let accepted = report.checks.iter().all(|row| row.result != "fail");
    report.accepted = if accepted { "yes" } else { "no" };
    match output.form {
        Form::Json => output.json(&report)?,
        Form::People => tell(output, &report)?,
    }
    Ok(if accepted { Status::DONE } else { Status::FAILED })
}

fn anchor(name: &str) -> anyhow::Result<TrustAnchor> {
    Ok(match name {
        "intel" => TrustAnchor::Intel,
        "simulated" => TrustAnchor::Simulated,
        "" => {
            return Err(failure(USAGE, "expected `intel`, `simulated` or a file after --trust-anchor, found nothing"));
        }
        file => TrustAnchor::Der(small(file.as_ref(), ANCHOR_MAX, "trust anchor")?),
    })
}

fn appraise(quote: &VerifiedQuote, policy: Option<&AppraisalPolicy>, args: &VerifyArgs, at: u64) -> Vec<Row> {
    let mut rows = Vec::new();
    if quote.platform() == Some(Platform::Simulated) {
        let held = if args.accept_simulated {
            Ok("simulated evidence is accepted on request".to_owned())
        } else {
            Err("SIMULATED: anyone can forge this; --accept-simulated accepts it".to_owned())
        };
        rows.push(Row::of("platform is real", held));
    }
    let platform = policy.map_or_else(PlatformPolicy::default, |policy| policy.platform.clone());
    for (name, answer) in platform.judge(quote, at) {
        match answer {
            Answer::Accepted(what) => rows.push(Row::of(name, Ok(what))),
            Answer::Refused(why) => rows.push(Row::of(name, Err(why))),
            Answer::NotAsked => {}
        }
    }
    if let Some(policy) = policy.filter(|policy| !policy.platforms.is_empty()) {
        let found = policy.platform_of(quote);
        let missing = || format!("platform {} is not on the policy's list", hex::encode(quote.ppid()));
        rows.push(Row::of("platform list", found.map(|one| one.name.clone()).ok_or_else(missing)));
    }
    let expected = policy.map(|policy| policy.expect.registers.as_slice()).unwrap_or_default();
    for register in expected.iter().chain(&args.expect) {
        rows.push(Row::of(register.name.key(), register.judge(quote.quote()).map(|()| String::new())));
    }
    if let Some(expected) = args.report_data {
        let found = quote.quote().report_data();
        let differs = || format!("expected {}, found {}", hex::encode(expected), hex::encode(found));
        rows.push(Row::of("reportdata", if *found == expected { Ok(String::new()) } else { Err(differs()) }));
    }
    rows
}

fn fill(report: &mut Report, quote: &VerifiedQuote, length: usize) {
    report.platform = Some(match quote.platform() {
        Some(Platform::Tdx) => "tdx",
        Some(Platform::Simulated) => "simulated",
        None => "of another root",
    });
    report.tcb_status = Some(quote.tcb_status().to_string());
    report.advisories = quote.advisories().to_vec();
    report.evaluation_data_number = Some(quote.evaluation_data_number());
    report.fmspc = Some(hex::encode(quote.fmspc()));
    report.ppid = Some(hex::encode(quote.ppid()));
    report.as_of = Some(quote.as_of());
    report.expires = Some(quote.expires());
    report.quote = show::object(show::fields(quote.quote(), length));
}

fn tell(output: &Output, report: &Report) -> anyhow::Result<()> {
    for row in &report.checks {
        let result = if row.result == "pass" { "ok" } else { "FAILED" };
        output.line(format_args!("{result:<7} {:<28} {}", row.name, printable(&row.reason)).to_string().trim_end())?;
    }
    if let (Some(status), Some(platform)) = (&report.tcb_status, report.platform) {
        let advisories = if report.advisories.is_empty() { "none".to_owned() } else { report.advisories.join(", ") };
        output.line(format_args!(
            "platform                             {platform}, TCB {status}, advisories {advisories}"
        ))?;
        for name in ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrconfigid", "mrowner", "mrownerconfig", "reportdata"]
        {
            let value = report.quote.get(name).and_then(Value::as_str).unwrap_or_default();
            output.line(format_args!("{name:<36} {value}"))?;
        }
        let (as_of, expires) = (report.as_of.unwrap_or_default(), report.expires.unwrap_or_default());
        output.line(format_args!(
            "collateral                           issued {}, valid until {}",
            shown_s(as_of),
            shown_s(expires)
        ))?;
    }
    output.line(format_args!("accepted: {}", report.accepted))
}
