//! From a text to a policy: everything that is wrong with it at once, each with its place and what to do about it.
//!
//! ```text
//!  text ─ size ─ rules cut, bounded ─ Cedar parses each ─ id, paths, names ─ schema, strict ─ what the kernel can keep
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use cedar_policy::{self as cedar, PolicyId, PolicySet, ValidationError, ValidationMode, ValidationWarning, Validator};
use miette::Diagnostic;

use crate::action::{Action, Kind};
use crate::ask::{NAME_LENGTH_MAX, is_resource_name};
use crate::bounds;
use crate::domain::{IDENTITY, domain};
use crate::names::{IdentityName, RuleId};
use crate::paths::AbsolutePath;
use crate::problem::{Lines, Place, Problem, Problems};
use crate::rules::Rule;
use crate::scan::{Statement, WORDS_MAX, Words, statements};
use crate::warnings;

/// The largest policy text in bytes. The evidence would hold a larger one; the guest's processes hand it to each other in one
/// frame with the configuration, of at most 512 KiB together.
pub const POLICY_MAX: usize = 128 * 1024;
/// The most rules of a policy.
pub const RULES_MAX: usize = 256;
/// The most words of a rule, and of all rules together eight times as many: they bound the parser's work. A string is one word,
/// comments are none.
pub const RULE_WORDS_MAX: usize = 4096;
/// How deep a rule may be: operators in a row, brackets in brackets, of which a pair weighs as much as four operators. Cedar's
/// parser fails on what is deeper than its stack reaches, and its validator takes it as right, so it may never get there:
/// this fits a stack of 1 MiB.
pub const DEPTH_MAX: usize = 128;

/// A policy that parsed, is valid, and promises nothing that the kernel could not keep.
pub struct Policy {
    text: String,
    set: PolicySet,
    rules: Vec<Rule>,
    identities: BTreeMap<IdentityName, Place>,
    /// Every `Path` that it names.
    paths: BTreeSet<String>,
    warnings: Vec<Problem>,
}

impl Policy {
    /// Reads a text.
    ///
    /// # Errors
    /// [`Problems`]: all that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        let mut reading = Reading::new(text);
        if text.len() > POLICY_MAX {
            reading.say(0, &format!("expected a policy of at most {POLICY_MAX} bytes, found {}", text.len()));
            return Err(Problems::new(reading.problems));
        }
        let statements = reading.bounded();
        for statement in &statements {
            reading.rule(statement);
        }
        reading.validate();
        let Reading { mut problems, set, rules, identities, paths, mut warnings, .. } = reading;
        let mut policy = Self { text: text.to_owned(), set, rules, identities, paths, warnings: Vec::new() };
        problems.extend(bounds::check(&policy));
        if !problems.is_empty() {
            return Err(Problems::new(problems));
        }
        warnings.extend(warnings::of(&policy));
        warnings.sort();
        warnings.dedup();
        policy.warnings = warnings;
        Ok(policy)
    }

    /// Its rules, in the order of the text.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The identities that it names, and where it does so first.
    #[must_use]
    pub const fn identities(&self) -> &BTreeMap<IdentityName, Place> {
        &self.identities
    }

    /// What is no error, but probably not what was meant.
    #[must_use]
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    pub(crate) const fn set(&self) -> &PolicySet {
        &self.set
    }

    pub(crate) const fn paths(&self) -> &BTreeSet<String> {
        &self.paths
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

struct Reading<'t> {
    text: &'t str,
    lines: Lines<'t>,
    problems: Vec<Problem>,
    set: PolicySet,
    rules: Vec<Rule>,
    identities: BTreeMap<IdentityName, Place>,
    /// Every `Path` that it names.
    paths: BTreeSet<String>,
    warnings: Vec<Problem>,
}

