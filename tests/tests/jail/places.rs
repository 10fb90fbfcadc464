//! Grants within others, grants of paths with odd names, what moves under a grant, and what a read-only share lets its reader do.

use anyhow::ensure;
use libc::{EBADF, ENOENT, EPERM, EROFS, EXDEV};

use crate::tools::Asked::{Read, Stat, Write};
use crate::tools::{Asked, Left, Session, reason};

/// A name with what tables of mounts, shells and terminals would mind.
pub(crate) const ODD: &str = "/workspace/with space/a\\b\t\u{202e}\u{1f980}é/#1 (deleted)";

/// What `nested` does, who may read in `deep`, write in `deep/own`, and in `shut` knows of `shut/in` alone. 0: it works.
const NESTED: &[(&str, &str, i32)] = &[
    ("read outside", "assert open('/workspace/deep/outer').read() == 'outer'", 0),
    ("list outside", "assert sorted(os.listdir('/workspace/deep')) == ['outer', 'own']", 0),
    ("write outside", "open('/workspace/deep/outer', 'w')", EROFS),
    ("make a file outside", "open('/workspace/deep/new', 'w')", EROFS),
    ("change a mode outside", "os.chmod('/workspace/deep/outer', 0)", EROFS),
    ("write within", "open('/workspace/deep/own/file', 'w').write('mine')", 0),
    ("move within", "os.rename('/workspace/deep/own/file', '/workspace/deep/own/moved')", 0),
    ("move out", "os.rename('/workspace/deep/own/moved', '/workspace/deep/moved')", EXDEV),
    ("give a second name outside", "os.link('/workspace/deep/own/moved', '/workspace/deep/second')", EROFS),
    ("move the granted place", "os.rename('/workspace/deep/own', '/workspace/deep/other')", EROFS),
    ("remove the granted place", "os.rmdir('/workspace/deep/own')", EROFS),
    ("detach the granted place", "unmount(b'/workspace/deep/own', 2)", EPERM),
    ("detach all places", "unmount(b'/workspace', 2)", EPERM),
    ("unmount the granted place", "unmount(b'/workspace/deep/own', 0)", EPERM),
    ("within what is shut", "open('/workspace/shut/in/file', 'w').write('mine')", 0),
    ("list what is shut", "assert os.listdir('/workspace/shut') == ['in']", 0),
    ("open in what is shut", "open('/workspace/shut/secret')", ENOENT),
    ("make in what is shut", "open('/workspace/shut/new', 'w')", EROFS),
    ("through the granted place", "open('/workspace/shut/in/../secret')", ENOENT),
    ("an odd name", "open(odd + '/file', 'w').write('odd'); assert open(odd + '/file').read() == 'odd'", 0),
    ("above an odd name", "open('/workspace/with space/new', 'w')", EROFS),
    (
        "see what is granted, and nothing else",
        "assert sorted(os.listdir('/workspace')) == ['deep', 'nested', 'shut', 'with space']",
        0,
    ),
];

/// What `maker`, whose `deep` and `shut` are, does there: the controls.
const CONTROLS: &[&str] = &[
    "open('/workspace/deep/outer', 'w').write('outer')",
    "open('/workspace/deep/new', 'w'); os.unlink('/workspace/deep/new')",
    "os.chmod('/workspace/deep/outer', 0o644)",
    "open('/workspace/shut/secret', 'w').write('secret')",
    "open('/workspace/shut/in/../secret')",
    "open('/workspace/deep/own/theirs', 'w'); os.rename('/workspace/deep/own/theirs', '/workspace/deep/moved'); os.unlink('/workspace/deep/moved')",
];

