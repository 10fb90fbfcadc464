//! The appraisal policy that `coffer` writes beside a bundle: what this user knew when the session was made. Publisher and
//! platform are as `cofferd` listed them then; the file says so, for whoever wants to rely on it.

use std::path::Path;

use coffer_evidence::ids::SessionId;
use coffer_evidence::sign::PublicKey;
use coffer_proto::control::v1::Platform;

use crate::exit::{INPUT_OUTPUT, failure};
use crate::image::Chosen;

/// What is pinned.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    pub(crate) session: SessionId,
    pub(crate) owner: PublicKey,
    pub(crate) image: Chosen,
}

impl Pins {
    /// The policy text.
    pub(crate) fn text(&self) -> anyhow::Result<String> {
        let (anchor, note) = match self.image.platform {
            Platform::Tdx => ("intel", ""),
            Platform::Simulated => ("simulated", "# SIMULATED: under this anchor anyone can forge evidence.\n"),
            Platform::Unspecified => {
                anyhow::bail!("expected the image's platform, found none: cofferd is of another version")
            }
        };
        Ok(format!(
            "# What to hold the evidence of session {session} against.\n\
             # The owner is the key of whoever wrote this file. The publisher of the image {title} is as the host named it:\n\
             # compare it with what its publisher tells you.\n\
             {note}\
             anchor = \"{anchor}\"\n\
             publishers = [\"{publisher}\"]\n\
             owners = [\"{owner}\"]\n\
             \n\
             [expect]\n\
             session = \"{session}\"\n",
            session = self.session,
            title = self.image.title,
            publisher = self.image.publisher,
            owner = self.owner,
        ))
    }
}

/// Writes the policy text.
pub(crate) fn write_pins(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text)
        .map_err(|error| failure(INPUT_OUTPUT, format!("write the appraisal policy {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_evidence::ids::Digest256;
    use coffer_evidence::verify::AppraisalPolicy;

    #[test]
    fn what_is_written_is_a_policy_with_these_pins_and_no_title_can_add_to_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let owner = crate::key::tests::owner(directory.path());
        let image = Chosen {
            digest: Digest256::of(b"image"),
            platform: Platform::Simulated,
            publisher: owner,
            title: crate::output::printable("base\nanchor = \"intel\""),
        };
        let pins = Pins { session: SessionId::new([7; 16]), owner, image };
        let policy = AppraisalPolicy::parse(&pins.text().expect("a text")).expect("a policy");
        assert_eq!(policy.owners, [owner]);
        assert_eq!(policy.publishers, [owner]);
        assert_eq!(policy.anchors(), [coffer_evidence::verify::TrustAnchor::Simulated]);
        assert_eq!(policy.expect.session, Some(SessionId::new([7; 16])));
    }
}
