//! The images that are installed, with the firmware that they bring and what it measures to; and whether the uids are there that the
//! processes of their sessions get.

use std::io::Read as _;
use std::path::Path;

use coffer_evidence::dsse::Envelope;
use coffer_evidence::manifest::{ImageManifest, Profile};

use super::{Check, Need};

/// Bytes of a manifest that are read.
const MANIFEST_MAX: u64 = 1 << 20;
/// Images that are looked at.
const IMAGES_MAX: usize = 64;
/// As in cofferd's configuration, unless it says otherwise.
const UIDS: std::ops::Range<u64> = 200_000..204_096;

/// What images there are for a platform. Their signatures are for whoever verifies, who knows the publisher's key.
pub(super) fn checks(state: &Path) -> Vec<Check> {
    let directory = state.join("images");
    let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten().take(IMAGES_MAX);
    let images: Vec<ImageManifest> = entries.filter_map(|entry| manifest(&entry.path().join("image.dsse"))).collect();
    [(Profile::Tdx, "image for tdx", Need::Tdx), (Profile::Simulated, "image simulated", Need::Simulated)]
        .map(|(profile, name, need)| installed(&images, profile, &directory, (name, need)))
        .into()
}

fn manifest(path: &Path) -> Option<ImageManifest> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(MANIFEST_MAX).read_to_end(&mut bytes).ok()?;
    ImageManifest::parse(Envelope::parse(&bytes).ok()?.unverified_payload()).ok()
}

fn installed(
    images: &[ImageManifest],
    profile: Profile,
    directory: &Path,
    (name, need): (&'static str, Need),
) -> Check {
    let described = images.iter().filter(|image| image.profile == profile).map(|image| {
        let mrtd = image.shapes.values().next().map(|shape| hex::encode(shape.mrtd.0)).unwrap_or_default();
        let (mrtd, firmware) = (mrtd.get(..12).unwrap_or("?"), image.digests.firmware.get(..12).unwrap_or("?"));
        format!("{} {}: firmware {firmware}…, MRTD {mrtd}…", image.name, image.version)
    });
    let described: Vec<String> = described.collect();
    if described.is_empty() {
        // Nothing is wrong with the host: an image can be put there at any time.
        let fix = format!("coffer-image build --profile {} --out {}", profile.as_str(), directory.display());
        return Check {
            need: Need::Better,
            ..Check::missing(name, need, format!("none in {}", directory.display()), fix)
        };
    }
    Check::ok(name, need, described.join("; "))
}

/// Whether this user namespace has the uids that sessions get.
pub(super) fn uids() -> Check {
    uids_of(&std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default())
}

fn uids_of(map: &str) -> Check {
    const NAME: &str = "uids";
    let has = map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect();
        matches!(numbers[..], [inside, _, count] if inside <= UIDS.start && UIDS.end <= inside.saturating_add(count))
    });
    let range = format!("{} to {}", UIDS.start, UIDS.end - 1);
    if has {
        return Check::ok(NAME, Need::Better, range);
    }
    let fix = "run cofferd where they are mapped, or name others with vmm.uid_first and vmm.uid_count";
    Check::missing(NAME, Need::Better, format!("this user namespace has not all of {range}"), fix)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::Found;
    use super::*;

    #[test]
    fn uids_are_there_when_one_line_of_the_map_has_them_all() {
        assert_eq!(uids_of("         0          0 4294967295\n").result, Found::Ok);
        assert_eq!(uids_of("0 100000 65536\n").result, Found::Missing);
        assert_eq!(uids_of("0 1000 1\n200000 300000 4096\n").result, Found::Ok);
        assert_eq!(uids_of("200001 300000 4096").result, Found::Missing);
        assert_eq!(uids_of("").result, Found::Missing);
    }

    #[test]
    fn images_that_are_none_are_not_counted_and_none_is_no_fault_of_the_host() {
        let state = tempfile::tempdir().unwrap();
        let image = state.path().join("images/aa");
        std::fs::create_dir_all(&image).unwrap();
        std::fs::write(image.join("image.dsse"), "{}").unwrap();
        let found = checks(state.path());
        assert!(found.iter().all(|check| check.result == Found::Missing && check.need == Need::Better), "{found:?}");
        let payload = include_str!("testdata/image.json");
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let manifest: ImageManifest = serde_json::from_str(payload).unwrap();
        std::fs::write(image.join("image.dsse"), manifest.sign(&key).to_bytes()).unwrap();
        let found = checks(state.path());
        let [tdx, simulated] = &found[..] else { panic!("{found:?}") };
        assert_eq!((tdx.result, simulated.result), (Found::Ok, Found::Missing));
        assert_eq!(tdx.found, "base 1: firmware aaaaaaaaaaaa…, MRTD 010101010101…");
    }
}
