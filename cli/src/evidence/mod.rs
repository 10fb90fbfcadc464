//! `coffer evidence`: export, verify and show bundles. Verifying and showing need no `cofferd` and no network.

mod export;
mod pins;
mod show;
mod verify;

use std::path::Path;

use clap::Subcommand;
use coffer_evidence::bundle::BUNDLE_MAX;

use crate::command::Context;
use crate::exit::{INPUT_OUTPUT, Status, failure};

pub(crate) use pins::{Pins, write_pins};

#[derive(Debug, Subcommand)]
pub(crate) enum EvidenceCommand {
    /// Write the bundle of a closed session to a file
    Export(export::ExportArgs),
    /// Verify a bundle offline
    #[command(after_help = verify::EXIT_HELP)]
    Verify(verify::VerifyArgs),
    /// Show what a bundle says happened, in order; verifies nothing
    Show(show::ShowArgs),
}

/// Does one of them.
pub(crate) async fn carry_out(context: &Context, command: EvidenceCommand) -> anyhow::Result<Status> {
    match command {
        EvidenceCommand::Export(args) => export::export(context, args).await,
        EvidenceCommand::Verify(args) => verify::verify(&context.output, &args),
        EvidenceCommand::Show(args) => show::show(&context.output, &args),
    }
}

/// Reads a bundle whole, up to the largest there can be.
pub(crate) fn read_bundle(path: &Path) -> anyhow::Result<Vec<u8>> {
    let wrong = |error: std::io::Error| failure(INPUT_OUTPUT, format!("read the bundle {}: {error}", path.display()));
    let length = std::fs::metadata(path).map_err(wrong)?.len();
    if length > BUNDLE_MAX {
        let message = format!("expected a bundle of at most {BUNDLE_MAX} bytes, found {length} in {}", path.display());
        return Err(failure(INPUT_OUTPUT, message));
    }
    std::fs::read(path).map_err(wrong)
}
