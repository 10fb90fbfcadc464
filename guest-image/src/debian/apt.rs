//! apt-get under a configuration of its own: own sources, lists and caches in Coffer's cache directory, Debian's keyring,
//! no installed package, no root. The host's apt state is neither read (but for its network settings) nor changed.

use super::mirror::Mirror;
use crate::process::{self, CommandError};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Package lists younger than this are used as they are.
const LISTS_FRESH: Duration = Duration::from_secs(24 * 3600);
/// The host's `Acquire::` settings that say how to reach a mirror and how strict its clock is. Never a setting that
/// touches signatures.
const INHERITED: [&str; 8] = [
    "Acquire::http",
    "Acquire::https",
    "Acquire::Retries",
    "Acquire::ForceIPv4",
    "Acquire::ForceIPv6",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::Max-ValidTime",
];

/// A suite of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suite {
    /// Its name on the mirror.
    pub name: &'static str,
    /// apt's priority for its packages; below zero: never chosen by apt itself.
    pub priority: i32,
}

/// Whether an index that has expired is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// As the host's apt does it: an old index may hide a newer, corrected package.
    AsOnHost,
    /// No: every package is known by its hash, and a mirror that keeps old packages has old indexes.
    Ignored,
}

/// Why apt did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// apt-get itself.
    #[error("asking apt for Debian packages: check the network and the mirror (--mirror URL uses another)")]
    Command(#[from] CommandError),
    /// The private configuration could not be written.
    #[error("writing apt's private configuration in {}", directory.display())]
    Write {
        /// Where.
        directory: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// apt's configuration format cannot hold the path.
    #[error("expected a cache directory without white space or quotes, found {found:?}: choose another with --cache")]
    Path {
        /// The path.
        found: PathBuf,
    },
}

/// Where one suite's package index lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The suite's name.
    pub suite: String,
    /// The index file, uncompressed.
    pub path: PathBuf,
}

/// The private apt.
#[derive(Debug)]
pub struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// Writes the configuration into `directory`. `keyring` is the file of the keys that must have signed the suites.
    pub fn prepare(
        directory: &Path,
        mirror: &Mirror,
        suites: &[Suite],
        keyring: &Path,
        expiry: Expiry,
    ) -> Result<Self, AptError> {
        for path in [directory, keyring] {
            if path.to_str().is_none_or(|text| text.contains(|c: char| c.is_whitespace() || "\"'[];".contains(c))) {
                return Err(AptError::Path { found: path.into() });
            }
        }
        let write = |name: &str, text: &str| fs::write(directory.join(name), text);
        let all = || -> io::Result<()> {
            fs::create_dir_all(directory.join("state/lists/partial"))?;
            fs::create_dir_all(directory.join("cache/archives/partial"))?;
            // apt takes what is installed from here: nothing.
            write("status", "")?;
            write("preferences", &preferences(suites))?;
            write("sources.list", &sources(mirror, suites, keyring))?;
            write("apt.conf", &configuration(directory, &inherited_settings(), expiry))
        };
        all().map_err(|source| AptError::Write { directory: directory.into(), source })?;
        Ok(Self { directory: directory.into() })
    }

    /// Fetches the package lists, unless they are from the same sources and less than a day old. Says whether it did.
    pub fn update(&self) -> Result<Updated, AptError> {
        let stamp = self.directory.join("updated");
        let sources = fs::read_to_string(self.directory.join("sources.list")).unwrap_or_default();
        if super::younger_than(&stamp, LISTS_FRESH) && fs::read_to_string(&stamp).is_ok_and(|text| text == sources) {
            return Ok(Updated::NotNeeded);
        }
        // Error-Mode=any: a suite that could not be fetched is an error, not a warning about older lists.
        process::run(self.command("apt-get").args(["-q", "-o", "APT::Update::Error-Mode=any", "update"]), "apt")?;
        fs::write(&stamp, sources).map_err(|source| AptError::Write { directory: self.directory.clone(), source })?;
        Ok(Updated::Fetched)
    }

    /// The names and versions that an installation of `packages` on an empty system would bring. `release` is preferred
    /// for all of them where given.
    pub fn closure(&self, packages: &[&str], release: Option<&str>) -> Result<Vec<(String, String)>, AptError> {
        let mut command = self.command("apt-get");
        command.args(["-s", "-q", "install"]);
        if let Some(release) = release {
            command.args(["-t", release]);
        }
        let output = process::run(command.arg("--").args(packages), "apt")?;
        Ok(String::from_utf8_lossy(&output).lines().filter_map(simulated_install).collect())
    }

    /// The package indexes that were fetched, in the order of the sources.
    pub fn indexes(&self) -> Result<Vec<Index>, AptError> {
        let mut command = self.command("apt-get");
        command.args(["indextargets", "--format", "$(RELEASE) $(FILENAME)", "Created-By: Packages"]);
        let output = process::run(&mut command, "apt")?;
        let text = String::from_utf8_lossy(&output).into_owned();
        let index = |line: &str| {
            let (suite, path) = line.split_once(' ')?;
            Some(Index { suite: suite.into(), path: path.into() })
        };
        Ok(text.lines().filter_map(index).collect())
    }

    /// Downloads packages, each as `name=version`, into `directory`. apt checks each against the signed index.
    pub fn download(&self, directory: &Path, packages: &[String]) -> Result<(), AptError> {
        let mut command = self.command("apt-get");
        command.current_dir(directory).args(["-q", "download", "--"]).args(packages);
        process::run(&mut command, "apt")?;
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.directory.join("apt.conf")).env("LC_ALL", "C");
        command
    }
}

