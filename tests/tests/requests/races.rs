//! Paths that change while they are used: a program of the session swaps a directory for a link that leads out, as fast as
//! it can, while the API reads, writes, lists, unpacks and packs through it. Never a byte outside. (`coffer-agent::escapes`
//! does the same thousands of times without a guest.)

use std::collections::BTreeMap;

use tonic::Code::{Aborted, FailedPrecondition, NotFound, PermissionDenied};

use crate::files::Operation::{self, Download, List, Read, Upload, Write};
use crate::session::{Leaves, Session};

/// Times that each operation is tried on each of the two pairs.
const ROUNDS: usize = 16;
/// Calls at once.
const AT_ONCE: usize = 8;

/// Exchanges the names of the directory and the link of both pairs until its input ends; tells how often.
const SWAP: &str = "import ctypes, os, select\n\
    c = ctypes.CDLL(None)\n\
    os.makedirs('race')\nos.chdir('race')\nos.makedirs('/tmp/outside/here')\n\
    open('/tmp/outside/file', 'w').write('OUTSIDE')\n\
    for n, to in (b'absolute', b'/tmp/outside'), (b'upwards', b'../../tmp/outside'):\n \
     os.mkdir(n)\n open(n + b'/file', 'w').write('inside')\n os.mkdir(n + b'/here')\n os.symlink(to, n + b'.link')\n\
    print('up', flush=True)\n\
    count = 0\n\
    while not select.select([0], [], [], 0)[0]:\n \
     for _ in range(50):\n  \
      for n in b'absolute', b'upwards':\n   \
       if c.syscall(316, -100, n, -100, n + b'.link', 2): raise SystemExit('no exchange')\n   \
       count += 1\n\
    print(count)";

pub(crate) async fn swaps(session: &Session) -> anyhow::Result<()> {
    let done = Leaves::Ended(coffer_evidence::leaf::CauseClass::Completed);
    let swapping = session.running(&["python3", "-c", SWAP], done).await?;
    // How often each operation was done, and refused.
    let mut told: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (operation, path) in [(Read, "file"), (Write, "written"), (List, ""), (Upload, "here"), (Download, "file")] {
        for pair in ["absolute", "upwards"] {
            let path = format!("race/{pair}/{path}");
            for _ in 0..ROUNDS / AT_ONCE {
                let tries: [_; AT_ONCE] = std::array::from_fn(|_| attempt(session, operation, &path));
                let counts = told.entry(format!("{operation:?}")).or_default();
                for inside in join(tries).await {
                    if inside { counts.0 += 1 } else { counts.1 += 1 }
                }
            }
        }
    }
    let (exited, out) = swapping.end().await?;
    println!("{} exchanges; done and refused: {told:?}", out.trim());
    anyhow::ensure!(exited.code == 0 && out.trim().parse::<u64>()? > 1_000, "{out} {exited:?}");
    for (operation, (done, refused)) in &told {
        assert!(*done > 0 && *refused > 0, "{operation}: it met only one of the two: {done} done, {refused} refused");
    }
    let outside =
        session.sh("find /tmp/outside -type f; find /tmp/outside/here -mindepth 1; cat /tmp/outside/file").await?;
    assert_eq!(outside, "/tmp/outside/file\nOUTSIDE");
    session.sh("rm -rf race /tmp/outside").await.map(drop)
}

/// Whether it was done inside; anything but that and a refusal is a failure of the test.
async fn attempt(session: &Session, operation: Operation, path: &str) -> bool {
    match session.try_path(operation, path, Leaves::EndedSomehow).await {
        Ok(answer) => {
            let bytes = String::from_utf8_lossy(&answer.bytes).into_owned();
            assert!(!bytes.contains("OUTSIDE"), "{operation:?} {path}: {bytes}");
            if operation == Read {
                assert_eq!(bytes, "inside", "{path}");
            }
            true
        }
        Err(status) => {
            let codes = [PermissionDenied, NotFound, Aborted, FailedPrecondition];
            assert!(codes.contains(&status.code()), "{operation:?} {path}: {status:?}");
            false
        }
    }
}

async fn join<const N: usize>(futures: [impl Future<Output = bool>; N]) -> Vec<bool> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut answers = Vec::new();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(answer) => {
                answers.push(answer);
                false
            }
            std::task::Poll::Pending => true,
        });
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    answers
}
