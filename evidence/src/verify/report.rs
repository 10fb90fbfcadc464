//! What a verification says: the checks rule by rule, the verdict (truth), whether it is accepted (policy), and the words.
//! One JSON form and one for people, both functions of the report alone: the same bytes on every machine.

use std::fmt::Write as _;

use serde::Serialize;

use super::dates::date;

/// Name and version of the JSON form.
pub const SCHEMA: &str = "coffer.verdict.v1";

/// The truth about a bundle.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole record of one TD instance, sealed by it.
    Sealed,
    /// A genuine prefix; nothing is known about what follows.
    Aborted,
    /// Something that is present is wrong.
    Invalid,
    /// Something that is needed is missing.
    Indeterminate,
}

/// Whether the policy accepts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Accepted {
    /// Exit status 0.
    Yes,
    /// Exit status 1.
    No,
    /// Exit status 2.
    CannotTell,
}

/// The rules of the evidence specification, in their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[expect(missing_docs, reason = "the table in `Rule::title` says what each is")]
pub enum Rule {
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    R16,
    R17,
    R18,
    R19,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 19] = [
        Rule::R1,
        Rule::R2,
        Rule::R3,
        Rule::R4,
        Rule::R5,
        Rule::R6,
        Rule::R7,
        Rule::R8,
        Rule::R9,
        Rule::R10,
        Rule::R11,
        Rule::R12,
        Rule::R13,
        Rule::R14,
        Rule::R15,
        Rule::R16,
        Rule::R17,
        Rule::R18,
        Rule::R19,
    ];

    /// What the rule is about.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Rule::R1 => "framing, caps, order, index",
            Rule::R2 => "every file parses and is canonical",
            Rule::R3 => "image manifest",
            Rule::R4 => "quotes",
            Rule::R5 => "one root, platform label",
            Rule::R6 => "same TD and platform",
            Rule::R7 => "boot measurements",
            Rule::R8 => "owner signature, configuration registers",
            Rule::R9 => "opening",
            Rule::R10 => "leaves and roots",
            Rule::R11 => "checkpoint note",
            Rule::R12 => "call chains",
            Rule::R13 => "intents and outcomes",
            Rule::R14 => "seal",
            Rule::R15 => "acknowledgements",
            Rule::R16 => "private parts",
            Rule::R17 => "endpoint evidence, host receipt",
            Rule::R18 => "expectations",
            Rule::R19 => "appraisal",
        }
    }
}

/// How one check ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckResult {
    /// It holds.
    Pass,
    /// It does not hold.
    Fail,
    /// Something that it needs is missing.
    CannotTell,
    /// It was not looked at; the reason says why.
    NotEvaluated,
}

/// Whether a check decides the verdict or the acceptance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Concerns {
    /// The verdict.
    Truth,
    /// The acceptance only.
    Policy,
}

/// One line of the check table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// The rule it belongs to.
    pub rule: Rule,
    /// What was looked at.
    pub name: &'static str,
    /// How it ended.
    pub result: CheckResult,
    /// What was expected and found; empty where there is nothing to add.
    pub reason: String,
    /// What it decides.
    #[serde(skip)]
    pub concerns: Concerns,
}

/// The image that booted, as its manifest names it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ReportedImage {
    /// Name and version.
    pub name: String,
    /// SHA-256 of the manifest, hex.
    pub digest: String,
    /// The pinned publisher key that signed it, hex; none when no pinned key did.
    pub publisher: Option<String>,
}

/// The result of a verification. The JSON form is these fields in this order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The truth.
    pub verdict: Verdict,
    /// The policy's answer.
    pub accepted: Accepted,
    /// `tdx` or `simulated`, by the root that verified; none before that is known.
    pub platform: Option<String>,
    /// `end-to-end` or `delegated`.
    pub authority: Option<&'static str>,
    /// `sealed` or `aborted`, as the files present claim; the verdict says whether that is true.
    pub outcome: Option<&'static str>,
    /// Why the session ended, as the seal says.
    pub reason: Option<String>,
    /// `client`, `agent` or `host`, as the seal says.
    pub closed_by: Option<String>,
    /// UUID.
    pub session: Option<String>,
    /// Hex.
    pub instance: Option<String>,
    /// `whole(n)` or `prefix(n)`, with n leaves.
    pub extent: Option<String>,
    /// The image.
    pub image: Option<ReportedImage>,
    /// SHA-256 of the appraisal policy, hex.
    pub policy_digest: Option<String>,
    /// The time of the verification, unix seconds, as given.
    pub at: u64,
    /// Latest issue date of the collateral of the last quote, unix seconds.
    pub as_of: Option<u64>,
    /// All checks, in the order of the rules.
    pub checks: Vec<Check>,
    /// SHA-256 of the index, hex.
    pub bundle_id: Option<String>,
    /// SHA-256 of the index without the files that may be dropped, hex.
    pub core_id: Option<String>,
    /// What may be said about this bundle, and no more.
    pub words: Vec<String>,
}

