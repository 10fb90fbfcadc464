//! SIMULATED: the host side of the TDX simulator. Everything it signs is forgeable by anyone (`tdx-sim/pki/README.md`).

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "coffer-tdx-sim", version, about = "SIMULATED: a software stand-in for TDX. Its evidence proves nothing.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the simulator's root certificate, PEM.
    Root,
    /// Write the published PKI, keys included.
    #[command(hide = true)]
    MakePki {
        /// The directory.
        #[arg(long)]
        out: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Root => print!("{}", coffer_tdx_sim::pki::pem(coffer_tdx_sim::pki::ROOT_DER)),
        Command::MakePki { out } => {
            for (name, bytes) in coffer_tdx_sim::pki::make()?.entries() {
                let path = out.join(name);
                std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
            }
        }
    }
    Ok(())
}
