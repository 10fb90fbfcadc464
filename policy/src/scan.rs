//! The text cut into words and rules, by the lexical rules of Cedar: before its parser sees a text, so that neither depth
//! nor length of a rule is a stranger's to choose; and after, to tell where things stand.

use std::ops::Range;

/// The most words of a text.
pub(crate) const WORDS_MAX: usize = 32_768;

/// The words of a text: strings whole, comments and spaces left out. Every byte that is no part of another word is one.
pub(crate) struct Words<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Words<'t> {
    pub(crate) const fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            let blanks = rest.len().saturating_sub(rest.trim_start().len());
            self.skip(blanks);
            let rest = self.rest();
            if !rest.starts_with("//") {
                return;
            }
            self.skip(rest.find(['\n', '\r']).unwrap_or(rest.len()));
        }
    }
}

impl Iterator for Words<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        self.skip_blanks();
        let start = self.at;
        let rest = self.rest();
        let first = rest.chars().next()?;
        let length = if first == '"' {
            string_length(rest)
        } else if is_of_name(first) {
            rest.find(|c| !is_of_name(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        self.skip(length);
        Some(start..self.at)
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Bytes of the string that the text begins with, quotes included. One without an end goes to the end of the text.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at.saturating_add(1),
            _ => {}
        }
    }
    text.len()
}

/// A rule as it stands in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    /// From its first word to its `;`.
    pub(crate) bytes: Range<usize>,
    pub(crate) words: usize,
    /// No less than the depth of the tree that it parses to: operators in a row, brackets in brackets.
    pub(crate) depth: usize,
}

/// The rules of a text, in order; what follows the last `;` is one, too.
pub(crate) fn statements(text: &str) -> impl Iterator<Item = Statement> {
    let mut words = Words::new(text);
    std::iter::from_fn(move || {
        let mut found: Option<Statement> = None;
        let mut depth = Depth::default();
        for word in words.by_ref() {
            let it = text.get(word.clone()).unwrap_or_default();
            let statement = found.get_or_insert(Statement { bytes: word.clone(), words: 0, depth: 0 });
            statement.bytes.end = word.end;
            statement.words = statement.words.saturating_add(1);
            depth.take(it, &word);
            // Longer than anything that is looked at any further.
            if it == ";" || statement.words > WORDS_MAX {
                break;
            }
        }
        found.map(|statement| Statement { depth: depth.most(), ..statement })
    })
}

/// What brackets weigh more than an operator when they hold something: Cedar's parser goes through all its levels of precedence
/// again for what is in them.
const NESTED: usize = 3;

/// The depth of a rule as far as its words tell. On the way to a leaf of the tree lie at most the operators and pairs of
/// brackets of one element at each level.
#[derive(Default)]
struct Depth {
    /// The levels outside of the present one.
    outer: Vec<Level>,
    level: Level,
    /// The first character of the last word, and where that word ended.
    last: (char, usize),
}

/// What stands between a pair of brackets.
#[derive(Clone, Copy, Default)]
struct Level {
    /// Operators of the present element, between commas.
    operators: usize,
    /// The deepest brackets in the present element.
    inner: usize,
    /// The deepest element before it.
    before: usize,
}

impl Level {
    fn most(self) -> usize {
        self.before.max(self.operators.saturating_add(self.inner))
    }
}

impl Depth {
    fn take(&mut self, word: &str, at: &Range<usize>) {
        let first = word.chars().next().unwrap_or(' ');
        match word {
            // Calls and accesses stand in a row like operators do: each pair counts for what follows it, too.
            "(" | "[" | "{" => {
                self.operator();
                self.outer.push(std::mem::take(&mut self.level));
            }
            ")" | "]" | "}" => {
                let closed = self.level.most().saturating_add(NESTED);
                // One too many is the parser's to tell.
                self.level = self.outer.pop().unwrap_or_default();
                self.level.inner = self.level.inner.max(closed);
            }
            "," => self.level = Level { before: self.level.most(), ..Level::default() },
            "if" | "in" | "is" | "has" | "like" => self.operator(),
            _ if "=&|<>!+-*/%.".contains(first) => {
                let (last, end) = self.last;
                let pair = matches!((last, first), ('=' | '!' | '<' | '>', '=') | ('&', '&') | ('|', '|'));
                if !(pair && end == at.start) {
                    self.operator();
                }
            }
            _ => {}
        }
        self.last = (first, at.end);
    }

    fn operator(&mut self) {
        self.level.operators = self.level.operators.saturating_add(1);
    }

    fn most(&self) -> usize {
        self.outer
            .iter()
            .fold(self.level.most(), |inner, level| level.most().saturating_add(inner).saturating_add(NESTED))
    }
}

/// The parts of one rule that Cedar has parsed. Ranges of its own text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    /// What stands between the brackets after `permit` or `forbid`, cut at its commas.
    pub(crate) scope: Vec<Range<usize>>,
    /// `when` or `unless`, and what stands between its braces.
    pub(crate) clauses: Vec<(Range<usize>, Range<usize>)>,
}

