//! The command line of `cofferd`, its exit statuses, and nothing else.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError};
use crate::host::api_socket::ListenError;
use crate::host::key::HostKeyError;
use crate::host::state_dir::StateError;
use crate::serve;
use crate::session::perform::chain;
use crate::store::StoreError;
use crate::store::vault::VaultError;
use crate::{jail, vmm};

/// Bad usage; clap's own status is 2.
const USAGE: u8 = 64;
/// Something this needs does not work.
const UNAVAILABLE: u8 = 69;
/// Another `cofferd` has it.
const LOCKED: u8 = 73;
/// Reading or writing failed.
const INPUT_OUTPUT: u8 = 74;
/// Not allowed.
const PERMISSION: u8 = 77;
/// The configuration is wrong.
const CONFIGURATION: u8 = 78;

/// The control plane of Coffer on one host.
#[derive(Parser)]
#[command(name = "cofferd", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API until SIGTERM or SIGINT; open sessions are then sealed and closed
    Serve {
        /// The configuration [default: /etc/coffer/cofferd.toml where it is, else the built-in settings]
        #[arg(long)]
        config: Option<PathBuf>,
        /// The state directory [default: /var/lib/coffer as root, else $XDG_STATE_HOME/coffer]
        #[arg(long)]
        state: Option<PathBuf>,
        /// The unix socket of the API [default: /run/coffer/cofferd.sock as root, else $XDG_RUNTIME_DIR/coffer/cofferd.sock]
        #[arg(long, env = "COFFER_SOCKET")]
        socket: Option<PathBuf>,
    },
    /// Say whether every key of a configuration is known and in its range, and do nothing
    CheckConfig {
        /// The configuration
        file: PathBuf,
    },
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    // Before anything else: the jail is a fresh process with one thread.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == jail::SUBCOMMAND) {
        return jail::enter::main();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let status = if error.use_stderr() { USAGE } else { 0 };
            drop(error.print());
            return status.into();
        }
    };
    let result = match arguments.command {
        Command::Serve { config, state, socket } => serve::run(config.as_deref(), state, socket),
        Command::CheckConfig { file } => check_config(&file),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cofferd: {}", chain(error.as_ref()));
            exit_status(&error).into()
        }
    }
}

fn check_config(file: &std::path::Path) -> anyhow::Result<()> {
    Config::load(Some(file))?;
    eprintln!("{}: every key is known and in its range", file.display());
    Ok(())
}

/// The status that fits the first cause that has one.
fn exit_status(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<ConfigError>() {
            return CONFIGURATION;
        }
        if let Some(error) = cause.downcast_ref::<StateError>() {
            return match error {
                StateError::Locked { .. } => LOCKED,
                StateError::NotOurs { .. } => PERMISSION,
                StateError::TooLong { .. } | StateError::InTheWay { .. } | StateError::NoHome => CONFIGURATION,
                StateError::Io { source, .. } => of_io(source),
            };
        }
        if let Some(error) = cause.downcast_ref::<ListenError>() {
            return match error {
                ListenError::InUse { .. } => LOCKED,
                ListenError::NoRuntimeDirectory | ListenError::InTheWay { .. } | ListenError::TooLong { .. } => {
                    CONFIGURATION
                }
                ListenError::Io { source, .. } => of_io(source),
            };
        }
        if let Some(error) = cause.downcast_ref::<HostKeyError>() {
            return match error {
                HostKeyError::Mode { .. } => PERMISSION,
                HostKeyError::Form { .. } => CONFIGURATION,
                HostKeyError::Io { source, .. } => of_io(source),
                HostKeyError::Random => UNAVAILABLE,
            };
        }
        if cause.is::<StoreError>() || cause.is::<VaultError>() {
            return INPUT_OUTPUT;
        }
        if cause.is::<vmm::LaunchError>() {
            return UNAVAILABLE;
        }
    }
    UNAVAILABLE
}

fn of_io(error: &std::io::Error) -> u8 {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => PERMISSION,
        _ => INPUT_OUTPUT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_status() {
        let config = Config::parse("[listen]\nport = 1").expect_err("refused");
        assert_eq!(exit_status(&config.into()), CONFIGURATION);
        let locked = StateError::Locked { path: "/state".into(), holder: None };
        assert_eq!(exit_status(&anyhow::Error::from(locked).context("outer")), LOCKED);
        assert_eq!(exit_status(&StoreError::Stopped.into()), INPUT_OUTPUT);
        assert_eq!(exit_status(&anyhow::anyhow!("other")), UNAVAILABLE);
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }
}
