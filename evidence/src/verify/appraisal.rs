//! Rule R19: what is true against what the policy asks for. Nothing here changes the verdict; everything decides the acceptance.

use super::anchor::Platform;
use super::dates::date;
use super::endorsed::VerifiedQuote;
use super::findings::{Claim, Findings};
use super::opening_rules::Opened;
use super::platform_policy::{Answer, PlatformPolicy};
use super::policy::AppraisalPolicy;
use super::report::Rule;
use super::{AcceptPrefix, AcceptSimulated, AnyOwner, Options};

/// What R19 judges.
pub(super) struct Appraised<'a> {
    pub(super) opened: &'a Opened<'a>,
    pub(super) claim: Claim,
    /// The final quote of a sealed bundle.
    pub(super) last: Option<&'a VerifiedQuote>,
}

impl Appraised<'_> {
    fn simulated(&self) -> bool {
        self.opened.platform() == Platform::Simulated
    }
}

const SIMULATED_UNNAMED: &str = "simulated platform, and the policy names none";
const NOT_NAMED: &str = "the policy names none";

/// R19.
pub(super) fn appraise(appraised: &Appraised<'_>, options: &Options, findings: &mut Findings) {
    let policy = options.policy.as_ref();
    if appraised.claim == Claim::Aborted {
        match options.accept_prefix {
            AcceptPrefix::Yes => findings.pass(Rule::R19, "whole record", "a prefix is accepted on request"),
            AcceptPrefix::No => {
                findings.reject(Rule::R19, "whole record", "only a prefix is shown; --accept-prefix accepts one");
            }
        }
    }
    if appraised.simulated() {
        match options.accept_simulated {
            AcceptSimulated::Yes => {
                findings.pass(Rule::R19, "platform is real", "simulated evidence is accepted on request");
            }
            AcceptSimulated::No => findings.reject(
                Rule::R19,
                "platform is real",
                "simulated: anyone can forge this; --accept-simulated accepts it",
            ),
        }
    }
    publisher(appraised, policy, findings);
    svn(appraised, policy, findings);
    terms(appraised, findings);
    owner(appraised, policy, options.any_owner, findings);
    platform(appraised, policy, findings);
    tcb(appraised, policy, options.at, findings);
}

fn publisher(appraised: &Appraised<'_>, policy: Option<&AppraisalPolicy>, findings: &mut Findings) {
    const NAME: &str = "publisher";
    let signer = appraised.opened.opening().envelope.signer();
    if appraised.opened.publisher().is_some() {
        findings.pass(Rule::R19, NAME, "");
    } else if policy.is_some_and(|policy| !policy.publishers.is_empty()) {
        findings.reject(Rule::R19, NAME, format!("{signer} is not a publisher of the policy"));
    } else if appraised.simulated() {
        findings.not_evaluated(Rule::R19, NAME, SIMULATED_UNNAMED);
    } else {
        findings.unsettled(Rule::R19, NAME, format!("no publisher is pinned; the manifest is signed by {signer}"));
    }
}

fn svn(appraised: &Appraised<'_>, policy: Option<&AppraisalPolicy>, findings: &mut Findings) {
    const NAME: &str = "image svn";
    // What the intent asks for was held against the image by R8.
    let found = appraised.opened.opening().manifest.svn;
    let wanted = policy.and_then(|policy| policy.minimum_svn).unwrap_or(0);
    if found >= wanted {
        findings.pass(Rule::R19, NAME, "");
    } else {
        findings.reject(Rule::R19, NAME, format!("at least {wanted} is asked for, the image has {found}"));
    }
}

