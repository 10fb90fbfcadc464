//! The guest agent's one binary: as PID 1 it is init, and init starts it again as notary, agent, observer and
//! as each built-in tool.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if std::process::id() == 1 {
        coffer_agent::init::run()
    }
    match arguments.split_first() {
        Some((role, machine)) if role == "notary" => coffer_agent::notary::run(machine),
        Some((role, identities)) if role == "grants" => coffer_agent::grants::run(identities),
        Some((role, [])) if role == "observer" => coffer_agent::observer::run(),
        Some((role, [])) if role == "agent" => coffer_agent::agent::run(),
        Some((role, rest)) if role == "tool" => ExitCode::from(coffer_agent::tool::run(rest)),
        _ => {
            eprintln!("coffer-agent: this program is the init of a Coffer guest and runs nowhere else");
            ExitCode::from(64)
        }
    }
}