impl<'t> Reading<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            text,
            lines: Lines::new(text),
            problems: Vec::new(),
            set: PolicySet::new(),
            rules: Vec::new(),
            identities: BTreeMap::new(),
            paths: BTreeSet::new(),
            warnings: Vec::new(),
        }
    }

    fn say(&mut self, offset: usize, message: &str) {
        self.problems.push(Problem::new(self.lines.place(offset), message));
    }

    /// The rules that are small enough for the parser. With too many or too much in all, none.
    fn bounded(&mut self) -> Vec<Statement> {
        let mut fit = Vec::new();
        let (mut count, mut words) = (0_usize, 0_usize);
        for statement in statements(self.text) {
            count = count.saturating_add(1);
            words = words.saturating_add(statement.words);
            let start = statement.bytes.start;
            if count > RULES_MAX {
                self.say(start, &format!("expected at most {RULES_MAX} rules, found more: join some, or drop some"));
                return Vec::new();
            }
            if words > WORDS_MAX {
                self.say(
                    start,
                    &format!("expected at most {WORDS_MAX} words in all rules, found more by the end of this"),
                );
                return Vec::new();
            }
            if statement.words > RULE_WORDS_MAX {
                let found = statement.words;
                self.say(start, &format!("expected a rule of at most {RULE_WORDS_MAX} words, found {found}: split it"));
            } else if statement.depth > DEPTH_MAX {
                let found = statement.depth;
                let expected = format!("at most {DEPTH_MAX} deep (operators in a row and brackets in brackets)");
                self.say(start, &format!("expected a rule {expected}, found {found}: split it"));
            } else {
                fit.push(statement);
            }
        }
        fit
    }

    fn rule(&mut self, statement: &Statement) {
        let start = statement.bytes.start;
        let text = self.text.get(statement.bytes.clone()).unwrap_or_default();
        let policy = match cedar::Policy::parse(None, text) {
            Ok(policy) => policy,
            Err(errors) => {
                for error in errors.iter() {
                    self.diagnostic(error, start, text.len());
                }
                return;
            }
        };
        let before = self.problems.len();
        self.literals(&policy, text, start);
        let Some(id) = self.id(&policy, text, start) else { return };
        if self.problems.len() > before {
            return;
        }
        let rule = Rule::read(&policy, id, self.lines.place(start), text, start);
        let policy = policy.new_id(PolicyId::new(rule.id.as_str()));
        match self.set.add(policy) {
            Ok(()) => self.rules.push(rule),
            Err(error) => self.say(start, &format!("expected a rule that can be added to the others: {error}")),
        }
    }

    /// The id of a rule: the one annotation that there is.
    fn id(&mut self, policy: &cedar::Policy, text: &str, start: usize) -> Option<RuleId> {
        let other: Vec<String> =
            policy.annotations().map(|(key, _)| key.to_owned()).filter(|key| key != "id").collect();
        for key in other {
            self.say(start, &format!("expected `@id` as the only annotation, found `@{key}`: write it as a comment"));
        }
        let Some(id) = policy.annotation("id") else {
            self.say(start, "expected `@id(\"…\")` before the rule, found none: the action log names rules by it");
            return None;
        };
        let at = start.saturating_add(find(text, ["@", "id", "("], id).unwrap_or(0));
        match id.parse::<RuleId>() {
            Ok(id) => match self.rules.iter().find(|rule| rule.id == id).map(|rule| rule.place) {
                Some(place) => {
                    self.say(
                        at,
                        &format!("expected an id of its own for each rule, found `{id}` again (first at {place})"),
                    );
                    None
                }
                None => Some(id),
            },
            Err(error) => {
                self.say(at, &format!("{error}; found `{id}`"));
                None
            }
        }
    }

    /// The names and paths in a rule, of its scope and of its conditions.
    fn literals(&mut self, policy: &cedar::Policy, text: &str, start: usize) {
        for uid in policy.entity_literals() {
            let name = uid.id().unescaped();
            let at = start.saturating_add(find(text, [uid.type_name().basename(), ":", ":"], name).unwrap_or(0));
            if domain().is_identity(uid.type_name()) {
                match name.parse::<IdentityName>() {
                    Ok(identity) => {
                        let place = self.lines.place(at);
                        self.identities.entry(identity).and_modify(|first| *first = place.min(*first)).or_insert(place);
                    }
                    Err(error) => self.say(at, &format!("{error}; found `{name}`")),
                }
            }
            match domain().kind(uid.type_name()) {
                Some(Kind::Path | Kind::Program) => match name.parse::<AbsolutePath>() {
                    Ok(path) => drop(self.paths.insert(path.as_str().to_owned())),
                    Err(error) => self.say(at, &format!("{error}; found `{name}`")),
                },
                Some(Kind::Remote | Kind::Host | Kind::Model | Kind::Secret) if !is_resource_name(name) => {
                    let expected =
                        format!("a name of 1 to {NAME_LENGTH_MAX} bytes without spaces and control characters");
                    self.say(at, &format!("expected {expected}; found `{name}`"));
                }
                // Types that there are not are told by the schema.
                Some(_) | None => {}
            }
        }
    }

    /// Holds the rules that parsed against the schema.
    fn validate(&mut self) {
        let result = Validator::new(domain().schema.clone()).validate(&self.set, ValidationMode::Strict);
        let bounds = |rules: &[Rule], id: &PolicyId| {
            let rule = rules.iter().find(|rule| id.to_string() == rule.id.as_str());
            rule.map_or((0, 0), |rule| (rule.offset, rule.text.len()))
        };
        for error in result.validation_errors() {
            let (start, length) = bounds(&self.rules, error.policy_id());
            let message = match error {
                ValidationError::UnrecognizedActionId(_) => format!("{error}; expected one of {}", names_of_actions()),
                ValidationError::UnrecognizedEntityType(_) => format!("{error}; expected one of {}", names_of_types()),
                _ => told(error),
            };
            let message = of_rule(&message, error.policy_id());
            self.problems.push(Problem::new(self.place_in(error, start, length), &message));
        }
        for warning in result.validation_warnings() {
            let (start, length) = bounds(&self.rules, warning.policy_id());
            let message = match warning {
                ValidationWarning::ImpossiblePolicy(_) | ValidationWarning::InvalidActionApplication(_) => {
                    let id = warning.policy_id();
                    format!(
                        "rule `{id}` can never match: no call has such an identity, action and resource (`in` names a group)"
                    )
                }
                _ => of_rule(&told(warning), warning.policy_id()),
            };
            self.warnings.push(Problem::new(self.place_in(warning, start, length), &message));
        }
    }

    fn diagnostic(&mut self, diagnostic: &dyn Diagnostic, start: usize, length: usize) {
        let problem = Problem::new(self.place_in(diagnostic, start, length), &told(diagnostic));
        self.problems.push(problem);
    }

    /// The place of what Cedar tells of a rule that begins at `start`.
    fn place_in(&self, diagnostic: &dyn Diagnostic, start: usize, length: usize) -> Place {
        let label = diagnostic.labels().and_then(|mut labels| labels.next());
        let within = label.map_or(0, |label| label.offset()).min(length);
        self.lines.place(start.saturating_add(within))
    }
}