/// The only time that is attested by others than the host is that of the collateral: terms are held against its dates.
fn terms(appraised: &Appraised<'_>, findings: &mut Findings) {
    let opening = appraised.opened.opening();
    let as_of = appraised.opened.quote().as_of();
    let image = opening.manifest.not_after;
    if image == 0 || as_of <= image {
        findings.pass(Rule::R19, "image not after", "");
    } else {
        findings.reject(
            Rule::R19,
            "image not after",
            format!("the image ended at {}, the opening is of {}", date(image), date(as_of)),
        );
    }
    let intent = opening.intent.not_after;
    if as_of <= intent {
        findings.pass(Rule::R19, "intent not after", "");
    } else {
        findings.reject(
            Rule::R19,
            "intent not after",
            format!("the intent ended at {}, the opening is of {}", date(intent), date(as_of)),
        );
    }
}

fn owner(appraised: &Appraised<'_>, policy: Option<&AppraisalPolicy>, any: AnyOwner, findings: &mut Findings) {
    const NAME: &str = "owner";
    let owner = &appraised.opened.opening().intent.owner;
    let pinned = policy.map(|policy| policy.owners.as_slice()).unwrap_or_default();
    if pinned.contains(owner) {
        findings.pass(Rule::R19, NAME, "");
    } else if !pinned.is_empty() {
        findings.reject(Rule::R19, NAME, format!("{owner} is not an owner of the policy"));
    } else if any == AnyOwner::Yes {
        findings.pass(Rule::R19, NAME, "any owner is accepted on request");
    } else if appraised.simulated() {
        findings.not_evaluated(Rule::R19, NAME, SIMULATED_UNNAMED);
    } else {
        findings.unsettled(
            Rule::R19,
            NAME,
            format!("owner not identified: no policy names {owner}; --any-owner accepts any"),
        );
    }
}

fn platform(appraised: &Appraised<'_>, policy: Option<&AppraisalPolicy>, findings: &mut Findings) {
    let demanded = &appraised.opened.opening().intent.region;
    let Some(policy) = policy.filter(|policy| !policy.platforms.is_empty()) else {
        let why = if appraised.simulated() { SIMULATED_UNNAMED } else { NOT_NAMED };
        findings.not_evaluated(Rule::R19, "platform list", why);
        let region = if demanded.is_empty() {
            "none is demanded".to_owned()
        } else {
            format!("{demanded} is demanded, not shown")
        };
        findings.not_evaluated(Rule::R19, "region", region);
        return;
    };
    let quote = appraised.opened.quote();
    let Some(found) = policy.platform_of(quote) else {
        let instance = quote.platform_instance_id().map(<[u8; 16]>::as_slice);
        let id = hex::encode(instance.unwrap_or(quote.ppid()));
        findings.reject(Rule::R19, "platform list", format!("platform {id} is not on the policy's list"));
        findings.not_evaluated(Rule::R19, "region", "the platform is not on the list");
        return;
    };
    findings.pass(Rule::R19, "platform list", found.name.clone());
    if demanded.is_empty() || *demanded == found.region {
        findings.pass(Rule::R19, "region", found.region.clone());
    } else {
        let reason = format!("{demanded} is demanded, the platform stands in {}", found.region);
        findings.reject(Rule::R19, "region", reason);
    }
}

/// Both quotes; what is said of the first that is refused is what the row says.
fn tcb(appraised: &Appraised<'_>, policy: Option<&AppraisalPolicy>, at: u64, findings: &mut Findings) {
    let policy = policy.map_or_else(PlatformPolicy::default, |policy| policy.platform.clone());
    let mut answers = policy.judge(appraised.opened.quote(), at);
    if let Some(last) = appraised.last {
        for (first, last) in answers.iter_mut().zip(policy.judge(last, at)) {
            if !matches!(first.1, Answer::Refused(_)) {
                *first = last;
            }
        }
    }
    for (name, answer) in answers {
        match answer {
            Answer::Accepted(what) => findings.pass(Rule::R19, name, what),
            Answer::Refused(why) => findings.reject(Rule::R19, name, why),
            Answer::NotAsked => findings.not_evaluated(Rule::R19, name, NOT_NAMED),
        }
    }
}
