//! Paths and kinds of files: what leads out of /workspace is refused by each operation, what is no file is refused at
//! once, and the longest path works.

use coffer_evidence::leaf::CauseClass::{Completed, Failed};
use coffer_proto::guest::v1 as pb;
use tonic::Code::{FailedPrecondition, InvalidArgument, NotFound, PermissionDenied};
use tonic::{Code, Status};

use crate::answers::{done, refused};
use crate::session::{Leaves, Session};

const DONE: Leaves = Leaves::Ended(Completed);
const TRIED: Leaves = Leaves::Ended(Failed);

/// What is done with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write,
    List,
    Stat,
    Upload,
    Download,
    /// Without what is beneath.
    Remove,
    /// To where nothing is.
    MoveFrom,
    /// Of a file that is there.
    MoveTo,
    Make,
    /// For a millisecond.
    Watch,
}

use Operation::{Download, List, Make, MoveFrom, MoveTo, Read, Remove, Stat, Upload, Watch, Write};

const ALL: [Operation; 11] = [Read, Write, List, Stat, Upload, Download, Remove, MoveFrom, MoveTo, Make, Watch];

/// What came back: content, names, or the kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) names: Vec<String>,
    pub(crate) kind: Option<pb::EntryKind>,
    pub(crate) special: u64,
}

impl Session {
    pub(crate) async fn try_path(&self, operation: Operation, path: &str, leaves: Leaves) -> Result<Answer, Status> {
        let header = self.header(&format!("{operation:?} {path:?}"), leaves);
        let path = path.to_owned();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match operation {
            Read => self.read(pb::ReadFileRequest { header, path, offset: 0, length: 0 }).await,
            Write => {
                let start = pb::WriteFileStart { header, path, mode: 0, precondition: None };
                self.write(start, vec![b"written"[..].into()]).await.map(|_| Answer::default())
            }
            List => {
                let listed = self
                    .tools()
                    .list_directory(pb::ListDirectoryRequest { header, path, ..Default::default() })
                    .await?
                    .into_inner();
                Ok(Answer { names: listed.entries.iter().map(|e| text(&e.name)).collect(), ..Answer::default() })
            }
            Stat => {
                let found = self.tools().stat(pb::StatRequest { header, path }).await?.into_inner();
                Ok(Answer { kind: found.entry.map(|entry| entry.kind()), ..Answer::default() })
            }
            Upload => {
                let mut archive = tar::Builder::new(Vec::new());
                let mut file = tar::Header::new_ustar();
                file.set_size(1);
                archive.append_data(&mut file, "uploaded", &b"u"[..]).expect("an archive");
                let archive = archive.into_inner().expect("an archive");
                self.upload(pb::UploadStart { header, path }, &archive).await.map(|_| Answer::default())
            }
            Download => self.download(pb::DownloadRequest { header, path }).await,
            Remove => {
                self.remove(pb::RemoveRequest { header, path, recursive: false }).await.map(|_| Answer::default())
            }
            MoveFrom => self.rename(header, &path, "moved").await.map(|()| Answer::default()),
            MoveTo => self.rename(header, MOVABLE, &path).await.map(|()| Answer::default()),
            Make => {
                let request = pb::MakeDirectoryRequest { header, path, mode: 0, parents: false };
                self.make(request).await.map(|_| Answer::default())
            }
            Watch => {
                let request = pb::WatchRequest { header, path, recursive: true, timeout_ms: 1 };
                self.watched(request).await.map(|_| Answer::default())
            }
        }
    }

    pub(crate) async fn read(&self, request: pb::ReadFileRequest) -> Result<Answer, Status> {
        let mut stream = self.tools().read_file(request).await?.into_inner();
        let (mut answer, mut whole) = (Answer::default(), false);
        while let Some(message) = stream.message().await? {
            match message.response {
                Some(pb::read_file_response::Response::Data(data)) => answer.bytes.extend(data),
                Some(pb::read_file_response::Response::Trailer(_)) => whole = true,
                _ => {}
            }
        }
        if whole { Ok(answer) } else { Err(Status::unknown("no trailer")) }
    }

    pub(crate) async fn write(
        &self,
        start: pb::WriteFileStart,
        chunks: Vec<Vec<u8>>,
    ) -> Result<pb::WriteFileResponse, Status> {
        use pb::write_file_request::Request;
        let data = chunks.into_iter().map(|chunk| Request::Data(chunk.into()));
        let requests = std::iter::once(Request::Start(start)).chain(data);
        let requests: Vec<_> = requests.map(|request| pb::WriteFileRequest { request: Some(request) }).collect();
        Ok(self.tools().write_file(tokio_stream::iter(requests)).await?.into_inner())
    }

