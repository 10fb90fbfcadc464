//! The built-in tool `watch`, with the kernel of the host: what it tells, what it misses and says so, and how it ends.

mod workspace;

use coffer_agent::frames::Frame as _;
use coffer_agent::frames::tool::{Change, ChangeKind, Of, Report, WatchEnd};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::process::{Child, ChildStderr};
use std::time::{Duration, Instant};
use workspace::Workspace;

const MINUTE: &str = "60000";

/// A watch that has begun.
struct Watching {
    child: Child,
    reports: ChildStderr,
}

impl Watching {
    fn begin(place: &Workspace, path: &str, reach: &str, timeout: &str, idle: &str) -> Self {
        let mut watching = Self::start(place, path, reach, timeout, idle);
        let first = watching.next();
        assert!(matches!(first, Some(Report::Entry(_))), "{first:?}");
        watching
    }

    fn start(place: &Workspace, path: &str, reach: &str, timeout: &str, idle: &str) -> Self {
        let mut child = place.start(&["watch", path, reach, timeout, idle]);
        drop(child.stdin.take());
        let reports = child.stderr.take().unwrap();
        Self { child, reports }
    }

    fn next(&mut self) -> Option<Report> {
        let mut length = [0; 4];
        self.reports.read_exact(&mut length).ok()?;
        let mut frame = vec![0; 4 + usize::try_from(u32::from_le_bytes(length)).unwrap()];
        frame[..4].copy_from_slice(&length);
        self.reports.read_exact(&mut frame[4..]).unwrap();
        Some(Report::decode(&frame).unwrap())
    }

    /// The changes up to the one of this file, which is made now.
    fn until(&mut self, place: &Workspace, mark: &str) -> Vec<String> {
        fs::write(place.at(mark), "").unwrap();
        let name = mark.rsplit_once('/').map_or(mark, |(_, name)| name);
        let mut words = Vec::new();
        loop {
            let word = match self.next() {
                Some(Report::Change(change)) => word(&change),
                other => panic!("{other:?} after {words:?}"),
            };
            if word.ends_with(&format!("+{name}")) {
                return words;
            }
            // To empty a file and to fill it are two changes, which the kernel may tell as one.
            if !(word.starts_with('~') && words.last() == Some(&word)) {
                words.push(word);
            }
        }
    }

