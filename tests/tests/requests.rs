//! Bad requests, one after the other, to one `cofferd` and one real guest that share them all: each has one clear error,
//! with the code and the reason that programs compare and the words that people need; none ends the session, `cofferd` or
//! the agent, or reaches anything outside; and in the end the sealed record holds of each call what it should and no more.
//! Each limit is met at its edge, which works, and one past it, which does not. One boot.
//!
//! Needs `COFFER_TEST_IMAGE` (set by `scripts/test`); without it the test says NOT RUN.

#[path = "requests/answers.rs"]
mod answers;
#[path = "requests/archives.rs"]
mod archives;
#[path = "requests/control.rs"]
mod control;
#[path = "requests/execs.rs"]
mod execs;
#[path = "requests/files.rs"]
mod files;
#[path = "requests/git.rs"]
mod git;
#[path = "requests/names.rs"]
mod names;
#[path = "requests/races.rs"]
mod races;
#[path = "requests/reattach.rs"]
mod reattach;
#[path = "requests/record.rs"]
mod record;
#[path = "requests/session.rs"]
mod session;
#[path = "requests/sizes.rs"]
mod sizes;
#[path = "requests/wire.rs"]
mod wire;

use std::time::Instant;

use anyhow::Context as _;
use coffer_tests::host::{Host, Settings};
use coffer_tests::needs_an_image;
use session::Session;

#[test]
fn each_bad_request_has_one_clear_error_and_nothing_is_lost() -> anyhow::Result<()> {
    needs_an_image!();
    let host = Host::start(&Settings::default())?;
    let id = session::create(&host)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let session = runtime.block_on(Session::connect(&host, &id))?;
    let before = host.peak_memory_kib()?;
    let all = async {
        let mut begin = Instant::now();
        let mut told = |what: &str| {
            println!("{what}: {:.1?}", begin.elapsed());
            begin = Instant::now();
        };
        control::requests(&session, &host).await.context("control")?;
        told("control");
        wire::bytes(&session, &host).await.context("wire")?;
        told("wire");
        execs::limits(&session).await.context("execs")?;
        told("execs");
        reattach::calls(&session).await.context("reattach")?;
        told("reattach");
        files::paths(&session).await.context("files")?;
        told("files");
        names::changes(&session).await.context("names")?;
        told("names");
        let made = git::work(&session, &host).await.context("git")?;
        told("git");
        archives::uploads(&session).await.context("archives")?;
        told("archives");
        races::swaps(&session).await.context("races")?;
        told("races");
        sizes::transfers(&session, &host, before).await.context("sizes")?;
        told("sizes");
        session.works().await?;
        anyhow::Ok(made)
    };
    let made = runtime.block_on(all).with_context(|| host.diagnostics())?;
    let calls = session.calls();
    drop(session);
    answers::all_were_right();
    record::holds_what_happened(&host, &id, &calls).with_context(|| host.diagnostics())?;
    git::shown(&host, &made)
}
