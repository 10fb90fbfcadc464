//! `--identity`: a file of age identities, and what they get at in a bundle. The file is held to the same rule as the user's keys: nobody
//! else may be able to read it.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use coffer_client::keys::KeyError;
use coffer_evidence::bundle::{BundleError, Source, scan};
use coffer_evidence::ids::Digest256;
use coffer_evidence::private::{Access, IDENTITY_FILE_MAX, Identities, access};
use coffer_evidence::verify::Report;
use zeroize::Zeroizing;

use crate::exit::{CONFIGURATION, INPUT_OUTPUT, failure};
use crate::file::open_at_once;

/// What the identities in a file get at, and in which bundle.
pub(super) struct Keyed {
    pub(super) access: Access,
    /// Where a bundle was looked into.
    bundle: Option<Digest256>,
}

impl Keyed {
    /// Whether a report is on the bundle that was looked into: its key says nothing of another's parts.
    pub(super) fn is_of(&self, report: &Report) -> bool {
        self.bundle.is_none_or(|id| report.bundle_id == Some(id.to_string()))
    }
}

/// What the identities in this file get at in this bundle. One whose framing does not hold is not looked into: R1 tells why.
pub(super) fn access_to(bundle: &dyn Source, identity: Option<&Path>) -> anyhow::Result<Keyed> {
    let none = Keyed { access: Access::NoIdentity, bundle: None };
    let Some(path) = identity else { return Ok(none) };
    let identities = read(path)?;
    let scan = match scan(bundle) {
        Ok(scan) => scan,
        Err(BundleError::Unread(error)) => return Err(error.into()),
        Err(_) => return Ok(none),
    };
    let wrapped = scan.load(bundle, "private.age")?;
    Ok(Keyed { access: access(wrapped.as_deref(), &identities), bundle: Some(scan.bundle_id()) })
}

fn read(path: &Path) -> anyhow::Result<Identities> {
    let io = |what| move |source| KeyError::Io { what, path: path.to_owned(), source };
    let file = open_at_once(path).map_err(io("open the identity"))?;
    let metadata = file.metadata().map_err(io("stat the identity"))?;
    let wrong = |expected: &str, found: &str| {
        failure(INPUT_OUTPUT, format!("expected {expected}, found {found}: {}", path.display()))
    };
    if !metadata.is_file() {
        return Err(wrong("an identity in a regular file", "something else"));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode }.into());
    }
    let mut text = Zeroizing::new(Vec::new());
    file.take(IDENTITY_FILE_MAX as u64 + 1).read_to_end(&mut text).map_err(io("read the identity"))?;
    if text.len() > IDENTITY_FILE_MAX {
        return Err(wrong(&format!("an identity file of at most {IDENTITY_FILE_MAX} bytes"), "more"));
    }
    let text = std::str::from_utf8(&text).map_err(|_| wrong("text in the identity file", "other bytes"))?;
    Identities::parse(text).map_err(|error| failure(CONFIGURATION, format!("{}: {error}", path.display())))
}
