//! Seeds of what processes and machines say to each other.

use coffer_agent::frames::{self, Frame as _, grant, log, observe, start, tool, warrant};
use coffer_evidence::ids::SessionId;
use coffer_evidence::link::{Frame as _, Mirror, ToGuest, ToHost};
use coffer_evidence::seal::{ClosedBy, Reason};
use coffer_fuzz::script::Writer;

use crate::{Seed, seed};

const SESSION: [u8; 16] = [0x5e; 16];

fn hello() -> ToHost {
    ToHost::Hello { session: SessionId::new(SESSION), agent_svn: 1 }
}

fn ready() -> ToHost {
    ToHost::Ready { open_map: vec![1; 40], opening_quote: vec![2; 60], ccel: Some(vec![3]) }
}

fn to_host() -> Vec<(&'static str, ToHost)> {
    vec![
        ("hello", hello()),
        ("ready", ready()),
        ("ready-simulated", ToHost::Ready { open_map: vec![1], opening_quote: vec![2], ccel: None }),
        ("closing", ToHost::Closing { reason: Reason::TtlExpired, closed_by: ClosedBy::Agent }),
        ("sealed", ToHost::Sealed { seal_map: vec![1], seal_quote: vec![2], statement: vec![3] }),
        ("failed", ToHost::Failed { stage: "boot disk".into(), detail: "x\u{1b}[2J".into() }),
    ]
}

fn mirrored() -> Vec<Mirror> {
    vec![
        Mirror::Event { index: 0, bytes: b"open".to_vec() },
        Mirror::Leaf { index: 0, bytes: b"leaf 0".to_vec() },
        Mirror::Leaf { index: 1, bytes: b"leaf 1".to_vec() },
        Mirror::Private { index: 1, salt: [9; 32], bytes: b"secret".to_vec() },
        Mirror::Note(b"note 2".to_vec()),
        Mirror::Event { index: 1, bytes: b"checkpoint".to_vec() },
        Mirror::Note(b"note 3".to_vec()),
    ]
}

/// Frames of one connection after another.
fn script(connections: &[Vec<&[u8]>]) -> Vec<u8> {
    let mut writer = Writer::default();
    for (n, frames) in connections.iter().enumerate() {
        for (place, frame) in frames.iter().enumerate() {
            writer = writer.u8(u8::from(n > 0 && place == 0)).counted(frame);
        }
    }
    writer.0
}

pub(crate) fn all() -> Vec<Seed> {
    let mut seeds: Vec<Seed> =
        to_host().iter().map(|(name, frame)| seed("link_frames", name, frame.encode())).collect();
    for (name, frame) in [
        ("close", ToGuest::Close { reason: Reason::UserClosed }),
        ("stored", ToGuest::Stored),
        ("touch", ToGuest::Touch),
    ] {
        seeds.push(seed("link_frames", name, frame.encode()));
    }
    let told: Vec<Vec<u8>> = mirrored().iter().map(Mirror::encode).collect();
    seeds.extend(told.iter().enumerate().map(|(n, frame)| seed("link_frames", &format!("mirror-{n}"), frame.clone())));
    seeds.extend(control());
    let told: Vec<&[u8]> = told.iter().map(Vec::as_slice).collect();
    let other = Mirror::Leaf { index: 0, bytes: b"leaf x".to_vec() }.encode();
    seeds.push(seed("mirror_store", "told", script(std::slice::from_ref(&told))));
    seeds.push(seed("mirror_store", "told-again", script(&[told[..5].to_vec(), told.clone()])));
    seeds.push(seed("mirror_store", "another-story", script(&[told.clone(), vec![told[0], &other]])));
    seeds.extend(processes());
    seeds
}

fn control() -> Vec<Seed> {
    let frames: Vec<Vec<u8>> = to_host().iter().map(|(_, frame)| frame.encode()).collect();
    let life: Vec<&[u8]> = [0, 1, 3, 4, 5].map(|n| frames[n].as_slice()).to_vec();
    vec![
        seed("control_link", "life", script(std::slice::from_ref(&life))),
        seed("control_link", "comes-back", script(&[life[..2].to_vec(), life.clone(), life.clone()])),
        seed("control_link", "ready-first", script(&[life[1..].to_vec()])),
        seed("control_link", "failed-first", script(&[vec![life[4], life[0]]])),
        seed("control_link", "hello-twice", script(&[vec![life[0], life[0]]])),
        seed("control_link", "more-than-it-may", script(&[[&[life[0]][..], &[life[4]; 9]].concat()])),
    ]
}