/// Cedar's words about a policy, which is a rule to us.
fn of_rule(message: &str, id: &PolicyId) -> String {
    format!("rule `{id}`: {}", message.replacen(&format!("for policy `{id}`, "), "", 1))
}

fn names_of_actions() -> String {
    Action::ALL.iter().map(|action| action.as_str()).chain(["file", "git"]).collect::<Vec<_>>().join(", ")
}

fn names_of_types() -> String {
    Kind::ALL.iter().map(|kind| kind.as_str()).chain([IDENTITY]).collect::<Vec<_>>().join(", ")
}

/// What Cedar says: what is wrong, what was expected there, and its advice.
fn told(diagnostic: &dyn Diagnostic) -> String {
    let mut words = diagnostic.to_string();
    let labels = diagnostic.labels().into_iter().flatten();
    for label in labels.filter_map(|label| label.label().map(str::to_owned)) {
        let _ = write!(words, ": {label}");
    }
    if let Some(help) = diagnostic.help() {
        let _ = write!(words, "; {help}");
    }
    words
}

/// Where a string stands in a rule after these words, as far as it is written without escapes.
fn find(rule: &str, before: [&str; 3], content: &str) -> Option<usize> {
    let mut last = [""; 3];
    for range in Words::new(rule) {
        let word = rule.get(range.clone()).unwrap_or_default();
        let quoted = word.strip_prefix('"').and_then(|word| word.strip_suffix('"'));
        if last == before && quoted == Some(content) {
            return Some(range.start);
        }
        let [_, second, third] = last;
        last = [second, third, word];
    }
    None
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<&str> = self.rules.iter().map(|rule| rule.id.as_str()).collect();
        f.debug_struct("Policy").field("rules", &ids).finish_non_exhaustive()
    }
}
