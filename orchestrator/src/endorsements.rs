//! Where the collateral for a host's quotes comes from: for simulated ones the simulator makes it, for real ones the
//! operator's file holds it. Fetching it from Intel is a job for a tool beside this one: `cofferd` has no way out.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use coffer_evidence::collateral::{COLLATERAL_MAX, Collateral, CollateralError};
use coffer_evidence::manifest::Profile;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// The JSON form holds binary fields as hex.
const JSON_MAX: u64 = 2 * COLLATERAL_MAX as u64;
/// How long the simulator may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Why there is no collateral.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndorsementsError {
    #[error("expected collateral for this host's quotes in a file, found none: set vmm.collateral")]
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
}

/// The two sources.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endorsements {
    /// `coffer-tdx-sim`.
    pub(crate) simulator: Option<PathBuf>,
    /// JSON with the fields of QuoteCollateralV3.
    pub(crate) file: Option<PathBuf>,
}

impl Endorsements {
    /// The set that is current now.
    pub(crate) async fn current(&self, profile: Profile) -> Result<Collateral, EndorsementsError> {
        let json = match (profile, &self.simulator, &self.file) {
            (Profile::Simulated, Some(program), _) => printed(program).await?,
            (Profile::Tdx, _, Some(file)) => {
                let read = || EndorsementsError::Read { path: file.clone(), source: too_large() };
                let bytes = tokio::fs::read(file)
                    .await
                    .map_err(|source| EndorsementsError::Read { path: file.clone(), source })?;
                if bytes.len() as u64 > JSON_MAX { Err(read()) } else { Ok(bytes) }?
            }
            (Profile::Simulated, None, _) | (Profile::Tdx, _, None) => return Err(EndorsementsError::NotConfigured),
        };
        Ok(Collateral::from_json(&json)?)
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
        assert!(matches!(none.current(Profile::Tdx).await, Err(EndorsementsError::NotConfigured)));
        let missing = Endorsements { simulator: Some("/no/such".into()), file: Some("/no/such".into()) };
        assert!(matches!(missing.current(Profile::Tdx).await, Err(EndorsementsError::Read { .. })));
        assert!(matches!(missing.current(Profile::Simulated).await, Err(EndorsementsError::Program { .. })));
        let silent = Endorsements { simulator: Some("/bin/true".into()), file: None };
        assert!(matches!(silent.current(Profile::Simulated).await, Err(EndorsementsError::Form(_))));
    }
}
