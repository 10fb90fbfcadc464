//! `coffer evidence`: export, verify, show and redact bundles. All but exporting need no `cofferd` and no network.

mod contents;
mod export;
mod identity;
mod pins;
mod reading;
mod redact;
pub(crate) mod show;
mod verify;
mod verify_commit;

use clap::Subcommand;

use crate::command::Context;
use crate::exit::Status;

pub(crate) use pins::{Pins, write_pins};
pub(crate) use reading::verify_file;

#[derive(Debug, Subcommand)]
pub(crate) enum EvidenceCommand {
    /// Write the bundle of a closed session to a file
    Export(export::ExportArgs),
    /// Verify a bundle offline
    #[command(after_help = verify::EXIT_HELP)]
    Verify(verify::VerifyArgs),
    /// Show that a commit was made in the session of a bundle: its signature is of that session's git key
    #[command(after_help = verify_commit::EXIT_HELP)]
    VerifyCommit(verify_commit::VerifyCommitArgs),
    /// Show what a bundle says happened, in order; verifies nothing
    Show(show::ShowArgs),
    /// Write a bundle with only some of its private parts, opened; the record and its verdict stay as they are
    Redact(redact::RedactArgs),
}

/// Does one of them.
pub(crate) async fn carry_out(context: &Context, command: EvidenceCommand) -> anyhow::Result<Status> {
    match command {
        EvidenceCommand::Export(args) => export::export(context, args).await,
        EvidenceCommand::Verify(args) => verify::verify(&context.output, &args),
        EvidenceCommand::VerifyCommit(args) => verify_commit::verify_commit(&context.output, &args),
        EvidenceCommand::Show(args) => show::show(&context.output, &args),
        EvidenceCommand::Redact(args) => redact::redact(&context.output, &args),
    }
}
