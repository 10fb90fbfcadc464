//! The settings of `cofferd`: one TOML file, every section optional, unknown keys refused. Without a file the defaults
//! of the design hold. Nothing here touches the system but the reading of the file and of the environment's paths.

use std::path::{Path, PathBuf};

use coffer_evidence::ids::Digest256;
use coffer_evidence::sign::PublicKey;
use serde::Deserialize;

use crate::endorsements::{EXPECTED_URL, ServiceUrl};

/// Where the file is looked for when none is named.
pub(crate) const DEFAULT_FILE: &str = "/etc/coffer/cofferd.toml";
/// The most sessions that a host may be set to.
pub(crate) const SESSIONS_MAX: usize = 1024;

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) listen: Listen,
    pub(crate) image: Image,
    pub(crate) vmm: Vmm,
    pub(crate) limits: Limits,
    pub(crate) simulator: Simulator,
    pub(crate) telemetry: Telemetry,
}

/// `[listen]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Listen {
    /// Unix socket of the API.
    pub(crate) socket: Option<PathBuf>,
}

/// `[image]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Image {
    /// Holds one directory per image, named by its digest. Default: `images` in the state directory.
    pub(crate) directory: Option<PathBuf>,
    /// The image that clients use when they name none. Default: the only one there is.
    pub(crate) default: Option<String>,
    /// Keys that may sign images, hex. Empty: whoever put an image into the directory is trusted with that, too.
    pub(crate) publishers: Vec<String>,
}

/// `[vmm]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Vmm {
    /// A QEMU to run instead of the kit.
    pub(crate) qemu: Option<PathBuf>,
    /// The kit's directory. Default: `$XDG_CACHE_HOME/coffer/qemu/current`.
    pub(crate) kit: Option<PathBuf>,
    /// How the CPU is run.
    pub(crate) accelerator: Accelerator,
    /// Which vsock device guests get.
    pub(crate) link: LinkKind,
    /// `coffer-vsock`. Default: beside `cofferd`.
    pub(crate) vsock_device: Option<PathBuf>,
    /// First uid that sessions' processes get, when `cofferd` is root.
    pub(crate) uid_first: u32,
    /// How many uids follow.
    pub(crate) uid_count: u32,
    /// The quoting service's socket, tdx profile.
    pub(crate) quote_socket: PathBuf,
    /// Collateral for this host's quotes, tdx profile: JSON with the fields of QuoteCollateralV3.
    pub(crate) collateral: Option<PathBuf>,
    /// The service that hands it out, instead: a caching service (PCCS), or Intel's.
    pub(crate) pccs_url: Option<String>,
    /// The certificate of that service, or of its authority, as PEM: no other is taken. Default: whom this host trusts.
    pub(crate) pccs_ca: Option<PathBuf>,
}

impl Default for Vmm {
    fn default() -> Self {
        Self {
            qemu: None,
            kit: None,
            accelerator: Accelerator::default(),
            link: LinkKind::default(),
            vsock_device: None,
            uid_first: 200_000,
            uid_count: 4_096,
            quote_socket: PathBuf::from("/var/run/tdx-qgs/qgs.socket"),
            collateral: None,
            pccs_url: None,
            pccs_ca: None,
        }
    }
}

/// How the CPU is run in the simulated profile. The tdx profile has no choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Accelerator {
    /// KVM where the CPU can run a stock kernel under it, else TCG.
    #[default]
    Auto,
    /// Hardware.
    Kvm,
    /// Emulation.
    Tcg,
}

/// Which vsock device guests get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LinkKind {
    /// The kernel's where `/dev/vhost-vsock` is, else ours.
    #[default]
    Auto,
    /// vhost in the kernel.
    Kernel,
    /// `coffer-vsock`.
    VhostUser,
}

/// `[limits]`, times in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Open sessions.
    pub(crate) sessions: usize,
    /// From the start of the processes to the opening quote. Default: 120, under emulation 300.
    pub(crate) boot_s: Option<u64>,
    /// From the wish to close to the sealed core.
    pub(crate) seal_s: u64,
    /// Clean-up on the host.
    pub(crate) scrub_s: u64,
    /// How long SIGTERM waits for sessions to seal.
    pub(crate) drain_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sessions: 64, boot_s: None, seal_s: 60, scrub_s: 30, drain_s: 150 }
    }
}

/// `[simulator]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Simulator {
    /// `coffer-tdx-sim`. Default: beside `cofferd`. Without the program simulated images are refused.
    pub(crate) command: Option<PathBuf>,
}

/// `[telemetry]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Telemetry {
    /// A filter such as `info` or `cofferd=debug`.
    pub(crate) filter: String,
    /// Lines for people or for machines, on stderr.
    pub(crate) format: TelemetryFormat,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: TelemetryFormat::default() }
    }
}

