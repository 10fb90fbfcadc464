//! `docs/verifier-rules.md` as its tests read it: headings `## R7 · title`, and the first cell of each row in a table below; a row
//! may begin with a rule of its own.

/// What a line of the page names, under its rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Named {
    Title(String),
    Check(String),
}

/// Every name on the page, by rule, in the order of the page.
pub(crate) fn names(page: &str) -> Vec<(String, Named)> {
    let mut names = Vec::new();
    let mut rule = String::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            rule.clear();
            if let Some((number, title)) = heading.split_once(" \u{b7} ") {
                rule = number.to_owned();
                names.push((rule.clone(), Named::Title(title.to_owned())));
            }
        } else if let Some(cell) = line.strip_prefix("| ").and_then(|row| row.split(" | ").next()) {
            let own = cell.split(' ').next().filter(|word| word.starts_with('R') && cell.contains('`'));
            let rule = own.unwrap_or(&rule).to_owned();
            if let Some(name) = cell.split('`').nth(1).filter(|_| !rule.is_empty()) {
                names.push((rule, Named::Check(name.to_owned())));
            }
        }
    }
    names
}
