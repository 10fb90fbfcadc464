//! grants → init, on the standard output of the process that reads the policy: what the kernel is to allow each identity.

use super::{Builder, Fields, Frame, FrameError};

/// Part of a grant that holds for one file and for nothing beneath it.
pub const EXACT: u64 = 16;

/// The grants of one identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// Name of the identity.
    pub identity: String,
    /// Absolute paths; each grant holds for what is at and beneath one, or for that one file.
    pub paths: Vec<String>,
    /// For each path what is allowed: the sum of 1 read, 2 write, 4 delete, 8 execute, and [`EXACT`].
    pub access: Vec<[u64; 1]>,
}

impl Frame for Granted {
    fn to_fields(&self) -> Builder {
        let access: Vec<Vec<u64>> = self.access.iter().map(|row| row.to_vec()).collect();
        Builder::kind(1).text(1, &self.identity).texts(2, &self.paths).rows(3, &access)
    }

    fn from_fields(kind: u64, fields: &mut Fields) -> Result<Self, FrameError> {
        match kind {
            1 => {
                let (identity, paths, access) = (fields.text(1)?, fields.texts(2)?, fields.rows(3)?);
                if access.iter().any(|[access]| *access >= 2 * EXACT) {
                    return Err(FrameError::Unexpected("known rights"));
                }
                Ok(Self { identity, paths, access })
            }
            _ => Err(FrameError::Unexpected("the grants of an identity")),
        }
    }
}
