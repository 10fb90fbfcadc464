//! Which Debian mirror this host uses: read from its apt sources, so that a build asks the servers the host's
//! administrator chose. Reads text that was handed in; changes no source.

use super::deb822;

/// Where packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The archive with all suites but the security one.
    pub archive: String,
    /// The archive with the security suites, where the host names one.
    pub security: Option<String>,
}

/// Release names, newest last, and the moving names.
const NAMES: [&str; 11] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
];

/// Finds the mirror in the host's source files: one-line format in `lists`, deb822 format in `sources`.
pub fn find(lists: &[String], sources: &[String]) -> Option<Mirror> {
    let one_line = lists.iter().flat_map(|text| text.lines().filter_map(one_line_entry));
    let deb822 = sources.iter().flat_map(|text| deb822::paragraphs(text).flat_map(deb822_entries).collect::<Vec<_>>());
    let mut archive = None;
    let mut security = None;
    for (uri, suite) in one_line.chain(deb822) {
        let slot = match kind_of(&suite) {
            Some(Kind::Archive) => &mut archive,
            Some(Kind::Security) => &mut security,
            None => continue,
        };
        slot.get_or_insert(uri.trim_end_matches('/').to_owned());
    }
    archive.map(|archive| Mirror { archive, security })
}

enum Kind {
    Archive,
    Security,
}

/// `None` for a suite that is not one of Debian's own.
fn kind_of(suite: &str) -> Option<Kind> {
    // Until Debian 10 the security suite was called `buster/updates`.
    let (name, part) = suite.split_once(['-', '/']).unwrap_or((suite, ""));
    if !NAMES.contains(&name) {
        return None;
    }
    match part {
        "security" => Some(Kind::Security),
        "" | "updates" | "backports" | "proposed-updates" => Some(Kind::Archive),
        _ => None,
    }
}

/// `deb [options] URI suite component...`
fn one_line_entry(line: &str) -> Option<(String, String)> {
    let line = line.split('#').next()?.trim();
    let mut rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t']) {
        return None;
    }
    rest = rest.trim_start();
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        if options.split_ascii_whitespace().any(|option| option.starts_with("signed-by=") && foreign_keyring(option)) {
            return None;
        }
        rest = after;
    }
    let mut words = rest.split_ascii_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    words.any(|component| component == "main").then(|| (uri.to_owned(), suite.to_owned()))
}

fn deb822_entries(paragraph: deb822::Paragraph<'_>) -> Vec<(String, String)> {
    let disabled = paragraph.get("Enabled").is_some_and(|value| ["no", "false", "0"].contains(&value));
    let foreign = paragraph.get("Signed-By").is_some_and(foreign_keyring);
    let wanted =
        paragraph.words("Types").any(|word| word == "deb") && paragraph.words("Components").any(|word| word == "main");
    let Some(uri) = paragraph.words("URIs").next().filter(|_| wanted && !disabled && !foreign) else {
        return Vec::new();
    };
    paragraph.words("Suites").map(|suite| (uri.to_owned(), suite.to_owned())).collect()
}

/// A third party's archive may call its suites as Debian does, but it has its own keyring file.
fn foreign_keyring(signed_by: &str) -> bool {
    signed_by.contains(".gpg") && !signed_by.contains("debian-archive")
        || signed_by.contains(".asc") && !signed_by.contains("debian-archive")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Option<Mirror> {
        find(&[text.into()], &[])
    }

    fn new(text: &str) -> Option<Mirror> {
        find(&[], &[text.into()])
    }

    #[test]
    fn the_sources_of_a_stock_debian_12_and_13_are_understood() {
        let deb822 = "Types: deb\nURIs: http://mirror.test/debian/\nSuites: bookworm bookworm-updates\nComponents: main\n\
            Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
            Types: deb\nURIs: http://mirror.test/debian-security\nSuites: bookworm-security\nComponents: main\n";
        let lines = "# stock\ndeb-src http://source.test/debian trixie main\n\
            deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.test/debian trixie main contrib\n\
            deb http://mirror.test/debian-security trixie-security main # comment\n";
        let expected = Mirror {
            archive: "http://mirror.test/debian".into(),
            security: Some("http://mirror.test/debian-security".into()),
        };
        assert_eq!(new(deb822), Some(expected.clone()));
        assert_eq!(one(lines), Some(expected));
    }

    #[test]
    fn other_archives_are_not_taken_for_debians() {
        for text in [
            "deb http://other.test/apt nodistro main",
            "deb [signed-by=/usr/share/keyrings/other.gpg] http://other.test/apt bookworm main",
            "deb http://other.test/debian bookworm contrib",
            "debug http://other.test/debian bookworm main",
            "deb http://other.test/ubuntu noble main",
            "deb http://other.test/debian bookworm-pgdg main",
        ] {
            assert_eq!(one(text), None, "{text}");
        }
        let disabled = "Types: deb\nEnabled: no\nURIs: http://other.test/debian\nSuites: trixie\nComponents: main\n";
        let foreign = "Types: deb\nURIs: http://other.test/x\nSuites: trixie\nComponents: main\nSigned-By: /etc/apt/keyrings/x.asc\n";
        assert_eq!(new(disabled), None);
        assert_eq!(new(foreign), None);
    }

    #[test]
    fn a_host_without_a_security_archive_has_none() {
        let mirror = one("deb http://mirror.test/debian sid main").unwrap();
        assert_eq!(mirror.security, None);
    }
}
