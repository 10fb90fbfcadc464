//! The control connection of one session: what the agent says on it becomes signals, what the owner task orders is told
//! to the agent. The agent may lose the connection and come back: it then repeats everything from its hello on.

use coffer_evidence::link::{Frame as _, ToGuest, ToHost};
use coffer_evidence::seal::Reason;
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, watch};
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use super::conversation::Conversation;
use super::machine::Event;
use super::signal::Signal;
use crate::link::GuestStream;

/// More often than this a guest does not lose its link.
const CONNECTIONS_MAX: u32 = 64;

/// What the agent is to do. Told again on each connection: the agent obeys each once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    pub(crate) close: Option<Reason>,
    pub(crate) power_off: PowerOff,
}

/// Whether the agent may power off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PowerOff {
    #[default]
    NotYet,
    /// Its evidence is stored.
    Stored,
}

/// A codec for frames of `u32le length ‖ bytes`.
pub(crate) fn frames(most: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().little_endian().length_field_length(4).max_frame_length(most).new_codec()
}

/// Serves the control port until the session drops it. What an earlier life of this process heard is heard again first.
pub(crate) async fn serve(
    mut conversation: Conversation,
    mut connections: mpsc::Receiver<GuestStream>,
    orders: watch::Receiver<Orders>,
    signals: mpsc::Sender<Signal>,
) {
    match conversation.recall() {
        Ok(recalled) => {
            for signal in recalled {
                drop(signals.send(signal).await);
            }
        }
        Err(why) => return drop(signals.send(Event::GuestViolated(why).into()).await),
    }
    let mut count = 0;
    while let Some(stream) = connections.recv().await {
        count += 1;
        if count > CONNECTIONS_MAX {
            let why = format!("the guest connected more than {CONNECTIONS_MAX} times");
            drop(signals.send(Event::GuestViolated(why).into()).await);
            return;
        }
        match converse(stream, &mut conversation, orders.clone(), &signals).await {
            Ok(()) => drop(signals.send(Event::LinkLost.into()).await),
            Err(why) => {
                drop(signals.send(Event::GuestViolated(why).into()).await);
                // Nothing more from this guest is read.
                return;
            }
        }
    }
}

/// One connection, until its end.
async fn converse(
    stream: GuestStream,
    conversation: &mut Conversation,
    mut orders: watch::Receiver<Orders>,
    signals: &mpsc::Sender<Signal>,
) -> Result<(), String> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = FramedRead::new(reader, frames(ToHost::MAX));
    let mut told = Orders::default();
    let mut place = 0;
    loop {
        let order = *orders.borrow_and_update();
        for message in news(told, order) {
            if writer.write_all(&message.to_wire()).await.is_err() || writer.flush().await.is_err() {
                return Ok(());
            }
        }
        told = order;
        tokio::select! {
            changed = orders.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            frame = reader.next() => {
                let frame = match frame {
                    Some(Ok(frame)) => frame,
                    Some(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
                        return Err(format!("expected a frame of at most {} bytes", ToHost::MAX));
                    }
                    Some(Err(_)) | None => return Ok(()),
                };
                let known = conversation.has_begun();
                let signal = conversation.take(place, &frame)?;
                // Whoever repeats its first word is the one that was here before.
                let back = (place == 0 && known).then_some(Signal::Event(Event::LinkRestored));
                for signal in back.into_iter().chain(signal) {
                    if signals.send(signal).await.is_err() {
                        return Ok(());
                    }
                }
                place += 1;
            }
        }
    }
}

