//! What is wrong with a policy text, and where.

use std::fmt;

/// The most problems that are told of one text.
pub const PROBLEMS_MAX: usize = 64;
/// The longest message of a problem in bytes; longer ones are cut.
const MESSAGE_MAX: usize = 600;

/// A place in a text: both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One thing that is wrong, or, as a warning, not as it seems.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What was expected, what was found, what to do. One line without control characters.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(place: Place, message: &str) -> Self {
        Self { place, message: one_line(message) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// A text is hostile until it is parsed: its words in a message neither move a cursor nor fill a screen.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars() {
        if line.len() >= MESSAGE_MAX {
            line.push_str(" …");
            break;
        }
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            c if c.is_control() || is_direction(c) => line.extend(c.escape_unicode()),
            c => line.push(c),
        }
    }
    line
}

/// Characters that change the direction of text, or have no width.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Everything that is wrong with a text, in its order. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    first: Vec<Problem>,
    more: usize,
}

impl Problems {
    pub(crate) fn new(mut all: Vec<Problem>) -> Self {
        all.sort();
        all.dedup();
        let more = all.len().saturating_sub(PROBLEMS_MAX);
        all.truncate(PROBLEMS_MAX);
        Self { first: all, more }
    }

    /// The first [`PROBLEMS_MAX`].
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.first.iter()
    }

    /// How many were left out.
    #[must_use]
    pub const fn more(&self) -> usize {
        self.more
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.first.iter().enumerate() {
            write!(f, "{}{problem}", if at == 0 { "" } else { "\n" })?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

/// Where lines begin in a text.
pub(crate) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        let after = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at.saturating_add(1));
        Self { text, starts: std::iter::once(0).chain(after).collect() }
    }

    /// The place of a byte.
    pub(crate) fn place(&self, offset: usize) -> Place {
        let offset = self.text.floor_char_boundary(offset.min(self.text.len()));
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|line| self.starts.get(line)).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or_default();
        Place { line, column: before.chars().count().saturating_add(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let lines = Lines::new("a\nß€x\n");
        let place = |offset| (lines.place(offset).line, lines.place(offset).column);
        assert_eq!([place(0), place(1), place(2), place(4), place(7)], [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]);
        // Inside a character, at the end, and beyond it.
        assert_eq!([place(3), place(9), place(99)], [(2, 1), (3, 1), (3, 1)]);
    }

    #[test]
    fn problems_are_sorted_told_once_and_end_at_their_limit() {
        let problem = |line| Problem::new(Place { line, column: 1 }, "x");
        let problems = Problems::new((0..70).rev().chain([3, 3]).map(problem).collect());
        assert_eq!((problems.iter().count(), problems.more()), (PROBLEMS_MAX, 6));
        assert!(problems.iter().is_sorted());
        assert!(problems.to_string().starts_with("0:1: x\n1:1: x\n") && problems.to_string().ends_with("\nand 6 more"));
    }

    #[test]
    fn a_message_is_one_line_of_bounded_length_without_control_characters() {
        let message = Problem::new(Place { line: 1, column: 1 }, &"a\n\x1b[2J\u{202e}".repeat(100)).message;
        assert!(message.starts_with("a \\u{1b}[2J\\u{202e}a "), "{message}");
        assert!(message.len() < MESSAGE_MAX + 20 && !message.chars().any(char::is_control));
    }
}
