//! Runs the built-in tool of a logged file request and gathers what it did: reports, digests, exit.

use super::call::{self, Call};
use super::errors::{self, Reason};
use super::limits;
use super::pump::{self, Budget, Counter};
use super::starter::{Process, Wires};
use crate::frames::start::{Cause, Exit};
use crate::frames::tool::{Change, Entry, Report, WatchEnd};
use crate::frames::{FRAME_MAX, Frame as _};
use crate::tool::SAID_MAX;
use bytes::Bytes;
use coffer_evidence::call::{OutcomePrivate, StreamDigest};
use coffer_evidence::leaf::CauseClass;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Bytes of reports that are read: a full listing, with room for its framing.
const REPORTS_MAX: u64 = 6 << 20;
/// A watch may tell as much as its client takes: nothing of it is kept.
const CHANGES_MAX: u64 = u64::MAX;
/// How long a client may take to fetch what is left when the tool has ended.
const REST: Duration = Duration::from_secs(30);

/// A tool's input: chunks that were checked, or the error that ended them.
pub(super) type Input = BoxStream<'static, Result<Bytes, Status>>;

/// What a tool did.
#[derive(Debug)]
pub(super) struct Ran {
    /// Index of the intent leaf.
    pub(super) intent: u64,
    /// Index of the outcome leaf.
    pub(super) outcome: u64,
    /// What it found.
    pub(super) entries: Vec<Entry>,
    /// How many.
    pub(super) files: u64,
    /// How many were there beside them.
    pub(super) left_out: u64,
    /// The path up to which a listing tells everything, when there is more.
    pub(super) more: Option<Vec<u8>>,
    /// Why a watch ended.
    pub(super) watch_end: Option<WatchEnd>,
    /// What git wrote to its standard error.
    pub(super) said: Vec<u8>,
    /// The bytes that came in.
    pub(super) input: StreamDigest,
    /// The bytes that went out.
    pub(super) output: StreamDigest,
}

/// What a watching tool says that its client hears at once.
#[derive(Debug)]
pub(super) enum News {
    /// From now on changes are told.
    Started,
    /// One.
    Change(Change),
    /// Some were missed.
    Lagged,
}

/// Starts the tool, carries its streams, logs the outcome. Entries go to `entry` as they come when they are wanted
/// before the end; chunks of stdout to `deliver`.
pub(super) async fn run<E, D>(
    call: Call,
    input: Option<Input>,
    gone: &CancellationToken,
    mut entry: impl FnMut(Entry) -> E,
    deliver: impl FnMut(Bytes) -> D,
) -> Result<Ran, Status>
where
    E: Future<Output = Option<Entry>>,
    D: Future<Output = bool>,
{
    let told = Told { files: None, most: REPORTS_MAX, ..Told::new() };
    let hear = |report| {
        let kept = match report {
            Report::Entry(found) => Some(entry(found)),
            _ => None,
        };
        async move {
            match kept {
                Some(kept) => kept.await.map_or(Heard::Passed, Heard::Kept),
                None => Heard::Passed,
            }
        }
    };
    finish(call, input, gone, told, hear, deliver).await
}

/// Starts a tool that works with git. Where it may ask for a signature, `answer` takes what it asks for, and the input is the answer.
/// Output goes to `deliver` as far as a client gets it.
pub(super) async fn converse<A, D>(
    call: Call,
    input: Option<Input>,
    gone: &CancellationToken,
    mut answer: impl FnMut(Vec<u8>) -> A,
    deliver: impl FnMut(Bytes) -> D,
) -> Result<Ran, Status>
where
    A: Future<Output = ()>,
    D: Future<Output = bool>,
{
    let told = Told { most: REPORTS_MAX, content: Content::Output, output_max: limits::OUTPUT_MAX, ..Told::new() };
    let hear = |report| {
        let answered = match report {
            Report::Sign { commit } => Some(answer(commit)),
            _ => None,
        };
        async move {
            if let Some(answered) = answered {
                answered.await;
            }
            Heard::Passed
        }
    };
    finish(call, input, gone, told, hear, deliver).await
}

/// Starts a watching tool and hands on what it says; `hear` answers whether the client took it. The outcome counts the changes
/// that it took.
pub(super) async fn follow<H>(
    call: Call,
    gone: &CancellationToken,
    mut hear: impl FnMut(News) -> H,
) -> Result<Ran, Status>
where
    H: Future<Output = bool>,
{
    let told = Told { files: Some(0), most: CHANGES_MAX, ..Told::new() };
    let hear = |report| {
        let counts = matches!(report, Report::Change(_));
        let news = match report {
            Report::Entry(_) => Some(News::Started),
            Report::Change(change) => Some(News::Change(change)),
            Report::Lagged => Some(News::Lagged),
            _ => None,
        };
        let heard = news.map(&mut hear);
        async move {
            let taken = match heard {
                Some(heard) => heard.await,
                None => false,
            };
            if taken && counts { Heard::Counted } else { Heard::Passed }
        }
    };
    finish(call, None, gone, told, hear, |_| std::future::ready(false)).await
}

