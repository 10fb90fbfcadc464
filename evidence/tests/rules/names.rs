//! `docs/verifier-rules.md` names the checks of the verifier: all of them, under their rules, and no others.

use std::collections::BTreeSet;
use std::path::Path;

use coffer_evidence::bundle::ORDER;
use coffer_evidence::verify::{Report, Rule, verify_bundle};

use crate::judging::{options, with_policy};
use crate::rules_page::{Named, names};
use crate::session::{Ending, Recipe, parts, sealed};

type Names = BTreeSet<(String, String)>;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

fn of_the_page() -> Names {
    let text = |named| match named {
        Named::Title(text) | Named::Check(text) => text,
    };
    names(&read("../docs/verifier-rules.md")).into_iter().map(|(rule, named)| (rule, text(named))).collect()
}

/// Every name that a source file of the verifier gives to a check.
fn of_the_source() -> Names {
    let mut names = Names::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/verify");
    for entry in std::fs::read_dir(folder).expect("src/verify") {
        let path = entry.expect("a file").path();
        let file = path.file_name().expect("a name").to_string_lossy().into_owned();
        let tests = file == "under_intels_root.rs";
        if path.extension().is_none_or(|extension| extension != "rs") || file == "report.rs" || tests {
            continue;
        }
        let text = read(&format!("src/verify/{file}"));
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        names_in(&file, code, &mut names);
    }
    for rule in Rule::ALL {
        names.insert((format!("{rule:?}"), rule.title().to_owned()));
    }
    names
}

fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.split('"').next()
}

fn names_in(file: &str, code: &str, names: &mut Names) {
    for (at, _) in code.match_indices("Rule::R") {
        let rest = &code[at + "Rule::".len()..];
        let digits = rest[1..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |n| n + 1);
        let rule = &rest[..digits];
        let Some(next) = rest[digits..].strip_prefix(',').map(str::trim_start) else { continue };
        let next = next.strip_prefix("name: ").unwrap_or(next);
        let name = if let Some(name) = quoted(next) {
            name.to_owned()
        } else if next.starts_with("NAME") {
            let before = code[..at].rfind("const NAME: &str = ").expect("a name before its use");
            quoted(&code[before + "const NAME: &str = ".len()..]).expect("a literal").to_owned()
        } else if next.starts_with(&format!("Rule::{rule}.title()")) {
            continue;
        } else {
            // A name that comes from elsewhere: members (R2), quotes (R4), expectations (R18), questions about the platform
            // (R19), which are found below.
            assert!(next.starts_with("name"), "{file}: {rule} is given a name in a new way: {}", &next[..40]);
            assert!(["R2", "R4", "R18", "R19"].contains(&rule), "{file}: {rule} takes a name from elsewhere");
            continue;
        };
        names.insert((rule.to_owned(), name));
    }
    for (start, rule) in [("quote(\"", "R4"), ("judge(\"", "R18")] {
        for (at, _) in code.match_indices(start) {
            names.insert((rule.to_owned(), quoted(&code[at + start.len() - 1..]).expect("a literal").to_owned()));
        }
    }
    if file == "platform_policy.rs" {
        // A question is a name and the method that answers it for a quote.
        let answered =
            |rest: &str| rest.trim_start_matches(|c: char| c == '_' || c.is_ascii_alphanumeric()).starts_with("(quote");
        let starts = code.match_indices("\", self.").filter(|(at, start)| answered(&code[at + start.len()..]));
        let names_found: Vec<_> = starts.filter_map(|(at, _)| code[..at].rsplit('"').next()).collect();
        assert_eq!(names_found.len(), 4, "{names_found:?}");
        names.extend(names_found.into_iter().map(|name| ("R19".to_owned(), name.to_owned())));
    }
    // Faults of R2 are named by the member.
    if matches!(file, "parsed.rs" | "opening_rules.rs") {
        for member in ORDER.iter().filter(|member| **member != "index.cbor") {
            let faults =
                [format!("at(\"{member}\")"), format!("(\"{member}\", "), format!("NAME: &str = \"{member}\"")];
            if faults.iter().any(|fault| code.contains(fault)) {
                names.insert(("R2".to_owned(), (*member).to_owned()));
            }
        }
    }
}

#[test]
fn the_page_of_rules_names_every_check_and_no_other() {
    let (page, source) = (of_the_page(), of_the_source());
    assert!(source.len() >= 60, "only {} names found: this test reads the wrong thing", source.len());
    let missing: Vec<_> = source.difference(&page).collect();
    assert!(missing.is_empty(), "docs/verifier-rules.md does not name {missing:?}");
    let unknown: Vec<_> = page.difference(&source).collect();
    assert!(unknown.is_empty(), "the verifier has no {unknown:?}");
}

/// What reports really say, against the page: a name that the reading of the source missed shows here.
#[test]
fn reports_hold_only_names_of_the_page() {
    let page = of_the_page();
    let policy =
        "anchor = \"simulated\"\nminimum_svn = 9\n[expect]\nsession = \"00000000-0000-4000-8000-000000000000\"";
    let killed = coffer_evidence::bundle::write(&parts(&Recipe::default(), Ending::Killed));
    let reports: [Report; 5] = [
        verify_bundle(&sealed(&Recipe::default()), &options()),
        verify_bundle(&sealed(&Recipe::default()), &with_policy(policy)),
        verify_bundle(&killed, &options()),
        verify_bundle(b"", &options()),
        verify_bundle(
            &sealed(&Recipe {
                tcb: crate::platform::Tcb { status: "Revoked", ..crate::platform::Tcb::UP_TO_DATE },
                ..Recipe::default()
            }),
            &options(),
        ),
    ];
    for check in reports.iter().flat_map(|report| &report.checks) {
        let name = (format!("{:?}", check.rule), check.name.to_owned());
        assert!(page.contains(&name), "docs/verifier-rules.md does not name {name:?}");
    }
}
