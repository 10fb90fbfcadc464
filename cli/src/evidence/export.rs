//! `coffer evidence export`

use std::path::PathBuf;

use clap::Args;
use coffer_client::keys::KeyName;
use coffer_evidence::ids::SessionId;
use serde::Serialize;

use super::pins::{Pins, write_pins};
use crate::command::Context;
use crate::exit::Status;
use crate::output::Form;
use crate::{image, key};

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The session
    id: SessionId,
    /// Where the bundle goes
    file: PathBuf,
    /// Also write an appraisal policy that pins this user's owner key, the image's publisher and the trust anchor
    #[arg(long, value_name = "FILE")]
    appraisal: Option<PathBuf>,
}

#[derive(Serialize)]
struct Exported {
    session: String,
    file: String,
    bytes: u64,
    appraisal: Option<String>,
}

/// Writes the bundle, and the policy when asked.
pub(super) async fn export(context: &Context, args: ExportArgs) -> anyhow::Result<Status> {
    let client = context.client().await?;
    // Before the bundle: a file without its policy would look like success.
    let pins = match &args.appraisal {
        None => None,
        Some(path) => {
            let session = client.get(&args.id).await?;
            let owner = key::public(&context.output, &KeyName::Owner)?;
            let image = image::by_digest(&client, &session.image).await?;
            Some((path, Pins { session: args.id, owner, image }.text()?))
        }
    };
    let bytes = client.export(&args.id, &args.file).await?;
    if let Some((path, text)) = &pins {
        write_pins(path, text)?;
    }
    let output = &context.output;
    match output.form {
        Form::Json => output.json(&Exported {
            session: args.id.to_string(),
            file: args.file.display().to_string(),
            bytes,
            appraisal: args.appraisal.as_ref().map(|path| path.display().to_string()),
        })?,
        Form::People => output.note(format_args!("{} bytes of evidence in {}", bytes, args.file.display())),
    }
    Ok(Status::DONE)
}
