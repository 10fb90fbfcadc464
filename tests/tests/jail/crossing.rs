//! From one identity into the other's: by its programs, and by the file tools. The controls are what the other does with its own.

use anyhow::ensure;
use libc::{EACCES, ECONNREFUSED, ENOENT, EROFS, EXDEV};

use crate::SOON;
use crate::tools::Asked::{Download, List, Make, Read, Stat, Upload, Watch};
use crate::tools::{ASKED, Left, Session, reason};

/// What the reader tries on what is the maker's, in Python: it prints the errno, or `ok`.
const INTO: &[(&str, &str, i32)] = &[
    ("see a file", "os.stat('/workspace/maker/secret')", ENOENT),
    ("open a file", "open('/workspace/maker/secret')", ENOENT),
    ("list a directory", "os.listdir('/workspace/maker')", ENOENT),
    ("through a link", "os.symlink('/workspace/maker/secret', 'l1'); open('l1')", ENOENT),
    ("through a link out of the tree", "os.symlink('../maker/secret', 'l2'); open('l2')", ENOENT),
    ("by a second name", "os.link('/workspace/maker/secret', 'h1')", ENOENT),
    ("by a second name for what is shared", "os.link('/workspace/shared/file', 'h2')", EXDEV),
    (
        "through a descriptor",
        "d = os.open('/workspace', os.O_PATH); os.open('/proc/self/fd/%d/maker/secret' % d, 0)",
        ENOENT,
    ),
    ("above one's own root", "os.open('/workspace/reader/../maker/secret', 0)", ENOENT),
    ("run a program", "os.execv('/workspace/maker/program', ['x'])", ENOENT),
    ("run what is shared", "os.execv('/workspace/shared/program', ['x'])", EACCES),
    ("write what is shared", "open('/workspace/shared/file', 'w')", EROFS),
    ("make a file in what is shared", "open('/workspace/shared/new', 'w')", EROFS),
    ("change a mode in what is shared", "os.chmod('/workspace/shared/file', 0)", EROFS),
    ("change times in what is shared", "os.utime('/workspace/shared/file')", EROFS),
    ("remove what is shared", "os.unlink('/workspace/shared/file')", EROFS),
    ("rename what is shared", "os.rename('/workspace/shared/file', '/workspace/shared/x')", EROFS),
    ("move what is shared away", "os.rename('/workspace/shared/file', 'x')", EXDEV),
    (
        "talk to a socket in what is shared",
        "s = socket.socket(socket.AF_UNIX); s.connect('/workspace/shared/socket')",
        EACCES,
    ),
    ("talk to an abstract socket", "s = socket.socket(socket.AF_UNIX); s.connect('\\0maker')", ECONNREFUSED),
    ("talk to a port", "s = socket.create_connection(('127.0.0.1', 4242))", ECONNREFUSED),
    ("make a file beside one's own", "open('/workspace/new', 'w')", EROFS),
    ("write outside of the workspace", "open('/var/x', 'w')", EROFS),
];

/// What the maker, who owns every file of the workspace on disk, tries on what is the reader's.
const BACK: &[&str] = &[
    "os.stat('/workspace/reader/attempts')",
    "open('/workspace/reader/attempts', 'rb')",
    "os.listdir('/workspace/reader')",
    "os.link('/workspace/reader/attempts', 'h3')",
    "os.execv('/workspace/reader/attempts', ['x', 'names'])",
];

/// What the maker does with its own at the same time: the controls of the above.
const OWN: &[(&str, &str)] = &[
    ("see, open, list", "os.stat('secret'); open('secret').read(); os.listdir('.')"),
    ("through a link", "os.symlink('/workspace/maker/secret', 'l'); open('l')"),
    ("by a second name", "os.link('secret', 'h')"),
    ("through a descriptor", "d = os.open('/workspace', os.O_PATH); os.open('/proc/self/fd/%d/maker/secret' % d, 0)"),
    (
        "write, change, rename, remove what is shared",
        "p = '/workspace/shared/mine'; open(p, 'w'); os.chmod(p, 0o600); os.utime(p); os.rename(p, p + 'x'); os.unlink(p + 'x')",
    ),
    ("talk to a socket in what is shared", "s = socket.socket(socket.AF_UNIX); s.connect('/workspace/shared/socket')"),
    ("talk to a port", "s = socket.create_connection(('127.0.0.1', 4242))"),
];