    pub(crate) async fn upload(&self, start: pb::UploadStart, archive: &[u8]) -> Result<pb::UploadResponse, Status> {
        use pb::upload_request::Request;
        let data = archive.chunks(60_000).map(|chunk| Request::Data(chunk.to_vec().into()));
        let requests = std::iter::once(Request::Start(start)).chain(data);
        let requests: Vec<_> = requests.map(|request| pb::UploadRequest { request: Some(request) }).collect();
        Ok(self.tools().upload(tokio_stream::iter(requests)).await?.into_inner())
    }

    pub(crate) async fn download(&self, request: pb::DownloadRequest) -> Result<Answer, Status> {
        let mut stream = self.tools().download(request).await?.into_inner();
        let (mut archive, mut trailer) = (Vec::new(), None);
        while let Some(message) = stream.message().await? {
            match message.response {
                Some(pb::download_response::Response::Data(data)) => archive.extend(data),
                Some(pb::download_response::Response::Trailer(last)) => trailer = Some(last),
                None => {}
            }
        }
        let trailer = trailer.ok_or_else(|| Status::unknown("no trailer"))?;
        let mut answer = Answer { special: trailer.special, ..Answer::default() };
        for entry in tar::Archive::new(&archive[..]).entries().expect("an archive") {
            let mut entry = entry.expect("an entry");
            answer.names.push(String::from_utf8_lossy(&entry.path_bytes()).into_owned());
            std::io::Read::read_to_end(&mut entry, &mut answer.bytes).expect("content");
        }
        Ok(answer)
    }
}

/// A file that is there to be moved, and stays: every move of it is refused.
const MOVABLE: &str = "movable";

pub(crate) async fn paths(session: &Session) -> anyhow::Result<()> {
    session.sh(&format!("echo stays >{MOVABLE}")).await?;
    no_paths(session).await;
    longest(session).await?;
    links(session).await?;
    kinds(session).await?;
    chunks(session).await;
    Ok(())
}

async fn no_paths(session: &Session) {
    let long = "a".repeat(4096);
    for operation in ALL {
        let result = session.try_path(operation, "/etc/passwd", Leaves::Denied).await;
        let what = format!("{operation:?} /etc/passwd");
        refused(&what, result, PermissionDenied, "POLICY_DENIED", "no rule of the session's policy");
        for (path, reason, text) in [
            ("..", "INVALID_ARGUMENT", "without `..`"),
            ("../etc/passwd", "INVALID_ARGUMENT", "without `..`"),
            ("a/..", "INVALID_ARGUMENT", "without `..`"),
            ("/..", "INVALID_ARGUMENT", "without `..`"),
            ("a\0", "INVALID_ARGUMENT", "without NUL"),
            (&long, "LIMIT_EXCEEDED", "at most 4096 bytes with the NUL at its end, found 4097"),
        ] {
            let what = format!("{operation:?} {path:.20}");
            refused(&what, session.try_path(operation, path, Leaves::None).await, InvalidArgument, reason, text);
        }
        for path in ["", ".", "./"] {
            let what = format!("{operation:?} {path:?}");
            match operation {
                Read | Write | Remove | MoveFrom | MoveTo | Make => {
                    let result = session.try_path(operation, path, Leaves::None).await;
                    refused(&what, result, InvalidArgument, "INVALID_ARGUMENT", "found the workspace itself");
                }
                _ => drop(done(&what, session.try_path(operation, path, DONE).await)),
            }
        }
        // Names that mean something only to others.
        if matches!(operation, Read | Stat | Remove | MoveFrom | Watch) {
            for path in ["%2e%2e/etc/passwd", "..\\etc", "~", "missing/a", "..."] {
                let result = session.try_path(operation, path, TRIED).await;
                refused(path, result, NotFound, "FILE_NOT_FOUND", "something at the path, found nothing");
            }
        }
    }
}

