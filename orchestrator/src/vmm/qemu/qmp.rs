//! QEMU's machine protocol, as much of it as a session needs: the greeting, capabilities, and the events that tell why a
//! machine stops. One JSON object a line; everything from QEMU is bounded and may be wrong.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::{oneshot, watch};

/// The longest line in bytes.
const LINE_MAX: u64 = 64 * 1024;
/// How long QEMU may take to greet and to accept the first command.
const NEGOTIATION: Duration = Duration::from_secs(30);

/// Why the machine stops, as far as QEMU has said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stopping {
    #[default]
    NotSaid,
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset, which `-no-reboot` makes an end.
    Reset,
    /// The guest said that it panicked.
    Panic,
    /// It stands still and will not go on: the accelerator or a disk failed.
    Halted,
}

/// Why the conversation ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    #[error("expected QEMU to greet within {NEGOTIATION:?}")]
    Silent,
    #[error("expected a QMP line of JSON of at most {LINE_MAX} bytes, found another")]
    Form,
    #[error("QEMU refused {command}: {description}")]
    Refused { command: &'static str, description: String },
    #[error("the QMP connection failed")]
    Io(#[from] std::io::Error),
}

/// What one line means here.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Greeting { version: String },
    Answer,
    Error(String),
    Stopping(Stopping),
    Other,
}

fn parse(line: &[u8]) -> Result<Line, QmpError> {
    let value: Value = serde_json::from_slice(line).map_err(|_| QmpError::Form)?;
    if let Some(version) = value.pointer("/QMP/version/qemu") {
        let number = |name: &str| version.get(name).and_then(Value::as_u64).unwrap_or(0);
        let version = format!("{}.{}.{}", number("major"), number("minor"), number("micro"));
        return Ok(Line::Greeting { version });
    }
    if let Some(error) = value.get("error") {
        let description = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
        return Ok(Line::Error(description.to_owned()));
    }
    if value.get("return").is_some() {
        return Ok(Line::Answer);
    }
    let reason = value.pointer("/data/reason").and_then(Value::as_str);
    Ok(match (value.get("event").and_then(Value::as_str), reason) {
        (Some("GUEST_PANICKED"), _) | (Some("SHUTDOWN"), Some("guest-panic")) => Line::Stopping(Stopping::Panic),
        (Some("SHUTDOWN"), Some("guest-shutdown")) => Line::Stopping(Stopping::PowerOff),
        (Some("SHUTDOWN"), Some("guest-reset")) | (Some("RESET"), _) => Line::Stopping(Stopping::Reset),
        // Nobody here ever asks for it.
        (Some("STOP"), _) => Line::Stopping(Stopping::Halted),
        _ => Line::Other,
    })
}

/// Negotiates, tells `ready`, and then follows events until the connection ends or the machine stands still; `stopping`
/// keeps the first reason.
pub(crate) async fn follow<S>(
    stream: S,
    stopping: &watch::Sender<Stopping>,
    ready: oneshot::Sender<()>,
) -> Result<(), QmpError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = BufReader::new(reader);
    let negotiation = async {
        let version = match next(&mut reader).await? {
            Some(Line::Greeting { version }) => version,
            Some(_) => return Err(QmpError::Form),
            None => return Err(QmpError::Silent),
        };
        writer.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").await?;
        loop {
            match next(&mut reader).await? {
                Some(Line::Answer) => return Ok(version),
                Some(Line::Error(description)) => {
                    return Err(QmpError::Refused { command: "qmp_capabilities", description });
                }
                Some(Line::Stopping(why)) => keep_first(stopping, why),
                Some(Line::Greeting { .. } | Line::Other) => {}
                None => return Err(QmpError::Silent),
            }
        }
    };
    let version = tokio::time::timeout(NEGOTIATION, negotiation).await.map_err(|_| QmpError::Silent)??;
    tracing::debug!(version, "QEMU answers");
    let _ = ready.send(());
    while let Some(line) = next(&mut reader).await? {
        if let Line::Stopping(why) = line {
            keep_first(stopping, why);
            if why == Stopping::Halted {
                break;
            }
        }
    }
    Ok(())
}

