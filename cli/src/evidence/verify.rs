//! `coffer evidence verify`: the files and the options; what they mean is `coffer_evidence::verify`.

use std::path::PathBuf;

use clap::Args;
use coffer_evidence::bundle::Source;
use coffer_evidence::ids::{InstanceId, SessionId};
use coffer_evidence::note::NOTE_MAX;
use coffer_evidence::private::Access;
use coffer_evidence::sign::PublicKey;
use coffer_evidence::verify::{
    AcceptPrefix, AcceptSimulated, AnyOwner, CheckResult, EverySignature, Expectations, Options, Report, Rule,
    verify_source,
};

use super::identity::access_to;
use super::reading::{BundleFile, changed, told_unread};
use crate::exit::Status;
use crate::file::{read_policy, small_text};
use crate::output::{Form, Output};
use crate::time::{now, parse_time};

pub(super) const EXIT_HELP: &str = "\
Exit status: 0 accepted; 1 not accepted; 2 cannot tell; 64 usage; 74 a file could not be read; 77 others can read the \
identity, 78 it is none.
The verdict says what is true, acceptance what the policy makes of it. With the same bundle, policy and --at the output \
is the same on any machine. With --json it is one line.";

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The bundle
    file: PathBuf,
    #[command(flatten)]
    judging: Judging,
}

/// What the verifier is told beside the bundle.
#[derive(Debug, Args)]
pub(super) struct Judging {
    /// Everything that is pinned: trust anchor, publishers, owners, platforms
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Accept evidence of a simulated platform, which anyone can forge
    #[arg(long)]
    accept_simulated: bool,
    /// Accept a genuine prefix of a session that was not sealed
    #[arg(long)]
    accept_prefix: bool,
    /// Accept an owner that no policy names
    #[arg(long)]
    any_owner: bool,
    /// Verify every signature of the call chains, not only the last of each channel, which covers those before it
    #[arg(long)]
    every_signature: bool,
    /// Judge as of this time: RFC 3339 or unix seconds [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<u64>,
    /// Expect this session
    #[arg(long, value_name = "ID")]
    session: Option<SessionId>,
    /// Expect this owner key
    #[arg(long, value_name = "KEY")]
    owner: Option<PublicKey>,
    /// Expect this instance
    #[arg(long, value_name = "HEX")]
    instance: Option<InstanceId>,
    /// Expect the log to extend the one whose checkpoint is in this file
    #[arg(long, value_name = "NOTE")]
    seen: Option<PathBuf>,
    /// Open encrypted private parts with this file of age identities (AGE-SECRET-KEY-1...)
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

impl Judging {
    /// The verdict on this bundle, with what was asked.
    pub(super) fn judge(&self, bundle: &dyn Source) -> anyhow::Result<(Report, Options)> {
        let keyed = access_to(bundle, self.identity.as_deref())?;
        let options = self.options(keyed.access.clone())?;
        let report = verify_source(bundle, &options)?;
        if keyed.is_of(&report) { Ok((report, options)) } else { Err(changed().into()) }
    }

    fn options(&self, access: Access) -> anyhow::Result<Options> {
        Ok(Options {
            at: self.at.unwrap_or_else(now),
            accept_simulated: if self.accept_simulated { AcceptSimulated::Yes } else { AcceptSimulated::No },
            accept_prefix: if self.accept_prefix { AcceptPrefix::Yes } else { AcceptPrefix::No },
            any_owner: if self.any_owner { AnyOwner::Yes } else { AnyOwner::No },
            every_signature: if self.every_signature { EverySignature::Yes } else { EverySignature::No },
            expect: Expectations {
                session: self.session,
                owner: self.owner,
                instance: self.instance,
                seen_note: self.seen.as_deref().map(|path| small_text(path, NOTE_MAX, "note")).transpose()?,
                registers: Vec::new(),
            },
            access,
            policy: self.policy.as_deref().map(read_policy).transpose()?,
        })
    }
}

/// `coffer evidence verify`
pub(super) fn verify(output: &Output, args: &VerifyArgs) -> anyhow::Result<Status> {
    let file = BundleFile::open(&args.file)?;
    let (report, _) = args.judging.judge(&file).map_err(told_unread(&args.file))?;
    if let Some(told) = unpinned(&args.judging, &report) {
        output.note(told);
    }
    match output.form {
        Form::Json => output.line(report.json_line())?,
        Form::People => output.bytes(report.human().as_bytes())?,
    }
    Ok(Status(report.exit_code()))
}

/// What nobody was asked about, because no policy was given.
pub(super) fn unpinned(args: &Judging, report: &Report) -> Option<String> {
    let unchecked = |name: &str| {
        report.checks.iter().any(|check| {
            let open = matches!(check.result, CheckResult::NotEvaluated | CheckResult::CannotTell);
            check.rule == Rule::R19 && check.name == name && open
        })
    };
    let owner = (args.owner.is_none() && unchecked("owner")).then_some("no owner");
    let publisher = unchecked("publisher").then_some("no publisher");
    let missing: Vec<&str> = [owner, publisher].into_iter().flatten().collect();
    (args.policy.is_none() && !missing.is_empty())
        .then(|| format!("no policy was given, so {} was checked: --policy names them", missing.join(" and ")))
}
