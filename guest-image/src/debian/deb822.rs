//! Debian's paragraph format (deb822(5)): `Field: value` lines, continuation lines that start with white space,
//! paragraphs parted by blank lines. Used for apt sources and for package indexes. Gives text only; knows no field.

/// One paragraph. Field names are compared without regard to case, as the format says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Paragraph<'a> {
    fields: Vec<(&'a str, String)>,
}

impl<'a> Paragraph<'a> {
    /// The value of a field, continuation lines joined by `\n`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The words of a field; none if it is absent.
    pub fn words(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name).unwrap_or_default().split_ascii_whitespace()
    }

    fn push_line(&mut self, line: &'a str) {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = self.fields.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            self.fields.push((name.trim_end(), value.trim().to_owned()));
        }
    }
}

/// The paragraphs of `text` in order. Lines that fit nothing are skipped: the files are apt's business to check.
pub fn paragraphs(text: &str) -> impl Iterator<Item = Paragraph<'_>> {
    let mut lines = text.lines();
    std::iter::from_fn(move || {
        let mut paragraph = Paragraph::default();
        for line in lines.by_ref() {
            if line.starts_with('#') {
                continue;
            }
            if !line.trim().is_empty() {
                paragraph.push_line(line);
            } else if !paragraph.fields.is_empty() {
                return Some(paragraph);
            }
        }
        (!paragraph.fields.is_empty()).then_some(paragraph)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_continuations_and_blank_lines_are_understood() {
        let text = "\n\nTypes: deb\n# a comment\nURIs: one\n two\nsuites:  a  b \n\n\nTypes: deb-src\n";
        let all: Vec<_> = paragraphs(text).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].words("uris").collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(all[0].get("Suites"), Some("a  b"));
        assert_eq!(all[1].get("Types"), Some("deb-src"));
        assert_eq!(all[1].get("URIs"), None);
    }

    #[test]
    fn text_that_is_no_paragraph_gives_none() {
        for text in ["", "\n\n", "# only a comment\n", " lonely continuation\n", "no colon\n"] {
            assert_eq!(paragraphs(text).count(), 0, "{text:?}");
        }
    }
}