async fn finish<H, D>(
    mut call: Call,
    input: Option<Input>,
    gone: &CancellationToken,
    told: Told,
    hear: impl FnMut(Report) -> H,
    deliver: impl FnMut(Bytes) -> D,
) -> Result<Ran, Status>
where
    H: Future<Output = Heard>,
    D: Future<Output = bool>,
{
    let intent = call.intent;
    let process = match call.start().await? {
        Ok(process) => process,
        Err(error) => {
            call.outcome(&call::not_started(&error), 0, 0).await?;
            let text = std::io::Error::from_raw_os_error(error.errno);
            return Err(Reason::NotStarted.status(format!("the tool did not start at `{}`: {text}", error.stage)));
        }
    };
    let Carried { exit, told, fed, input, output } = carry(&call, process, input, gone, told, hear, deliver).await?;
    let verdict = verdict(&exit, &told, fed);
    let OutcomePrivate { usage, .. } = call::ended(&exit);
    let outcome = OutcomePrivate { usage, ..outcome(&verdict, &told, &input, &output) };
    let given = match told.content {
        Content::Moved => input.total,
        Content::Output => 0,
    };
    let outcome = call.outcome(&outcome, output.total, given).await?;
    verdict.map_err(|failure| failure.status)?;
    let Told { entries, files, left_out, more, watch_end, said, .. } = told;
    Ok(Ran { intent, outcome, entries, files: files.unwrap_or(0), left_out, more, watch_end, said, input, output })
}

struct Carried {
    exit: Exit,
    told: Told,
    fed: Result<(), Status>,
    input: StreamDigest,
    output: StreamDigest,
}

/// What the tool's reports say.
struct Told {
    entries: Vec<Entry>,
    /// As the tool says at its end; of a watch the changes that its client took.
    files: Option<u64>,
    left_out: u64,
    more: Option<Vec<u8>>,
    watch_end: Option<WatchEnd>,
    /// What git wrote to its standard error, cut.
    said: Vec<u8>,
    end: End,
    /// Bytes of reports that are read.
    most: u64,
    /// Bytes of output that are delivered.
    output_max: u64,
    /// What size and digest of the outcome are of.
    content: Content,
}

/// What the size and the digest of an outcome are of.
#[derive(Clone, Copy)]
enum Content {
    /// What came in, or where nothing did, what went out.
    Moved,
    /// What went out: what came in is our own answer.
    Output,
}

impl Told {
    fn new() -> Self {
        let (more, watch_end) = (None, None);
        Self {
            entries: Vec::new(),
            files: None,
            left_out: 0,
            more,
            watch_end,
            said: Vec::new(),
            end: End::Silent,
            most: 0,
            output_max: u64::MAX,
            content: Content::Moved,
        }
    }
}

/// What became of a report.
enum Heard {
    /// It is part of the answer.
    Kept(Entry),
    /// Its client has it, and the outcome counts it.
    Counted,
    /// Nothing more is to be done about it.
    Passed,
}

enum End {
    Done,
    Failed { stage: String, errno: i32 },
    Silent,
}

/// A call that did not do what it should: what to log, what to tell.
struct Failure {
    cause: CauseClass,
    errno: Option<u64>,
    stage: Option<String>,
    status: Status,
}

async fn carry<H, D>(
    call: &Call,
    process: Process,
    input: Option<Input>,
    gone: &CancellationToken,
    told: Told,
    hear: impl FnMut(Report) -> H,
    mut deliver: impl FnMut(Bytes) -> D,
) -> Result<Carried, Status>
where
    H: Future<Output = Heard>,
    D: Future<Output = bool>,
{
    let (over, abandon) = (CancellationToken::new(), CancellationToken::new());
    let Process { wires, exit } = process;
    let Wires::Pipes { stdin, stdout, stderr } = wires else {
        return Err(Reason::Internal.status("a built-in tool on a terminal"));
    };
    let budget = Budget::new(told.output_max);
    let output = pump::drain(stdout, &budget, &abandon, |_, chunk| deliver(chunk));
    let reports = reports(stderr, told, hear, &abandon);
    let feed = feed(call, stdin, input, &over);
    let watch_client = async {
        tokio::select! {
            () = gone.cancelled() => call.cancel().await,
            () = over.cancelled() => {}
        }
    };
    let end = async {
        let exit = exit.await;
        over.cancel();
        exit
    };
    let patience = async {
        over.cancelled().await;
        let closing = call.closing();
        tokio::select! {
            () = tokio::time::sleep(REST) => {}
            () = closing.cancelled() => {}
            () = gone.cancelled() => {}
        }
        abandon.cancel();
    };
    let streams = async {
        let both = async { tokio::join!(output, reports) };
        tokio::pin!(both, patience);
        tokio::select! {
            both = &mut both => both,
            () = &mut patience => both.await,
        }
    };
    let (exit, (output, told), (fed, input), ()) = tokio::join!(end, streams, feed, watch_client);
    let exit = exit.map_err(|_| Reason::OutcomeUnknown.status("the guest ended before the tool did"))?;
    Ok(Carried { exit, told, fed, input, output })
}

