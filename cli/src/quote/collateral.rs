//! Collateral files: the JSON and the YAML form of dcap-qvl's `QuoteCollateralV3`, and the form inside bundles.

use std::path::Path;

use coffer_evidence::collateral::{COLLATERAL_MAX, Collateral};
use coffer_evidence::fields::Canonical as _;

use crate::exit::{INPUT_OUTPUT, failure};
use crate::file::small;

/// Reads a set in whichever form it has.
pub(super) fn read(path: &Path) -> anyhow::Result<Collateral> {
    let bytes = small(path, COLLATERAL_MAX, "collateral")?;
    let read = match bytes.first() {
        Some(b'{') => Collateral::from_json(&bytes).map_err(|error| error.to_string()),
        // A map of dCBOR: never the beginning of a text.
        Some(first) if first & 0xe0 == 0xa0 => Collateral::parse(&bytes).map_err(|error| error.to_string()),
        _ => from_yaml(&bytes),
    };
    read.map_err(|why| failure(INPUT_OUTPUT, format!("the collateral {}: {why}", path.display())))
}

fn from_yaml(bytes: &[u8]) -> Result<Collateral, String> {
    let wrong = |why: String| format!("expected JSON, YAML or the form inside bundles, found none of them: {why}");
    let text = std::str::from_utf8(bytes).map_err(|error| wrong(error.to_string()))?;
    let value: serde_json::Value = serde_saphyr::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let json = serde_json::to_vec(&value).map_err(|error| wrong(error.to_string()))?;
    Collateral::from_json(&json).map_err(|error| error.to_string())
}