/// What `nested` asks of the file tools.
const ASKS: &[(Asked, &str, &str, Left)] = &[
    (Read, "deep/outer", "done", Left::By(&["nested-looks"])),
    (Write, "deep/outer", "POLICY_DENIED", Left::Denied(&[])),
    (Write, "deep/own/asked", "done", Left::By(&["nested-works"])),
    (Read, "deep/own/asked", "done", Left::By(&["nested-looks", "nested-works"])),
    (Write, "shut/in/asked", "done", Left::By(&["nested-within"])),
    (Read, "shut/secret", "POLICY_DENIED", Left::Denied(&[])),
    (Stat, "shut", "POLICY_DENIED", Left::Denied(&[])),
    // Of what no grant can make a file: devices, and the kernel's views of others.
    (Read, "/dev/zero", "WRONG_KIND", Left::By(&["nested-devices"])),
    (Read, "/dev/tty", "WRONG_KIND", Left::By(&["nested-devices"])),
    (Read, "/dev/ptmx", "WRONG_KIND", Left::By(&["nested-devices"])),
    (Read, "/dev/fd/0", "PATH_ESCAPE", Left::By(&["nested-devices"])),
    (Read, "/dev/mem", "FILE_NOT_FOUND", Left::By(&["nested-devices"])),
    (Stat, "/dev/zero", "done", Left::By(&["nested-devices"])),
    (Read, "/proc/1/environ", "ACCESS_DENIED", Left::By(&["nested-processes"])),
    (Read, "/proc/kcore", "ACCESS_DENIED", Left::By(&["nested-processes"])),
];

/// Locks on what may only be read: those that the kernel keeps for everybody are not for tools; those that programs ask each other
/// for hold up nobody who does not ask.
const LOCKS: &[(&str, &str, i32)] = &[
    ("a lease", "fcntl.fcntl(os.open('/workspace/shared/file', 0), fcntl.F_SETLEASE, fcntl.F_RDLCK)", EPERM),
    ("a lock for writing", "fcntl.lockf(os.open('/workspace/shared/file', 0), fcntl.LOCK_EX | fcntl.LOCK_NB)", EBADF),
    ("a lock that asks", "fcntl.flock(os.open('/workspace/shared/file', 0), fcntl.LOCK_EX | fcntl.LOCK_NB)", 0),
];

async fn rows(session: &Session, identity: &str, table: &[(&str, &str, i32)]) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    let before = format!(
        "odd = {ODD:?}\ndef unmount(p, f):\n c = ctypes.CDLL(None, use_errno=True)\n \
         if c.umount2(p, f): raise OSError(ctypes.get_errno(), 'umount2')\n"
    );
    // Python knows the escapes of Rust but one.
    let before = before.replace("\\u{202e}", "\\u202e");
    for (what, line, errno) in table {
        let found = session.line(identity, &format!("{before}{line}")).await?;
        let expected = if *errno == 0 { "ok".to_owned() } else { errno.to_string() };
        if found != expected {
            wrong.push(format!("{identity}: {what}: expected {expected}, found {found}"));
        }
    }
    Ok(wrong)
}

pub(crate) async fn within_others(session: &Session) -> anyhow::Result<Vec<String>> {
    let controls: Vec<_> = CONTROLS.iter().map(|line| ("the control", *line, 0)).collect();
    let mut wrong = rows(session, "maker", &controls).await?;
    wrong.extend(rows(session, "nested", NESTED).await?);
    for (asked, path, expected, left) in ASKS {
        let found = reason(session.ask("nested", *asked, path, *left).await);
        if found != *expected {
            wrong.push(format!("nested asks to {asked:?} {path}: expected {expected}, found {found}"));
        }
    }
    Ok(wrong)
}

/// What is written where a granted place went: the record has it, as of any place.
pub(crate) const SEEN: [&str; 3] =
    ["/workspace/deep/elsewhere/moved", "/workspace/deep/elsewhere/linked", "/workspace/deep/elsewhere/back"];