/// Form of diagnostics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TelemetryFormat {
    #[default]
    Text,
    Json,
}

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("expected to read the configuration {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: {message}", path.display())]
    Toml { path: PathBuf, message: String },
    #[error("{key}: expected {expected}, found {found}")]
    Value { key: &'static str, expected: &'static str, found: String },
}

impl Config {
    /// Reads the named file; without a name the default one if it is there.
    pub(crate) fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let path = match file {
            Some(path) => path,
            None if Path::new(DEFAULT_FILE).exists() => Path::new(DEFAULT_FILE),
            None => return Ok(Self::default()),
        };
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
        Self::parse(&text).map_err(|error| match error {
            ConfigError::Toml { message, .. } => ConfigError::Toml { path: path.to_path_buf(), message },
            other => other,
        })
    }

    /// Parses and validates.
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|error| ConfigError::Toml { path: PathBuf::from("configuration"), message: error.to_string() })?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let value = |key, expected, found: String| Err(ConfigError::Value { key, expected, found });
        if !(1..=SESSIONS_MAX).contains(&self.limits.sessions) {
            return value("limits.sessions", "1 to 1024", self.limits.sessions.to_string());
        }
        for (key, seconds) in [
            ("limits.boot_s", self.limits.boot_s.unwrap_or(1)),
            ("limits.seal_s", self.limits.seal_s),
            ("limits.scrub_s", self.limits.scrub_s),
            ("limits.drain_s", self.limits.drain_s),
        ] {
            if !(1..=3_600).contains(&seconds) {
                return value(key, "1 to 3600 seconds", seconds.to_string());
            }
        }
        if self.vmm.uid_first < 1_000 || self.vmm.uid_first.checked_add(self.vmm.uid_count).is_none() {
            return value("vmm.uid_first", "a range of uids from 1000 on", self.vmm.uid_first.to_string());
        }
        if self.vmm.uid_count == 0 {
            return value("vmm.uid_count", "at least 1", "0".to_owned());
        }
        for (key, path) in [
            ("listen.socket", self.listen.socket.as_deref()),
            ("image.directory", self.image.directory.as_deref()),
            ("vmm.qemu", self.vmm.qemu.as_deref()),
            ("vmm.kit", self.vmm.kit.as_deref()),
            ("vmm.vsock_device", self.vmm.vsock_device.as_deref()),
            ("vmm.quote_socket", Some(self.vmm.quote_socket.as_path())),
            ("vmm.collateral", self.vmm.collateral.as_deref()),
            ("vmm.pccs_ca", self.vmm.pccs_ca.as_deref()),
            ("simulator.command", self.simulator.command.as_deref()),
        ] {
            if let Some(path) = path.filter(|p| !p.is_absolute()) {
                return value(key, "an absolute path", path.display().to_string());
            }
        }
        if tracing_subscriber::EnvFilter::try_new(&self.telemetry.filter).is_err() {
            let expected = "a filter such as \"info\" or \"cofferd=debug\"";
            return value("telemetry.filter", expected, self.telemetry.filter.clone());
        }
        let service = self.collateral_service()?;
        if let (Some(_), Some(file)) = (&service, &self.vmm.collateral) {
            return value(
                "vmm.collateral",
                "one source of collateral, not vmm.pccs_url beside it",
                file.display().to_string(),
            );
        }
        if let Some(file) = self.vmm.pccs_ca.as_deref().filter(|_| !service.is_some_and(|url| url.is_https())) {
            return value("vmm.pccs_ca", "an https address in vmm.pccs_url beside it", file.display().to_string());
        }
        self.default_image()?;
        self.publishers()?;
        Ok(())
    }

    /// The service that hands out collateral.
    pub(crate) fn collateral_service(&self) -> Result<Option<ServiceUrl>, ConfigError> {
        let Some(text) = &self.vmm.pccs_url else { return Ok(None) };
        ServiceUrl::parse(text).map(Some).ok_or_else(|| ConfigError::Value {
            key: "vmm.pccs_url",
            expected: EXPECTED_URL,
            found: text.clone(),
        })
    }

    /// The image that clients get when they name none.
    pub(crate) fn default_image(&self) -> Result<Option<Digest256>, ConfigError> {
        let Some(text) = &self.image.default else { return Ok(None) };
        text.parse().map(Some).map_err(|_| ConfigError::Value {
            key: "image.default",
            expected: "64 hex digits: the name of an image directory",
            found: text.clone(),
        })
    }

    /// The keys that may sign images.
    pub(crate) fn publishers(&self) -> Result<Vec<PublicKey>, ConfigError> {
        let parse = |text: &String| {
            text.parse().map_err(|_| ConfigError::Value {
                key: "image.publishers",
                expected: "Ed25519 public keys of 64 hex digits",
                found: text.clone(),
            })
        };
        self.image.publishers.iter().map(parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_defaults_and_every_key_can_be_set() {
        assert_eq!(Config::parse("").expect("empty"), Config::default());
        let all = r#"
            [listen]
            socket = "/run/c.sock"
            [image]
            directory = "/images"
            default = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
            publishers = []
            [vmm]
            qemu = "/usr/bin/qemu-system-x86_64"
            kit = "/kit"
            accelerator = "tcg"
            link = "vhost-user"
            vsock_device = "/usr/bin/coffer-vsock"
            uid_first = 300000
            uid_count = 10
            quote_socket = "/q"
            pccs_url = "https://localhost:8081/sgx/certification/v4/"
            pccs_ca = "/pccs.pem"
            [limits]
            sessions = 3
            boot_s = 30
            seal_s = 20
            scrub_s = 10
            drain_s = 5
            [simulator]
            command = "/usr/bin/coffer-tdx-sim"
            [telemetry]
            filter = "debug"
            format = "json"
        "#;
        let config = Config::parse(all).expect("all keys");
        assert_eq!(config.vmm.accelerator, Accelerator::Tcg);
        assert_eq!(config.limits.sessions, 3);
        assert!(config.default_image().expect("digest").is_some());
    }

    #[test]
    fn the_page_of_the_configuration_shows_every_key_with_its_default() {
        let page = include_str!("../../docs/configuration.md");
        let example = page.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
        let shown = Config::parse(example).expect("the example can be used");
        let defaults = Config::default();
        // A field that is added does not compile here until it is looked at, and then on the page.
        let Config { listen: Listen { socket }, image, vmm, limits, simulator, telemetry } = shown;
        let Image { directory, default, publishers } = image;
        assert!(socket.is_some() && directory.is_some() && default.is_some() && simulator.command.is_some());
        assert!(publishers.is_empty());
        let Vmm {
            qemu,
            kit,
            accelerator,
            link,
            vsock_device,
            uid_first,
            uid_count,
            quote_socket,
            collateral,
            pccs_url,
            pccs_ca,
        } = vmm;
        assert!(qemu.is_some() && kit.is_some() && vsock_device.is_some() && pccs_url.is_some() && pccs_ca.is_some());
        // The page shows it and says that it stands instead of the address.
        assert!(collateral.is_none() && example.contains("# collateral = "));
        assert_eq!((accelerator, link), (defaults.vmm.accelerator, defaults.vmm.link));
        assert_eq!((uid_first, uid_count), (defaults.vmm.uid_first, defaults.vmm.uid_count));
        assert_eq!(quote_socket, defaults.vmm.quote_socket);
        assert_eq!(Limits { boot_s: None, ..limits }, defaults.limits);
        assert_eq!(telemetry, defaults.telemetry);
        for key in ["publishers =", "accelerator =", "link =", "uid_first =", "uid_count =", "quote_socket ="] {
            assert!(example.contains(key), "{key}");
        }
    }

    #[test]
    fn unknown_keys_and_sections_are_refused_by_name() {
        for (text, word) in [("[listen]\nport = 1", "port"), ("[pool]\nsize = 1", "pool"), ("x = 1", "x")] {
            let error = Config::parse(text).expect_err(text).to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn values_outside_their_range_are_refused_with_what_was_expected() {
        for text in [
            "[limits]\nsessions = 0",
            "[limits]\nsessions = 1025",
            "[limits]\nseal_s = 0",
            "[limits]\nboot_s = 3601",
            "[vmm]\nuid_first = 0",
            "[vmm]\nuid_count = 0",
            "[vmm]\nuid_first = 4294967295",
            "[vmm]\nqemu = \"qemu\"",
            "[vmm]\naccelerator = \"hvf\"",
            "[vmm]\npccs_url = \"http://pccs.example/\"",
            "[vmm]\npccs_url = \"https://localhost:8081/\"\npccs_ca = \"pccs.pem\"",
            "[vmm]\npccs_url = \"https://localhost:8081/\"\ncollateral = \"/c.json\"",
            "[vmm]\npccs_url = \"http://localhost:8081/\"\npccs_ca = \"/pccs.pem\"",
            "[vmm]\ncollateral = \"/c.json\"\npccs_ca = \"/pccs.pem\"",
            "[image]\ndefault = \"latest\"",
            "[image]\npublishers = [\"00\"]",
            "[telemetry]\nfilter = \"cofferd=loud\"",
        ] {
            let error = Config::parse(text).expect_err(text).to_string();
            assert!(error.contains("expected"), "{text}: {error}");
        }
        assert!(Config::parse("[limits]\nsessions = 1024").is_ok());
    }

    #[test]
    fn a_missing_file_that_was_named_is_an_error() {
        assert!(matches!(Config::load(Some(Path::new("/no/such/file"))), Err(ConfigError::Read { .. })));
    }
}
