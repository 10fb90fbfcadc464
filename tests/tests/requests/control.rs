//! The control plane: intents that are not what they must be, ids that were used, numbers and tokens out of range.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{Digest256, Digest384, Identity, SessionId};
use coffer_evidence::intent::{
    Authority, Durability, Intent, Limits, PooledAllowed, RecordRequired, Shape, sign_intent,
};
use coffer_evidence::sign::PublicKey;
use coffer_proto::control::v1 as pb;
use coffer_proto::guest::v1::StatRequest;
use coffer_tests::guest::{PERMIT_ALL, now, random};
use coffer_tests::host::Host;
use ed25519_dalek::SigningKey;
use pb::evidence_service_client::EvidenceServiceClient;
use pb::image_service_client::ImageServiceClient;
use pb::session_service_client::SessionServiceClient;
use tonic::Code::{self, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied};
use tonic::Status;
use tonic::transport::Channel;

use crate::answers::{done, refused};
use crate::session::{Leaves, Session};

type Sessions = SessionServiceClient<Channel>;

pub(crate) async fn requests(session: &Session, host: &Host) -> anyhow::Result<()> {
    let sessions = SessionServiceClient::new(session.channel.clone());
    let images = ImageServiceClient::new(session.channel.clone()).list_images(pb::ListImagesRequest {}).await?;
    let image = images.into_inner().images.into_iter().find(|image| image.default).context("a default image")?;
    let image = Digest256::new(image.digest.as_ref().try_into()?);
    intents(&sessions, image, session).await?;
    bodies(&sessions, image).await?;
    policies(&sessions, image, host).await?;
    numbers(&sessions, session).await?;
    ids(&sessions, session).await?;
    at_the_edge(&sessions, image, session).await?;
    assert!(host.diagnostics().lines().all(|line| !line.contains("panicked")), "{}", host.diagnostics());
    Ok(())
}

fn owner() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

fn intent(image: Digest256) -> anyhow::Result<Intent> {
    Ok(Intent {
        audience: "local".into(),
        session: SessionId::new(random()?),
        nonce: random()?,
        owner: PublicKey::of(&owner()),
        tenant: String::new(),
        region: String::new(),
        image,
        policy: Digest384::of(PERMIT_ALL.as_bytes()),
        identities: [(Identity::default_name(), PublicKey::of(&owner()))].into(),
        authority: Authority::Delegated,
        durability: Durability::Relaxed,
        witnesses: Vec::new(),
        limits: Limits::default(),
        recipients: Vec::new(),
        minimum_svn: 0,
        issued_at: now() - 1,
        not_after: now() + 600,
        shape: Shape::S1,
        pooled: PooledAllowed::No,
        record: RecordRequired::No,
    })
}

fn uuid() -> anyhow::Result<String> {
    Ok(SessionId::new(random()?).to_string())
}

fn signed(intent: &Intent) -> anyhow::Result<pb::CreateSessionRequest> {
    Ok(pb::CreateSessionRequest {
        request_id: uuid()?,
        intent: intent.to_bytes().into(),
        owner_sig: sign_intent(&owner(), intent).to_vec().into(),
        policy: PERMIT_ALL.into(),
        labels: [].into(),
    })
}

async fn create(sessions: &Sessions, request: pb::CreateSessionRequest) -> Result<pb::Session, Status> {
    Ok(sessions.clone().create_session(request).await?.into_inner())
}

