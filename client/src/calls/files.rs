//! Files of a session, one call each: list, write, remove, move, make a directory, watch.

use std::time::Duration;

pub use coffer_evidence::call::{Above, IfMatch, Reach, Taken};
use coffer_evidence::ids::{Digest256, SessionId};
use coffer_proto::guest::v1 as guest;
use guest::watch_response::Response as News;
use guest::write_file_request::Request as Part;
use guest::write_file_start::Precondition;
use tokio_stream::{Stream, StreamExt as _};

use super::{CHUNK, addressed, header};
use crate::connection::Client;
use crate::error::ClientError;

/// Entries of one whole listing: a session has no more files.
pub const LISTED_MAX: usize = 200_000;
/// Pages of one whole listing, of at most 4 MiB each: a guest might turn empty ones for ever.
const PAGES_MAX: u64 = 256;

/// A whole listing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listed {
    /// In the order of their paths, which are those from the directory.
    pub entries: Vec<guest::Entry>,
    /// Directories whose content the identity may not read, as often as a page met them.
    pub unreadable: u64,
}

impl Client {
    /// Lists a directory to a depth, page by page, each of its own moment. A depth of 1 is its own entries.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::TooLarge`] over [`LISTED_MAX`] entries or 256 pages.
    pub async fn list_directory(&self, session: &SessionId, path: &str, depth: u32) -> Result<Listed, ClientError> {
        let mut listed = Listed::default();
        let mut page_token = String::new();
        for _ in 0..PAGES_MAX {
            let request = guest::ListDirectoryRequest {
                header: Some(header(self.identity())?),
                path: path.to_owned(),
                depth,
                page_size: 0,
                page_token: page_token.clone(),
            };
            let page = self.tools().list_directory(addressed(session, request)).await?.into_inner();
            listed.unreadable = listed.unreadable.saturating_add(page.unreadable);
            listed.entries.extend(page.entries);
            if listed.entries.len() > LISTED_MAX {
                return Err(ClientError::TooLarge { most: LISTED_MAX as u64, unit: "entries" });
            }
            if page.next_page_token.is_empty() {
                return Ok(listed);
            }
            if page.next_page_token == page_token {
                let found = "the same page again".to_owned();
                return Err(ClientError::Unexpected { expected: "the next page of a listing", found });
            }
            page_token = page.next_page_token;
        }
        Err(ClientError::TooLarge { most: PAGES_MAX, unit: "pages" })
    }

    /// Writes one file, whole or not at all. A mode of 0 is 0644.
    ///
    /// # Errors
    /// [`ClientError`], with reason `ETAG_MISMATCH` when another thing has the name than is wanted.
    pub async fn write_file(
        &self,
        session: &SessionId,
        path: &str,
        content: Vec<u8>,
        mode: u32,
        if_match: Option<IfMatch>,
    ) -> Result<guest::WriteFileResponse, ClientError> {
        let precondition = if_match.map(|wanted| match wanted {
            IfMatch::Content(digest) => Precondition::IfMatch(digest.as_bytes().to_vec().into()),
            IfMatch::Nothing => Precondition::MustNotExist(guest::MustNotExist {}),
        });
        let start =
            guest::WriteFileStart { header: Some(header(self.identity())?), path: path.to_owned(), mode, precondition };
        let content = bytes::Bytes::from(content);
        let digest = Digest256::of(&content);
        let chunks = (0..content.len()).step_by(CHUNK).map(move |at| {
            let end = content.len().min(at.saturating_add(CHUNK));
            Part::Data(content.slice(at..end))
        });
        let parts = std::iter::once(Part::Start(start)).chain(chunks);
        let requests = tokio_stream::iter(parts.map(|part| guest::WriteFileRequest { request: Some(part) }));
        let response = self.tools().write_file(addressed(session, requests)).await?.into_inner();
        if response.sha256.as_ref() != digest.as_bytes() {
            return Err(ClientError::Unexpected {
                expected: "the guest to have written the bytes that were sent",
                found: "another digest".to_owned(),
            });
        }
        Ok(response)
    }

    /// Removes a file or link, or a tree; answers how many of them.
    ///
    /// # Errors
    /// [`ClientError`]; what was removed before stays removed.
    pub async fn remove(&self, session: &SessionId, path: &str, reach: Reach) -> Result<u64, ClientError> {
        let recursive = reach == Reach::Tree;
        let request = guest::RemoveRequest { header: Some(header(self.identity())?), path: path.to_owned(), recursive };
        Ok(self.tools().remove(addressed(session, request)).await?.into_inner().removed)
    }

    /// Gives a file, link or directory another name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rename(
        &self,
        session: &SessionId,
        path: &str,
        destination: &str,
        taken: Taken,
    ) -> Result<(), ClientError> {
        let request = guest::MoveRequest {
            header: Some(header(self.identity())?),
            path: path.to_owned(),
            destination: destination.to_owned(),
            replace: taken == Taken::Replace,
        };
        self.tools().r#move(addressed(session, request)).await?;
        Ok(())
    }

    /// Makes a directory; answers how many were made. A mode of 0 is 0755.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn make_directory(
        &self,
        session: &SessionId,
        path: &str,
        mode: u32,
        above: Above,
    ) -> Result<u64, ClientError> {
        let parents = above == Above::Made;
        let request = guest::MakeDirectoryRequest {
            header: Some(header(self.identity())?),
            path: path.to_owned(),
            mode,
            parents,
        };
        Ok(self.tools().make_directory(addressed(session, request)).await?.into_inner().made)
    }

    /// What changes in a directory of the session from now on; the last is `ended`. Dropping the stream ends the call.
    ///
    /// # Errors
    /// [`ClientError`], at the start or in the stream.
    pub async fn watch_directory(
        &self,
        session: &SessionId,
        path: &str,
        reach: Reach,
        timeout: Option<Duration>,
    ) -> Result<impl Stream<Item = Result<News, ClientError>> + use<>, ClientError> {
        let request = guest::WatchRequest {
            header: Some(header(self.identity())?),
            path: path.to_owned(),
            recursive: reach == Reach::Tree,
            timeout_ms: timeout.map_or(0, |t| i64::try_from(t.as_millis().max(1)).unwrap_or(i64::MAX)),
        };
        let stream = self.tools().watch(addressed(session, request)).await?.into_inner();
        Ok(stream.filter_map(|item| match item {
            Ok(response) => response.response.map(Ok),
            Err(status) => Some(Err(ClientError::after_dispatch(status))),
        }))
    }
}
