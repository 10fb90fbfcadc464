//! What the targets know to be true: the seeds `bundle/seed-*`, made by `tests/seeds.rs` from the
//! fixtures of the verifier's own tests, and the keys that signed them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use coffer_evidence::bundle::{self, Bundle};
use coffer_evidence::config::Config;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::verify::{AcceptPrefix, AcceptSimulated, Options};
use ed25519_dalek::SigningKey;

/// A sealed bundle with private parts and a receipt.
#[must_use]
pub fn sealed() -> &'static [u8] {
    static SEED: OnceLock<Vec<u8>> = OnceLock::new();
    SEED.get_or_init(|| seed("sealed"))
}

/// Every seed that is right: sealed, the same without its optional members, and a prefix without a seal.
#[must_use]
pub fn genuine() -> &'static [Vec<u8>] {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SEEDS.get_or_init(|| ["sealed", "redacted", "aborted"].map(seed).to_vec())
}

fn seed(name: &str) -> Vec<u8> {
    let path = corpora().join("bundle").join(format!("seed-{name}"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// Where the corpora are: a folder for each target.
#[must_use]
pub fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// A time at which the collateral of the seeds is current, unix seconds.
pub const AT: u64 = 1_794_700_800;

/// The log key of the seeds: published, and worth nothing.
#[must_use]
pub fn log_key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

/// The sealed seed, read.
///
/// # Panics
/// When it is not a bundle: then no target could tell right from wrong.
#[must_use]
pub fn sealed_bundle() -> &'static Bundle {
    static BUNDLE: OnceLock<Bundle> = OnceLock::new();
    BUNDLE.get_or_init(|| bundle::read(sealed()).expect("the seed is a bundle"))
}

/// Its configuration.
///
/// # Panics
/// As above.
#[must_use]
pub fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| Config::parse(sealed_bundle().member("config.cbor").expect("a member")).expect("a config"))
}

/// The most generous that a user can be: what is refused even so is refused for its bytes.
#[must_use]
pub fn options() -> Options {
    Options { at: AT, accept_simulated: AcceptSimulated::Yes, accept_prefix: AcceptPrefix::Yes, ..Options::default() }
}

/// Its session.
///
/// # Panics
/// As above.
#[must_use]
pub fn session() -> &'static [u8; 16] {
    static SESSION: OnceLock<[u8; 16]> = OnceLock::new();
    SESSION.get_or_init(|| *config().intent().expect("an intent").session.as_bytes())
}