/// What an intent says.
async fn intents(sessions: &Sessions, image: Digest256, session: &Session) -> anyhow::Result<()> {
    let running: SessionId = session.id.parse()?;
    type Change = Box<dyn Fn(&mut Intent)>;
    let limit = |change: fn(&mut Limits)| -> Change { Box::new(move |intent| change(&mut intent.limits)) };
    let rows: Vec<(&str, Change, Code, &str, &str)> = vec![
        (
            "unknown image",
            Box::new(|i| i.image = Digest256::of(b"none")),
            NotFound,
            "IMAGE_NOT_FOUND",
            "an image of this host, found none",
        ),
        (
            "a newer image",
            Box::new(|i| i.minimum_svn = u64::MAX),
            FailedPrecondition,
            "IMAGE_TOO_OLD",
            "at least svn 18446744073709551615, found",
        ),
        ("expired", Box::new(|i| i.not_after = now() - 2), FailedPrecondition, "INTENT_EXPIRED", "valid until"),
        ("not yet valid", Box::new(|i| i.issued_at = now() + 400), FailedPrecondition, "INTENT_EXPIRED", "issued at"),
        (
            "never valid",
            Box::new(|i| (i.issued_at, i.not_after) = (u64::MAX, 0)),
            FailedPrecondition,
            "INTENT_EXPIRED",
            "issued at",
        ),
        (
            "a session's id",
            Box::new(move |i| i.session = running),
            AlreadyExists,
            "SESSION_ID_REUSED",
            "an intent serves once",
        ),
        ("end-to-end", Box::new(|i| i.authority = Authority::EndToEnd), InvalidArgument, "INTENT_", "expected"),
        ("strict", Box::new(|i| i.durability = Durability::Strict), InvalidArgument, "INTENT_REFUSED", "found strict"),
        (
            "pooled",
            Box::new(|i| i.pooled = PooledAllowed::Yes),
            InvalidArgument,
            "INTENT_REFUSED",
            "found pooled allowed",
        ),
        (
            "another policy",
            Box::new(|i| i.policy = Digest384::of(b"")),
            InvalidArgument,
            "INTENT_REFUSED",
            "a policy text with SHA-384",
        ),
        ("25 hours", limit(|l| l.ttl_s = 86_401), InvalidArgument, "INTENT_REFUSED", "ttl_s: 86401"),
        ("no time", limit(|l| l.ttl_s = 0), InvalidArgument, "INTENT_REFUSED", "ttl_s: 0"),
        ("idle for 25 hours", limit(|l| l.idle_s = 86_401), InvalidArgument, "INTENT_REFUSED", "idle_s: 86401"),
        ("no idle time", limit(|l| l.idle_s = 0), InvalidArgument, "INTENT_REFUSED", "idle_s: 0"),
        (
            "a million calls and one",
            limit(|l| l.calls = 1_000_001),
            InvalidArgument,
            "INTENT_REFUSED",
            "calls: 1000001",
        ),
        ("no calls", limit(|l| l.calls = 0), InvalidArgument, "INTENT_REFUSED", "calls: 0"),
        ("too many leaves", limit(|l| l.leaves = 10_000_001), InvalidArgument, "INTENT_REFUSED", "leaves: 10000001"),
        ("too few leaves", limit(|l| l.leaves = 15), InvalidArgument, "INTENT_REFUSED", "leaves: 15"),
        ("11 minutes to linger", limit(|l| l.linger_s = 601), InvalidArgument, "INTENT_REFUSED", "linger_s: 601"),
        (
            "all at once",
            limit(|l| {
                *l = Limits { ttl_s: u64::MAX, idle_s: u64::MAX, calls: u64::MAX, leaves: u64::MAX, linger_s: u64::MAX }
            }),
            InvalidArgument,
            "INTENT_REFUSED",
            "18446744073709551615",
        ),
        (
            "a tenant of 256",
            Box::new(|i| i.tenant = "t".repeat(256)),
            InvalidArgument,
            "INTENT_MALFORMED",
            "canonical form",
        ),
        (
            "an audience of 256",
            Box::new(|i| i.audience = "t".repeat(256)),
            InvalidArgument,
            "INTENT_MALFORMED",
            "canonical form",
        ),
    ];
    for (what, change, code, reason, text) in rows {
        let mut intent = intent(image)?;
        change(&mut intent);
        let result = create(sessions, signed(&intent)?).await;
        let reason = if reason == "INTENT_" { "INTENT_REFUSED" } else { reason };
        refused(what, result, code, reason, text);
        let wait = pb::GetSessionRequest { id: intent.session.as_bytes().to_vec().into() };
        if intent.session != running {
            let found = sessions.clone().get_session(wait).await;
            refused("what was refused", found, NotFound, "SESSION_NOT_FOUND", "found none with id");
        }
    }
    Ok(())
}

