//! `coffer host doctor`: what of this host Coffer needs is there, why what is not matters, and what to do about it. Reads
//! and asks; changes nothing. The rules of what can be served are here, the looking is in the files beside.

mod cgroup;
mod images;
mod kit;
mod kvm;
mod programs;
mod quoting;
mod room;

use clap::Args;
use coffer_client::Client;
use serde::Serialize;

use crate::command::Context;
use crate::exit::{Status, UNAVAILABLE};
use crate::output::{Form, printable};

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The state directory that cofferd uses, or will [default: as root /var/lib/coffer, else $XDG_STATE_HOME/coffer]
    #[arg(long, value_name = "DIR")]
    state: Option<std::path::PathBuf>,
    /// The socket of the quote generation service that cofferd uses, or will
    #[arg(long, value_name = "SOCKET", default_value = quoting::SOCKET)]
    quote_socket: std::path::PathBuf,
    /// The caching service that cofferd asks, as vmm.pccs_url [default: pccs_url of Intel's own configuration]
    #[arg(long, value_name = "URL")]
    pccs_url: Option<String>,
}

/// What came of one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Found {
    /// As it should be.
    Ok,
    /// Not there.
    Missing,
    /// There, and not usable.
    Failed,
}

/// What a check decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Need {
    /// Nothing is served without it.
    Both,
    /// `tdx` is not.
    Tdx,
    /// `simulated` is not.
    Simulated,
    /// Everything is served without it, with less: slower, or less walled off.
    Better,
}

/// One line of the diagnosis.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Check {
    name: &'static str,
    result: Found,
    need: Need,
    found: String,
    /// What to do; empty when all is well.
    fix: String,
}

impl Check {
    fn ok(name: &'static str, need: Need, found: impl Into<String>) -> Self {
        Self { name, result: Found::Ok, need, found: found.into(), fix: String::new() }
    }

    fn missing(name: &'static str, need: Need, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, result: Found::Missing, need, found: found.into(), fix: fix.into() }
    }

    fn failed(name: &'static str, need: Need, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, result: Found::Failed, need, found: found.into(), fix: fix.into() }
    }
}

/// What this host can serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Serves {
    tdx: bool,
    simulated: bool,
}

impl Serves {
    fn of(checks: &[Check]) -> Self {
        let holds =
            |need: Need| checks.iter().filter(|check| check.need == need).all(|check| check.result == Found::Ok);
        let both = holds(Need::Both);
        Self { tdx: both && holds(Need::Tdx), simulated: both && holds(Need::Simulated) }
    }

    fn sentence(self) -> &'static str {
        match (self.tdx, self.simulated) {
            (true, _) => "this host can serve `tdx`",
            (false, true) => "this host can serve only `simulated`",
            (false, false) => "this host can serve nothing",
        }
    }
}

#[derive(Serialize)]
struct Diagnosis<'a> {
    schema: &'static str,
    serves: Serves,
    checks: &'a [Check],
}

/// `coffer host doctor`
pub(crate) async fn doctor(context: &Context, args: &DoctorArgs) -> anyhow::Result<Status> {
    let mut checks = kvm::checks();
    checks.extend(programs::checks());
    checks.extend(quoting::checks(&args.quote_socket, args.pccs_url.as_deref()));
    checks.extend(kit::checks());
    checks.extend(cgroup::checks());
    checks.push(images::uids());
    checks.extend(room::checks(args.state.as_deref()));
    checks.push(reachable(context).await);
    let serves = Serves::of(&checks);
    let output = &context.output;
    match output.form {
        Form::Json => output.json(&Diagnosis { schema: "coffer.doctor.v1", serves, checks: &checks })?,
        Form::People => {
            for check in &checks {
                let word = match (check.result, check.need) {
                    (Found::Ok, _) => "ok",
                    (_, Need::Better) => "warning",
                    (Found::Missing, _) => "missing",
                    (Found::Failed, _) => "failed",
                };
                let served = match check.need {
                    Need::Both | Need::Better => "",
                    Need::Tdx => "tdx",
                    Need::Simulated => "simulated",
                };
                output.line(format_args!("{word:<8} {:<18} {served:<10} {}", check.name, printable(&check.found)))?;
                if !check.fix.is_empty() {
                    output.line(format_args!("{:<9}{:<18} {:<10} -> {}", "", "", "", printable(&check.fix)))?;
                }
            }
            output.line(serves.sentence())?;
        }
    }
    Ok(if serves == Serves::default() { UNAVAILABLE } else { Status::DONE })
}

/// Whether somebody serves already; nothing depends on it.
async fn reachable(context: &Context) -> Check {
    const NAME: &str = "cofferd";
    let socket = context.socket.display();
    match Client::connect(&context.socket, std::time::Duration::ZERO).await {
        Ok(_) => Check::ok(NAME, Need::Better, format!("answers on {socket}")),
        Err(error) => Check::missing(NAME, Need::Better, format!("nobody on {socket}"), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serves(results: &[(Need, Found)]) -> Serves {
        let check = |(need, result): &(Need, Found)| Check {
            name: "a check",
            result: *result,
            need: *need,
            found: String::new(),
            fix: String::new(),
        };
        Serves::of(&results.iter().map(check).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_served_follows_from_what_is_needed_for_it() {
        use Found::{Failed, Missing, Ok};
        use Need::{Better, Both, Simulated, Tdx};
        assert_eq!(serves(&[(Both, Ok), (Tdx, Ok), (Simulated, Ok)]), Serves { tdx: true, simulated: true });
        assert_eq!(serves(&[(Both, Ok), (Tdx, Missing), (Simulated, Ok)]), Serves { tdx: false, simulated: true });
        assert_eq!(serves(&[(Both, Ok), (Tdx, Ok), (Simulated, Failed)]), Serves { tdx: true, simulated: false });
        assert_eq!(serves(&[(Both, Failed), (Tdx, Ok), (Simulated, Ok)]), Serves::default());
        assert_eq!(serves(&[(Better, Missing), (Both, Ok)]), Serves { tdx: true, simulated: true });
        assert_eq!(serves(&[(Tdx, Missing)]).sentence(), "this host can serve only `simulated`");
    }
}
