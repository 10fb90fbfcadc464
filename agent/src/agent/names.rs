//! The operations on names: remove, move, make a directory.

use super::files::plain;
use super::limits;
use super::session::Session;
use coffer_evidence::call::{Above, Reach, Request, Taken};
use coffer_proto::guest::v1 as pb;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Mode of a directory when none is asked for.
const MODE_DEFAULT: u32 = 0o755;

pub(super) async fn remove(
    session: Arc<Session>,
    request: pb::RemoveRequest,
    gone: CancellationToken,
) -> Result<pb::RemoveResponse, Status> {
    let path = limits::file_path(&request.path)?;
    let reach = if request.recursive { Reach::Tree } else { Reach::One };
    let asked = Request::Remove { path: path.clone(), reach };
    let ran = plain(&session, request.header, asked, vec![path], None, &gone).await?;
    Ok(pb::RemoveResponse { removed: ran.files, intent_index: ran.intent, outcome_index: ran.outcome })
}

pub(super) async fn rename(
    session: Arc<Session>,
    request: pb::MoveRequest,
    gone: CancellationToken,
) -> Result<pb::MoveResponse, Status> {
    let (path, destination) = (limits::file_path(&request.path)?, limits::file_path(&request.destination)?);
    let taken = if request.replace { Taken::Replace } else { Taken::Refuse };
    let asked = Request::Move { path: path.clone(), destination: destination.clone(), taken };
    let ran = plain(&session, request.header, asked, vec![path, destination], None, &gone).await?;
    Ok(pb::MoveResponse { intent_index: ran.intent, outcome_index: ran.outcome })
}

pub(super) async fn make_directory(
    session: Arc<Session>,
    request: pb::MakeDirectoryRequest,
    gone: CancellationToken,
) -> Result<pb::MakeDirectoryResponse, Status> {
    let path = limits::file_path(&request.path)?;
    let mode = u64::from(limits::mode(request.mode, MODE_DEFAULT)?);
    let above = if request.parents { Above::Made } else { Above::Expected };
    let asked = Request::MakeDirectory { path: path.clone(), mode, above };
    let ran = plain(&session, request.header, asked, vec![path], None, &gone).await?;
    Ok(pb::MakeDirectoryResponse { made: ran.files, intent_index: ran.intent, outcome_index: ran.outcome })
}
