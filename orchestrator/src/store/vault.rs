//! The evidence store: one bundle per session, `ID.evidence`, in an object store. Local disk here; the same port takes
//! others. A bundle is there whole and on disk, or not at all.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_evidence::ids::SessionId;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};

use crate::host::room::{Patience, is_full};

/// Why evidence is not stored or not found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VaultError {
    #[error("expected room for evidence in {place}, found a full disk: make room there")]
    Full {
        place: String,
        #[source]
        source: object_store::Error,
    },
    #[error(
        "expected to read and write the evidence store at {place}: mount it writable, and give it to cofferd's user"
    )]
    Backend {
        place: String,
        #[source]
        source: object_store::Error,
    },
}

/// What came of a first bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is stored.
    Stored,
    /// Another was there before it, and stays.
    OneIsThere,
}

/// Bundles of closed sessions.
#[derive(Clone, Debug)]
pub(crate) struct Vault {
    place: String,
    objects: Arc<dyn ObjectStore>,
}

impl Vault {
    /// On local disk, in a directory that exists; every write is flushed.
    pub(crate) fn local(directory: &Path) -> Result<Self, VaultError> {
        let place = directory.display().to_string();
        let objects = LocalFileSystem::new_with_prefix(directory)
            .map_err(|source| VaultError::Backend { place: place.clone(), source })?
            .with_fsync(true);
        Ok(Self { place, objects: Arc::new(objects) })
    }

    fn key(id: SessionId) -> Key {
        Key::from(format!("{id}.evidence"))
    }

    fn failed(&self) -> impl Fn(object_store::Error) -> VaultError + Send + 'static {
        let place = self.place.clone();
        move |source| match is_full(&source) {
            true => VaultError::Full { place: place.clone(), source },
            false => VaultError::Backend { place: place.clone(), source },
        }
    }

    /// Stores the bundle of a session that has none. Of two that try, one does. On a full disk it waits so long for room.
    pub(crate) async fn put_first(
        &self,
        id: SessionId,
        bundle: Vec<u8>,
        patience: Duration,
    ) -> Result<Put, VaultError> {
        let bundle = PutPayload::from(bundle);
        let mut patience = Patience::of("the evidence of a session", patience);
        loop {
            let create = PutOptions::from(PutMode::Create);
            match self.objects.put_opts(&Self::key(id), bundle.clone(), create).await {
                Ok(_) => return Ok(Put::Stored),
                Err(object_store::Error::AlreadyExists { .. }) => return Ok(Put::OneIsThere),
                Err(error) => match patience.pause(&error) {
                    Some(pause) => pause.await,
                    None => return Err(self.failed()(error)),
                },
            }
        }
    }

    /// Puts a bundle in place of the one that is there.
    pub(crate) async fn replace(&self, id: SessionId, bundle: Vec<u8>) -> Result<(), VaultError> {
        self.objects.put(&Self::key(id), PutPayload::from(bundle)).await.map(|_| ()).map_err(self.failed())
    }

    /// A bundle whole.
    pub(crate) async fn get(&self, id: SessionId) -> Result<Option<Bytes>, VaultError> {
        match self.objects.get(&Self::key(id)).await {
            Ok(found) => found.bytes().await.map(Some).map_err(self.failed()),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed()(error)),
        }
    }

    /// A bundle in pieces.
    pub(crate) async fn stream(
        &self,
        id: SessionId,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, VaultError>>>, VaultError> {
        match self.objects.get(&Self::key(id)).await {
            Ok(found) => Ok(Some(found.into_stream().map_err(self.failed()).boxed())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed()(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bundle_is_replaced_whole_and_streamed() {
        let dir = tempfile::tempdir().expect("a directory");
        let vault = Vault::local(dir.path()).expect("vault");
        let id = SessionId::new([3; 16]);
        assert!(vault.get(id).await.expect("get").is_none());
        assert!(vault.stream(id).await.expect("stream").is_none());
        assert_eq!(vault.put_first(id, vec![1; 10], Duration::ZERO).await.expect("put"), Put::Stored);
        assert_eq!(vault.put_first(id, vec![3; 10], Duration::ZERO).await.expect("put"), Put::OneIsThere);
        assert_eq!(vault.get(id).await.expect("get").expect("there"), vec![1; 10]);
        vault.replace(id, vec![2; 200_000]).await.expect("replace");
        assert_eq!(vault.get(id).await.expect("get").expect("there"), vec![2; 200_000]);
        assert!(dir.path().join(format!("{id}.evidence")).is_file());
        let pieces: Vec<Bytes> =
            vault.stream(id).await.expect("stream").expect("there").try_collect().await.expect("read");
        assert_eq!(pieces.concat(), vec![2; 200_000]);
    }
}
