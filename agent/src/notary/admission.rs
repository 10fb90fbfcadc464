//! The boot disk against the registers: what the host wrote there is taken only when the TD was launched for it.

use super::live::NotaryError;
use super::registers::Snapshot;
use crate::fixed;
use coffer_evidence::boot_disk;
use coffer_evidence::config::{Config, measured_config};
use coffer_evidence::ids::Digest384;
use coffer_evidence::intent::Intent;

/// What was admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Config bytes as they were on the disk.
    pub config_bytes: Vec<u8>,
    /// Policy text as it was on the disk.
    pub policy: Vec<u8>,
    /// The parsed config.
    pub config: Config,
    /// The parsed intent.
    pub intent: Intent,
    /// SHA-384 of the config bytes.
    pub config_digest: Digest384,
}

/// Parses the disk, checks what can be checked without a clock, and compares with the registers.
pub fn admit(disk: &[u8], registers: &Snapshot) -> Result<Admitted, NotaryError> {
    let disk = boot_disk::read(disk).map_err(|error| NotaryError::new("boot disk", error))?;
    let (config, intent) = coffer_evidence::admit(&disk.config, &disk.policy, None)
        .map_err(|error| NotaryError::chain("config", &error))?;
    let measured = measured_config(&disk.config, &intent);
    for (name, found, expected) in [
        ("mrconfigid", registers.mr_config_id, measured.mr_config_id),
        ("mrowner", registers.mr_owner, measured.mr_owner),
        ("mrownerconfig", registers.mr_owner_config, measured.mr_owner_config),
    ] {
        if found != expected {
            let detail = format!("{name} is not the digest of what is on the boot disk; it was changed after launch");
            return Err(NotaryError::new("registers", detail));
        }
    }
    if intent.minimum_svn > fixed::AGENT_SVN {
        let detail =
            format!("expected svn {} at least, found {}; use a newer image", intent.minimum_svn, fixed::AGENT_SVN);
        return Err(NotaryError::new("config", detail));
    }
    let config_digest = Digest384::of(&disk.config);
    Ok(Admitted { config_bytes: disk.config, policy: disk.policy, config, intent, config_digest })
}