/// What comes with it.
async fn bodies(sessions: &Sessions, image: Digest256) -> anyhow::Result<()> {
    type Change = fn(&mut pb::CreateSessionRequest);
    let rows: [(&str, Change, Code, &str, &str); 19] = [
        ("no intent", |r| r.intent = vec![].into(), InvalidArgument, "INTENT_MALFORMED", "canonical form"),
        ("garbage", |r| r.intent = vec![0xff; 64].into(), InvalidArgument, "INTENT_MALFORMED", "canonical form"),
        (
            "a byte more",
            |r| r.intent = [&r.intent[..], &[0]].concat().into(),
            InvalidArgument,
            "INTENT_MALFORMED",
            "canonical form",
        ),
        (
            "a byte less",
            |r| r.intent = r.intent[1..].to_vec().into(),
            InvalidArgument,
            "INTENT_MALFORMED",
            "canonical form",
        ),
        ("3 MiB", |r| r.intent = vec![0x5f; 3 << 20].into(), InvalidArgument, "INTENT_MALFORMED", "canonical form"),
        (
            "levels without end",
            |r| r.intent = vec![0x81; 1 << 20].into(),
            InvalidArgument,
            "INTENT_MALFORMED",
            "canonical form",
        ),
        (
            "a changed byte",
            |r| {
                // Of the nonce, which is the first byte string of 32.
                let mut bytes = r.intent.to_vec();
                let at = bytes.windows(2).position(|pair| pair == [0x58, 0x20]).expect("a nonce") + 9;
                bytes[at] ^= 1;
                r.intent = bytes.into();
            },
            PermissionDenied,
            "OWNER_SIGNATURE",
            "does not verify",
        ),
        ("unsigned", |r| r.owner_sig = vec![].into(), InvalidArgument, "INTENT_MALFORMED", "64 bytes, found 0"),
        ("65 bytes", |r| r.owner_sig = vec![0; 65].into(), InvalidArgument, "INTENT_MALFORMED", "64 bytes, found 65"),
        (
            "a signature of zeros",
            |r| r.owner_sig = vec![0; 64].into(),
            PermissionDenied,
            "OWNER_SIGNATURE",
            "does not verify",
        ),
        (
            "a foreign signature",
            |r| {
                let intent = Intent::parse(&r.intent).expect("an intent");
                r.owner_sig = sign_intent(&SigningKey::from_bytes(&[4; 32]), &intent).to_vec().into();
            },
            PermissionDenied,
            "OWNER_SIGNATURE",
            "does not verify",
        ),
        ("no policy", |r| r.policy = vec![].into(), InvalidArgument, "INTENT_REFUSED", "a policy text with SHA-384"),
        (
            "another policy",
            |r| r.policy = b"forbid (principal, action, resource);\n"[..].into(),
            InvalidArgument,
            "INTENT_REFUSED",
            "a policy text with SHA-384",
        ),
        (
            "1 MiB and a byte",
            |r| r.policy = vec![b' '; (1 << 20) + 1].into(),
            InvalidArgument,
            "INTENT_REFUSED",
            "a policy of at most 1048576 bytes",
        ),
        (
            "17 labels",
            |r| r.labels = (0..17).map(|n| (n.to_string(), String::new())).collect(),
            InvalidArgument,
            "INVALID_ARGUMENT",
            "at most 16 labels",
        ),
        (
            "a label of 64",
            |r| r.labels = [("a".into(), "b".repeat(64))].into(),
            InvalidArgument,
            "INVALID_ARGUMENT",
            "at most 63 bytes",
        ),
        (
            "a name of 64",
            |r| r.labels = [("a".repeat(64), "b".into())].into(),
            InvalidArgument,
            "INVALID_ARGUMENT",
            "at most 63 bytes",
        ),
        (
            "no request id",
            |r| r.request_id = String::new(),
            InvalidArgument,
            "INVALID_ARGUMENT",
            "request_id: expected a UUID",
        ),
        (
            "a request id in capitals",
            |r| r.request_id = "01234567-89AB-4CDE-8F01-23456789ABCD".into(),
            InvalidArgument,
            "INVALID_ARGUMENT",
            "request_id: expected a UUID",
        ),
    ];
    for (what, change, code, reason, text) in rows {
        let mut request = signed(&intent(image)?)?;
        change(&mut request);
        refused(what, create(sessions, request).await, code, reason, text);
    }
    Ok(())
}

