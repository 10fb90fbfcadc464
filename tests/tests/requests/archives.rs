//! Uploads of hostile archives: each has one error, and nothing outside the target is made, changed or read.

use coffer_evidence::leaf::CauseClass::{Completed, Failed};
use coffer_proto::guest::v1 as pb;
use tar::EntryType::{
    Block, Char, Directory, Fifo, GNULongName, GNUSparse, Link, Regular, Symlink, XGlobalHeader, XHeader,
};
use tar::{EntryType, Header};
use tonic::Code::{self, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied};

use crate::answers::{done, refused};
use crate::session::{Leaves, Session};

/// A tar stream being made, of members that no library would write.
struct Stream(Vec<u8>);

impl Stream {
    fn member(mut self, kind: EntryType, name: &[u8], link: &str, content: &[u8], mode: u32) -> Self {
        self.sized(kind, name, link, content.len() as u64, mode);
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn sized(&mut self, kind: EntryType, name: &[u8], link: &str, size: u64, mode: u32) {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1);
        header.set_size(size);
        header.set_cksum();
        self.0.extend(header.as_bytes());
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

fn one(kind: EntryType, name: &str, link: &str) -> Vec<u8> {
    Stream(vec![]).member(kind, name.as_bytes(), link, b"", 0o644).end()
}

fn file(name: &str) -> Stream {
    Stream(vec![]).member(Regular, name.as_bytes(), "", b"content", 0o644)
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    // Its length counts the digits of its length.
    let rest = key.len() + value.len() + 3;
    let length = (1..).map(|digits| rest + digits).find(|length| length.to_string().len() + rest == *length);
    [format!("{} {key}=", length.unwrap_or(0)).as_bytes(), value, b"\n"].concat()
}

fn named(kind: EntryType, header: &[u8]) -> Vec<u8> {
    Stream(vec![]).member(kind, b"header", "", header, 0).member(Regular, b"short", "", b"content", 0o644).end()
}

fn declared(size: u64) -> Vec<u8> {
    let mut stream = Stream(vec![]);
    stream.sized(Regular, b"large", "", size, 0o644);
    stream.0.resize(1 << 20, 7);
    stream.0
}

type Row = (&'static str, Vec<u8>, Code, &'static str, &'static str);

/// What is refused, and how.
fn rows() -> Vec<Row> {
    type Answer = (Code, &'static str, &'static str);
    const OUT: Answer = (PermissionDenied, "PATH_ESCAPE", "leads out of it");
    const KIND: Answer = (InvalidArgument, "INVALID_ARGUMENT", "files, directories and links in the archive");
    const BROKEN: Answer = (InvalidArgument, "INVALID_ARGUMENT", "expected a whole tar archive");
    const LONG: Answer = (InvalidArgument, "INVALID_ARGUMENT", "names of at most 255 bytes");
    const IN_THE_WAY: Answer = (FailedPrecondition, "WRONG_KIND", "expected");
    const INVALID: Answer = (InvalidArgument, "INVALID_ARGUMENT", "refuses it");
    const LIMIT: Answer = (InvalidArgument, "LIMIT_EXCEEDED", "at most 1073741824 bytes in at most 200000 entries");
    let through = |target: &str| {
        Stream(vec![]).member(Symlink, b"d", target, b"", 0o777).member(Regular, b"d/x", "", b"content", 0o644).end()
    };
    let cut = |at: usize| file("a").member(Regular, b"b", "", b"content", 0o644).end()[..at].to_vec();
    let twice = [file("a").end(), file("b").end()].concat();
    // As `gzip` packs a gigabyte of zeros: nobody here unpacks it.
    let gzip =
        [&b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03"[..], &[0xec, 0xc1, 0x01, 0x01][..], &[0; 4000][..]].concat();
    let rows: Vec<(&str, Vec<u8>, Answer)> = vec![
        ("dots", file("../x").end(), OUT),
        ("dots within", file("a/../../x").end(), OUT),
        ("dots at the end", one(Directory, "a/..", ""), OUT),
        ("absolute", file("/tmp/x").end(), OUT),
        ("absolute directory", one(Directory, "/tmp/made", ""), OUT),
        ("dots in a pax header", named(XHeader, &record("path", b"../x")), OUT),
        ("absolute in a GNU header", named(GNULongName, b"/tmp/x\0"), OUT),
        ("through a link that it brings", through("/tmp"), OUT),
        ("through a link that goes up", through("../.."), OUT),
        ("through a link that stays inside", through("."), OUT),
        ("through a link to a link", through("d"), OUT),
        ("hard link to what is outside", one(Link, "h", "/etc/passwd"), OUT),
        ("hard link upwards", one(Link, "h", "../../etc/passwd"), OUT),
        (
            "hard link through a link",
            Stream(vec![]).member(Symlink, b"d", "/etc", b"", 0).member(Link, b"h", "d/passwd", b"", 0).end(),
            OUT,
        ),
        ("hard link to nothing", one(Link, "h", "gone"), (NotFound, "FILE_NOT_FOUND", "found nothing")),
        ("link without target", one(Symlink, "l", ""), INVALID),
        (
            "link with a NUL",
            Stream(vec![])
                .member(XHeader, b"h", "", &record("linkpath", b"a\0b"), 0)
                .member(Symlink, b"l", "", b"", 0o777)
                .end(),
            INVALID,
        ),
        ("character device", one(Char, "c", ""), KIND),
        ("block device", one(Block, "b", ""), KIND),
        ("pipe", one(Fifo, "p", ""), KIND),
        ("unknown kind", one(EntryType::new(b'Z'), "z", ""), KIND),
        ("sparse", one(GNUSparse, "s", ""), KIND),
        ("sparse in disguise", named(XHeader, &record("GNU.sparse.major", b"1")), KIND),
        ("NUL in a name", named(XHeader, &record("path", b"a\0b")), INVALID),
        ("name of 256", named(XHeader, &record("path", &[b'n'; 256])), LONG),
        ("path of 4096", named(XHeader, &record("path", &[b"d/".repeat(2047).as_slice(), b"dd"].concat())), LONG),
        ("GNU name of 100 KiB", named(GNULongName, &[b'n'; 100_000]), LONG),
        ("pax header of 65 KiB", named(XHeader, &record("comment", &[b'n'; 66_000])), LONG),
        (
            "two names for one",
            Stream(named(GNULongName, b"a\0")[..1024].to_vec()).member(GNULongName, b"h", "", b"b\0", 0).end(),
            BROKEN,
        ),
        ("name for nobody", Stream(vec![]).member(GNULongName, b"h", "", b"a\0", 0).end(), BROKEN),
        ("file, then directory", file("a").member(Directory, b"a", "", b"", 0o755).end(), IN_THE_WAY),
        ("file, then below it", file("a").member(Regular, b"a/b", "", b"", 0o644).end(), IN_THE_WAY),
        (
            "directory, then file",
            Stream(vec![]).member(Directory, b"a", "", b"", 0o755).member(Regular, b"a", "", b"", 0o644).end(),
            IN_THE_WAY,
        ),
        ("file in place of the target", file("./").end(), IN_THE_WAY),
        ("another size in the pax header", named(XHeader, &record("size", b"6")), BROKEN),
        ("less than it says", declared(1 << 29), BROKEN),
        ("1 GiB and a byte", declared((1 << 30) + 1), LIMIT),
        ("5 GiB", declared(5 << 30), LIMIT),
        ("8 EiB", declared(u64::MAX >> 1), LIMIT),
        ("more than there is", declared(u64::MAX), BROKEN),
        ("nothing", vec![], BROKEN),
        ("cut in a header", cut(100), BROKEN),
        ("cut in a file", cut(515), BROKEN),
        ("cut between members", cut(1024), BROKEN),
        ("cut before its end", cut(2048), BROKEN),
        ("cut in its end", cut(2560), BROKEN),
        ("another after it", twice, BROKEN),
        ("garbage", (0..70_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect(), BROKEN),
        ("gzip", gzip, BROKEN),
    ];
    rows.into_iter().map(|(what, stream, (code, reason, text))| (what, stream, code, reason, text)).collect()
}

pub(crate) async fn uploads(session: &Session) -> anyhow::Result<()> {
    session.sh("mkdir -p up && echo mine >up.txt").await?;
    let start = |what: &str, leaves| pb::UploadStart { header: session.header(what, leaves), path: "up/here".into() };
    for (what, stream, code, reason, text) in rows() {
        let result = session.upload(start(what, Leaves::Ended(Failed)), &stream).await;
        refused(what, result, code, reason, text);
    }
    // Nothing was made, changed or removed but in the target.
    let around = "find . -newer up.txt -not -path './up/here*' -type f; cat up.txt; ls -A /tmp; ls up; \
                  find up/here \\( -type b -o -type c -o -type p \\)";
    assert_eq!(session.sh(around).await?, "mine\nhere\n");
    good(session).await
}

/// Odd, and good: what a name says last holds, longer headers are understood, dangerous modes are dropped.
async fn good(session: &Session) -> anyhow::Result<()> {
    session.sh("rm -rf up/here").await?;
    let long = [b"d/".repeat(2000).as_slice(), &[b'f'; 95]].concat();
    let archive = Stream(vec![])
        .member(XGlobalHeader, b"pax_global_header", "", &record("comment", b"a commit"), 0)
        .member(Directory, b"./", "", b"", 0o000)
        .member(Directory, b"shut", "", b"", 0o500)
        .member(Regular, b"shut/in", "", b"in", 0o644)
        .member(Regular, b"twice", "", b"first", 0o600)
        .member(Symlink, b"twice", "/etc/passwd", b"", 0o777)
        .member(Regular, b"twice", "", b"last", 0o6755)
        .member(Link, b"again", "twice", b"", 0o644)
        .member(Symlink, b"out", "/etc/passwd", b"", 0o777)
        .member(XHeader, b"h", "", &[record("path", &long), record("mtime", b"7.5")].concat(), 0)
        .member(Regular, b"short", "", b"deep", 0o644)
        .end();
    let start = pb::UploadStart {
        header: session.header(crate::record::UNPACKS_THE_DEEPEST, Leaves::Ended(Completed)),
        path: "up/here".into(),
    };
    let response = done("odd and good", session.upload(start, &archive).await);
    assert_eq!((response.files, response.bytes), (9, archive.len() as u64));
    let show = "cd up/here && stat -c '%a %h %s %N' shut shut/in twice again out && cat twice && \
                find . -name 'fff*' -size -2 | tr -d 'f' | tr -s 'd/' | head -c 9 && \
                grep -c root /etc/passwd";
    assert_eq!(
        session.sh(show).await?,
        "500 2 60 'shut'\n644 1 2 'shut/in'\n755 2 4 'twice'\n755 2 4 'again'\n777 1 11 'out' -> '/etc/passwd'\nlast./d/d/d/d1\n"
    );
    let script = "chmod 700 up/here/shut && rm -rf up";
    session.output_of(crate::record::REMOVES_THE_DEEPEST, &["sh", "-c", script]).await.map(drop)
}
