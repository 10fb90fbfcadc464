//! Git in a session: one operation of a closed list, its output as it comes, and what git said beside it.

use coffer_evidence::ids::{Digest256, SessionId};
use coffer_proto::guest::v1 as guest;
pub use guest::git_branch::Change as BranchChange;
pub use guest::git_request::Operation as GitOperation;
use guest::git_response::Response as Part;
use sha2::{Digest as _, Sha256};

use super::{addressed, header};
use crate::connection::Client;
use crate::error::ClientError;

impl Client {
    /// Does it in the repository at this path; chunks of output go to `deliver` as they come.
    ///
    /// # Errors
    /// [`ClientError`], with reason `GIT_FAILED` and git's own words when git did not do it; and what `deliver` answers.
    pub async fn git(
        &self,
        session: &SessionId,
        path: &str,
        operation: GitOperation,
        mut deliver: impl FnMut(&[u8]) -> Result<(), ClientError>,
    ) -> Result<guest::GitTrailer, ClientError> {
        let request = guest::GitRequest {
            header: Some(header(self.identity())?),
            path: path.to_owned(),
            operation: Some(operation),
        };
        let mut stream = self.tools().git(addressed(session, request)).await?.into_inner();
        let (mut hash, mut bytes) = (Sha256::new(), 0_u64);
        while let Some(message) = stream.message().await.map_err(ClientError::after_dispatch)? {
            match message.response {
                Some(Part::Data(chunk)) => {
                    hash.update(&chunk);
                    bytes = bytes.saturating_add(chunk.len() as u64);
                    deliver(&chunk)?;
                }
                Some(Part::Trailer(trailer)) => {
                    let here = Digest256::new(hash.finalize().into());
                    same_output(trailer.output.as_ref(), bytes, here)?;
                    return Ok(trailer);
                }
                None => {}
            }
        }
        Err(ClientError::OutcomeUnknown { why: "the stream ended without its last message".to_owned() })
    }
}

/// What came here is what the guest says it delivered; where that is all of the output, its digest says so, too.
fn same_output(said: Option<&guest::Stream>, bytes: u64, here: Digest256) -> Result<(), ClientError> {
    let unexpected = |found: &str| ClientError::Unexpected {
        expected: "the guest to have put out the bytes that passed here",
        found: found.to_owned(),
    };
    let said = said.ok_or_else(|| unexpected("no word of them"))?;
    if said.bytes_delivered != bytes {
        return Err(unexpected("another number"));
    }
    if said.bytes_total == bytes && said.sha256.as_ref() != here.as_bytes() {
        return Err(unexpected("another digest"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_all_come_is_told() {
        let digest = Digest256::of(b"output");
        let said = |bytes_total, bytes_delivered, sha256: &[u8]| guest::Stream {
            bytes_total,
            bytes_delivered,
            sha256: sha256.to_vec().into(),
        };
        assert!(same_output(Some(&said(6, 6, digest.as_bytes())), 6, digest).is_ok());
        // The digest is of more than came.
        assert!(same_output(Some(&said(9, 6, &[0; 32])), 6, digest).is_ok());
        assert!(same_output(Some(&said(6, 6, &[0; 32])), 6, digest).is_err());
        assert!(same_output(Some(&said(6, 5, digest.as_bytes())), 6, digest).is_err());
        assert!(same_output(None, 0, digest).is_err());
    }
}
