//! The sentences that may be said about a bundle. They never exceed proof, and are the specification's own (EVIDENCE §4).

use std::collections::BTreeMap;

use super::Options;
use super::anchor::Platform;
use super::dates::date;
use super::endorsed::VerifiedQuote;
use super::opening_rules::Opened;
use super::report::Verdict;
use crate::ids::Identity;
use crate::intent::Authority;
use crate::leaf::{Leaf, Public, ScrubStep, StepResult};
use crate::sign::PublicKey;

/// Said of everything under the simulator root.
pub(super) const SIMULATED: &str = "Anyone can forge this.";
/// Said of delegated sessions.
pub(super) const DELEGATED: &str = "The host ordered these calls for its clients and could have added or changed any.";
/// Said of end-to-end sessions whose owner nobody here knows.
pub(super) const UNVOUCHED: &str =
    "Every call was ordered by keys nobody here vouches for; the host may have made them.";

/// Whether policy or command line name the owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    Known,
    Unknown,
}

/// As the policy's owners, its expectations or `--owner` say.
pub(super) fn owner(opened: &Opened<'_>, options: &Options) -> Owner {
    let owner = opened.opening().intent.owner;
    let policy = options.policy.as_ref();
    let named = policy.is_some_and(|policy| policy.owners.contains(&owner));
    let expected = policy.and_then(|policy| policy.expect.owner) == Some(owner) || options.expect.owner == Some(owner);
    if named || expected { Owner::Known } else { Owner::Unknown }
}

/// What the words are about.
pub(super) struct Subject<'a> {
    pub(super) opened: &'a Opened<'a>,
    pub(super) last: Option<&'a VerifiedQuote>,
    pub(super) size: u64,
    pub(super) scrub: Option<&'a Leaf>,
    /// Who ordered calls; none where an opened part is not what its caller signed.
    pub(super) callers: Option<&'a BTreeMap<Identity, PublicKey>>,
    pub(super) owner: Owner,
    /// The leaf in which the owner named this instance.
    pub(super) owner_hello: Option<u64>,
}

/// The words for this verdict; none for one that is not believed.
pub(super) fn words(verdict: Verdict, subject: &Subject<'_>) -> Vec<String> {
    let mut words = Vec::new();
    let platform = subject.opened.platform();
    if platform == Platform::Simulated {
        words.push(SIMULATED.to_owned());
    }
    match verdict {
        Verdict::Invalid | Verdict::Indeterminate => return words,
        Verdict::Aborted => words.push(format!(
            "A prefix of {} leaves is genuine; nothing is known after it; a longer or sealed bundle may exist. The cause is the \
             host's claim.",
            subject.size
        )),
        Verdict::Sealed if platform == Platform::Tdx => words.push(sealed(subject)),
        Verdict::Sealed => {}
    }
    match subject.opened.opening().intent.authority {
        Authority::Delegated => words.push(DELEGATED.to_owned()),
        Authority::EndToEnd => words.extend(ordered(subject)),
    }
    if verdict == Verdict::Sealed && platform == Platform::Tdx {
        words.extend(erasure(subject.scrub));
    }
    words
}

/// Under whose keys calls were ordered, where there were any (R12).
fn ordered(subject: &Subject<'_>) -> Option<String> {
    let callers = subject.callers.filter(|callers| !callers.is_empty())?;
    if subject.owner == Owner::Unknown {
        return Some(UNVOUCHED.to_owned());
    }
    let keys: Vec<String> = callers.iter().map(|(identity, key)| format!("key {key} of identity {identity}")).collect();
    let owner = subject.opened.opening().intent.owner;
    Some(format!("Every call was ordered under {}, named by owner {owner}.", keys.join(" or ")))
}

fn sealed(subject: &Subject<'_>) -> String {
    let opening = subject.opened.opening();
    let quote = subject.last.unwrap_or_else(|| subject.opened.quote());
    let platform = hex::encode(quote.platform_instance_id().map_or(quote.ppid(), |id| id.as_slice()));
    let publisher =
        subject.opened.publisher().map_or_else(|| "nobody here vouches for".to_owned(), ToString::to_string);
    // Where no owner named this instance, a twin of it is accepted as well.
    let twins = if subject.owner_hello.is_some() { "unaccepted twins" } else { "twins" };
    format!(
        "A TD on platform {platform}, TCB status {} under Intel collateral issued {}, booted image {} {} published by {publisher}, \
         recorded these {} leaves and no others in this instance, and sealed. The guest attested the scrub steps before the seal. \
         Time of day, location, the cause of a close by the host, and destruction of memory are not proven. Other sessions, or \
         {twins} of this one, may exist.",
        quote.tcb_status(),
        date(quote.as_of()),
        opening.manifest.name,
        opening.manifest.version,
        subject.size,
    )
}

/// Erasure is said only of steps that the scrub leaf reports as done.
fn erasure(scrub: Option<&Leaf>) -> Option<String> {
    let Some(Public::Scrub { steps }) = scrub.map(|leaf| &leaf.public) else { return None };
    let failed = steps.iter().any(|(_, result)| *result == StepResult::Failed);
    let complete = !failed && ScrubStep::ALL.iter().all(|step| steps.iter().any(|(found, _)| found == step));
    complete.then(|| {
        "Tools killed, tool secrets zeroised, memory file systems unmounted and freed, log key destroyed, before the final quote."
            .to_owned()
    })
}
