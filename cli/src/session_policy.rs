//! `coffer policy check`, `explain` and `default`: the policy of a session, before there is one. What it means is
//! `coffer_policy` and `docs/policy.md`.

use std::path::{Path, PathBuf};

use clap::Args;
use coffer_evidence::ids::Digest384;
use coffer_policy::{
    Action, Ask, Clause, Decision, Effect, Grant, IdentityName, Match, POLICY_MAX, Policy, Problem, Problems, Reach,
    Resource, RuleId, Usage, Why, texts,
};
use serde::Serialize;

use crate::exit::{Status, USAGE, failure};
use crate::file::small_text;
use crate::output::{Colour, Form, Output, printable};

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The policy
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The policy
    file: PathBuf,
    /// Who asks
    #[arg(long, value_name = "NAME")]
    identity: IdentityName,
    /// What is asked for: exec, file.read, git.push and so on
    #[arg(long, value_name = "ACTION")]
    action: Action,
    /// Of what: an absolute path, without links; or the name of a remote, a host, a model, a secret
    #[arg(long, value_name = "RESOURCE")]
    resource: String,
    /// Calls that the identity has begun so far
    #[arg(long, default_value_t = 0, value_name = "N")]
    calls: u64,
    /// Its calls that are running
    #[arg(long, default_value_t = 0, value_name = "N")]
    running: u64,
    /// Run time of its calls that have ended
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    seconds: u64,
    /// Bytes that its calls were given
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    input_bytes: u64,
    /// Bytes that its calls put out
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    output_bytes: u64,
    /// For exec: the whole command, its name first; everything that follows belongs to it
    #[arg(long, num_args = 1.., allow_hyphen_values = true, value_name = "ARG")]
    argv: Vec<String>,
}

/// Prints the policy of sessions whose creator names none.
pub(crate) fn default(output: &Output) -> anyhow::Result<Status> {
    output.bytes(texts::DEFAULT.as_bytes())?;
    Ok(Status::DONE)
}

/// Reads a policy for a session; its problems go to stderr, each with its place.
pub(crate) fn read(output: &Output, path: &Path) -> anyhow::Result<(String, Policy)> {
    let text = small_text(path, POLICY_MAX, "policy")?;
    match Policy::parse(&text) {
        Ok(policy) => Ok((text, policy)),
        Err(problems) => Err(tell(output, path, &problems)),
    }
}

fn tell(output: &Output, path: &Path, problems: &Problems) -> anyhow::Error {
    let name = printable(&path.display().to_string());
    problems.iter().for_each(|problem| output.complaint(format_args!("{name}:{problem}")));
    let count = problems.iter().count().saturating_add(problems.more());
    let told = if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
    failure(
        USAGE,
        format!("expected a policy, found {told} in {}: docs/policy.md explains the language", path.display()),
    )
}

/// What is probably not meant, on stderr.
pub(crate) fn warn(output: &Output, path: &Path, policy: &Policy) {
    let name = printable(&path.display().to_string());
    policy.warnings().iter().for_each(|warning| output.complaint(warning_line(&name, warning)));
}

fn warning_line(name: &str, warning: &Problem) -> String {
    format!("{name}:{}: warning: {}", warning.place, warning.message)
}

#[derive(Serialize)]
struct Checked {
    schema: &'static str,
    digest: String,
    rules: Vec<CheckedRule>,
    identities: Vec<CheckedIdentity>,
    /// What identities have that the policy does not name.
    any_other: Vec<CheckedGrant>,
    warnings: Vec<CheckedProblem>,
}

#[derive(Serialize)]
struct Refused {
    schema: &'static str,
    problems: Vec<CheckedProblem>,
    more: usize,
}

#[derive(Serialize)]
struct CheckedRule {
    id: String,
    effect: &'static str,
    line: usize,
}

#[derive(Serialize)]
struct CheckedIdentity {
    name: String,
    grants: Vec<CheckedGrant>,
}

#[derive(Serialize)]
struct CheckedGrant {
    path: String,
    reach: &'static str,
    access: Vec<&'static str>,
}

