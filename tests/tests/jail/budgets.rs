//! Budgets of the policy, one identity for each: the call that reaches one is done, the next one is denied, says why, and leaves the
//! rule's name in the log; and nobody else is.

use anyhow::ensure;
use tonic::Status;

use crate::tools::Asked::{Read, Write};
use crate::tools::{Ended, Left, Session, reason};

const RUN: Left = Left::By(&["run"]);

fn denied(what: &str, result: Result<Ended, Status>, rule: &str) -> anyhow::Result<()> {
    let Err(status) = result else { anyhow::bail!("{what}: expected a denial, found {result:?}") };
    let text = status.message().to_owned();
    ensure!(reason(Err::<(), _>(status)) == "POLICY_DENIED", "{what}: {text}");
    ensure!(text.contains(&format!("forbids it by `{rule}`")), "{what}: {text}");
    Ok(())
}

pub(crate) async fn end_calls(session: &Session) -> anyhow::Result<()> {
    // Three calls, of whatever kind; those that fail and those that start nothing count, those that are denied do not.
    session.run("calls", &["true"], RUN).await?;
    session.run("calls", &["false"], RUN).await?;
    session.write("calls", "calls/file", 0, b"third", Left::By(&["calls-works"])).await?;
    for _ in 0..2 {
        let again = session.run("calls", &["true"], Left::Denied(&["calls-budget"])).await;
        denied("the fourth call", again, "calls-budget")?;
        let read = session.ask("calls", Read, "calls/file", Left::Denied(&["calls-budget"])).await;
        ensure!(reason(read) == "POLICY_DENIED", "the fourth call, of a file tool");
    }
    // What no rule allows is denied by none; what one forbids beside that is told.
    let nowhere = session.ask("calls", Write, "maker/x", Left::Denied(&["calls-budget"])).await;
    ensure!(reason(nowhere) == "POLICY_DENIED", "what no rule allows");

    // 1,000 bytes put out: 999 are not yet that.
    session.run("output", &["head", "-c", "999", "/dev/zero"], RUN).await?;
    session.run("output", &["head", "-c", "1", "/dev/zero"], RUN).await?;
    let more = session.run("output", &["true"], Left::Denied(&["output-budget"])).await;
    denied("after 1,000 bytes", more, "output-budget")?;

    // 1,000 bytes taken in.
    session.write("input", "input/file", 0, &[7; 999], Left::By(&["input-works"])).await?;
    session.write("input", "input/file", 0, &[7; 1], Left::By(&["input-works"])).await?;
    let more = session.run("input", &["true"], Left::Denied(&["input-budget"])).await;
    denied("after 1,000 bytes", more, "input-budget")?;

    // A second of run time, whole when a call that takes one has ended.
    session.run("seconds", &["true"], RUN).await?;
    session.run("seconds", &["sleep", "1"], RUN).await?;
    let more = session.run("seconds", &["true"], Left::Denied(&["seconds-budget"])).await;
    denied("after a second", more, "seconds-budget")?;

    // One at a time: while one runs there is no other, and then there is.
    let one = session.going("running", "import sys\nprint('up', flush=True)\nsys.stdin.read()").await?;
    let second = session.run("running", &["true"], Left::Denied(&["running-budget"])).await;
    denied("a second at once", second, "running-budget")?;
    ensure!(one.end().await?.exited.code == 0);
    session.run("running", &["true"], RUN).await?;
    // Nobody else's calls were counted there.
    session.run("maker", &["true"], RUN).await?;
    Ok(())
}