/// 4,095 bytes and the NUL, 255 of them in one name, is a path for every operation; more is none.
async fn longest(session: &Session) -> anyhow::Result<()> {
    let deep = vec!["d".repeat(255); 15].join("/");
    let make = "import os\nfor _ in range(15):\n os.mkdir('d' * 255)\n os.chdir('d' * 255)";
    session.python(make).await?;
    let file = format!("{deep}/{}", "f".repeat(255));
    assert_eq!(file.len(), 4095);
    for operation in [Write, Read, Stat, Download] {
        done(&format!("{operation:?}"), session.try_path(operation, &file, DONE).await);
    }
    let directory = format!("{deep}/{}", "u".repeat(255));
    for operation in [Upload, List, Download] {
        done(&format!("{operation:?}"), session.try_path(operation, &directory, DONE).await);
    }
    for operation in ALL {
        let result = session.try_path(operation, &format!("{file}x"), Leaves::None).await;
        refused("4,096 bytes", result, InvalidArgument, "LIMIT_EXCEEDED", "found 4097");
        let result = session.try_path(operation, &"n".repeat(256), TRIED).await;
        refused("a name of 256", result, InvalidArgument, "INVALID_ARGUMENT", "names of at most 255 bytes");
    }
    session.output_of(crate::record::REMOVES_THE_LONGEST, &["rm", "-r", &"d".repeat(255)]).await.map(drop)
}

/// A link that leads out, at the end, in the middle and at the front of a path.
async fn links(session: &Session) -> anyhow::Result<()> {
    session
        .sh("mkdir -p links/a/b real && echo inside >real/file && cd links && ln -s /etc out && ln -s .. up && \
             ln -s ../../../.. a/b/up && ln -s /etc/passwd passwd && ln -s loop loop && ln -s /proc/self/root root && \
             ln -s /proc/self/fd/0 stdin && ln -s /workspace/real absolute && ln -s ../real in && ln -s gone gone")
        .await?;
    for operation in ALL {
        for path in [
            "links/out/coffer",
            "links/up/../etc/coffer".trim_end_matches("/../etc/coffer"),
            "links/a/b/up/etc/coffer",
            "links/root/etc/coffer",
            "links/absolute/file",
            "links/loop/a",
        ] {
            // `up` stays inside: it is the one that may be followed.
            if path == "links/up" {
                continue;
            }
            let result = session.try_path(operation, path, TRIED).await;
            refused(&format!("{operation:?} {path}"), result, PermissionDenied, "PATH_ESCAPE", "leads out of it");
        }
    }
    // As the last component: followed by what opens a file or directory, and refused.
    for (operation, path) in [
        (Read, "links/passwd"),
        (Read, "links/stdin"),
        (Read, "links/loop"),
        (List, "links/out"),
        (List, "links/root"),
        (List, "links/absolute"),
        (Upload, "links/out"),
        (Upload, "links/out/new"),
        (Upload, "links/a/b/up"),
        (Upload, "links/loop"),
        (Watch, "links/out"),
        (Watch, "links/absolute"),
        (Watch, "links/loop"),
    ] {
        let result = session.try_path(operation, path, TRIED).await;
        refused(&format!("{operation:?} {path}"), result, PermissionDenied, "PATH_ESCAPE", "leads out of it");
    }
    // Told, packed or replaced: a link is what it is.
    for path in ["links/passwd", "links/out", "links/loop", "links/root"] {
        let found = done(path, session.try_path(Stat, path, DONE).await);
        assert_eq!(found.kind, Some(pb::EntryKind::Symlink), "{path}");
        let found = done(path, session.try_path(Download, path, DONE).await);
        assert_eq!((found.names.len(), found.bytes), (1, vec![]), "{path}");
    }
    for path in ["links/passwd", "links/out", "links/loop"] {
        done(path, session.try_path(Write, path, DONE).await);
        assert_eq!(done(path, session.try_path(Read, path, DONE).await).bytes, b"written", "{path}");
    }
    // Removed and moved, too; who makes a directory of its name finds it taken.
    session.sh("cd links && ln -s /etc gone-1 && ln -s /etc gone-2").await?;
    for operation in [Make, MoveTo] {
        let result = session.try_path(operation, "links/gone-1", TRIED).await;
        refused("a link in the way", result, FailedPrecondition, "WRONG_KIND", "expected a free name");
    }
    done("a link is removed", session.try_path(Remove, "links/gone-1", DONE).await);
    done("a link is moved", session.try_path(MoveFrom, "links/gone-2", DONE).await);
    done("and removed", session.try_path(Remove, "moved", DONE).await);
    // What stays inside is followed.
    assert_eq!(done("in", session.try_path(Read, "links/in/file", DONE).await).bytes, b"inside\n");
    assert_eq!(done("up", session.try_path(Read, "links/up/real/file", DONE).await).bytes, b"inside\n");
    let dangling = session.try_path(Upload, "links/gone", TRIED).await;
    refused("a link to nothing", dangling, PermissionDenied, "PATH_ESCAPE", "in circles");
    let outside = "find / -xdev \\( -name coffer -o -name uploaded -o -name new \\) -not -path '/workspace/*' -newer \
                   /workspace/real/file 2>/dev/null; ls /tmp";
    assert_eq!(session.output(&["sh", "-c", &format!("{outside}; true")]).await?, "");
    Ok(())
}