impl Report {
    /// One compact line of JSON, without a line feed.
    #[must_use]
    pub fn json_line(&self) -> String {
        // Strings, numbers and lists of them: serialising cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// 0 accepted, 1 not accepted, 2 cannot tell.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.accepted {
            Accepted::Yes => 0,
            Accepted::No => 1,
            Accepted::CannotTell => 2,
        }
    }

    /// The checks that stand in the way of acceptance.
    pub fn obstacles(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| matches!(check.result, CheckResult::Fail | CheckResult::CannotTell))
    }

    /// The report for people: verdict, words, what stands in the way, table of checks.
    #[must_use]
    pub fn human(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_human(&mut out);
        out
    }

    fn write_human(&self, out: &mut String) -> std::fmt::Result {
        let accepted = match self.accepted {
            Accepted::Yes => "accepted",
            Accepted::No => "not accepted",
            Accepted::CannotTell => "cannot tell whether to accept",
        };
        let extent = self.extent.as_ref().map(|extent| format!(", {extent}")).unwrap_or_default();
        writeln!(out, "verdict    {}{extent}: {accepted}", verdict_word(self.verdict))?;
        let rows = [
            ("platform", self.platform.clone()),
            ("session", self.session.clone()),
            ("instance", self.instance.clone()),
            ("authority", self.authority.map(str::to_owned)),
            ("closed by", self.closed_by.clone()),
            ("reason", self.reason.clone()),
            ("image", self.image.as_ref().map(|image| format!("{}, sha256:{}", image.name, image.digest))),
            ("publisher", self.image.as_ref().and_then(|image| image.publisher.clone())),
            ("policy", self.policy_digest.as_ref().map(|digest| format!("sha256:{digest}"))),
            ("at", Some(date(self.at))),
            ("as of", self.as_of.map(date)),
            ("bundle id", self.bundle_id.clone()),
            ("core id", self.core_id.clone()),
        ];
        for (label, value) in rows {
            if let Some(value) = value {
                writeln!(out, "{label:<11}{}", printable(&value))?;
            }
        }
        for words in &self.words {
            writeln!(out, "\n{}", printable(words))?;
        }
        let obstacles: Vec<&Check> = self.obstacles().collect();
        if !obstacles.is_empty() {
            writeln!(out, "\nin the way:")?;
            for check in obstacles {
                writeln!(out, "  {:?} {}: {}", check.rule, check.name, printable(&check.reason))?;
            }
        }
        writeln!(out, "\nchecks:")?;
        for check in &self.checks {
            let result = match check.result {
                CheckResult::Pass => "pass",
                CheckResult::Fail => "FAIL",
                CheckResult::CannotTell => "cannot tell",
                CheckResult::NotEvaluated => "not evaluated",
            };
            let rule = format!("{:?}", check.rule);
            let line = format!("  {rule:<4}{:<44}{result:<15}{}", check.name, printable(&check.reason));
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Sealed => "sealed",
        Verdict::Aborted => "aborted",
        Verdict::Invalid => "invalid",
        Verdict::Indeterminate => "indeterminate",
    }
}

/// Strings that come from a guest or a bundle reach a terminal through this: control characters and everything that is not ASCII
/// are shown as escapes.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c == ' ' || c.is_ascii_graphic() { vec![c] } else { c.escape_default().collect() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_as_an_escape() {
        assert_eq!(printable("a b~!"), "a b~!");
        assert_eq!(printable("\u{1b}[2J\r\n\t\0\u{7f}"), "\\u{1b}[2J\\r\\n\\t\\u{0}\\u{7f}");
        assert_eq!(printable("\u{e9}\u{202e}"), "\\u{e9}\\u{202e}");
    }
}