/// What the reader's file tools meet on the way to the maker's, once a program of its own has laid out what leads there.
const LAID: &str = "os.symlink('/workspace/maker/secret', 'absolute'); os.symlink('../maker/secret', 'upwards'); \
                    os.symlink('/proc/self/root/workspace/maker/secret', 'root'); os.symlink('/proc/self/fd/0', 'descriptor'); \
                    os.symlink('/dev/zero', 'device'); os.mkfifo('pipe'); \
                    f = open('sparse', 'w'); f.truncate(2**63 - 1); f.close()";
const TOOLS: &[(&str, &str)] = &[
    ("absolute", "PATH_ESCAPE"),
    ("upwards", "FILE_NOT_FOUND"),
    ("root", "PATH_ESCAPE"),
    ("descriptor", "PATH_ESCAPE"),
    ("device", "PATH_ESCAPE"),
    ("pipe", "WRONG_KIND"),
    ("sparse", "LIMIT_EXCEEDED"),
];

pub(crate) async fn one_into_the_other(session: &Session) -> anyhow::Result<Vec<String>> {
    // The maker listens wherever one can, while all of it is tried.
    let listen = "import os, socket, sys\n\
                  open('secret', 'w').write('secret')\n\
                  s = [socket.socket(socket.AF_UNIX) for _ in range(2)] + [socket.socket()]\n\
                  for s, a in zip(s, ['/workspace/shared/socket', '\\0maker', ('127.0.0.1', 4242)]): s.bind(a); s.listen(); globals().setdefault('k', []).append(s)\n\
                  print('up', flush=True)\n\
                  sys.stdin.read()";
    let listening = tokio::time::timeout(SOON, session.going("maker", listen)).await??;
    let mut wrong = Vec::new();
    for (what, line) in OWN {
        let found = session.line("maker", line).await?;
        if found != "ok" {
            wrong.push(format!("the control, the maker on its own: {what}: {found}"));
        }
    }
    for (what, line, errno) in INTO {
        let found = session.line("reader", line).await?;
        if found != errno.to_string() {
            wrong.push(format!("the reader on the maker's: {what}: expected {errno}, found {found}"));
        }
    }
    for line in BACK {
        let found = session.line("maker", line).await?;
        if found != ENOENT.to_string() {
            wrong.push(format!("the maker on the reader's: {line}: expected {ENOENT}, found {found}"));
        }
    }
    let ended = listening.end().await?;
    ensure!(ended.exited.code == 0, "the maker's listener: {ended:?}");
    Ok(wrong)
}

/// The same by the file tools: what the policy does not grant leaves a denial, and what leads there all the same leads nowhere.
pub(crate) async fn by_the_tools(session: &Session) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut row = |what: String, expected: &str, found: String| {
        if found != expected {
            wrong.push(format!("{what}: expected {expected}, found {found}"));
        }
    };
    for asked in ASKED {
        let path = match asked {
            List | Watch | Upload | Download => "maker",
            Make => "maker/made",
            _ => "maker/secret",
        };
        let denied = session.ask("reader", asked, path, Left::Denied(&[])).await;
        row(format!("the reader asks to {asked:?} {path}"), "POLICY_DENIED", reason(denied));
        let done = session.ask("maker", asked, path, Left::By(&["maker-works"])).await;
        row(format!("the control, the maker asks to {asked:?} {path}"), "done", reason(done));
        if matches!(asked, crate::tools::Asked::Remove | crate::tools::Asked::Move) {
            session.write("maker", "maker/secret", 0, b"secret", Left::By(&["maker-works"])).await?;
        }
    }
    ensure!(session.line("reader", LAID).await? == "ok", "nothing was laid out");
    for (name, expected) in TOOLS {
        let found = session.ask("reader", Read, &format!("reader/{name}"), Left::By(&["reader-works"])).await;
        row(format!("the reader asks to read {name}"), expected, reason(found));
    }
    for (asked, path) in [(Read, "reader/own"), (Stat, "reader/pipe"), (Stat, "reader/sparse")] {
        session.write("reader", "reader/own", 0, b"own", Left::Call).await?;
        let done = session.ask("reader", asked, path, Left::By(&["reader-works"])).await;
        row(format!("the control, the reader asks to {asked:?} {path}"), "done", reason(done));
    }
    Ok(wrong)
}
