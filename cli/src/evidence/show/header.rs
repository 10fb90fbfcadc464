//! A signed call header in words.

use coffer_evidence::call_header::{CallHeader, Said, Speaker};
use coffer_evidence::ids::Digest256;

/// What it says, who says it where that is no identity, and its place.
pub(super) fn told(header: &CallHeader) -> String {
    let said = match &header.said {
        Said::Hello { .. } => "hello".to_owned(),
        Said::Call { .. } => "asks for the call again".to_owned(),
        Said::Input { offset, .. } => format!("input as far as byte {offset}"),
        Said::Ack { seen } => format!("has seen {} leaves", seen.size),
        Said::Signal { .. } => "signal".to_owned(),
        Said::Cancel { .. } => "cancel".to_owned(),
        Said::Close => "close".to_owned(),
    };
    let speaker = match &header.speaker {
        // The line of the leaf begins with it.
        Speaker::Identity(_) => String::new(),
        other => format!(" by {other}"),
    };
    format!("{said}{speaker}, {}", place(header))
}

/// Its place in its channel.
pub(super) fn place(header: &CallHeader) -> String {
    format!("header {} of channel {}", header.seq, short(&header.channel))
}

/// Enough of a channel's id to tell it from others.
pub(super) fn short(channel: &Digest256) -> String {
    channel.to_string().chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use coffer_evidence::call_header::NO_PREVIOUS;
    use coffer_evidence::ids::{Identity, InstanceId};

    use super::*;

    #[test]
    fn headers_are_told_with_their_speaker_and_place() {
        let header = |speaker, said| CallHeader {
            instance: InstanceId::new([0; 32]),
            channel: Digest256::new([0xab; 32]),
            speaker,
            seq: 2,
            prev: NO_PREVIOUS,
            said,
        };
        assert_eq!(told(&header(Speaker::Owner, Said::Close)), "close by @owner, header 2 of channel abababab");
        let identity = Speaker::Identity(Identity::default_name());
        assert_eq!(told(&header(identity, Said::Close)), "close, header 2 of channel abababab");
    }
}