/// Feeds the tool. Its stdin ends only when the client's stream ended as it should: a tool that sees the end may
/// trust that it has everything. Otherwise the call is cancelled and the pipe stays open until the tool is gone.
async fn feed(
    call: &Call,
    stdin: pipe::Sender,
    input: Option<Input>,
    over: &CancellationToken,
) -> (Result<(), Status>, StreamDigest) {
    let mut counter = Counter::default();
    let mut stdin = Some(stdin);
    let Some(mut input) = input else {
        drop(stdin);
        return (Ok(()), counter.finish());
    };
    let pumping = async {
        while let Some(chunk) = input.next().await {
            let chunk = chunk?;
            limits::transfer(counter.total(), chunk.len())?;
            let Some(pipe) = &mut stdin else { break };
            if !pump::feed(pipe, &mut counter, &chunk).await {
                // The tool has ended, or will not take more; it says itself why.
                return Ok(());
            }
        }
        stdin = None;
        Ok(())
    };
    let fed = call.feeding(pumping, over).await;
    drop(stdin);
    (fed, counter.finish())
}

/// Reads reports to their end.
async fn reports<H>(
    stderr: impl AsyncRead + Unpin,
    mut told: Told,
    mut hear: impl FnMut(Report) -> H,
    abandon: &CancellationToken,
) -> Told
where
    H: Future<Output = Heard>,
{
    let mut stderr = stderr.take(told.most);
    // A watch counts what its client took, whatever the tool says at its end.
    let watches = told.files.is_some();
    while let Some(report) = report(&mut stderr).await {
        match report {
            Report::Done { files, left_out, .. } => {
                told.files = if watches { told.files } else { Some(files) };
                (told.left_out, told.end) = (left_out, End::Done);
            }
            Report::Failed { stage, errno } => {
                told.end = End::Failed { stage, errno: i32::try_from(errno).unwrap_or(libc::EIO) };
            }
            Report::More { after } => told.more = Some(after),
            Report::WatchEnd(end) => told.watch_end = Some(end),
            Report::Said { mut text } => {
                text.truncate(SAID_MAX);
                told.said = text;
            }
            Report::Entry(_) | Report::Change(_) | Report::Lagged | Report::Sign { .. } => {
                let heard = tokio::select! {
                    heard = hear(report) => heard,
                    () = abandon.cancelled() => Heard::Passed,
                };
                match heard {
                    Heard::Kept(entry) => told.entries.push(entry),
                    Heard::Counted => told.files = told.files.map(|files| files + 1),
                    Heard::Passed => {}
                }
            }
        }
    }
    // Whatever else it writes there, it must not wait for us.
    drop(tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await);
    told
}

/// The next report; nothing at the end or when the bytes are no report.
async fn report(from: &mut (impl AsyncRead + Unpin)) -> Option<Report> {
    let length = usize::try_from(from.read_u32_le().await.ok()?).ok().filter(|length| *length <= FRAME_MAX)?;
    let mut packet = vec![0; 4 + length];
    packet[..4].copy_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
    from.read_exact(&mut packet[4..]).await.ok()?;
    Report::decode(&packet).ok()
}

/// What became of the call, taken together.
fn verdict(exit: &Exit, told: &Told, fed: Result<(), Status>) -> Result<(), Failure> {
    let cause = call::cause(exit);
    let failure = |cause, status| Failure { cause, errno: None, stage: None, status };
    if let Err(status) = fed {
        // The client's own stream was at fault; that is what it hears.
        return Err(failure(CauseClass::Cancelled, errors::of_transport(status)));
    }
    match (exit.cause, &told.end) {
        (Cause::Ended, End::Done) if cause == CauseClass::Completed => Ok(()),
        (Cause::Ended, End::Failed { stage, errno }) => {
            let status = match stage.as_str() {
                "git" => errors::of_git(&told.said),
                stage => errors::of_tool(stage, *errno),
            };
            let (errno, stage) = (Some(u64::from(errno.unsigned_abs())), Some(call::stage(stage)));
            Err(Failure { cause: CauseClass::Failed, errno, stage, status })
        }
        (Cause::Ended, _) => Err(failure(
            if cause == CauseClass::Completed { CauseClass::Failed } else { cause },
            Reason::Internal.status("the tool ended without saying what it did"),
        )),
        (Cause::SessionClosing, _) => Err(failure(cause, Reason::SessionClosing.status("the session is closing"))),
        (why, _) => Err(failure(cause, Reason::Ended.status(format!("the call was ended: {why:?}")))),
    }
}

