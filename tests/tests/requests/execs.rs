//! Programs: each limit of an exec at its edge and one past it, and what is no program, directory or environment.

use coffer_evidence::leaf::CauseClass::{Cancelled, Completed, Failed, FailedToStart, TimedOut};
use coffer_proto::guest::v1 as pb;
use pb::exec_request::Request;
use tokio_stream::StreamExt as _;
use tonic::Code::{AlreadyExists, InvalidArgument, PermissionDenied, ResourceExhausted};

use crate::answers::{done, refused};
use crate::session::{Leaves, Session, of_start};

const DONE: Leaves = Leaves::Ended(Completed);
const ARGUMENT_BYTES: usize = 128 * 1024;
const CHUNK: usize = 64 * 1024;
const OUTPUT: i64 = 64 << 20;

pub(crate) async fn limits(session: &Session) -> anyhow::Result<()> {
    arguments(session).await;
    numbers(session).await?;
    environment(session).await;
    directories(session).await?;
    headers(session).await;
    streams(session).await;
    at_once(session).await
}

fn exec(session: &Session, what: &str, leaves: Leaves, argv: Vec<String>) -> pb::ExecStart {
    pb::ExecStart { header: session.header(what, leaves), argv, ..pb::ExecStart::default() }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

async fn arguments(session: &Session) {
    let many = |count: usize| [words(&["true"]), vec!["a".to_owned(); count - 1]].concat();
    // `true`, its NUL, the NUL of the other.
    let large = |bytes: usize| vec!["true".to_owned(), "a".repeat(bytes - 6)];
    for (what, argv) in [("1,024 arguments", many(1024)), ("128 KiB of arguments", large(ARGUMENT_BYTES))] {
        let ended = done(what, session.start(exec(session, what, DONE, argv)).await);
        assert_eq!((ended.exited.cause(), ended.exited.code), (pb::ExitCause::Exited, 0), "{what}");
    }
    for (what, argv, reason, text) in [
        ("1,025 arguments", many(1025), "LIMIT_EXCEEDED", "at most 1024 arguments, found 1025"),
        (
            "128 KiB and a byte",
            large(ARGUMENT_BYTES + 1),
            "LIMIT_EXCEEDED",
            "131072 bytes of arguments and environment, found 131073",
        ),
        ("no arguments", vec![], "INVALID_ARGUMENT", "a program as first argument, found none"),
        ("an empty program", words(&["", "a"]), "INVALID_ARGUMENT", "a program as first argument, found none"),
        ("a NUL in the program", words(&["tr\0ue"]), "INVALID_ARGUMENT", "without NUL"),
        ("a NUL in an argument", words(&["true", "a\0"]), "INVALID_ARGUMENT", "without NUL"),
    ] {
        let result = session.start(exec(session, what, Leaves::None, argv)).await;
        refused(what, result, InvalidArgument, reason, text);
    }
    // An empty argument is one.
    let ended = done("empty", session.start(exec(session, "empty", DONE, words(&["printf", "[%s]", ""]))).await);
    assert_eq!(ended.out, "[]");
}

async fn numbers(session: &Session) -> anyhow::Result<()> {
    type Set = fn(&mut pb::ExecStart, i64);
    let fields: [(&str, Set, i64); 4] = [
        ("timeout_ms", |start, value| start.timeout_ms = value, 86_400_000),
        ("grace_ms", |start, value| start.grace_ms = value, 30_000),
        ("output_bytes_max", |start, value| start.output_bytes_max = value, OUTPUT),
        ("reattach_ms", |start, value| start.reattach_ms = value, 86_400_000),
    ];
    for (field, set, most) in fields {
        for value in [0, most] {
            let what = format!("{field} {value}");
            let mut start = exec(session, &what, DONE, words(&["true"]));
            set(&mut start, value);
            done(&what, session.start(start).await);
        }
        for value in [-1, most + 1, i64::MIN, i64::MAX] {
            let what = format!("{field} {value}");
            let mut start = exec(session, &what, Leaves::None, words(&["true"]));
            set(&mut start, value);
            let text = format!("expected {field} between 0 and {most}, found {value}");
            refused(&what, session.start(start).await, InvalidArgument, "LIMIT_EXCEEDED", &text);
        }
    }
    let mut start = exec(session, "1 ms", Leaves::Ended(TimedOut), words(&["sleep", "600"]));
    (start.timeout_ms, start.grace_ms) = (1, 1);
    assert_eq!(done("1 ms", session.start(start).await).exited.cause(), pb::ExitCause::TimedOut);
    // The cap of the output cuts what is delivered, and nothing else.
    for (what, count, most) in
        [("output at its cap", 1000, 1000), ("a byte more", 1001, 1000), ("64 MiB and a byte", OUTPUT + 1, 0)]
    {
        let argv = words(&["head", "-c", &count.to_string(), "/dev/zero"]);
        let start = pb::ExecStart { output_bytes_max: most, ..exec(session, what, DONE, argv) };
        let ended = done(what, session.start(start).await);
        let stdout = ended.exited.stdout.unwrap_or_default();
        let delivered = count.min(if most == 0 { OUTPUT } else { most });
        assert_eq!((stdout.bytes_total, stdout.bytes_delivered), (count as u64, delivered as u64), "{what}");
        assert_eq!(ended.exited.code, 0, "{what}: a program is not told of the cap");
    }
    Ok(())
}

async fn environment(session: &Session) {
    for (name, value, text) in [
        ("", "a", "names of variables without `=`, and not empty"),
        ("A=B", "c", "names of variables without `=`, and not empty"),
        ("A\0", "b", "without NUL"),
        ("A", "b\0", "without NUL"),
    ] {
        let what = format!("the variable {name:?} = {value:?}");
        let mut start = exec(session, &what, Leaves::None, words(&["env"]));
        start.env.insert(name.to_owned(), value.to_owned());
        refused(&what, session.start(start).await, InvalidArgument, "INVALID_ARGUMENT", text);
    }
    let mut start = exec(session, "a variable", DONE, words(&["sh", "-c", "printf %s \"$A\""]));
    start.env.insert("A".to_owned(), "b=c".to_owned());
    assert_eq!(done("a variable", session.start(start).await).out, "b=c");
    // Counted with the arguments: `true`, `A`, the `=` between and both NULs.
    for (bytes, leaves) in [(ARGUMENT_BYTES, DONE), (ARGUMENT_BYTES + 1, Leaves::None)] {
        let what = format!("an environment of {bytes} bytes");
        let mut start = exec(session, &what, leaves, words(&["true"]));
        start.env.insert("A".to_owned(), "b".repeat(bytes - 8));
        match session.start(start).await {
            Ok(ended) => assert!(leaves == DONE && ended.exited.code == 0, "{what}: {ended:?}"),
            result => refused(&what, result, InvalidArgument, "LIMIT_EXCEEDED", "found 131073"),
        }
    }
}

async fn directories(session: &Session) -> anyhow::Result<()> {
    session.sh("mkdir -p here && touch file && ln -sfn /etc out && ln -sfn here in").await?;
    for (cwd, expected) in
        [("", "/workspace"), (".", "/workspace"), ("here", "/workspace/here"), ("./in//", "/workspace/here")]
    {
        let start = pb::ExecStart { cwd: cwd.into(), ..exec(session, cwd, DONE, words(&["pwd", "-P"])) };
        assert_eq!(done(cwd, session.start(start).await).out.trim(), expected, "{cwd}");
    }
    for (cwd, code, reason, text) in [
        ("..", InvalidArgument, "INVALID_ARGUMENT", "without `..`"),
        ("here/../..", InvalidArgument, "INVALID_ARGUMENT", "without `..`"),
        ("a\0b", InvalidArgument, "INVALID_ARGUMENT", "without NUL"),
    ] {
        let start = pb::ExecStart { cwd: cwd.into(), ..exec(session, cwd, Leaves::None, words(&["true"])) };
        refused(cwd, session.start(start).await, code, reason, text);
    }
    // What only the kernel can know is an outcome of the call.
    let unstarted = Leaves::Ended(FailedToStart);
    for (cwd, program, stage, errno) in [
        ("out", "true", "cwd", 18),
        ("out/ssl", "true", "cwd", 18),
        ("missing", "true", "cwd", 2),
        ("/", "true", "cwd", 18),
        ("/workspace", "true", "cwd", 18),
        ("file", "true", "cwd", 20),
        ("", "missing", "program", 2),
        ("", "/usr/lib/os-release", "exec", 13),
        ("", "/workspace", "exec", 13),
    ] {
        let what = format!("{program} in {cwd:?}");
        let start = pb::ExecStart { cwd: cwd.into(), ..exec(session, &what, unstarted, words(&[program])) };
        let exited = done(&what, session.start(start).await).exited;
        let found = (exited.cause(), exited.stage.as_str(), exited.errno);
        assert_eq!(found, (pb::ExitCause::FailedToStart, stage, errno), "{what}");
    }
    Ok(())
}

async fn headers(session: &Session) {
    let with = |what: &str, leaves: Leaves, change: fn(&mut pb::CallHeader)| {
        let mut header = session.header(what, leaves).unwrap_or_default();
        change(&mut header);
        pb::StatRequest { header: Some(header), path: String::new() }
    };
    for (what, request, text) in [
        ("no header", pb::StatRequest::default(), "a call header, found none"),
        ("no call id", with("no call id", Leaves::None, |h| h.call_id = vec![].into()), "16 bytes, found 0"),
        ("17 bytes", with("17 bytes", Leaves::None, |h| h.call_id = vec![0x44; 17].into()), "16 bytes, found 17"),
        ("UUIDv1", with("UUIDv1", Leaves::None, |h| h.call_id = vec![0x11; 16].into()), "UUIDv4"),
        ("no salt", with("no salt", Leaves::None, |h| h.salt = vec![].into()), "32 random bytes, found 0"),
        ("33 bytes", with("33 bytes", Leaves::None, |h| h.salt = vec![0; 33].into()), "32 random bytes, found 33"),
        (
            "an identity with a path",
            with("id", Leaves::None, |h| h.identity = "../x".into()),
            "an identity like `default`",
        ),
        ("an identity of 32", with("id", Leaves::None, |h| h.identity = "a".repeat(32)), "an identity like `default`"),
    ] {
        refused(what, session.tools().stat(request).await, InvalidArgument, "INVALID_ARGUMENT", text);
    }
    let foreign = with("a foreign identity", Leaves::Denied, |h| h.identity = "a".repeat(31));
    let result = session.tools().stat(foreign).await;
    refused("a foreign identity", result, PermissionDenied, "IDENTITY_UNKNOWN", "names no identity aaaa");
    let request = with("a call id", DONE, |_| {});
    done("a call id", session.tools().stat(request.clone()).await);
    for path in ["", "other"] {
        let again = pb::StatRequest { path: path.into(), ..request.clone() };
        refused("again", session.tools().stat(again).await, AlreadyExists, "CALL_ID_REUSED", "used before");
    }
}

async fn streams(session: &Session) {
    let of = |request| pb::ExecRequest { request };
    let stdin = |length: usize| of(Some(Request::Stdin(vec![b'a'; length].into())));
    let first = |what: &str, leaves| of_start(exec(session, what, leaves, words(&["wc", "-c"])));
    let eof = || of(Some(Request::StdinEof(pb::StdinEof {})));
    for (what, requests) in
        [("nothing first", vec![]), ("stdin first", vec![stdin(1)]), ("an empty message first", vec![of(None)])]
    {
        let result = session.exec(tokio_stream::iter(requests)).await;
        refused(what, result, InvalidArgument, "INVALID_ARGUMENT", "expected `start` as the first message");
    }
    let whole = vec![first("64 KiB", DONE), stdin(CHUNK), eof()];
    assert_eq!(done("64 KiB", session.exec(tokio_stream::iter(whole)).await).out.trim(), "65536");
    for (what, second, reason, text) in [
        ("64 KiB and a byte", stdin(CHUNK + 1), "LIMIT_EXCEEDED", "at most 65536 bytes, found 65537"),
        (
            "a second start",
            first("never", Leaves::None),
            "INVALID_ARGUMENT",
            "expected `stdin`, `stdin_eof` or `cancel`",
        ),
        ("an empty message", of(None), "INVALID_ARGUMENT", "expected `stdin`, `stdin_eof` or `cancel`"),
    ] {
        let requests = tokio_stream::iter([first(what, Leaves::Ended(Cancelled)), second]);
        let result = session.exec(requests.chain(tokio_stream::pending())).await;
        refused(what, result, InvalidArgument, reason, text);
    }
    // Unknown numbers of an exit are somebody else's affair; an unknown program's is a failure like any other.
    let ended = session.start(exec(session, "false", Leaves::Ended(Failed), words(&["false"]))).await;
    assert_eq!(done("false", ended).exited.code, 1);
}

/// 32 calls at once; the next is refused, and once one has ended there is room again.
async fn at_once(session: &Session) -> anyhow::Result<()> {
    let mut running = Vec::new();
    for _ in 0..32 {
        running.push(session.running(&["sh", "-c", "echo up; exec cat"], DONE).await?);
    }
    let start = exec(session, "the 33rd call", Leaves::None, words(&["true"]));
    refused(
        "the 33rd call",
        session.start(start).await,
        ResourceExhausted,
        "TOO_MANY_CALLS",
        "32 calls run already; wait",
    );
    let stat = pb::StatRequest { header: session.header("the 33rd", Leaves::None), path: String::new() };
    refused("the 33rd stat", session.tools().stat(stat).await, ResourceExhausted, "TOO_MANY_CALLS", "32 calls");
    if let Some(one) = running.pop() {
        assert_eq!(one.end().await?.0.code, 0);
    }
    session.works().await?;
    for one in running {
        assert_eq!(one.end().await?.0.code, 0);
    }
    Ok(())
}