fn keep_first(stopping: &watch::Sender<Stopping>, why: Stopping) {
    stopping.send_if_modified(|known| {
        let first = *known == Stopping::NotSaid;
        if first {
            *known = why;
        }
        first
    });
}

async fn next<R: AsyncRead + Unpin>(reader: &mut BufReader<R>) -> Result<Option<Line>, QmpError> {
    let mut line = Vec::new();
    let n = reader.take(LINE_MAX).read_until(b'\n', &mut line).await?;
    match n {
        0 => Ok(None),
        _ if line.last() != Some(&b'\n') => Err(QmpError::Form),
        _ => parse(&line).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &[u8] =
        br#"{"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11}, "package": ""}, "capabilities": []}}"#;

    async fn conversation(lines: &[&[u8]]) -> (Result<(), QmpError>, Stopping, Vec<u8>) {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        for line in lines {
            theirs.write_all(line).await.expect("write");
            theirs.write_all(b"\n").await.expect("write");
        }
        let (mut read, mut write) = tokio::io::split(theirs);
        write.shutdown().await.expect("shutdown");
        let (stopping, seen) = watch::channel(Stopping::NotSaid);
        let (ready, negotiated) = oneshot::channel();
        let result = follow(ours, &stopping, ready).await;
        assert_eq!(negotiated.await.is_ok(), result.is_ok(), "ready is said after the negotiation alone");
        let mut said = Vec::new();
        read.read_to_end(&mut said).await.expect("read");
        let seen = *seen.borrow();
        (result, seen, said)
    }

    #[tokio::test]
    async fn the_reason_of_a_stop_is_understood() {
        for (event, expected) in [
            (r#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}"#, Stopping::PowerOff),
            (r#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-reset"}}"#, Stopping::Reset),
            (r#"{"event":"GUEST_PANICKED","data":{"action":"shutdown"}}"#, Stopping::Panic),
            (r#"{"event":"SHUTDOWN","data":{"guest":false,"reason":"host-signal"}}"#, Stopping::NotSaid),
            (r#"{"event":"RESUME"}"#, Stopping::NotSaid),
            (r#"{"event":"STOP"}"#, Stopping::Halted),
        ] {
            let (result, stopping, said) = conversation(&[GREETING, br#"{"return": {}}"#, event.as_bytes()]).await;
            assert!(result.is_ok(), "{result:?}");
            assert_eq!(stopping, expected, "{event}");
            assert_eq!(said, b"{\"execute\":\"qmp_capabilities\"}\n");
        }
    }

    #[tokio::test]
    async fn the_first_reason_stays() {
        let reset = br#"{"event":"SHUTDOWN","data":{"reason":"guest-reset"}}"#;
        let off = br#"{"event":"SHUTDOWN","data":{"reason":"guest-shutdown"}}"#;
        let (_, stopping, _) = conversation(&[GREETING, br#"{"return": {}}"#, reset, off]).await;
        assert_eq!(stopping, Stopping::Reset);
    }

    #[tokio::test]
    async fn what_is_not_qmp_ends_the_conversation() {
        let long = vec![b'x'; usize::try_from(LINE_MAX).expect("fits") + 1];
        for bad in [&b"hello"[..], b"", b"\"QMP\"", &long] {
            let (result, _, _) = conversation(&[bad]).await;
            assert!(result.is_err(), "{:?}", String::from_utf8_lossy(&bad[..bad.len().min(20)]));
        }
        let refused = conversation(&[GREETING, br#"{"error":{"class":"GenericError","desc":"no"}}"#]).await.0;
        assert!(matches!(refused, Err(QmpError::Refused { .. })));
    }
}