/// What an agent that was told `before` is told now.
fn news(before: Orders, now: Orders) -> Vec<ToGuest> {
    let mut messages = Vec::new();
    if let Some(reason) = now.close.filter(|_| before.close.is_none()) {
        messages.push(ToGuest::Close { reason });
    }
    if now.power_off == PowerOff::Stored && before.power_off == PowerOff::NotYet {
        messages.push(ToGuest::Stored);
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::types::Ending;
    use coffer_evidence::ids::SessionId;
    use coffer_evidence::seal::ClosedBy;
    use tokio::io::{AsyncReadExt as _, DuplexStream};

    const SESSION: SessionId = SessionId::new([5; 16]);

    fn hello() -> ToHost {
        ToHost::Hello { session: SESSION, agent_svn: 1 }
    }

    fn ready() -> ToHost {
        ToHost::Ready { open_map: vec![1], opening_quote: vec![2], ccel: None }
    }

    struct Host {
        connections: mpsc::Sender<GuestStream>,
        signals: mpsc::Receiver<Signal>,
        orders: watch::Sender<Orders>,
    }

    fn host() -> Host {
        let (connections, receiver) = mpsc::channel(4);
        let (sender, signals) = mpsc::channel(16);
        let orders = watch::Sender::new(Orders::default());
        tokio::spawn(serve(Conversation::unkept(SESSION), receiver, orders.subscribe(), sender));
        Host { connections, signals, orders }
    }

    async fn guest(host: &Host, messages: &[ToHost]) -> DuplexStream {
        let (mut ours, theirs) = tokio::io::duplex(1 << 16);
        host.connections.send(Box::new(theirs)).await.expect("connected");
        for message in messages {
            ours.write_all(&message.to_wire()).await.expect("said");
        }
        ours
    }

    async fn next(host: &mut Host) -> Signal {
        tokio::time::timeout(std::time::Duration::from_secs(5), host.signals.recv())
            .await
            .expect("in time")
            .expect("a signal")
    }

    #[tokio::test]
    async fn a_guest_that_comes_back_repeats_itself_and_goes_on() {
        let mut host = host();
        let first = guest(&host, &[hello(), ready()]).await;
        assert!(matches!(next(&mut host).await, Signal::Opened(_)));
        drop(first);
        assert!(matches!(next(&mut host).await, Signal::Event(Event::LinkLost)));
        let closing = ToHost::Closing { reason: Reason::TtlExpired, closed_by: ClosedBy::Agent };
        let _second = guest(&host, &[hello(), ready(), closing]).await;
        assert!(matches!(next(&mut host).await, Signal::Event(Event::LinkRestored)));
        let expected = Event::GuestClosing(Ending::by_agent(Reason::TtlExpired));
        assert!(matches!(next(&mut host).await, Signal::Event(event) if event == expected));
    }

    #[tokio::test]
    async fn a_guest_that_contradicts_itself_or_another_session_is_a_violation() {
        let foreign = ToHost::Hello { session: SessionId::new([6; 16]), agent_svn: 1 };
        let sealed = ToHost::Sealed { seal_map: vec![], seal_quote: vec![], statement: vec![] };
        for messages in [
            vec![ready()],
            vec![foreign],
            vec![hello(), hello()],
            vec![hello(), sealed],
            vec![hello(), ready(), ready()],
        ] {
            let mut host = host();
            let _guest = guest(&host, &messages).await;
            let mut signal = next(&mut host).await;
            if matches!(signal, Signal::Opened(_)) {
                signal = next(&mut host).await;
            }
            assert!(matches!(signal, Signal::Event(Event::GuestViolated(_))), "{messages:?}: {signal:?}");
        }
        let mut host = host();
        drop(guest(&host, &[hello()]).await);
        assert!(matches!(next(&mut host).await, Signal::Event(Event::LinkLost)));
        let _changed = guest(&host, &[ToHost::Hello { session: SESSION, agent_svn: 2 }]).await;
        assert!(matches!(next(&mut host).await, Signal::Event(Event::GuestViolated(_))));
    }

    #[tokio::test]
    async fn a_guest_may_fail_before_it_knows_its_session() {
        let mut host = host();
        let failed = ToHost::Failed { stage: "boot disk".into(), detail: "registers\x1b[2J differ".into() };
        let _guest = guest(&host, &[failed]).await;
        let expected = Event::GuestFailed("boot disk: registers[2J differ".into());
        assert!(matches!(next(&mut host).await, Signal::Event(event) if event == expected));
    }

    #[tokio::test]
    async fn a_link_that_comes_and_goes_for_ever_is_a_violation() {
        let mut host = host();
        for _ in 0..CONNECTIONS_MAX {
            drop(guest(&host, &[]).await);
            assert!(matches!(next(&mut host).await, Signal::Event(Event::LinkLost)));
        }
        drop(guest(&host, &[]).await);
        assert!(matches!(next(&mut host).await, Signal::Event(Event::GuestViolated(_))));
    }

    #[tokio::test]
    async fn a_frame_too_long_is_a_violation_before_it_is_read() {
        let mut host = host();
        let mut guest = guest(&host, &[]).await;
        guest.write_all(&u32::MAX.to_le_bytes()).await.expect("said");
        assert!(matches!(next(&mut host).await, Signal::Event(Event::GuestViolated(_))));
    }

    #[tokio::test]
    async fn orders_reach_the_guest_now_and_after_it_came_back() {
        let host = host();
        let mut first = guest(&host, &[hello()]).await;
        host.orders.send_modify(|orders| orders.close = Some(Reason::UserClosed));
        let expected = ToGuest::Close { reason: Reason::UserClosed }.to_wire();
        let mut found = vec![0; expected.len()];
        first.read_exact(&mut found).await.expect("the order");
        assert_eq!(found, expected);
        drop(first);
        host.orders.send_modify(|orders| orders.power_off = PowerOff::Stored);
        let mut second = guest(&host, &[hello()]).await;
        let expected = [expected, ToGuest::Stored.to_wire()].concat();
        let mut found = vec![0; expected.len()];
        second.read_exact(&mut found).await.expect("both orders");
        assert_eq!(found, expected);
    }
}
