//! The boot disk against the registers and the machine: what the host wrote there is taken only when the TD was launched
//! for it, from an image and in a shape that the intent accepts.

use super::live::NotaryError;
use super::registers::Snapshot;
use crate::machine::Machine;
use coffer_evidence::boot_disk;
use coffer_evidence::config::{Config, measured_config};
use coffer_evidence::ids::Digest384;
use coffer_evidence::intent::{Intent, Shape};

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
pub fn admit(disk: &[u8], registers: &Snapshot, machine: &Machine) -> Result<Admitted, NotaryError> {
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
    fits(intent.minimum_svn, intent.shape, machine).map_err(|detail| NotaryError::new("config", detail))?;
    let config_digest = Digest384::of(&disk.config);
    Ok(Admitted { config_bytes: disk.config, policy: disk.policy, config, intent, config_digest })
}

/// Processors and bytes of memory of a shape.
const fn size(shape: Shape) -> (u64, u64) {
    match shape {
        Shape::S1 => (2, 2 << 30),
    }
}

/// Whether image and machine are what the intent wants. Of the intent's `image` see [`crate::machine`].
fn fits(minimum_svn: u64, shape: Shape, machine: &Machine) -> Result<(), String> {
    if machine.image_svn < minimum_svn {
        return Err(format!(
            "expected an image of svn {minimum_svn} at least, found {}; use a newer image",
            machine.image_svn
        ));
    }
    let name = shape.as_str();
    if !machine.shapes.iter().any(|known| known == name) {
        return Err(format!("expected an image for the shape {name}, found one for {}", machine.shapes.join(", ")));
    }
    let (processors, bytes) = size(shape);
    if machine.processors != processors {
        return Err(format!("expected the {processors} processors of shape {name}, found {}", machine.processors));
    }
    // The kernel tells what it manages: its own image, page tables and bounce buffers are missing from it, in a TD some
    // 200 of 2,048 MiB. The exact size is in RTMR0, which the verifier knows.
    if !(bytes / 4 * 3..=bytes).contains(&machine.memory_bytes) {
        return Err(format!("expected the {bytes} bytes of memory of shape {name}, found {}", machine.memory_bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine { image_svn: 3, shapes: vec!["m4".into(), "s1".into()], processors: 2, memory_bytes: 2_000_000_000 }
    }

    #[test]
    fn an_image_older_than_the_intent_wants_is_refused() {
        for (minimum, holds) in [(0, true), (3, true), (4, false), (u64::MAX, false)] {
            assert_eq!(fits(minimum, Shape::S1, &machine()).is_ok(), holds, "{minimum}");
        }
        // It is the image's version that counts, however new the agent in it is.
        let old = Machine { image_svn: 0, ..machine() };
        assert!(fits(crate::fixed::AGENT_SVN, Shape::S1, &old).is_err());
    }

    #[test]
    fn a_machine_of_another_shape_is_refused() {
        let refused = |machine: Machine| fits(0, Shape::S1, &machine).is_err();
        assert!(refused(Machine { shapes: vec!["m4".into(), "s11".into()], ..machine() }));
        for (processors, holds) in [(1, false), (2, true), (3, false)] {
            assert_eq!(refused(Machine { processors, ..machine() }), !holds, "{processors} processors");
        }
        let least = 3 << 29;
        for (bytes, holds) in [(least - 1, false), (least, true), (2 << 30, true), ((2 << 30) + 1, false)] {
            assert_eq!(refused(Machine { memory_bytes: bytes, ..machine() }), !holds, "{bytes} bytes");
        }
    }
}