#[derive(Serialize)]
struct CheckedProblem {
    line: usize,
    column: usize,
    message: String,
}

/// Checks a policy and says what it grants.
pub(crate) fn check(output: &Output, args: &CheckArgs) -> anyhow::Result<Status> {
    let text = small_text(&args.file, POLICY_MAX, "policy")?;
    let policy = match Policy::parse(&text) {
        Ok(policy) => policy,
        Err(problems) => {
            if output.form == Form::Json {
                let (told, more) = (problems.iter().map(problem).collect(), problems.more());
                output.json(&Refused { schema: "coffer.policy-problems.v1", problems: told, more })?;
            }
            return Err(tell(output, &args.file, &problems));
        }
    };
    warn(output, &args.file, &policy);
    let checked = checked(&text, &policy);
    match output.form {
        Form::Json => output.json(&checked)?,
        Form::People => sentences(&checked).into_iter().try_for_each(|line| output.line(line))?,
    }
    Ok(Status::DONE)
}

fn problem(problem: &Problem) -> CheckedProblem {
    let Problem { place, message } = problem.clone();
    CheckedProblem { line: place.line, column: place.column, message }
}

fn checked(text: &str, policy: &Policy) -> Checked {
    let grants = |name: &IdentityName| policy.grants(name).iter().map(grant).collect();
    let rules = policy.rules().iter().map(|rule| CheckedRule {
        id: rule.id().to_string(),
        effect: rule.effect().as_str(),
        line: rule.place().line,
    });
    let names = policy.identities().keys();
    // A name that the policy does not know.
    let mut others = (0..=policy.identities().len()).filter_map(|n| format!("other-{n}").parse().ok());
    let other = others.find(|name| !policy.identities().contains_key(name));
    Checked {
        schema: "coffer.policy.v1",
        digest: Digest384::of(text.as_bytes()).to_string(),
        rules: rules.collect(),
        identities: names.map(|name| CheckedIdentity { name: name.to_string(), grants: grants(name) }).collect(),
        any_other: other.as_ref().map(grants).unwrap_or_default(),
        warnings: policy.warnings().iter().map(problem).collect(),
    }
}

fn grant(grant: &Grant) -> CheckedGrant {
    let reach = match grant.reach {
        Reach::Exact => "exact",
        Reach::Beneath => "beneath",
    };
    let access = grant.access.iter().map(|access| access.as_str()).collect();
    CheckedGrant { path: grant.path.to_string(), reach, access }
}

fn sentences(checked: &Checked) -> Vec<String> {
    let permits = checked.rules.iter().filter(|rule| rule.effect == Effect::Permit.as_str()).count();
    let forbids = checked.rules.len().saturating_sub(permits);
    let mut lines = vec![format!("policy {}", checked.digest), format!("rules: {permits} permit, {forbids} forbid")];
    let mut granted = |who: String, grants: &[CheckedGrant]| {
        lines.push(format!(
            "{who}: the kernel lets its processes{}",
            if grants.is_empty() { " use no file" } else { "" }
        ));
        for grant in grants {
            let beneath = if grant.reach == "beneath" { " and all beneath it" } else { "" };
            lines.push(format!("  {} {}{beneath}", grant.access.join(", "), printable(&grant.path)));
        }
    };
    for identity in &checked.identities {
        granted(format!("identity {}", identity.name), &identity.grants);
    }
    if !checked.any_other.is_empty() || checked.identities.is_empty() {
        let who = if checked.identities.is_empty() { "every identity" } else { "every other identity" };
        granted(who.to_owned(), &checked.any_other);
    }
    lines
}

#[derive(Serialize)]
struct Explained {
    schema: &'static str,
    decision: &'static str,
    why: Option<&'static str>,
    rules: Vec<String>,
    looked_at: Vec<LookedAt>,
}

#[derive(Serialize)]
struct LookedAt {
    rule: String,
    effect: &'static str,
    line: usize,
    /// `matched`, or the first part that did not: `principal`, `action`, `resource`, `condition`, `failed`.
    found: &'static str,
    condition: Option<String>,
    condition_line: Option<usize>,
    error: Option<String>,
}

