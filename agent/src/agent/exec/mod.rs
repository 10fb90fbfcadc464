//! Exec: one program, its three streams or its terminal, and how it ended. A call outlives the connection of its client: it
//! is owned by a task, known by its id, and whoever has the same request and salt is the same client.
//!
//! ```text
//!               ┌ claimed ──> live: begin ─> start ─> carry ─> outcome leaf ─┐
//!  start ─> known ─ live ───> arrives at its task: takes over                ├─> ended: tail, `exited`
//!               └ ended ─────────────────────────────────────────────────────┘
//! ```
//! | state | file |
//! |---|---|
//! | who is attached, and what may be dropped | `attachment.rs` over `window.rs`: pure |
//! | which calls there are | `known.rs` |
//! | the task of a call that runs | `live.rs`, with `input.rs` and `outcome.rs` |
//! | the answers to one client | `answers.rs`, `ended.rs` |

pub mod answers;
pub mod attachment;
mod ended;
mod input;
pub mod known;
mod live;
mod outcome;
pub mod window;

use super::call::{self, Call, Header};
use super::errors::{self, Reason};
use super::limits;
use super::session::Session;
use crate::init::command;
use answers::Reply;
use attachment::Manner;
use coffer_evidence::call::Request;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::leaf::commitment;
use coffer_proto::guest::v1 as pb;
use known::{Claim, Key, Otherwise};
pub use live::Arrival;
use live::Asked;
use pb::exec_request::Request as Inbound;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::error::SendError;
use tonic::{Status, Streaming};
use window::Offsets;

/// Carries one client's exec. Errors go to it as the end of its stream.
pub(super) async fn run(session: Arc<Session>, mut inbound: Streaming<pb::ExecRequest>, reply: Reply) {
    let first = match inbound.message().await {
        Ok(message) => message.and_then(|message| message.request),
        Err(status) => return reply.end(errors::of_transport(status)),
    };
    let Some(Inbound::Start(start)) = first else {
        return reply.end(Reason::InvalidArgument.status("expected `start` as the first message of an exec"));
    };
    match parse(start) {
        Ok(start) => begin(session, start, inbound, reply).await,
        Err(status) => reply.end(status),
    }
}

/// A start that was checked.
struct Start {
    header: Header,
    request: Request,
    output_max: u64,
    resume: Option<Offsets>,
    manner: Manner,
    patience: Duration,
}

async fn begin(session: Arc<Session>, start: Start, inbound: Streaming<pb::ExecRequest>, reply: Reply) {
    let Start { header, request, output_max, resume, manner, patience } = start;
    let Request::Exec { argv, cwd, .. } = &request else {
        return reply.end(Reason::Internal.status("an exec that is none"));
    };
    // What init will execute: resolved by the same rule, from the same fixed path.
    let (program, paths) = (command::resolve(&argv[0]).ok(), vec![cwd.clone()]);
    let Some(identity) = session.identities.iter().position(|known| *known == header.identity) else {
        // The log says that it was refused.
        return match Call::begin(&session, header, &request, program, paths).await {
            Ok(_) => reply.end(Reason::Internal.status("an identity that is none")),
            Err(status) => reply.end(status),
        };
    };
    let key = Key { identity: u16::try_from(identity).unwrap_or(u16::MAX), call: header.call };
    let committed = commitment(&header.salt, &request.to_bytes());
    let otherwise = if resume.is_some() { Otherwise::Refuse } else { Otherwise::Start };
    let mut arrival = Arrival { at: resume.unwrap_or_default(), manner, patience, inbound, reply };
    loop {
        match session.execs.claim(key, committed, otherwise) {
            Ok(Claim::Mine(claimed)) => {
                let asked = Asked { header, request, program, paths, output_max };
                return live::run(session, claimed, asked, arrival).await;
            }
            // It may end before it looks: then the next claim says so.
            Ok(Claim::Live(arrivals)) => match arrivals.send(arrival).await {
                Ok(()) => return,
                Err(SendError(back)) => arrival = back,
            },
            Ok(Claim::Ended) => return ended::serve(&session.execs, key, arrival).await,
            Err(status) => return arrival.reply.end(status),
        }
    }
}

fn parse(start: pb::ExecStart) -> Result<Start, Status> {
    let header = call::header(start.header)?;
    // Sorted, so that the same request gives the same bytes.
    let mut env: Vec<(String, String)> = start.env.into_iter().collect();
    env.sort_unstable();
    limits::arguments(&start.argv, &env)?;
    let cwd = limits::path(&start.cwd)?;
    let timeout_ms =
        limits::bounded("timeout_ms", start.timeout_ms, limits::TIMEOUT_DEFAULT_MS, limits::TIMEOUT_MAX_MS)?;
    let grace_ms = limits::bounded("grace_ms", start.grace_ms, limits::GRACE_DEFAULT_MS, limits::GRACE_MAX_MS)?;
    let output_bytes_max =
        limits::bounded("output_bytes_max", start.output_bytes_max, limits::OUTPUT_MAX, limits::OUTPUT_MAX)?;
    let reattach_ms =
        limits::bounded("reattach_ms", start.reattach_ms, limits::REATTACH_DEFAULT_MS, limits::REATTACH_MAX_MS)?;
    let terminal = start.terminal.map(limits::terminal).transpose()?;
    let request = Request::Exec {
        argv: start.argv,
        cwd,
        env: env.into_iter().collect(),
        timeout_ms,
        grace_ms,
        output_bytes_max,
        terminal,
    };
    Ok(Start {
        header,
        request,
        output_max: output_bytes_max,
        resume: start.resume.map(|pb::Offsets { stdout, stderr }| Offsets { stdout, stderr }),
        manner: if start.acknowledges { Manner::Acknowledges } else { Manner::Silent },
        patience: Duration::from_millis(reattach_ms),
    })
}