/// The private part of the outcome, without the usage.
fn outcome(verdict: &Result<(), Failure>, told: &Told, input: &StreamDigest, output: &StreamDigest) -> OutcomePrivate {
    let moved = match told.content {
        Content::Moved if input.total > 0 => input,
        Content::Moved | Content::Output => output,
    };
    let content = OutcomePrivate {
        digest: Some(moved.sha256),
        size: Some(moved.total),
        ..OutcomePrivate::new(CauseClass::Completed)
    };
    match verdict {
        Ok(()) => OutcomePrivate { files: Some(told.files.unwrap_or(0)), ..content },
        // What was done before it failed, where the tool says it: removed, or told of a watch.
        Err(failure) => OutcomePrivate {
            cause: failure.cause,
            errno: failure.errno,
            stage: failure.stage.clone(),
            files: told.files,
            ..content
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::tool::{ChangeKind, Of};

    fn frames(reports: &[Report]) -> Vec<u8> {
        reports.iter().flat_map(|report| report.encode()).collect()
    }

    fn change() -> Report {
        Report::Change(Change { kind: ChangeKind::Created, path: b"a".to_vec(), from: Vec::new(), of: Of::Leaf })
    }

    /// A tool's last word on how much it told is its own; the record has what its client took.
    #[tokio::test]
    async fn a_watch_is_counted_by_what_its_client_took() {
        let done = Report::Done { files: 1_000_000, bytes: 0, left_out: 0 };
        let said = frames(&[change(), Report::Lagged, change(), change(), Report::WatchEnd(WatchEnd::Idle), done]);
        let told = Told { files: Some(0), most: CHANGES_MAX, ..Told::new() };
        let mut left = 2;
        let hear = |report| {
            let taken = matches!(report, Report::Change(_)) && left > 0;
            left -= i32::from(taken);
            std::future::ready(if taken { Heard::Counted } else { Heard::Passed })
        };
        let told = reports(&said[..], told, hear, &CancellationToken::new()).await;
        assert_eq!((told.files, told.watch_end), (Some(2), Some(WatchEnd::Idle)));
        let cancelled = Err(Failure {
            cause: CauseClass::Cancelled,
            errno: None,
            stage: None,
            status: Reason::Ended.status("cancelled"),
        });
        let nothing = Counter::default().finish();
        let private = outcome(&cancelled, &told, &nothing, &nothing);
        assert_eq!((private.cause, private.files), (CauseClass::Cancelled, Some(2)));
    }

    #[tokio::test]
    async fn what_was_removed_before_a_failure_is_counted_and_the_failure_stands() {
        let said = frames(&[
            Report::Done { files: 12, bytes: 0, left_out: 0 },
            Report::Failed { stage: "path".into(), errno: 13 },
        ]);
        let told = Told { most: REPORTS_MAX, ..Told::new() };
        let hear = |_| std::future::ready(Heard::Passed);
        let told = reports(&said[..], told, hear, &CancellationToken::new()).await;
        let exit = Exit {
            cause: Cause::Ended,
            code: Some(1),
            signal: None,
            wall_ms: 0,
            user_us: 0,
            system_us: 0,
            max_rss_kib: 0,
        };
        let failed = verdict(&exit, &told, Ok(()));
        let nothing = Counter::default().finish();
        let private = outcome(&failed, &told, &nothing, &nothing);
        assert_eq!((private.cause, private.files, private.errno), (CauseClass::Failed, Some(12), Some(13)));
        assert!(failed.is_err_and(|failure| failure.status.message().starts_with("ACCESS_DENIED: ")));
    }

    /// A watch may go on for a day; what a listing says has an end.
    #[tokio::test]
    async fn reports_that_are_kept_have_an_end() {
        let entry = Report::Entry(Entry {
            name: vec![b'a'; 4000],
            kind: crate::frames::tool::Kind::File,
            size: 0,
            mode: 0,
            modified_ms: 0,
            target: Vec::new(),
        });
        let said = frames(&vec![entry; 3000]);
        let told = Told { most: REPORTS_MAX, ..Told::new() };
        let hear = |report| {
            std::future::ready(match report {
                Report::Entry(entry) => Heard::Kept(entry),
                _ => Heard::Passed,
            })
        };
        let told = reports(&said[..], told, hear, &CancellationToken::new()).await;
        assert!(told.entries.len() < 1600 && matches!(told.end, End::Silent), "{}", told.entries.len());
    }
}
