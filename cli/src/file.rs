//! Small files that a command reads whole: bounded, with errors that say what was expected.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use coffer_evidence::verify::{AppraisalPolicy, MAX_POLICY_BYTES};

use crate::exit::{INPUT_OUTPUT, USAGE, failure};

/// Reads an appraisal policy, and the certificate that it may name.
pub(crate) fn read_policy(path: &Path) -> anyhow::Result<AppraisalPolicy> {
    let text = small_text(path, MAX_POLICY_BYTES, "appraisal policy")?;
    let wrong = |error| failure(USAGE, format!("{}: {error}", path.display()));
    let policy = AppraisalPolicy::parse(&text).map_err(wrong)?;
    // A certificate is named relative to the policy that names it.
    let Some(anchor) = policy.anchor_file().map(|name| path.parent().unwrap_or(Path::new("")).join(name)) else {
        return Ok(policy);
    };
    let der = small(&anchor, MAX_POLICY_BYTES, "trust anchor")?;
    Ok(policy.with_anchor_file(der))
}

/// Opens a file to read it. A pipe without a writer is opened too, and not waited for.
pub(crate) fn open_at_once(path: &Path) -> std::io::Result<std::fs::File> {
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    std::fs::File::options().read(true).custom_flags(nonblocking).open(path)
}

/// Reads a file of at most so many bytes; `what` is for messages.
pub(crate) fn small(path: &Path, most: usize, what: &str) -> anyhow::Result<Vec<u8>> {
    use std::io::Read as _;
    let wrong = |error: std::io::Error| failure(INPUT_OUTPUT, format!("read the {what} {}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(wrong)?;
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() > most {
        let message = format!("expected a {what} of at most {most} bytes, found more in {}", path.display());
        return Err(failure(INPUT_OUTPUT, message));
    }
    Ok(bytes)
}

/// The same of a text.
pub(crate) fn small_text(path: &Path, most: usize, what: &str) -> anyhow::Result<String> {
    String::from_utf8(small(path, most, what)?).map_err(|_| {
        failure(INPUT_OUTPUT, format!("expected text in the {what} {}, found other bytes", path.display()))
    })
}
