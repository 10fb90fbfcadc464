//! What gives names and what hears of it: writing over what is expected, pages of a listing, remove, move, make, watch.

use coffer_evidence::ids::Digest256;
use coffer_evidence::leaf::CauseClass::{Cancelled, Completed, Failed};
use coffer_proto::guest::v1 as pb;
use pb::watch_response::Response as News;
use pb::write_file_start::Precondition;
use tonic::Code::{FailedPrecondition, InvalidArgument};
use tonic::Status;

use crate::answers::{done, refused};
use crate::files::Operation::{List, Read};
use crate::session::{Leaves, Session};

const DONE: Leaves = Leaves::Ended(Completed);
const TRIED: Leaves = Leaves::Ended(Failed);

impl Session {
    pub(crate) async fn remove(&self, request: pb::RemoveRequest) -> Result<pb::RemoveResponse, Status> {
        Ok(self.tools().remove(request).await?.into_inner())
    }

    /// Replaces nothing.
    pub(crate) async fn rename(&self, header: Option<pb::CallHeader>, from: &str, to: &str) -> Result<(), Status> {
        let (path, destination) = (from.to_owned(), to.to_owned());
        self.tools().r#move(pb::MoveRequest { header, path, destination, replace: false }).await.map(drop)
    }

    pub(crate) async fn make(&self, request: pb::MakeDirectoryRequest) -> Result<pb::MakeDirectoryResponse, Status> {
        Ok(self.tools().make_directory(request).await?.into_inner())
    }

    /// Watches to the end; gives the changes and the last word.
    pub(crate) async fn watched(&self, request: pb::WatchRequest) -> Result<(Vec<pb::Change>, pb::WatchEnded), Status> {
        let mut stream = self.tools().watch(request).await?.into_inner();
        let mut changes = Vec::new();
        while let Some(message) = stream.message().await? {
            match message.response {
                Some(News::Change(change)) => changes.push(change),
                Some(News::Ended(ended)) => return Ok((changes, ended)),
                _ => {}
            }
        }
        Err(Status::unknown("the watch did not say how it ended"))
    }
}

pub(crate) async fn changes(session: &Session) -> anyhow::Result<()> {
    preconditions(session).await;
    pages(session).await?;
    trees(session).await?;
    watches(session).await
}

async fn preconditions(session: &Session) {
    let start = |what: &str, leaves, precondition| pb::WriteFileStart {
        header: session.header(what, leaves),
        path: "matched".into(),
        mode: 0,
        precondition: Some(precondition),
    };
    let absent = || Precondition::MustNotExist(pb::MustNotExist {});
    let content = |content: &[u8]| Precondition::IfMatch(Digest256::of(content).as_bytes().to_vec().into());
    let rows: [(&str, Precondition, bool, &str); 5] = [
        ("over what is not there", content(b"1"), false, "found nothing"),
        ("over nothing", absent(), true, ""),
        ("over nothing again", absent(), false, "found that something does"),
        ("over another content", content(b"other"), false, "found another content"),
        ("over its content", content(b"over nothing"), true, ""),
    ];
    for (what, precondition, fits, text) in rows {
        let leaves = if fits { DONE } else { TRIED };
        let result = session.write(start(what, leaves, precondition), vec![what.as_bytes().to_vec()]).await;
        if fits {
            done(what, result);
        } else {
            refused(what, result, FailedPrecondition, "ETAG_MISMATCH", text);
        }
    }
    assert_eq!(done("it", session.try_path(Read, "matched", DONE).await).bytes, b"over its content");
    for length in [0, 31, 33] {
        let short = Precondition::IfMatch(vec![0; length].into());
        let result = session.write(start("no digest", Leaves::None, short), vec![]).await;
        refused("no digest", result, InvalidArgument, "INVALID_ARGUMENT", "a SHA-256 of 32 bytes");
    }
    let names = done("all", session.try_path(List, "", DONE).await).names;
    assert!(!names.iter().any(|name| name.starts_with(".coffer-")), "{names:?}");
}

async fn pages(session: &Session) -> anyhow::Result<()> {
    session.sh("mkdir -p pages/a/b pages/shut && touch pages/a/b/c pages/a- pages/z && chmod 0 pages/shut").await?;
    let list = |what: &str, leaves, depth, page_size, page_token: &str| pb::ListDirectoryRequest {
        header: session.header(what, leaves),
        path: "pages".into(),
        depth,
        page_size,
        page_token: page_token.to_owned(),
    };
    let (mut names, mut token, mut unreadable) = (Vec::new(), String::new(), 0);
    loop {
        let page = session.tools().list_directory(list("a page", DONE, 64, 2, &token)).await?.into_inner();
        assert!(page.entries.len() <= 2 && page.truncated != page.next_page_token.is_empty(), "{page:?}");
        names.extend(page.entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()));
        unreadable += page.unreadable;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
        let other = session.tools().list_directory(list("another depth", Leaves::None, 2, 2, &token)).await;
        refused("another depth", other, InvalidArgument, "INVALID_ARGUMENT", "the token of the page before");
    }
    assert_eq!((names.join(" ").as_str(), unreadable), ("a a/b a/b/c a- shut z", 1));
    for (what, depth, size, text) in [
        ("too deep", 65, 0, "a depth of at most 64, found 65"),
        ("too many", 1, 10_001, "at most 10000 entries, found 10001"),
    ] {
        let result = session.tools().list_directory(list(what, Leaves::None, depth, size, "")).await;
        refused(what, result, InvalidArgument, "LIMIT_EXCEEDED", text);
    }
    session.sh("chmod 700 pages/shut && rm -r pages").await.map(drop)
}

