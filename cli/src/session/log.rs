//! `coffer session log`: the action log of an open session, as its guest has told it so far.

use clap::Args;
use coffer_client::sessions::Follow;
use coffer_evidence::call::Disclosed;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::SessionId;
use coffer_evidence::leaf::Leaf;
use coffer_proto::control::v1::{PrivatePart, ReadLogResponse};
use tokio_stream::StreamExt as _;

use crate::command::Context;
use crate::evidence::show::leaf::Line;
use crate::exit::Status;
use crate::output::Form;

pub(super) const LOG_HELP: &str = "\
One line for each leaf: who ordered what, what was decided and by which rule, what came of it.
The log comes from the host and proves nothing yet: `coffer evidence verify` judges what the session leaves when it is closed, \
and `coffer evidence show` tells it the same way. --json prints a line of JSON for each leaf.";

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The session
    id: SessionId,
    /// Go on until the session is closed
    #[arg(long, short)]
    follow: bool,
}

/// `coffer session log`
pub(super) async fn log(context: &Context, args: &LogArgs) -> anyhow::Result<Status> {
    let follow = if args.follow { Follow::ToTheEnd } else { Follow::Now };
    let mut entries = context.client().await?.log(&args.id, follow).await?;
    let output = &context.output;
    while let Some(entry) = entries.next().await {
        let (leaf, part) = read(entry?)?;
        let line = Line::new(&leaf, part.as_ref());
        match output.form {
            Form::Json => output.json(&line)?,
            Form::People => output.line(output.paint(line.colour(), &line.text()))?,
        }
    }
    Ok(Status::DONE)
}

/// What the host says is parsed as strictly as what a bundle says.
fn read(entry: ReadLogResponse) -> anyhow::Result<(Leaf, Option<Disclosed>)> {
    let index = entry.index;
    let leaf = Leaf::parse(&entry.leaf)
        .map_err(|error| anyhow::anyhow!("expected leaf {index} of the log from the host, found no leaf: {error}"))?;
    anyhow::ensure!(leaf.index == index, "expected leaf {index} of the log from the host, found leaf {}", leaf.index);
    let part = entry.private.map(|PrivatePart { salt, bytes }| {
        let salt = <[u8; 32]>::try_from(salt.as_ref());
        salt.map(|salt| Disclosed { index, salt, bytes: bytes.to_vec() })
    });
    let part = part.transpose();
    Ok((leaf, part.map_err(|_| anyhow::anyhow!("expected a salt of 32 bytes for leaf {index}, found another"))?))
}