fn processes() -> Vec<Seed> {
    let call = log::Call {
        identity: "default".into(),
        call: [1; 16],
        client_salt: [2; 32],
        request: vec![3; 8],
        program: Some("/usr/bin/true".into()),
        paths: vec!["a/b".into()],
        rules: vec!["run-installed".into()],
    };
    let exit = start::Exit {
        cause: start::Cause::Ended,
        code: Some(0),
        signal: None,
        wall_ms: 1,
        user_us: 2,
        system_us: 3,
        max_rss_kib: 4,
    };
    let entry = tool::Entry {
        name: b"a".to_vec(),
        kind: tool::Kind::Symlink,
        size: 1,
        mode: 0o777,
        modified_ms: 1,
        target: b"b".to_vec(),
    };
    let change = tool::Change {
        kind: tool::ChangeKind::Moved,
        path: b"a".to_vec(),
        from: b"b".to_vec(),
        of: tool::Of::Directory,
    };
    let all: Vec<Vec<u8>> = vec![
        log::ToNotary::Intent(call.clone()).encode(),
        log::ToNotary::Denied(log::Call { program: None, ..call }).encode(),
        log::ToNotary::Outcome { intent: 1, private: vec![1], output: 2, input: 3 }.encode(),
        log::ToNotary::Seal { reason: 1, closed_by: 2 }.encode(),
        log::ToAgent::Admitted { config: vec![1], policy: vec![2] }.encode(),
        log::ToAgent::Refused { refusal: log::Refusal::Full }.encode(),
        log::ToAgent::Sealed { seal_map: vec![1], quote: vec![2], statement: vec![3] }.encode(),
        start::ToInit::Start { intent: 1, request: vec![1] }.encode(),
        start::ToInit::PowerOff.encode(),
        start::ToAgent::NotStarted { intent: 1, stage: "execve".into(), errno: 2 }.encode(),
        start::ToAgent::Exited { intent: 1, exit }.encode(),
        observe::ToObserver::Begin { intent: 1, uid: 2, group: "default/call".into() }.encode(),
        observe::ToInit::Observed { intent: 1, coverage: observe::Coverage::Partial }.encode(),
        tool::Report::Entry(entry).encode(),
        tool::Report::Done { files: 1, bytes: 2, left_out: 3 }.encode(),
        grant::Granted { identity: "default".into(), paths: vec!["/workspace".into()], access: vec![[7]] }.encode(),
        warrant::ToInit::Admitted { identities: vec!["default".into()], gaps: warrant::Gaps::Fatal }.encode(),
        warrant::ToInit::Permit { intent: 1, identity: "default".into(), request: [2; 32] }.encode(),
        warrant::ToInit::Open { file: warrant::ReportFile::Outblob }.encode(),
        warrant::ToNotary::Scrubbed { steps: vec![[1, 0], [2, 1]] }.encode(),
        tool::Report::More { after: b"a/b".to_vec() }.encode(),
        tool::Report::Change(change).encode(),
        tool::Report::Lagged.encode(),
        tool::Report::WatchEnd(tool::WatchEnd::Gone).encode(),
        log::ToNotary::Sign { intent: 1, commit: b"tree".to_vec() }.encode(),
        log::ToAgent::Signed { signature: "signature".into() }.encode(),
        tool::Report::Sign { commit: b"tree".to_vec() }.encode(),
        tool::Report::Said { text: b"fatal: x".to_vec() }.encode(),
    ];
    assert!(all.iter().all(|frame| frame.len() <= frames::FRAME_MAX));
    let token = coffer_agent::tool::page::token(b"a/b", 3, b"c/d").into_bytes();
    let frames = all.into_iter().enumerate().map(|(n, frame)| seed("process_frames", &format!("frame-{n:02}"), frame));
    frames.chain([seed("process_frames", "page-token", token)]).collect()
}
