//! Following sessions: until a phase is reached, or for as long as the user likes.

use coffer_client::{Client, ClientError};
use coffer_evidence::ids::SessionId;
use coffer_proto::control::v1::watch_sessions_response::Event;
use coffer_proto::control::v1::{Phase, Session};
use serde::Serialize;
use tokio_stream::StreamExt as _;

use super::shown::{SessionShown, phase_word};
use crate::command::Context;
use crate::exit::Status;
use crate::output::Form;

/// Waits until the session is in the phase or can no longer reach it; shows the phases on the way.
pub(crate) async fn wait(
    context: &Context,
    client: &Client,
    id: &SessionId,
    phase: Phase,
) -> Result<Session, ClientError> {
    let output = &context.output;
    let shown = async {
        let Ok(mut events) = client.watch(Some(id)).await else { return };
        while let Some(Ok(event)) = events.next().await {
            if let Event::Session(session) = event {
                output.progress(format_args!("session {id}: {}", phase_word(session.phase())));
            }
        }
    };
    if !output.draws() {
        return client.wait(id, phase).await;
    }
    let waited = client.wait(id, phase);
    tokio::pin!(waited);
    // The watch is for people alone: whatever becomes of it, the wait decides.
    let result = tokio::select! {
        result = &mut waited => result,
        () = shown => waited.await,
    };
    output.done();
    result
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum EventShown {
    Session(Box<SessionShown>),
    Lagged(u64),
}

/// `coffer session watch`
pub(super) async fn watch(context: &Context, id: Option<SessionId>) -> anyhow::Result<Status> {
    let client = context.client().await?;
    let mut events = client.watch(id.as_ref()).await?;
    while let Some(event) = events.next().await {
        let output = &context.output;
        match (event?, output.form) {
            (Event::Session(session), Form::Json) => {
                output.json(&EventShown::Session(Box::new(SessionShown::new(&session))))?;
            }
            (Event::Session(session), Form::People) => output.line(SessionShown::new(&session).line())?,
            (Event::Lagged(count), Form::Json) => output.json(&EventShown::Lagged(count))?,
            (Event::Lagged(count), Form::People) => {
                output.note(format_args!("{count} changes were missed: this was too slow; what follows is current"));
            }
        }
    }
    Ok(Status::DONE)
}
