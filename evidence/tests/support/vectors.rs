//! Real quotes and collateral: `COFFER_VECTORS`, or `../shared/vectors` beside the repository; and for those who have only the
//! repository, the samples that the dcap-qvl package itself carries in cargo's registry.

use std::path::{Path, PathBuf};

use coffer_evidence::collateral::Collateral;
use dcap_qvl::QuoteCollateralV3;

/// A vector by its path in the collection, or nothing when this machine has no copy.
pub(crate) fn vector(path: &str) -> Option<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let collection = std::env::var_os("COFFER_VECTORS").map_or_else(|| root.join("../shared/vectors"), PathBuf::from);
    if let Ok(bytes) = std::fs::read(collection.join(path)) {
        return Some(bytes);
    }
    let sample = path.strip_prefix("dcap-qvl/")?;
    samples().into_iter().find_map(|folder| std::fs::read(folder.join(sample)).ok())
}

/// The samples of the dcap-qvl package that cargo unpacked for this build.
fn samples() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let Some(home) = home else { return Vec::new() };
    let sources = std::fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten();
    sources.map(|source| source.path().join("dcap-qvl-0.7.1/sample")).filter(|folder| folder.is_dir()).collect()
}

/// Says that a test did not run, and why.
pub(crate) fn not_run(what: &str) {
    println!("NOT RUN: {what} is neither in COFFER_VECTORS nor among dcap-qvl's samples");
}

/// Collateral in the JSON or YAML form of dcap-qvl.
pub(crate) fn collateral(path: &str) -> Option<Collateral> {
    let text = String::from_utf8(vector(path)?).expect("collateral is text");
    let theirs = if path.ends_with(".yaml") { from_yaml(&text) } else { serde_json::from_str(&text).expect("JSON") };
    Some(ours(theirs))
}

fn ours(theirs: QuoteCollateralV3) -> Collateral {
    Collateral {
        pck_crl_issuer_chain: theirs.pck_crl_issuer_chain.into_bytes(),
        root_ca_crl: theirs.root_ca_crl,
        pck_crl: theirs.pck_crl,
        tcb_info_issuer_chain: theirs.tcb_info_issuer_chain.into_bytes(),
        tcb_info: theirs.tcb_info.into_bytes(),
        tcb_info_signature: theirs.tcb_info_signature,
        qe_identity_issuer_chain: theirs.qe_identity_issuer_chain.into_bytes(),
        qe_identity: theirs.qe_identity.into_bytes(),
        qe_identity_signature: theirs.qe_identity_signature,
        pck_certificate_chain: theirs.pck_certificate_chain.map(String::into_bytes),
    }
}

/// Just enough YAML for this one file: `key: |` blocks, `key: >-` lines, and double-quoted strings on one line.
fn from_yaml(text: &str) -> QuoteCollateralV3 {
    let mut object = serde_json::Map::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((key, value)) = line.split_once(": ") else { continue };
        let mut block = Vec::new();
        while let Some(inner) = lines.peek().and_then(|line| line.strip_prefix("  ")) {
            block.push(inner.to_owned());
            lines.next();
        }
        let value = match value {
            "|" => format!("{}\n", block.join("\n")),
            ">-" => block.join(" "),
            quoted => serde_json::from_str(quoted).expect("a double-quoted string"),
        };
        object.insert(key.to_owned(), serde_json::Value::String(value));
    }
    serde_json::from_value(serde_json::Value::Object(object)).expect("collateral")
}