/// Policies that are none, or of others: all problems are told with their places, and nothing is launched, or even remembered.
async fn policies(sessions: &Sessions, image: Digest256, host: &Host) -> anyhow::Result<()> {
    let before = host.processes().len();
    for (what, policy, text) in [
        (
            "no Cedar",
            "@id(\"a\")\npermit (principal, action, resource)",
            "without problems, found at 2:37: unexpected end of input",
        ),
        (
            "an unknown action",
            "@id(\"a\")\npermit (principal, action == Action::\"fly\", resource);",
            "without problems, found at 2:30: rule `a`: unrecognized action",
        ),
        ("no id", "\n\npermit (principal, action, resource);", "without problems, found at 3:1: expected `@id"),
        (
            "an unknown key",
            "@id(\"a\") permit (principal, action == Action::\"exec\", resource)\n\nwhen { context.mood > 1 };",
            "without problems, found at 3:8: rule `a`: attribute `mood`",
        ),
        (
            "a forbid that programs get around",
            "@id(\"a\") permit (principal, action, resource);\n\
             @id(\"b\") forbid (principal, action in Action::\"file\", resource in Path::\"/workspace/src\");",
            "without problems, found at 2:1: rule `b`: programs could still do it",
        ),
        (
            "another's identity",
            "@id(\"a\") permit (principal == Identity::\"stranger\", action, resource);",
            "stranger",
        ),
        ("bytes", "\u{0}\u{1b}[2J", "without problems, found at 1:1: invalid token"),
    ] {
        let intent = Intent { policy: Digest384::of(policy.as_bytes()), ..intent(image)? };
        let request = pb::CreateSessionRequest { policy: policy.as_bytes().into(), ..signed(&intent)? };
        refused(what, create(sessions, request).await, InvalidArgument, "POLICY_INVALID", text);
        let found =
            sessions.clone().get_session(pb::GetSessionRequest { id: bytes_of(intent.session.as_bytes()) }).await;
        refused("what was refused", found, NotFound, "SESSION_NOT_FOUND", "found none with id");
        assert!(!host.session_directory(&intent.session.to_string()).exists(), "{what}: it has a directory");
    }
    assert_eq!(host.processes().len(), before, "{:?}", host.processes());
    Ok(())
}

