//! Where the collateral for a host's quotes comes from: for simulated ones the simulator makes it; for real ones a service hands
//! it out (`service`), or the operator's file holds it where there is no way to one.

mod address;
mod answers;
mod https;
#[cfg(test)]
mod played;
mod roots;
mod service;
#[cfg(test)]
mod service_tests;
mod shelf;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use coffer_evidence::collateral::{COLLATERAL_MAX, Collateral, CollateralError};
use coffer_evidence::manifest::Profile;
use futures_util::future::BoxFuture;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

pub(crate) use address::{EXPECTED as EXPECTED_URL, ServiceUrl};
pub(crate) use roots::Roots;
use service::ServiceError;
pub(crate) use service::{CollateralService, Limits};
pub(crate) use shelf::Shelf;

/// The JSON form holds binary fields as hex.
const JSON_MAX: u64 = 2 * COLLATERAL_MAX as u64;
/// How long the simulator may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Why there is no collateral.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndorsementsError {
    #[error("expected a source of collateral for this host's quotes, found none: set vmm.pccs_url, or vmm.collateral")]
    NotConfigured,
    #[error("expected to read collateral from {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("expected {} to print collateral within {LIMIT:?}: it ended with {exit}", program.display())]
    Program { program: PathBuf, exit: String },
    #[error(transparent)]
    Form(#[from] CollateralError),
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Gives collateral that is current.
pub(crate) trait Source: Send + Sync {
    /// The set that is current now, for a quote that nobody has verified yet.
    fn current<'a>(&'a self, quote: &'a [u8]) -> BoxFuture<'a, Result<Collateral, EndorsementsError>>;
}

/// For each kind of image its source, where this host has one.
#[derive(Clone, Default)]
pub(crate) struct Endorsements {
    pub(crate) simulated: Option<Arc<dyn Source>>,
    pub(crate) tdx: Option<Arc<dyn Source>>,
}

impl Endorsements {
    /// The set that is current now, for a quote of a machine of this profile.
    pub(crate) async fn current(&self, profile: Profile, quote: &[u8]) -> Result<Collateral, EndorsementsError> {
        let source = match profile {
            Profile::Simulated => &self.simulated,
            Profile::Tdx => &self.tdx,
        };
        source.as_ref().ok_or(EndorsementsError::NotConfigured)?.current(quote).await
    }
}

/// JSON with the fields of QuoteCollateralV3, kept current by the operator.
#[derive(Clone, Debug)]
pub(crate) struct CollateralFile(pub(crate) PathBuf);

impl Source for CollateralFile {
    fn current<'a>(&'a self, _: &'a [u8]) -> BoxFuture<'a, Result<Collateral, EndorsementsError>> {
        Box::pin(async {
            let failed = |source| EndorsementsError::Read { path: self.0.clone(), source };
            let file = tokio::fs::File::open(&self.0).await.map_err(failed)?;
            let mut bytes = Vec::new();
            file.take(JSON_MAX + 1).read_to_end(&mut bytes).await.map_err(failed)?;
            if bytes.len() as u64 > JSON_MAX {
                return Err(failed(too_large()));
            }
            Ok(Collateral::from_json(&bytes)?)
        })
    }
}

/// SIMULATED: `coffer-tdx-sim` makes it.
#[derive(Clone, Debug)]
pub(crate) struct SimulatorProgram(pub(crate) PathBuf);

impl Source for SimulatorProgram {
    fn current<'a>(&'a self, _: &'a [u8]) -> BoxFuture<'a, Result<Collateral, EndorsementsError>> {
        Box::pin(async { Ok(Collateral::from_json(&printed(&self.0).await?)?) })
    }
}

fn too_large() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::FileTooLarge, format!("more than {JSON_MAX} bytes"))
}

async fn printed(program: &Path) -> Result<Vec<u8>, EndorsementsError> {
    let ended = |exit: String| EndorsementsError::Program { program: program.to_path_buf(), exit };
    let run = async {
        let mut child = Command::new(program)
            .arg("collateral")
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut bytes = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(JSON_MAX).read_to_end(&mut bytes).await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?, bytes))
    };
    match tokio::time::timeout(LIMIT, run).await {
        Ok(Ok((status, bytes))) if status.success() => Ok(bytes),
        Ok(Ok((status, _))) => Err(ended(status.to_string())),
        Ok(Err(error)) => Err(ended(error.to_string())),
        Err(_) => Err(ended("nothing in time".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn collateral_that_is_not_there_is_named() {
        let none = Endorsements::default();
        assert!(matches!(none.current(Profile::Tdx, b"").await, Err(EndorsementsError::NotConfigured)));
        let missing = Endorsements {
            simulated: Some(Arc::new(SimulatorProgram("/no/such".into()))),
            tdx: Some(Arc::new(CollateralFile("/no/such".into()))),
        };
        assert!(matches!(missing.current(Profile::Tdx, b"").await, Err(EndorsementsError::Read { .. })));
        assert!(matches!(missing.current(Profile::Simulated, b"").await, Err(EndorsementsError::Program { .. })));
        let silent = SimulatorProgram("/bin/true".into());
        assert!(matches!(silent.current(b"").await, Err(EndorsementsError::Form(_))));
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("collateral.json");
        std::fs::File::create(&path).and_then(|file| file.set_len(JSON_MAX + 1)).expect("a large file");
        assert!(matches!(CollateralFile(path).current(b"").await, Err(EndorsementsError::Read { .. })));
    }
}
