//! Serves a call that has ended, from what is kept of it. A reader holds one chunk at a time and asks for the next; what is
//! dropped meanwhile it is told, so that slow readers keep nothing alive.

use super::answers::Reply;
use super::known::{Key, Known};
use super::live::Arrival;
use super::window::{Chunk, Of, Offsets};
use coffer_proto::guest::v1 as pb;
use pb::exec_response::Response as Outbound;
use tokio::sync::mpsc;
use tonic::Status;

/// A client that was there when the call ended.
pub(super) struct Reader {
    pub(super) reply: Reply,
    /// It was sent everything before these.
    pub(super) at: Offsets,
    /// What it hears instead of the end.
    pub(super) fault: Option<Status>,
}

/// A chunk as a client gets it.
pub(super) fn output(Chunk { of, offset, data }: Chunk) -> Outbound {
    let output = pb::Output { offset, data };
    match of {
        Of::Stdout => Outbound::Stdout(output),
        Of::Stderr => Outbound::Stderr(output),
    }
}

/// Serves one who comes after the end.
pub(super) async fn serve(known: &Known, key: Key, arrival: Arrival) {
    match known.begin(key, arrival.at) {
        Ok(started) => {
            arrival.reply.greet(started);
            rest(known, key, Reader { reply: arrival.reply, at: arrival.at, fault: None }).await;
        }
        Err(status) => arrival.reply.end(status),
    }
}

/// Serves those who came just before the end, and the one who was there first.
pub(super) async fn serve_all(known: &Known, key: Key, first: Option<Arrival>, mut late: mpsc::Receiver<Arrival>) {
    while let Ok(arrival) = late.try_recv() {
        let known = known.clone();
        tokio::spawn(async move { serve(&known, key, arrival).await });
    }
    if let Some(first) = first {
        serve(known, key, first).await;
    }
}

/// Goes on with the client that was there when the call ended. Those who came just before the end do not take over from
/// it: everybody can read what does not change any more.
pub(super) async fn serve_rest(known: &Known, key: Key, reader: Option<Reader>, late: mpsc::Receiver<Arrival>) {
    serve_all(known, key, None, late).await;
    if let Some(reader) = reader {
        rest(known, key, reader).await;
    }
}

async fn rest(known: &Known, key: Key, Reader { reply, mut at, fault }: Reader) {
    if let Some(fault) = fault {
        return reply.end(fault);
    }
    loop {
        let chunk = match known.read(key, at) {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(status) => return reply.end(status),
        };
        let end = chunk.offset + chunk.data.len() as u64;
        match chunk.of {
            Of::Stdout => at.stdout = end,
            Of::Stderr => at.stderr = end,
        }
        if !reply.send(output(chunk)).await {
            return;
        }
    }
    match known.ending(key) {
        Ok(exited) => drop(reply.send(Outbound::Exited(exited)).await),
        Err(status) => reply.end(status),
    }
}