async fn numbers(sessions: &Sessions, session: &Session) -> anyhow::Result<()> {
    let list = |page_size, page_token: &str| pb::ListSessionsRequest {
        page_size,
        page_token: page_token.into(),
        include_closed: true,
    };
    for size in [-1, i32::MIN] {
        let result = sessions.clone().list_sessions(list(size, "")).await;
        refused("a page", result, InvalidArgument, "INVALID_ARGUMENT", "page_size: expected 0 to 500");
    }
    for size in [0, 1, 500, 501, i32::MAX] {
        let page = done("a page", sessions.clone().list_sessions(list(size, "")).await).into_inner();
        assert_eq!((page.sessions.len(), page.next_page_token.as_str()), (1, ""), "{size}");
    }
    let long = "f".repeat(1 << 20);
    for token in [
        "x",
        ".",
        "0.",
        "zz.00000000-0000-4000-8000-000000000000",
        "1.2.3",
        "\0",
        "-1.00000000-0000-4000-8000-000000000000",
        &long,
    ] {
        let result = sessions.clone().list_sessions(list(0, token)).await;
        refused(
            &format!("{token:.9}"),
            result,
            InvalidArgument,
            "INVALID_ARGUMENT",
            "page_token: expected the token of an earlier page",
        );
    }
    let id: SessionId = session.id.parse()?;
    let wait = |phase, timeout_ms| pb::WaitSessionRequest { id: id.as_bytes().to_vec().into(), phase, timeout_ms };
    for phase in [0, 4, 99, -1, i32::MAX] {
        let result = sessions.clone().wait_session(wait(phase, 1)).await;
        refused("a phase", result, InvalidArgument, "INVALID_ARGUMENT", "phase: expected PHASE_READY or PHASE_CLOSED");
    }
    for timeout in [-1, 600_001, i64::MIN, i64::MAX] {
        let result = sessions.clone().wait_session(wait(9, timeout)).await;
        refused("a timeout", result, InvalidArgument, "INVALID_ARGUMENT", "timeout_ms: expected 0 to 600000");
    }
    let found = done("1 ms", sessions.clone().wait_session(wait(9, 1)).await).into_inner();
    assert_eq!(found.phase(), pb::Phase::Ready, "not closed, and no error");
    let found = done("10 min", sessions.clone().wait_session(wait(5, 600_000)).await).into_inner();
    assert_eq!(found.phase(), pb::Phase::Ready);
    // A client that would wait less long than it asks `cofferd` to is not waited for.
    let begin = Instant::now();
    let mut request = tonic::Request::new(wait(9, 0));
    request.set_timeout(Duration::from_millis(50));
    let status = sessions.clone().wait_session(request).await.expect_err("a deadline");
    assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status:?}");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    Ok(())
}

async fn ids(sessions: &Sessions, session: &Session) -> anyhow::Result<()> {
    let evidence = EvidenceServiceClient::new(session.channel.clone());
    let long = vec![7; 17];
    let unknown: Vec<u8> = random::<16>()?.to_vec();
    for (id, code, reason, text) in [
        (vec![], InvalidArgument, "INVALID_ARGUMENT", "id: expected 16 bytes"),
        (vec![7; 15], InvalidArgument, "INVALID_ARGUMENT", "id: expected 16 bytes"),
        (long, InvalidArgument, "INVALID_ARGUMENT", "id: expected 16 bytes"),
        (unknown, NotFound, "SESSION_NOT_FOUND", "a session of this host, found none"),
    ] {
        let of = || bytes_of(&id);
        let what = format!("an id of {} bytes", id.len());
        let found = sessions.clone().get_session(pb::GetSessionRequest { id: of() }).await;
        refused(&what, found, code, reason, text);
        let found = sessions.clone().wait_session(pb::WaitSessionRequest { id: of(), phase: 9, timeout_ms: 1 }).await;
        refused(&what, found, code, reason, text);
        let close = pb::CloseSessionRequest { request_id: uuid()?, id: of() };
        refused(&what, sessions.clone().close_session(close).await, code, reason, text);
        let export = evidence.clone().export_evidence(pb::ExportEvidenceRequest { id: of() }).await;
        refused(&what, export.map(drop), code, reason, text);
        if !id.is_empty() {
            let watch = sessions.clone().watch_sessions(pb::WatchSessionsRequest { id: of() }).await;
            refused(&what, watch.map(drop), code, reason, text);
        }
    }
    let own: SessionId = session.id.parse()?;
    let export = pb::ExportEvidenceRequest { id: bytes_of(own.as_bytes()) };
    let result = evidence.clone().export_evidence(export).await;
    refused("an open session", result.map(drop), FailedPrecondition, "SESSION_OPEN", "whole when it is closed");
    for request_id in ["", "close", "01234567-89ab-4cde-8f01-23456789abcd0"] {
        let close = pb::CloseSessionRequest { request_id: request_id.into(), id: bytes_of(own.as_bytes()) };
        let result = sessions.clone().close_session(close).await;
        refused(
            "a request id",
            result,
            InvalidArgument,
            "INVALID_ARGUMENT",
            "request_id: expected a UUID in lower case",
        );
    }
    for (name, code, reason, text) in [
        ("", InvalidArgument, "INVALID_ARGUMENT", "`coffer-session`, as a UUID"),
        ("session", InvalidArgument, "INVALID_ARGUMENT", "`coffer-session`, as a UUID"),
        ("01234567-89ab-4cde-8f01-23456789abcd", NotFound, "SESSION_NOT_FOUND", "found none with id"),
    ] {
        let stat = StatRequest { header: session.header(name, Leaves::None), path: String::new() };
        refused(name, session.tools_of(name).stat(stat).await, code, reason, text);
    }
    let stat = StatRequest { header: session.header("no session", Leaves::None), path: String::new() };
    let mut nobody = coffer_proto::guest::v1::tool_service_client::ToolServiceClient::new(session.channel.clone());
    refused("no session", nobody.stat(stat).await, InvalidArgument, "INVALID_ARGUMENT", "expected the session's id");
    Ok(())
}