/// Says which rules decide about a call, and why the others do not.
pub(crate) fn explain(output: &Output, args: &ExplainArgs) -> anyhow::Result<Status> {
    let (_, policy) = read(output, &args.file)?;
    let usage = |error| failure(USAGE, format!("{:#}", anyhow::Error::new(error)));
    let resource = Resource::parse(args.action, &args.resource, args.argv.clone()).map_err(usage)?;
    let ExplainArgs { calls, running, seconds, input_bytes, output_bytes, .. } = *args;
    let counters = Usage { calls, running, seconds, input_bytes, output_bytes };
    let ask = Ask::new(args.identity.clone(), args.action, resource, counters).map_err(usage)?;
    let explanation = policy.explain(&ask);
    let (colour, decision, why, rules, status) = match &explanation.decision {
        Decision::Allowed { rules } => (Colour::Good, "allowed", None, rules, Status::DONE),
        Decision::Denied { rules, why } => (Colour::Bad, "denied", Some(word(*why)), rules, Status::FAILED),
    };
    match output.form {
        Form::Json => {
            let rules = rules.iter().map(ToString::to_string).collect();
            let looked_at = explanation.rules.iter().map(looked_at).collect();
            output.json(&Explained { schema: "coffer.policy-explanation.v1", decision, why, rules, looked_at })?;
        }
        Form::People => {
            output.line(output.paint(Some(colour), &headline(&explanation.decision)))?;
            for rule in &explanation.rules {
                output.line(format_args!(
                    "  {} `{}`, line {}: {}",
                    rule.effect.as_str(),
                    rule.rule,
                    rule.place.line,
                    said(&rule.found)
                ))?;
            }
        }
    }
    Ok(status)
}

const fn word(why: Why) -> &'static str {
    match why {
        Why::NoRule => "no_rule",
        Why::Forbidden => "forbidden",
        Why::RuleFailed => "rule_failed",
    }
}

fn headline(decision: &Decision) -> String {
    let named = |rules: &[RuleId]| rules.iter().map(|rule| format!("`{rule}`")).collect::<Vec<_>>().join(", ");
    match decision {
        Decision::Allowed { rules } => format!("allowed by {}", named(rules)),
        Decision::Denied { why: Why::NoRule, .. } => "denied: no rule permits it".to_owned(),
        Decision::Denied { rules, why: Why::Forbidden } => format!("denied: forbidden by {}", named(rules)),
        Decision::Denied { rules, why: Why::RuleFailed } => {
            format!("denied: {} cannot be judged, and then nothing is allowed", named(rules))
        }
    }
}

fn said(found: &Match) -> String {
    let condition = |clause: &Clause| format!("{} {{ {} }}, line {}", clause.kind, clause.text, clause.place.line);
    match found {
        Match::Matched => "matches".to_owned(),
        Match::Principal => "is about another identity".to_owned(),
        Match::Action => "is about another action".to_owned(),
        Match::Resource => "is about another resource".to_owned(),
        Match::Condition(clause) => format!("its condition does not hold: {}", condition(clause)),
        Match::Failed(clause, why) => format!("its condition cannot be judged ({why}): {}", condition(clause)),
    }
}

fn looked_at(rule: &coffer_policy::Explained) -> LookedAt {
    let (found, clause, error) = match &rule.found {
        Match::Matched => ("matched", None, None),
        Match::Principal => ("principal", None, None),
        Match::Action => ("action", None, None),
        Match::Resource => ("resource", None, None),
        Match::Condition(clause) => ("condition", Some(clause), None),
        Match::Failed(clause, error) => ("failed", Some(clause), Some(error.clone())),
    };
    LookedAt {
        rule: rule.rule.to_string(),
        effect: rule.effect.as_str(),
        line: rule.place.line,
        found,
        condition: clause.map(|clause| format!("{} {{ {} }}", clause.kind, clause.text)),
        condition_line: clause.map(|clause| clause.place.line),
        error,
    }
}
