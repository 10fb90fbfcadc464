//! `coffer quote`: TDX quotes outside of bundles. Show what one says, verify it against Intel's collateral, replay an event log
//! to its registers. Offline; what is judged is `coffer_evidence`.

mod collateral;
mod dstack;
mod replay;
mod show;
mod verify;

use std::path::Path;

use clap::Subcommand;
use coffer_evidence::quote::MAX_QUOTE_BYTES;

use crate::exit::{INPUT_OUTPUT, Status, failure};
use crate::file::small;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum QuoteCommand {
    /// Show every field of a quote; verifies nothing
    Show(show::ShowArgs),
    /// Verify a quote offline, with its collateral, under one trust anchor
    #[command(after_help = verify::EXIT_HELP)]
    Verify(verify::VerifyArgs),
    /// Replay an event log and hold it against a quote's registers
    #[command(after_help = replay::EXIT_HELP)]
    Replay(replay::ReplayArgs),
}

/// Does one of them.
pub(crate) fn carry_out(output: &Output, command: &QuoteCommand) -> anyhow::Result<Status> {
    match command {
        QuoteCommand::Show(args) => show::show(output, args),
        QuoteCommand::Verify(args) => verify::verify(output, args),
        QuoteCommand::Replay(args) => replay::replay(output, args),
    }
}

/// A quote as the quoting service hands it out, as hexadecimal digits, or in the field `quote` of a JSON report.
fn read_quote(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = small(path, dstack::REPORT_MAX, "quote")?;
    let quote = match bytes.first() {
        Some(b'{') => dstack::quote(&bytes),
        Some(byte) if byte.is_ascii_hexdigit() => {
            let text = String::from_utf8_lossy(&bytes);
            hex::decode(text.trim()).map_err(|error| format!("expected hexadecimal digits, found others: {error}"))
        }
        _ => Ok(bytes),
    };
    let quote = quote.map_err(|why| failure(INPUT_OUTPUT, format!("{}: {why}", path.display())))?;
    if quote.len() > MAX_QUOTE_BYTES {
        let message = format!("expected a quote of at most {MAX_QUOTE_BYTES} bytes, found {}", quote.len());
        return Err(failure(INPUT_OUTPUT, format!("{}: {message}", path.display())));
    }
    Ok(quote)
}