fn bytes_of(id: &[u8]) -> tonic::codegen::Bytes {
    id.to_vec().into()
}

/// All that may be asked for is given; the id then serves no second time, open or closed.
async fn at_the_edge(sessions: &Sessions, image: Digest256, session: &Session) -> anyhow::Result<()> {
    let intent = Intent {
        limits: Limits::MAXIMA,
        tenant: "t".repeat(255),
        issued_at: now() + 290,
        not_after: u64::MAX,
        ..intent(image)?
    };
    let labels = (0..16).map(|n| (format!("{n:02}{}", "n".repeat(61)), "v".repeat(63))).collect();
    let request = pb::CreateSessionRequest { labels, ..signed(&intent)? };
    let created = done("the most", create(sessions, request.clone()).await);
    let id = created.id.clone();
    // Nothing can be asked of it yet, and the same request is the same session.
    let name = intent.session.to_string();
    let stat = StatRequest { header: session.header("not ready", Leaves::None), path: String::new() };
    refused(
        "not ready",
        session.tools_of(&name).stat(stat).await,
        FailedPrecondition,
        "SESSION_NOT_READY",
        "wait until it is",
    );
    assert_eq!(done("again", create(sessions, request.clone()).await).id, id);
    let other = pb::CreateSessionRequest { labels: [].into(), ..request.clone() };
    let result = create(sessions, other).await;
    refused("another body", result, FailedPrecondition, "REQUEST_ID_REUSED", "make a new one");
    let close = |request_id: &str| pb::CloseSessionRequest { request_id: request_id.into(), id: id.clone() };
    let result = sessions.clone().close_session(close(&request.request_id)).await;
    refused("another method", result, FailedPrecondition, "REQUEST_ID_REUSED", "make a new one");
    let replayed = || signed(&intent);
    refused(
        "replayed",
        create(sessions, replayed()?).await,
        AlreadyExists,
        "SESSION_ID_REUSED",
        "an intent serves once",
    );
    done("close", sessions.clone().close_session(close(&uuid()?)).await);
    let wait = pb::WaitSessionRequest { id: id.clone(), phase: 9, timeout_ms: 0 };
    assert_eq!(done("closed", sessions.clone().wait_session(wait).await).into_inner().phase(), pb::Phase::Closed);
    refused(
        "replayed",
        create(sessions, replayed()?).await,
        AlreadyExists,
        "SESSION_ID_REUSED",
        "an intent serves once",
    );
    done("closed twice", sessions.clone().close_session(close(&uuid()?)).await);
    let stat = StatRequest { header: session.header("closed", Leaves::None), path: String::new() };
    refused("closed", session.tools_of(&name).stat(stat).await, FailedPrecondition, "SESSION_CLOSED", "create another");
    let export = pb::ExportEvidenceRequest { id };
    let export = EvidenceServiceClient::new(session.channel.clone()).export_evidence(export).await;
    refused("no evidence", export.map(drop), NotFound, "NO_EVIDENCE", "the session left no evidence");
    Ok(())
}