    /// What it says at its end.
    fn end(mut self) -> (Vec<Report>, i32) {
        let rest = std::iter::from_fn(|| self.next()).collect();
        (rest, self.child.wait().unwrap().code().unwrap_or(-1))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `+a` created, `~a` modified, `-a` deleted, `a>b` moved; a directory has a slash.
fn word(change: &Change) -> String {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let sign = match change.kind {
        ChangeKind::Created => "+",
        ChangeKind::Modified => "~",
        ChangeKind::Deleted => "-",
        ChangeKind::Moved => ">",
    };
    let slash = if change.of == Of::Directory { "/" } else { "" };
    format!("{}{sign}{}{slash}", text(&change.from), text(&change.path))
}

#[test]
fn what_changes_is_told_in_order_with_its_path() {
    let place = Workspace::new();
    fs::create_dir_all(place.at("w/d/e")).unwrap();
    fs::create_dir_all(place.at("elsewhere/x")).unwrap();
    fs::write(place.at("w/d/e/f"), "f").unwrap();
    let mut watching = Watching::begin(&place, "w", "tree", MINUTE, MINUTE);
    fs::write(place.at("w/a"), "a").unwrap();
    assert_eq!(watching.until(&place, "w/1"), ["+a", "~a"]);
    fs::write(place.at("w/d/e/f"), "more").unwrap();
    fs::rename(place.at("w/a"), place.at("w/d/b")).unwrap();
    assert_eq!(watching.until(&place, "w/2"), ["~d/e/f", "a>d/b"]);
    // A directory takes what is in it along.
    fs::rename(place.at("w/d"), place.at("w/g")).unwrap();
    fs::write(place.at("w/g/e/f"), "once more").unwrap();
    assert_eq!(watching.until(&place, "w/3"), ["d>g/", "~g/e/f"]);
    // From where nobody watches, and to there.
    fs::rename(place.at("elsewhere/x"), place.at("w/x")).unwrap();
    assert_eq!(watching.until(&place, "w/4"), ["+x/"]);
    fs::write(place.at("w/x/y"), "").unwrap();
    assert_eq!(watching.until(&place, "w/5"), ["+x/y"]);
    fs::rename(place.at("w/x"), place.at("elsewhere/x")).unwrap();
    assert_eq!(watching.until(&place, "w/6"), ["-x/"]);
    fs::write(place.at("elsewhere/x/z"), "").unwrap();
    fs::remove_dir_all(place.at("w/g")).unwrap();
    let mut gone = watching.until(&place, "w/7");
    gone.sort();
    assert_eq!(gone, ["-g/", "-g/b", "-g/e/", "-g/e/f"]);
}

#[test]
fn a_directory_that_comes_with_content_is_told_with_it_and_one_level_stays_one() {
    let place = Workspace::new();
    fs::create_dir_all(place.at("w/d")).unwrap();
    fs::create_dir_all(place.at("outside/t/u")).unwrap();
    fs::write(place.at("outside/t/u/f"), "").unwrap();
    symlink(place.at("outside"), place.at("w/link")).unwrap();
    let mut one = Watching::begin(&place, "w", "one", MINUTE, MINUTE);
    let mut tree = Watching::begin(&place, "w", "tree", MINUTE, MINUTE);
    fs::rename(place.at("outside/t"), place.at("w/t")).unwrap();
    fs::write(place.at("w/d/f"), "").unwrap();
    // What a link leads to is not watched.
    fs::write(place.at("outside/f"), "").unwrap();
    assert_eq!(one.until(&place, "w/1"), ["+t/"]);
    let mut told = tree.until(&place, "w/2");
    told.retain(|word| word != "+1");
    told.sort();
    assert_eq!(told, ["+d/f", "+t/", "+t/u/", "+t/u/f"]);
}

#[test]
fn a_watch_ends_at_its_time_when_nothing_changes_and_with_its_directory() {
    let place = Workspace::new();
    fs::create_dir_all(place.at("w/d")).unwrap();
    let ended = |watching: Watching, expected: WatchEnd, changes: u64| {
        let (reports, status) = watching.end();
        let done = Report::Done { files: changes, bytes: 0, left_out: 0 };
        assert_eq!(status, 0);
        assert_eq!(reports[reports.len() - 2..], [Report::WatchEnd(expected), done], "{reports:?}");
    };
    let began = Instant::now();
    ended(Watching::begin(&place, "w", "tree", "150", MINUTE), WatchEnd::Timeout, 0);
    ended(Watching::begin(&place, "w", "one", MINUTE, "150"), WatchEnd::Idle, 0);
    assert!((Duration::from_millis(300)..Duration::from_secs(20)).contains(&began.elapsed()));
    // A change is a new beginning for the one, and nothing to the other.
    let watching = Watching::begin(&place, "w", "one", "2500", "2000");
    std::thread::sleep(Duration::from_millis(700));
    fs::create_dir(place.at("w/e")).unwrap();
    ended(watching, WatchEnd::Timeout, 1);
    let watching = Watching::begin(&place, "w/d", "tree", MINUTE, MINUTE);
    fs::remove_dir(place.at("w/d")).unwrap();
    ended(watching, WatchEnd::Gone, 0);
    let watching = Watching::begin(&place, "w/e", "one", MINUTE, MINUTE);
    fs::rename(place.at("w/e"), place.at("w/f")).unwrap();
    ended(watching, WatchEnd::Gone, 0);
}

#[test]
fn a_watch_that_nobody_reads_loses_changes_says_so_and_goes_on() {
    let place = Workspace::new();
    fs::create_dir_all(place.at("w")).unwrap();
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse::<usize>().unwrap();
    let mut watching = Watching::begin(&place, "w", "tree", MINUTE, MINUTE);
    // More than the kernel holds, and what its reader and the pipe hold besides.
    let pairs = most + 20_000;
    for _ in 0..pairs {
        fs::create_dir(place.at("w/d")).unwrap();
        fs::remove_dir(place.at("w/d")).unwrap();
    }
    fs::create_dir(place.at("w/late")).unwrap();
    let (mut lagged, mut changes) = (0, 0);
    while lagged == 0 {
        match watching.next().expect("it goes on") {
            Report::Change(_) => changes += 1,
            Report::Lagged => lagged += 1,
            other => panic!("{other:?}"),
        }
        assert!(changes < 2 * pairs, "nothing was lost, and nothing said");
    }
    // A directory whose creation was missed is watched all the same.
    fs::write(place.at("w/late/f"), "").unwrap();
    loop {
        match watching.next().expect("it goes on") {
            Report::Change(change) if change.path == b"late/f" => break,
            Report::Change(_) | Report::Lagged => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_directories_of_a_watch_are_counted() {
    let place = Workspace::new();
    fs::create_dir_all(place.at("w")).unwrap();
    for n in 0..coffer_agent::tool::WATCHED_MAX {
        fs::create_dir(place.at(&format!("w/{n}"))).unwrap();
    }
    let full = "watch: No space left on device (os error 28)";
    assert_eq!(place.run(&["watch", "w", "tree", MINUTE, MINUTE]).word(), full);
    fs::remove_dir(place.at("w/0")).unwrap();
    let mut watching = Watching::start(&place, "w", "tree", MINUTE, MINUTE);
    match watching.next() {
        Some(Report::Entry(_)) => {}
        // The host grants a user fewer.
        Some(Report::Failed { .. }) => return eprintln!("NOT RUN: this host allows fewer watches"),
        other => panic!("{other:?}"),
    }
    // One more while it runs: what is in it may be missed.
    fs::create_dir(place.at("w/more")).unwrap();
    let next: Vec<_> = (0..2).map(|_| watching.next()).collect();
    assert!(matches!(&next[0], Some(Report::Change(change)) if change.path == b"more"), "{next:?}");
    assert_eq!(next[1], Some(Report::Lagged));
}