pub(crate) fn parts(rule: &str) -> Parts {
    let mut parts = Parts::default();
    let mut words = Words::new(rule).peekable();
    let is = |word: &Range<usize>, text: &str| rule.get(word.clone()) == Some(text);
    while words.next_if(|word| !is(word, "permit") && !is(word, "forbid")).is_some() {}
    words.next();
    // The scope: `( a , b , c )`, where b may hold a list.
    let mut depth: usize = 0;
    let mut part: Option<Range<usize>> = None;
    for word in words.by_ref() {
        let text = rule.get(word.clone()).unwrap_or_default();
        match text {
            "(" | "[" => depth = depth.saturating_add(1),
            ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        let ends = depth == 0 || (depth == 1 && text == ",");
        if ends {
            parts.scope.extend(part.take());
        } else if depth > 1 || !matches!(text, "(") {
            part = Some(part.map_or(word.clone(), |part| part.start..word.end));
        }
        if depth == 0 {
            break;
        }
    }
    // The clauses: `when { … }`.
    while let Some(kind) = words.next_if(|word| is(word, "when") || is(word, "unless")) {
        let mut depth: usize = 0;
        let mut body: Option<Range<usize>> = None;
        for word in words.by_ref() {
            let outer = depth;
            if is(&word, "{") {
                depth = depth.saturating_add(1);
            } else if is(&word, "}") {
                depth = depth.saturating_sub(1);
            }
            if depth == 0 {
                break;
            }
            if outer > 0 {
                body = Some(body.map_or(word.clone(), |body| body.start..word.end));
            }
        }
        parts.clauses.push((kind, body.unwrap_or_default()));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        Words::new(text).map(|word| &text[word]).collect()
    }

    #[test]
    fn strings_are_one_word_and_comments_are_none() {
        assert_eq!(
            words(
                r#"a."b;\"//" // c; "d"
            e::"f""#
            ),
            ["a", ".", r#""b;\"//""#, "e", ":", ":", r#""f""#]
        );
        assert_eq!(words("x \"never ends; "), ["x", "\"never ends; "]);
        assert_eq!(words("a// b\rc"), ["a", "c"]);
        assert_eq!(words("ä€1"), ["ä", "€", "1"]);
        assert_eq!(words(" // only\n"), [""; 0]);
    }

    #[test]
    fn rules_end_at_their_semicolons_wherever_else_one_stands() {
        let text = "@id(\"a;\") permit (x); // ;\n forbid ([{y}]) ; rest";
        let found: Vec<_> = statements(text).collect();
        let texts: Vec<&str> = found.iter().map(|s| &text[s.bytes.clone()]).collect();
        assert_eq!(texts, ["@id(\"a;\") permit (x);", "forbid ([{y}]) ;", "rest"]);
        assert_eq!(found.iter().map(|s| (s.words, s.depth)).collect::<Vec<_>>(), [(10, 5), (9, 12), (1, 0)]);
        assert_eq!(statements("// nothing\n").count(), 0);
    }

    #[test]
    fn depth_counts_operators_in_a_row_and_brackets_in_brackets() {
        let depth = |text: &str| statements(text).next().unwrap().depth;
        assert_eq!(depth("a == b;"), 1);
        assert_eq!(depth("a || b && !c <= d;"), 4);
        assert_eq!(depth("a.b.c + 1 - 1;"), 4);
        assert_eq!(depth("if a then b else if c then d else e"), 2);
        assert_eq!(depth("Path::\"a.b\" in [\"x\", \"y\", \"z\"]"), 5);
        // Of elements the deepest counts, and of brackets.
        assert_eq!(depth("[1+1, 1+1+1, 1]"), 6);
        assert_eq!(depth("f(a)(b) || [[[c]]]"), 15);
        assert_eq!(depth(r#"a["b"]["c"]["d"]"#), 6);
        // What is never closed counts, too.
        assert_eq!(depth("((((("), 20);
        assert_eq!(depth("))))"), 12);
    }

    #[test]
    fn a_rule_falls_into_scope_and_clauses() {
        let rule = r#"@id("x") permit (principal, action in [Action::"a", Action::"b,"], resource in Path::"/)",)
            when { {a: {b: 1}}.a.b == 1 } unless { "}" == context.first } when {true};"#;
        let found = parts(rule);
        let scope: Vec<&str> = found.scope.iter().map(|part| &rule[part.clone()]).collect();
        assert_eq!(scope, ["principal", r#"action in [Action::"a", Action::"b,"]"#, r#"resource in Path::"/)""#]);
        let clauses: Vec<_> =
            found.clauses.iter().map(|(kind, body)| (&rule[kind.clone()], &rule[body.clone()])).collect();
        let expected = [("when", "{a: {b: 1}}.a.b == 1"), ("unless", r#""}" == context.first"#), ("when", "true")];
        assert_eq!(clauses, expected);
    }

    #[test]
    fn garbage_has_parts_of_some_kind() {
        for text in
            ["", "permit", "permit (", "permit ()", "permit ) when {", "when }", "permit(principal,,) unless {{"]
        {
            parts(text);
        }
    }
}
