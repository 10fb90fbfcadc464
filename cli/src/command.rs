//! The commands and their arguments.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::exit::Status;
use crate::output::{Form, Output};
use crate::{doctor, evidence, image, key, policy, quote, run, session};

/// Runs AI-agent sessions in fresh confidential VMs and verifies what they leave: one sealed file of evidence.
#[derive(Debug, Parser)]
#[command(name = "coffer", version, propagate_version = true, max_term_width = 110, after_help = EXIT_HELP)]
pub(crate) struct Coffer {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

const EXIT_HELP: &str = "Exit status: 0 done; 64 usage; 69 unavailable; 73 locked; 74 input or output; 77 permission; \
78 configuration; 1 anything else. `run`, `session exec`, `policy explain` and `evidence verify` have their own, see their help.";

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Shared {
    /// Data as JSON on stdout; people's text stays on stderr
    #[arg(long, global = true)]
    json: bool,
    /// The socket of cofferd [default: /run/coffer/cofferd.sock, else $XDG_RUNTIME_DIR/coffer/cofferd.sock]
    #[arg(long, global = true, env = "COFFER_SOCKET", hide_env_values = true, value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one command in a fresh VM: create, upload, run, fetch, close, verify
    Run(run::RunArgs),
    /// Sessions: create, look at, work in, close
    #[command(subcommand)]
    Session(session::SessionCommand),
    /// Evidence: export, verify, show
    #[command(subcommand)]
    Evidence(evidence::EvidenceCommand),
    /// TDX quotes: show, verify, replay an event log
    #[command(subcommand)]
    Quote(quote::QuoteCommand),
    /// Policies: what a session's identities may do, and what a verifier pins
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// This host
    #[command(subcommand)]
    Host(HostCommand),
    /// Guest images
    #[command(subcommand)]
    Image(ImageCommand),
    /// This user's keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Print the completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum HostCommand {
    /// Say which of `tdx` and `simulated` this host can serve, why, and what to do about the rest (exit 69: neither)
    Doctor(doctor::DoctorArgs),
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// List what cofferd can boot
    List,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Show the public keys, made now if there are none
    Show,
}

/// What every command needs to know of how it was called.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) socket: PathBuf,
    pub(crate) output: Output,
}

impl Coffer {
    /// Does it.
    pub(crate) async fn carry_out(self) -> anyhow::Result<Status> {
        let named = self.shared.socket.filter(|socket| !socket.as_os_str().is_empty());
        let socket = named.unwrap_or_else(coffer_client::connection::default_socket);
        let form = if self.shared.json { Form::Json } else { Form::People };
        let context = Context { socket, output: Output::new(form) };
        match self.command {
            Command::Run(args) => run::run(&context, args).await,
            Command::Session(command) => session::carry_out(&context, command).await,
            Command::Evidence(command) => evidence::carry_out(&context, command).await,
            Command::Quote(command) => quote::carry_out(&context.output, &command),
            Command::Policy(command) => policy::carry_out(&context.output, &command),
            Command::Host(HostCommand::Doctor(args)) => doctor::doctor(&context, &args).await,
            Command::Image(ImageCommand::List) => image::list(&context).await,
            Command::Key(KeyCommand::Show) => key::show(&context.output),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Coffer::command(), "coffer", &mut script);
                context.output.bytes(&script)?;
                Ok(Status::DONE)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Coffer::command().debug_assert();
    }
}
