//! Transfers without end: cut off at their limit, early where they say how long they are, in bounded memory on both sides.

use std::time::{Duration, Instant};

use coffer_evidence::leaf::CauseClass::Failed;
use coffer_proto::guest::v1 as pb;
use coffer_tests::host::Host;
use pb::{upload_request, write_file_request};
use tonic::Code::{InvalidArgument, ResourceExhausted};

use crate::answers::refused;
use crate::session::{Leaves, Session};

const CHUNK: usize = 64 * 1024;
/// Chunks of 5 GiB.
const CHUNKS: usize = 5 * (1 << 30) / CHUNK;
/// Bytes of room that are left in the workspace.
const ROOM: usize = 48 << 20;
/// What a refusal may take that needs no more than the first bytes.
const EARLY: Duration = Duration::from_secs(5);
/// What `cofferd` may take more than before, in KiB: some windows of HTTP/2, nothing of what is sent.
const HOST_KIB: u64 = 32 * 1024;

/// `before` is what `cofferd` held before the first request.
pub(crate) async fn transfers(session: &Session, host: &Host, before: u64) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut header = tar::Header::new_gnu();
    header.set_path("large")?;
    header.set_size(5 << 30);
    header.set_cksum();
    let first = [header.as_bytes().as_slice(), &[7; CHUNK - 512]].concat();
    let start = |what: &str, leaves| pb::UploadStart { header: session.header(what, leaves), path: "large".into() };
    let result = upload(session, start("5 GiB, declared", Leaves::Ended(Failed)), first).await;
    refused("5 GiB, declared", result, InvalidArgument, "LIMIT_EXCEEDED", "at most 1073741824 bytes");
    let result = upload(session, start("5 GiB of garbage", Leaves::Ended(Failed)), vec![7; CHUNK]).await;
    refused("5 GiB of garbage", result, InvalidArgument, "INVALID_ARGUMENT", "a whole tar archive");
    assert!(begin.elapsed() < EARLY, "refused after {:.1?}", begin.elapsed());

    // An archive that is over, and what packers fill their last record with.
    let result = upload(session, start("5 GiB after the end", Leaves::Ended(Failed)), vec![0; CHUNK]).await;
    refused("5 GiB after the end", result, InvalidArgument, "INVALID_ARGUMENT", "followed by more");
    assert!(begin.elapsed() < EARLY, "refused after {:.1?}", begin.elapsed());

    // A file says nothing of its length before it is over. Not all of a gigabyte, which takes its time.
    let fill = format!(
        "import os\ns = os.statvfs('.')\nf = os.open('full', os.O_CREAT | os.O_WRONLY)\n\
         os.posix_fallocate(f, 0, s.f_bavail * s.f_bsize - {ROOM})"
    );
    session.python(&fill).await?;
    let begin = Instant::now();
    let header = session.header("5 GiB, a file", Leaves::Ended(Failed));
    let start = pb::WriteFileStart { header, path: "endless".into(), mode: 0, precondition: None };
    let data = std::iter::repeat_n(write_file_request::Request::Data(vec![7; CHUNK].into()), CHUNKS);
    let requests = std::iter::once(write_file_request::Request::Start(start)).chain(data);
    let requests = requests.map(|request| pb::WriteFileRequest { request: Some(request) });
    let result = session.tools().write_file(tokio_stream::iter(requests)).await;
    refused("5 GiB, a file", result, ResourceExhausted, "NO_SPACE", "room in the workspace, found it used up");
    println!("{ROOM} bytes of a file that does not fit: {:.1?}", begin.elapsed());

    let grown = host.peak_memory_kib()?.saturating_sub(before);
    println!("cofferd took {grown} KiB more");
    assert!(grown < HOST_KIB, "cofferd took {grown} KiB");
    // Nothing of what was refused takes room: what is left is what there was.
    let left = session.python("import os\ns = os.statvfs('.')\nprint(s.f_bavail * s.f_bsize)").await?;
    assert!(left.trim().parse::<usize>()? > ROOM - (4 << 20), "{left}");
    session.sh("rm full").await?;
    Ok(())
}

/// Sends the first chunk and then, up to 5 GiB, chunks of its last byte.
async fn upload(
    session: &Session,
    start: pb::UploadStart,
    first: Vec<u8>,
) -> Result<tonic::Response<pb::UploadResponse>, tonic::Status> {
    let fill = vec![first.last().copied().unwrap_or(0); CHUNK];
    let data = std::iter::once(first.into()).chain(std::iter::repeat_n(fill.into(), CHUNKS - 1));
    let data = data.map(upload_request::Request::Data);
    let requests = std::iter::once(upload_request::Request::Start(start)).chain(data);
    let requests = requests.map(|request| pb::UploadRequest { request: Some(request) });
    session.tools().upload(tokio_stream::iter(requests)).await
}
