//! `WatchSessions` as a stream: what is there now, then each change, with a word where some were dropped.

use std::collections::VecDeque;
use std::sync::Arc;

use coffer_evidence::ids::SessionId;
use coffer_proto::control::v1::WatchSessionsResponse;
use coffer_proto::control::v1::watch_sessions_response::Event;
use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tonic::Status;

use super::message;
use crate::session::record::SessionRecord;

struct Watching {
    now: VecDeque<Arc<SessionRecord>>,
    changes: Receiver<Arc<SessionRecord>>,
    only: Option<SessionId>,
    over: bool,
}

/// `now` was read after `changes` was subscribed to, so nothing is missed; a change may be told twice.
pub(super) fn stream(
    now: Vec<Arc<SessionRecord>>,
    changes: Receiver<Arc<SessionRecord>>,
    only: Option<SessionId>,
) -> BoxStream<'static, Result<WatchSessionsResponse, Status>> {
    let watching = Watching { now: now.into(), changes, only, over: false };
    unfold(watching, |mut watching| async move {
        let event = watching.next().await?;
        Some((Ok(WatchSessionsResponse { event: Some(event) }), watching))
    })
    .boxed()
}

impl Watching {
    async fn next(&mut self) -> Option<Event> {
        if self.over {
            return None;
        }
        loop {
            let record = match self.now.pop_front() {
                Some(record) => record,
                None => match self.changes.recv().await {
                    Ok(record) => record,
                    Err(RecvError::Lagged(dropped)) => return Some(Event::Lagged(dropped)),
                    Err(RecvError::Closed) => return None,
                },
            };
            if self.only.is_some_and(|only| only != record.id) {
                continue;
            }
            self.over = self.only.is_some() && record.is_closed();
            return Some(Event::Session(message::session(&record)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::machine::Event as Happened;
    use crate::session::record::fixtures::record;
    use crate::session::types::Timestamp;
    use tokio::sync::broadcast;

    fn closed(id: u8) -> Arc<SessionRecord> {
        let mut record = record(id);
        // A restart before anything was launched, then every deadline.
        record.apply(Happened::HostRestarted, Timestamp(0));
        while let Some(deadline) = record.machine.deadline() {
            record.apply(Happened::DeadlinePassed, deadline);
        }
        assert!(record.is_closed());
        Arc::new(record)
    }

    #[tokio::test]
    async fn one_session_is_watched_to_its_end_and_others_are_not_shown() {
        let sender = broadcast::Sender::new(16);
        let first = Arc::new(record(1));
        let watching = stream(vec![Arc::clone(&first)], sender.subscribe(), Some(first.id));
        for change in [Arc::new(record(2)), closed(1), Arc::new(record(1))] {
            sender.send(change).expect("watched");
        }
        let events: Vec<_> = watching.map(|e| e.expect("event").event.expect("event")).collect().await;
        assert_eq!(events.len(), 2, "now, and closed: {events:?}");
        assert!(matches!(&events[1], Event::Session(s) if s.phase() == coffer_proto::control::v1::Phase::Closed));
    }

    #[tokio::test]
    async fn a_slow_watcher_is_told_how_much_it_missed() {
        let sender = broadcast::Sender::new(2);
        let mut watching = stream(vec![], sender.subscribe(), None);
        for id in 0..5 {
            sender.send(Arc::new(record(id))).expect("watched");
        }
        let first = watching.next().await.expect("an event").expect("event").event.expect("event");
        assert_eq!(first, Event::Lagged(3));
        assert!(matches!(watching.next().await.expect("newer").expect("event").event, Some(Event::Session(_))));
    }
}
