//! Two calls of one identity at once: one principal, with one place for files, one network and one set of terminals; but no process, no
//! memory and no name of the one is the other's. And what a call leaves running does not outlive it.

use anyhow::{Context as _, ensure};
use coffer_proto::guest::v1 as pb;
use libc::{EPERM, ESRCH};

use crate::tools::{Left, Session};

/// The first: on a terminal, with memory, sockets and a file for whoever finds them; echoes what it hears.
const FIRST: &str = "import ctypes, os, socket, sys\n\
    c = ctypes.CDLL(None)\n\
    assert c.shmget(77, 4096, 0o1600) >= 0\n\
    a = socket.socket(socket.AF_UNIX)\na.bind('\\0twin')\na.listen()\n\
    t = socket.socket()\nt.bind(('127.0.0.1', 4343))\nt.listen()\n\
    open('/tmp/twin', 'w').write('%s %d' % (os.ttyname(0), os.getpid()))\n\
    print('up', flush=True)\n\
    for line in sys.stdin: print('heard', line.strip(), flush=True)";

/// What the second sees of processes: by each number that there may be, and in `/proc`.
const LOOK: &str = "import ctypes, os\n\
    c = ctypes.CDLL(None, use_errno=True)\nown = os.getpid()\n\
    def reached(pid):\n try: os.kill(pid, 0)\n except ProcessLookupError: pass\n else: return True\n \
     return c.ptrace(0x4206, pid, 0, 0) == 0\n\
    print([pid for pid in range(2, 2000) if pid != own and reached(pid)], sum(p.isdigit() for p in os.listdir('/proc')))";

/// The control: within a call all of that is one's own.
const CHILD: &str = "import ctypes, os, time\n\
    c = ctypes.CDLL(None, use_errno=True)\nchild = os.fork()\n\
    if child == 0: time.sleep(600)\n\
    os.kill(child, 0)\nopen('/proc/%d/environ' % child).read()\n\
    assert c.ptrace(0x4206, child, 0, 0) == 0\nassert c.shmget(77, 4096, 0o1600) >= 0\nassert c.shmget(77, 4096, 0o600) >= 0\n\
    s = socket.socket(socket.AF_UNIX)\ns.bind('\\0own')\ns.listen()\nsocket.socket(socket.AF_UNIX).connect('\\0own')\n\
    os.kill(child, 9)";

/// What the second tries while the first runs.
const SECOND: &[(&str, &str, i32)] = &[
    ("signal whoever there is", "os.kill(-1, 15)", ESRCH),
    (
        "find its memory",
        "c = ctypes.CDLL(None, use_errno=True)\nif c.shmget(77, 4096, 0o600) < 0: raise OSError(ctypes.get_errno(), '')",
        libc::ENOENT,
    ),
    ("talk to its abstract socket", "socket.socket(socket.AF_UNIX).connect('\\0twin')", EPERM),
    // What they share, as one principal.
    ("talk to its port", "socket.create_connection(('127.0.0.1', 4343))", 0),
    ("read its files in /tmp", "open('/tmp/twin').read()", 0),
    ("open its terminal", "os.open(open('/tmp/twin').read().split()[0], os.O_RDWR | os.O_NOCTTY)", 0),
    (
        "type into its terminal",
        "fcntl.ioctl(os.open(open('/tmp/twin').read().split()[0], os.O_RDWR | os.O_NOCTTY), 0x5412, b'x')",
        EPERM,
    ),
];

pub(crate) async fn apart(session: &Session) -> anyhow::Result<Vec<String>> {
    let mut start = session.exec("maker", &["python3", "-IS", "-c", FIRST], Left::Call);
    start.terminal = Some(pb::TerminalSize { rows: 24, columns: 80 });
    let mut first = session.start(start).await?;
    first.until("up\r\n").await?;
    let mut wrong = Vec::new();
    for (what, line, errno) in SECOND {
        let found = session.line("maker", line).await?;
        let expected = if *errno == 0 { "ok".to_owned() } else { errno.to_string() };
        if found != expected {
            wrong.push(format!("the second call: {what}: expected {expected}, found {found}"));
        }
    }
    let seen = session.script("maker", LOOK).await?;
    if seen != "[] 2\n" {
        wrong.push(format!("the second call: expected to find the warden and itself, found {seen}"));
    }
    let child = session.line("maker", CHILD).await?;
    if child != "ok" {
        wrong.push(format!("the control, a child of one's own: {child}"));
    }
    // Of another identity's terminals there is not even a name.
    let terminals = session.script("reader", "import os\nprint(os.listdir('/dev/pts'))").await?;
    if terminals != "['ptmx']\n" {
        wrong.push(format!("the reader sees terminals: {terminals}"));
    }
    first.input("still there\n").await?;
    first.until("heard still there\r\n").await.context("the first call, after the second")?;
    first.input("\u{4}").await?;
    let ended = first.ends().await?;
    ensure!((ended.exited.cause(), ended.exited.code) == (pb::ExitCause::Exited, 0), "{ended:?}");
    Ok(wrong)
}

/// Leaves its parent, its session and its group, ignores what can be ignored, and writes down the time for as long as it lives.
const DAEMON: &str = "import os, signal, time\n\
    r, w = os.pipe()\n\
    if os.fork() == 0:\n \
     os.setsid()\n \
     if os.fork() == 0:\n  \
      for s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\n  \
      beat = os.open('/tmp/beat', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)\n  \
      os.write(w, b'x')\n  \
      for s in (0, 1, 2, r, w): os.close(s)\n  \
      while True: os.pwrite(beat, b'%20d' % time.monotonic_ns(), 0); time.sleep(0.002)\n \
     os._exit(0)\n\
    os.wait()\nos.read(r, 1)\n\
    first = open('/tmp/beat').read()\n\
    while first == '' or open('/tmp/beat').read() == first: first = first or open('/tmp/beat').read()\n\
    open('/tmp/ended', 'w').write('%d' % time.monotonic_ns())";

/// How long the daemon lived after its call, in milliseconds; asked when the second is over.
const LIVED: &str = "import time\n\
    ended = int(open('/tmp/ended').read())\n\
    while time.monotonic_ns() < ended + 1_200_000_000: time.sleep(0.01)\n\
    print((int(open('/tmp/beat').read()) - ended) // 1_000_000)";

/// What daemonises is gone within a second of the end of its call's program.
pub(crate) async fn no_daemon_stays(session: &Session) -> anyhow::Result<()> {
    for _ in 0..3 {
        session.script("maker", DAEMON).await?;
        let lived: i64 = session.script("maker", LIVED).await?.trim().parse()?;
        println!("a daemon lived for {lived} ms after its call's last word");
        ensure!(lived < 1_000, "a process of an ended call was there for {lived} ms");
    }
    Ok(())
}