async fn trees(session: &Session) -> anyhow::Result<()> {
    let make = |what: &str, path: &str, mode, leaves| pb::MakeDirectoryRequest {
        header: session.header(what, leaves),
        path: path.into(),
        mode,
        parents: true,
    };
    assert_eq!(done("make", session.make(make("make", "made/a/b", 0o700, DONE)).await).made, 3);
    assert_eq!(done("again", session.make(make("again", "made/a/b", 0o700, DONE)).await).made, 0);
    assert_eq!(session.sh("stat -c %a made made/a/b").await?, "755\n700\n");
    let result = session.make(make("a mode", "made/c", 0o1777, Leaves::None)).await;
    refused("a mode", result, InvalidArgument, "INVALID_ARGUMENT", "permission bits up to 0777, found");

    session.sh("ln -s /etc made/a/out && touch made/a/f && ln made/a/f made/twin && echo kept >kept").await?;
    done("move", session.rename(session.header("move", DONE), "made/a", "made/moved").await);
    let taken = session.rename(session.header("taken", TRIED), "made/moved", "made/twin").await;
    refused("taken", taken, FailedPrecondition, "WRONG_KIND", "expected a free name");
    let into = session.rename(session.header("into itself", TRIED), "made", "made/moved/made").await;
    refused("into itself", into, FailedPrecondition, "WRONG_KIND", "a new place outside of what is moved");
    let replace = |what: &str, leaves, path: &str, destination: &str| pb::MoveRequest {
        header: session.header(what, leaves),
        path: path.into(),
        destination: destination.into(),
        replace: true,
    };
    let twins = session.tools().r#move(replace("two names of one", TRIED, "made/moved/f", "made/twin")).await;
    refused("two names of one", twins, FailedPrecondition, "WRONG_KIND", "found two names of one");
    done("replace", session.tools().r#move(replace("replace", DONE, "kept", "made/twin")).await);
    assert_eq!(session.sh("cat made/twin").await?, "kept\n");

    let remove =
        |what: &str| pb::RemoveRequest { header: session.header(what, DONE), path: "made".into(), recursive: true };
    // made, moved, moved/b, moved/out, moved/f, twin.
    assert_eq!(done("remove", session.remove(remove("remove")).await).removed, 6);
    assert_eq!(session.sh("test -e /etc/passwd && ls -d made 2>/dev/null; true").await?, "");
    Ok(())
}

async fn watches(session: &Session) -> anyhow::Result<()> {
    session.sh("mkdir -p seen/d").await?;
    let watch = |what: &str, leaves, timeout_ms| pb::WatchRequest {
        header: session.header(what, leaves),
        path: "seen".into(),
        recursive: true,
        timeout_ms,
    };
    for timeout in [-1, 24 * 60 * 60 * 1000 + 1] {
        let result = session.watched(watch("a timeout", Leaves::None, timeout)).await;
        refused("a timeout", result, InvalidArgument, "LIMIT_EXCEEDED", "expected timeout_ms between 0 and 86400000");
    }
    let (changes, ended) = done("a timeout", session.watched(watch("a timeout", DONE, 1)).await);
    assert_eq!((changes.len(), ended.changes, ended.end()), (0, 0, pb::WatchEnd::Timeout));

    // What another call does is seen; who leaves ends the watch.
    let mut news =
        session.tools().watch(watch("a client that leaves", Leaves::Ended(Cancelled), 60_000)).await?.into_inner();
    let first = news.message().await?.and_then(|message| message.response);
    assert!(matches!(first, Some(News::Started(_))), "{first:?}");
    session.sh("mkdir seen/e && mv seen/e seen/d/f && rmdir seen/d/f").await?;
    let mut words = Vec::new();
    while words.last().is_none_or(|word: &String| !word.starts_with("Deleted")) {
        match news.message().await?.and_then(|message| message.response) {
            Some(News::Change(change)) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                words.push(format!("{:?} {} {}", change.kind(), text(&change.moved_from), text(&change.path)));
            }
            other => anyhow::bail!("{other:?} after {words:?}"),
        }
    }
    assert_eq!(words, ["Created  seen/e", "Moved seen/e d/f", "Deleted  d/f"].map(|word| word.replace("seen/", "")));
    drop(news);

    // A directory that goes takes its watch along.
    let mut news = session.tools().watch(watch("a directory that goes", DONE, 60_000)).await?.into_inner();
    let first = news.message().await?.and_then(|message| message.response);
    assert!(matches!(first, Some(News::Started(_))), "{first:?}");
    session.sh("rm -r seen").await?;
    loop {
        match news.message().await?.and_then(|message| message.response) {
            Some(News::Change(_)) => {}
            Some(News::Ended(ended)) => {
                assert_eq!((ended.end(), ended.changes), (pb::WatchEnd::Gone, 1), "seen/d was removed, then seen");
                return Ok(());
            }
            other => anyhow::bail!("{other:?}"),
        }
    }
}