/// What others do to a granted place: the grant goes where it goes, seen as before; whatever comes in its place is granted nothing
/// and keeps nobody from working.
pub(crate) async fn that_move(session: &Session) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    let write = |name: &str| format!("open('{name}', 'w').write('seen')");
    let [moved, linked, back] = SEEN.map(write);
    type Step<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str, i32)]);
    let before: [Step<'_>; 3] = [
        (
            "moved",
            "maker",
            "os.rename('/workspace/deep/own', '/workspace/deep/elsewhere')",
            &[("where it went", &moved, 0), ("where it was", "open('/workspace/deep/own/file', 'w')", ENOENT)],
        ),
        (
            "a link in its place",
            "maker",
            "os.symlink('/', '/workspace/deep/own')",
            &[
                ("where it went", &linked, 0),
                ("through the link", "open('/workspace/deep/own/workspace/deep/new', 'w')", EROFS),
            ],
        ),
        (
            "another in its place",
            "maker",
            "os.unlink('/workspace/deep/own'); os.mkdir('/workspace/deep/own'); open('/workspace/deep/own/other', 'w')",
            &[
                ("the other", "open('/workspace/deep/own/other', 'w')", EROFS),
                ("read the other", "open('/workspace/deep/own/other')", 0),
                ("make in the other", "open('/workspace/deep/own/new', 'w')", EROFS),
            ],
        ),
    ];
    let after: [Step<'_>; 2] = [
        (
            "back",
            "owner",
            "os.rename('/workspace/out/away', '/workspace/deep/elsewhere')",
            &[("where it is", &back, 0), ("outside", "assert open('/workspace/deep/outer').read() == 'outer'", 0)],
        ),
        (
            "gone",
            "maker",
            "import shutil; shutil.rmtree('/workspace/deep/elsewhere')",
            &[
                ("where it was", "open('/workspace/deep/own/new', 'w')", EROFS),
                ("where it went", "open('/workspace/deep/elsewhere/new', 'w')", ENOENT),
                ("outside", "assert open('/workspace/deep/outer').read() == 'outer'", 0),
            ],
        ),
    ];
    for (what, who, change, table) in before {
        ensure!(session.line(who, change).await? == "ok", "{what}");
        wrong.extend(rows(session, "nested", table).await?.into_iter().map(|row| format!("{what}: {row}")));
    }
    // Out of what its identity may look at, by one who has all of it: it may come back at any moment, so there is no call until it
    // has; but for those whose places were made ready before.
    let change = "os.rename('/workspace/deep/elsewhere', '/workspace/out/away')";
    ensure!(session.line("owner", change).await? == "ok", "out of reach");
    let mut ready = 0;
    while session.line("nested", "pass").await? == "ok" {
        ready += 1;
        ensure!(ready < 8, "calls start though a place of theirs is out of reach");
    }
    let found = session.line("nested", "pass").await?;
    if found != format!("no start: jail {}", libc::ESTALE) {
        wrong.push(format!("out of reach: expected no start, found {found}"));
    }
    for (what, who, change, table) in after {
        ensure!(session.line(who, change).await? == "ok", "{what}");
        wrong.extend(rows(session, "nested", table).await?.into_iter().map(|row| format!("{what}: {row}")));
    }
    Ok(wrong)
}

pub(crate) async fn locked(session: &Session) -> anyhow::Result<Vec<String>> {
    let mut wrong = rows(session, "reader", LOCKS).await?;
    // The controls: who may write may lock for writing; nobody may lease.
    let lock = "fcntl.lockf(os.open('/workspace/shared/file', os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)";
    wrong.extend(rows(session, "maker", &[("a lock for writing, the control", lock, 0)]).await?);
    let hold = "import fcntl, os, sys\nf = os.open('/workspace/shared/file', 0)\nfcntl.flock(f, fcntl.LOCK_EX)\n\
                print('up', flush=True)\nsys.stdin.read()";
    let holder = session.going("reader", hold).await?;
    let asks = "fcntl.flock(os.open('/workspace/shared/file', 0), fcntl.LOCK_EX | fcntl.LOCK_NB)";
    let works = "open('/workspace/shared/file', 'r+').write('still')";
    let table = [("who asks for the same lock", asks, libc::EAGAIN), ("who does not", works, 0)];
    wrong.extend(rows(session, "maker", &table).await?);
    for asked in [Read, Write] {
        let done = session.ask("maker", asked, "shared/file", Left::By(&["maker-shares"])).await;
        if reason(done) != "done" {
            wrong.push(format!("{asked:?} of a file that another has locked"));
        }
    }
    ensure!(holder.end().await?.exited.code == 0);
    Ok(wrong)
}