/// Pipes, sockets, a file of 8 EiB, a locked one: refused at once, or told, or replaced; nothing waits for anything.
async fn kinds(session: &Session) -> anyhow::Result<()> {
    let make = "import os, socket\nos.makedirs('kinds/tree/empty')\nos.chdir('kinds')\nos.mkfifo('pipe')\n\
                s = socket.socket(socket.AF_UNIX)\ns.bind('socket')\nos.mkfifo('tree/pipe')\nos.mkfifo('tree/empty/pipe')\n\
                t = socket.socket(socket.AF_UNIX)\nt.bind('tree/socket')\nopen('tree/file', 'w').write('x')\n\
                os.link('tree/file', 'hard')\nf = open('sparse', 'w')\nf.truncate(2**63 - 1)\nopen('closed', 'w')\n\
                os.chmod('closed', 0)\nos.mkdir('shut', 0)\n\
                try: os.mknod('null', 0o20666, os.makedev(1, 3))\nexcept PermissionError: print('no devices')";
    assert_eq!(session.python(make).await?, "no devices\n");
    type Row = (Operation, &'static str, Code, &'static str, &'static str);
    let rows: [Row; 19] = [
        (Read, "kinds/pipe", FailedPrecondition, "WRONG_KIND", "a regular file, found a pipe"),
        (Read, "kinds/socket", FailedPrecondition, "WRONG_KIND", "a regular file, found a pipe, a socket"),
        (Read, "kinds/tree", FailedPrecondition, "WRONG_KIND", "found a directory"),
        (Write, "kinds/tree", FailedPrecondition, "WRONG_KIND", "found a directory"),
        (Write, "kinds/pipe/x", FailedPrecondition, "WRONG_KIND", "a directory, found something else"),
        (List, "kinds/pipe", FailedPrecondition, "WRONG_KIND", "a directory, found something else"),
        (List, "kinds/hard", FailedPrecondition, "WRONG_KIND", "a directory, found something else"),
        (Upload, "kinds/hard", FailedPrecondition, "WRONG_KIND", "a directory, found something else"),
        (Read, "kinds/closed", PermissionDenied, "ACCESS_DENIED", "forbids it"),
        (List, "kinds/shut", PermissionDenied, "ACCESS_DENIED", "forbids it"),
        (Write, "kinds/shut/x", PermissionDenied, "ACCESS_DENIED", "forbids it"),
        (Read, "kinds/sparse", InvalidArgument, "LIMIT_EXCEEDED", "at most 1073741824 bytes"),
        (Download, "kinds/sparse", InvalidArgument, "LIMIT_EXCEEDED", "at most 1073741824 bytes"),
        (Remove, "kinds/tree", FailedPrecondition, "WRONG_KIND", "only `recursive` removes one"),
        (Remove, "kinds/pipe/x", FailedPrecondition, "WRONG_KIND", "a directory, found something else"),
        (MoveTo, "kinds/pipe", FailedPrecondition, "WRONG_KIND", "expected a free name"),
        (Make, "kinds/socket", FailedPrecondition, "WRONG_KIND", "expected a free name"),
        (Make, "kinds/shut/x", PermissionDenied, "ACCESS_DENIED", "forbids it"),
        (Watch, "kinds/pipe", FailedPrecondition, "WRONG_KIND", "a directory, found something else"),
    ];
    for (operation, path, code, reason, text) in rows {
        let result = session.try_path(operation, path, TRIED).await;
        refused(&format!("{operation:?} {path}"), result, code, reason, text);
    }
    for path in ["kinds/pipe", "kinds/socket"] {
        assert_eq!(done(path, session.try_path(Stat, path, DONE).await).kind, Some(pb::EntryKind::Other), "{path}");
        let found = done(path, session.try_path(Download, path, DONE).await);
        assert_eq!(found, Answer { special: 1, ..Answer::default() }, "{path}");
    }
    let tree = done("tree", session.try_path(Download, "kinds/tree", DONE).await);
    assert_eq!((tree.names, tree.special), (vec!["empty/".to_owned(), "file".to_owned()], 3));
    for path in ["kinds/pipe", "kinds/socket", "kinds/hard"] {
        done(path, session.try_path(Write, path, DONE).await);
        assert_eq!(done(path, session.try_path(Read, path, DONE).await).bytes, b"written", "{path}");
    }
    assert_eq!(done("the other name", session.try_path(Read, "kinds/tree/file", DONE).await).bytes, b"x");
    // The largest file that there can be is read in ranges to its last byte, and no further.
    let last = (1_u64 << 63) - 1;
    let range = |what: &str, offset: u64, length: u64, leaves| {
        let header = session.header(what, leaves);
        pb::ReadFileRequest { header, path: "kinds/sparse".into(), offset, length }
    };
    for (what, offset, length, expected) in
        [("its last byte", last - 1, 0, 1), ("its end", last, 0, 0), ("its last two", last - 2, 9, 2)]
    {
        let found = done(what, session.read(range(what, offset, length, DONE)).await);
        assert_eq!(found.bytes.len(), expected, "{what}");
    }
    let result = session.read(range("after its end", last + 1, 1, Leaves::None)).await;
    refused("after its end", result, InvalidArgument, "LIMIT_EXCEEDED", "found 9223372036854775808");
    let result = session.read(range("1 GiB and a byte", 0, (1 << 30) + 1, TRIED)).await;
    refused("1 GiB and a byte", result, InvalidArgument, "LIMIT_EXCEEDED", "at most 1073741824 bytes");
    // Names that a program gave and no text can name are listed all the same.
    session.python("import os\nos.makedirs('names')\nopen(b'names/\\xff', 'w')\nopen('names/a\\nb', 'w')").await?;
    assert_eq!(done("names", session.try_path(List, "names", DONE).await).names, ["a\nb", "\u{fffd}"]);
    leased(session).await
}

/// A file that another process has a lease on would hold its reader up for as long as the kernel lets it.
async fn leased(session: &Session) -> anyhow::Result<()> {
    let hold = "import fcntl, os, signal, sys\nprint('begun', flush=True)\nsignal.signal(signal.SIGIO, signal.SIG_IGN)\n\
                fd = os.open('kinds/tree/file', os.O_RDWR)\n\
                try:\n fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n print('held', flush=True)\n\
                except OSError: print('none', flush=True)\nsys.stdin.read()";
    let holder = session.running(&["python3", "-c", hold], DONE).await?;
    for operation in [Read, Download] {
        done("a file that nobody can lease", session.try_path(operation, "kinds/tree/file", DONE).await);
    }
    let (exited, out) = holder.end().await?;
    assert_eq!((exited.code, out.trim()), (0, "none"));
    Ok(())
}

/// The pieces that content comes in, and what is no content.
async fn chunks(session: &Session) {
    let write = |what: &str, leaves, mode| pb::WriteFileStart {
        header: session.header(what, leaves),
        path: "w".into(),
        mode,
        precondition: None,
    };
    let whole = session.write(write("64 KiB", DONE, 0o777), vec![vec![7; 65_536]; 2]).await;
    assert_eq!(done("64 KiB", whole).size, 131_072);
    let cancelled = Leaves::Ended(coffer_evidence::leaf::CauseClass::Cancelled);
    let result = session.write(write("a byte more", cancelled, 0), vec![vec![7; 65_537]]).await;
    refused("a byte more", result, InvalidArgument, "LIMIT_EXCEEDED", "at most 65536 bytes, found 65537");
    for mode in [0o1000, 0o4755, u32::MAX] {
        let result = session.write(write("a mode", Leaves::None, mode), vec![]).await;
        refused("a mode", result, InvalidArgument, "INVALID_ARGUMENT", "permission bits up to 0777, found");
    }
    let data = |request| pb::WriteFileRequest { request };
    let start = |leaves| data(Some(pb::write_file_request::Request::Start(write("a second start", leaves, 0))));
    let twice = tokio_stream::iter([start(cancelled), start(Leaves::None)]);
    let result = session.tools().write_file(twice).await;
    refused("a second start", result, InvalidArgument, "INVALID_ARGUMENT", "expected `data` after `start`");
    for requests in [vec![], vec![data(None)], vec![data(Some(pb::write_file_request::Request::Data(vec![1].into())))]]
    {
        let result = session.tools().write_file(tokio_stream::iter(requests)).await;
        refused("no start", result, InvalidArgument, "INVALID_ARGUMENT", "expected `start` as the first message");
    }
    // The old file stands: what was refused wrote nothing, and left nothing beside it.
    assert_eq!(done("the old file", session.try_path(Read, "w", DONE).await).bytes.len(), 131_072);
    let names = done("all", session.try_path(List, "", DONE).await).names;
    assert!(!names.iter().any(|name| name.starts_with(".coffer-")), "{names:?}");
}