/// Whether lists were fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Updated {
    /// They are new.
    Fetched,
    /// Those that were there are fresh enough.
    NotNeeded,
}

/// `Inst name (version Archive:suite [arch])`
fn simulated_install(line: &str) -> Option<(String, String)> {
    let mut words = line.strip_prefix("Inst ")?.split_ascii_whitespace();
    let name = words.next()?;
    let version = words.find_map(|word| word.strip_prefix('('))?;
    Some((name.to_owned(), version.trim_end_matches(')').to_owned()))
}

fn sources(mirror: &Mirror, suites: &[Suite], keyring: &Path) -> String {
    suites.iter().fold(String::new(), |mut text, suite| {
        let uri = if suite.name.ends_with("-security") { mirror.security.as_deref() } else { Some(&*mirror.archive) };
        if let Some(uri) = uri {
            text += &format!("deb [arch=amd64 signed-by={}] {uri} {} main\n", keyring.display(), suite.name);
        }
        text
    })
}

fn preferences(suites: &[Suite]) -> String {
    suites.iter().fold(String::new(), |mut text, suite| {
        text += &format!("Package: *\nPin: release n={}\nPin-Priority: {}\n\n", suite.name, suite.priority);
        text
    })
}

fn configuration(directory: &Path, inherited: &str, expiry: Expiry) -> String {
    let directory = directory.display();
    let expiry = match expiry {
        Expiry::AsOnHost => "",
        Expiry::Ignored => "Acquire::Check-Valid-Until \"false\";",
    };
    format!(
        r#"{inherited}{expiry}
Dir "{directory}/";
Dir::Etc "{directory}/";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "preferences";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Dir::State "{directory}/state/";
Dir::State::status "{directory}/status";
Dir::Cache "{directory}/cache/";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::GzipIndexes "false";
Acquire::Languages "none";
"#
    )
}

/// What the host's apt is told about proxies and clocks; nothing if there is no apt to ask.
fn inherited_settings() -> String {
    let mut command = Command::new("apt-config");
    command.args(["dump", "--no-empty", "--format", "%F \"%v\";%n"]).env_remove("APT_CONFIG").env("LC_ALL", "C");
    let dump = process::run(&mut command, "apt").unwrap_or_default();
    select_inherited(&String::from_utf8_lossy(&dump))
}

fn select_inherited(dump: &str) -> String {
    let ours = |line: &&str| {
        let name = line.split(' ').next().unwrap_or_default();
        INHERITED
            .iter()
            .any(|wanted| name.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")))
    };
    dump.lines().filter(ours).fold(String::new(), |mut text, line| {
        text.push_str(line);
        text.push('\n');
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUITES: [Suite; 2] =
        [Suite { name: "trixie", priority: 500 }, Suite { name: "trixie-security", priority: 500 }];

    #[test]
    fn a_simulated_installation_gives_names_and_versions() {
        let lines = [
            ("Inst libc6 (2.41-12 Debian:13.7/stable [amd64]) []", Some(("libc6", "2.41-12"))),
            (
                "Inst git (1:2.47.3-0 Debian:13/stable, Debian-Security:13/stable-security [amd64])",
                Some(("git", "1:2.47.3-0")),
            ),
            ("Conf git (1:2.47.3-0 Debian:13/stable [amd64])", None),
            ("Inst", None),
        ];
        for (line, expected) in lines {
            let expected = expected.map(|(name, version)| (name.to_owned(), version.to_owned()));
            assert_eq!(simulated_install(line), expected, "{line}");
        }
    }

    #[test]
    fn every_source_names_the_keyring_and_a_missing_security_archive_is_left_out() {
        let mirror = Mirror { archive: "http://mirror.test/debian".into(), security: None };
        let text = sources(&mirror, &SUITES, Path::new("/keys.gpg"));
        assert_eq!(text, "deb [arch=amd64 signed-by=/keys.gpg] http://mirror.test/debian trixie main\n");
    }

    #[test]
    fn network_settings_are_taken_over_and_settings_about_signatures_are_not() {
        let dump = "Acquire::http::Proxy \"http://proxy.test:3128\";\nAcquire::AllowInsecureRepositories \"1\";\n\
            Acquire::httpsx \"no\";\nAcquire::Check-Valid-Until \"false\";\nAPT::Update::Post-Invoke:: \"rm -rf /\";\n\
            APT::Get::AllowUnauthenticated \"true\";\n";
        let expected = "Acquire::http::Proxy \"http://proxy.test:3128\";\nAcquire::Check-Valid-Until \"false\";\n";
        assert_eq!(select_inherited(dump), expected);
    }

    #[test]
    fn a_cache_directory_that_apt_cannot_name_is_refused() {
        let mirror = Mirror { archive: "http://mirror.test".into(), security: None };
        let result = Apt::prepare(Path::new("/tmp/a b"), &mirror, &SUITES, Path::new("/keys.gpg"), Expiry::AsOnHost);
        assert!(matches!(result, Err(AptError::Path { .. })));
    }
}
