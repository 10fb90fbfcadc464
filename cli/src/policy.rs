//! `coffer policy appraisal`: make a policy file to start from, and check one. What it means is `coffer_evidence::verify`.
//! The policies of sessions are in `session_policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use coffer_evidence::sign::PublicKey;
use coffer_evidence::verify::{Allowed, AppraisalPolicy};
use serde::Serialize;

use crate::exit::{INPUT_OUTPUT, Status, failure};
use crate::file::read_policy;
use crate::output::{Form, Output};
use crate::session_policy;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Check the policy of a session: its problems with their places, else what it grants
    Check(session_policy::CheckArgs),
    /// Say which rules decide about a call, and why the others do not (exit 0: allowed, 1: denied)
    Explain(session_policy::ExplainArgs),
    /// Print the policy of sessions whose creator names none
    Default,
    /// What a verifier pins: anchor, publishers, owners, platforms
    #[command(subcommand)]
    Appraisal(AppraisalCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum AppraisalCommand {
    /// Write a policy file with every key explained
    Init(InitArgs),
    /// Check a policy file and say what it asks for
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Where to; standard output when left out
    file: Option<PathBuf>,
    /// The trust anchor
    #[arg(long, value_enum, default_value = "intel")]
    anchor: Anchor,
    /// A publisher whose images are trusted; may be given again
    #[arg(long, value_name = "KEY")]
    publisher: Vec<PublicKey>,
    /// An owner whose intents are trusted; may be given again
    #[arg(long, value_name = "KEY")]
    owner: Vec<PublicKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Anchor {
    /// Intel's root: real TDX
    Intel,
    /// The published root of the simulator: anyone can forge what it signs
    Simulated,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The policy file
    file: PathBuf,
}

/// Does one of them.
pub(crate) fn carry_out(output: &Output, command: &PolicyCommand) -> anyhow::Result<Status> {
    match command {
        PolicyCommand::Check(args) => session_policy::check(output, args),
        PolicyCommand::Explain(args) => session_policy::explain(output, args),
        PolicyCommand::Default => session_policy::default(output),
        PolicyCommand::Appraisal(AppraisalCommand::Init(args)) => init(output, args),
        PolicyCommand::Appraisal(AppraisalCommand::Check(args)) => check(output, args),
    }
}

fn init(output: &Output, args: &InitArgs) -> anyhow::Result<Status> {
    let text = template(args);
    let Some(path) = &args.file else {
        output.bytes(text.as_bytes())?;
        return Ok(Status::DONE);
    };
    let wrong = |error: std::io::Error| {
        let hint = if error.kind() == std::io::ErrorKind::AlreadyExists { ": choose another name" } else { "" };
        failure(INPUT_OUTPUT, format!("write the policy {}: {error}{hint}", path.display()))
    };
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(wrong)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(wrong)?;
    output.note(format_args!("wrote {}: read it, then verify with --policy", path.display()));
    Ok(Status::DONE)
}

fn template(args: &InitArgs) -> String {
    let keys = |keys: &[PublicKey]| keys.iter().map(|key| format!("\"{key}\"")).collect::<Vec<_>>().join(", ");
    let anchor = match args.anchor {
        Anchor::Intel => "intel",
        Anchor::Simulated => "simulated",
    };
    format!(
        r#"# What a verifier of Coffer's evidence pins. Nothing is trusted beside it; an unknown key is an error.

# The one root under which quotes must verify: "intel", "simulated" (anyone can forge what it signs), or the name of a
# certificate in DER, relative to this file.
anchor = "{anchor}"

# Ed25519 keys, 64 hexadecimal digits each. Publishers sign images, owners sign what a session is to be. Under Intel's root an
# empty list leaves the question open: the verdict is then "cannot tell".
publishers = [{publishers}]
owners = [{owners}]

# The least security version of the image.
#minimum_svn = 1

# Platforms: how current they must be, and for how many days one that is out of date counts as if it were not.
tcb_statuses = ["UpToDate"]
tcb_grace_days = 0
#minimum_evaluation_data_number = 17
#refused_advisories = ["INTEL-SA-01036"]

# Platforms of the large clouds are all three.
dynamic_platform = true
cached_keys = true
smt = true

# Platforms whose place is known; with a list, others are not accepted. The id is a PPID or a platform instance id.
#[[platforms]]
#id = "00112233445566778899aabbccddeeff"
#name = "rack 7"
#region = "eu-central"

# What is expected of one session, or of a quote: also owner, instance, mrtd, rtmr0 to rtmr3, mrseam, mrconfigid, mrowner,
# mrownerconfig.
#[expect]
#session = "00000000-0000-4000-8000-000000000000"
"#,
        publishers = keys(&args.publisher),
        owners = keys(&args.owner),
    )
}

#[derive(Serialize)]
struct Checked {
    schema: &'static str,
    digest: String,
    publishers: usize,
    owners: usize,
    platforms: usize,
    tcb_statuses: Vec<String>,
    tcb_grace_days: u64,
    refused_advisories: usize,
    dynamic_platform: bool,
    cached_keys: bool,
    smt: bool,
}

fn check(output: &Output, args: &CheckArgs) -> anyhow::Result<Status> {
    let policy = read_policy(&args.file)?;
    match output.form {
        Form::Json => output.json(&checked(&policy))?,
        Form::People => {
            for line in sentences(&policy) {
                output.line(line)?;
            }
        }
    }
    Ok(Status::DONE)
}

fn checked(policy: &AppraisalPolicy) -> Checked {
    let platform = &policy.platform;
    Checked {
        schema: "coffer.appraisal-policy.v1",
        digest: policy.digest().to_string(),
        publishers: policy.publishers.len(),
        owners: policy.owners.len(),
        platforms: policy.platforms.len(),
        tcb_statuses: platform.tcb_statuses.iter().map(ToString::to_string).collect(),
        tcb_grace_days: platform.tcb_grace_days,
        refused_advisories: platform.refused_advisories.len(),
        dynamic_platform: platform.dynamic_platform == Allowed::Yes,
        cached_keys: platform.cached_keys == Allowed::Yes,
        smt: platform.smt == Allowed::Yes,
    }
}

fn sentences(policy: &AppraisalPolicy) -> Vec<String> {
    let shown = checked(policy);
    let none = |n: usize, what: &str, then: &str| {
        if n == 0 {
            format!("{what}: none is named: {then}")
        } else {
            format!("{what}: {n} named, others are not accepted")
        }
    };
    let statuses = shown.tcb_statuses.join(", ");
    vec![
        format!("policy {}", shown.digest),
        none(shown.publishers, "publishers", "under Intel's root the verdict stays open"),
        none(shown.owners, "owners", "under Intel's root acceptance stays open, unless --any-owner"),
        none(shown.platforms, "platforms", "any, and no region is shown"),
        format!("TCB statuses: {statuses}; {} days of grace for one that is out of date", shown.tcb_grace_days),
        format!(
            "dynamic platforms {}, cached keys {}, SMT {}",
            allowed(policy.platform.dynamic_platform),
            allowed(policy.platform.cached_keys),
            allowed(policy.platform.smt)
        ),
    ]
}

const fn allowed(allowed: Allowed) -> &'static str {
    match allowed {
        Allowed::Yes => "allowed",
        Allowed::No => "refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_to_start_from_is_a_policy_with_the_defaults() {
        let key: PublicKey = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a".parse().expect("a key");
        for (anchor, publisher) in [(Anchor::Intel, vec![]), (Anchor::Simulated, vec![key])] {
            let args = InitArgs { file: None, anchor, publisher: publisher.clone(), owner: publisher.clone() };
            let policy = AppraisalPolicy::parse(&template(&args)).expect("a policy");
            assert_eq!((policy.publishers, policy.owners), (publisher.clone(), publisher));
            assert_eq!(policy.platform, coffer_evidence::verify::PlatformPolicy::default());
            // What is commented out is right, too.
            let all: String = template(&args)
                .lines()
                .map(|line| match line.strip_prefix('#') {
                    Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
                    _ => format!("{line}\n"),
                })
                .collect();
            let policy = AppraisalPolicy::parse(&all).expect("a policy with everything in it");
            assert!(policy.minimum_svn.is_some() && policy.platforms.len() == 1 && policy.expect.session.is_some());
        }
    }
}
