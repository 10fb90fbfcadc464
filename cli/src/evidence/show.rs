//! `coffer evidence show`: the action log of a bundle as a timeline, private parts included where they were disclosed.
//! Reads, and verifies only that private parts are the ones committed to.

mod leaf;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use coffer_evidence::bundle;
use coffer_evidence::call::{Disclosed, read_disclosed};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::leaf::Leaf;
use serde::Serialize;

use self::leaf::Line;
use super::read_bundle;
use crate::exit::{Status, failure};
use crate::output::{Form, Output};

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The bundle
    file: PathBuf,
}

#[derive(Serialize)]
struct Shown {
    bundle_id: String,
    sealed: bool,
    leaves: Vec<Line>,
}

/// `coffer evidence show`
pub(super) fn show(output: &Output, args: &ShowArgs) -> anyhow::Result<Status> {
    let bytes = read_bundle(&args.file)?;
    let wrong = |what: &str, error: anyhow::Error| {
        failure(Status::FAILED, format!("{}: expected {what}: {error:#}", args.file.display()))
    };
    let bundle = bundle::read(&bytes).map_err(|error| wrong("a bundle", error.into()))?;
    let mut disclosed = BTreeMap::new();
    if let Some(member) = bundle.member("disclosed.cbor") {
        let parts = read_disclosed(member).map_err(|error| wrong("disclosed parts", error.into()))?;
        disclosed.extend(parts.into_iter().map(|part| (part.index, part)));
    }
    let leaves =
        leaves(bundle.member("leaves").unwrap_or_default(), &disclosed).map_err(|error| wrong("leaves", error))?;
    match output.form {
        Form::Json => {
            output.json(&Shown { bundle_id: bundle.bundle_id().to_string(), sealed: bundle.is_sealed(), leaves })?;
        }
        Form::People => {
            output.note("not verified: this is what the file says; `coffer evidence verify` says what of it is true");
            let mut text = String::new();
            for line in &leaves {
                text.push_str(&line.text());
                text.push('\n');
            }
            if !bundle.is_sealed() {
                text.push_str("(no seal: what came after is not known)\n");
            }
            output.bytes(text.as_bytes())?;
        }
    }
    Ok(Status::DONE)
}

/// The frames of `leaves`: u32le length, leaf.
fn leaves(mut member: &[u8], disclosed: &BTreeMap<u64, Disclosed>) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    while !member.is_empty() {
        let (length, rest) = member.split_first_chunk().ok_or_else(|| anyhow::anyhow!("a cut length"))?;
        let length = usize::try_from(u32::from_le_bytes(*length))?;
        let (leaf, rest) = rest.split_at_checked(length).ok_or_else(|| anyhow::anyhow!("a cut leaf"))?;
        let leaf = Leaf::parse(leaf)?;
        lines.push(Line::new(&leaf, disclosed.get(&leaf.index)));
        member = rest;
    }
    Ok(lines)
}
