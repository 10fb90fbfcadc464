//! The built-in file tools one by one, with the kernel of the host: what each does, how much it says, and what holds nobody up.

mod workspace;

use coffer_agent::frames::tool::{Entry, Kind, Report};
use coffer_agent::tool::page;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};
use workspace::{Ended, Workspace};

fn entries(ended: &Ended) -> Vec<Entry> {
    let entry = |report: &Report| match report {
        Report::Entry(entry) => Some(entry.clone()),
        _ => None,
    };
    ended.reports.iter().filter_map(entry).collect()
}

fn names(ended: &Ended) -> Vec<String> {
    entries(ended).iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect()
}

/// All pages of a listing, and how many there were.
fn pages(place: &Workspace, path: &str, depth: u64, size: usize) -> (Vec<String>, usize) {
    let (mut all, mut token, mut count) = (Vec::new(), String::new(), 0);
    loop {
        let ended = place.run(&["list", path, &depth.to_string(), &size.to_string(), &token]);
        let page = names(&ended);
        assert_eq!(ended.word(), format!("done {}", page.len()));
        assert!(page.len() <= size, "{} entries in a page of {size}", page.len());
        count += 1;
        all.extend(page);
        let more = ended.reports.iter().find_map(|report| match report {
            Report::More { after } => Some(after.clone()),
            _ => None,
        });
        match more {
            Some(after) => token = page::token(path.as_bytes(), depth, &after),
            None => return (all, count),
        }
    }
}

#[test]
fn every_size_of_page_tells_the_same_listing_in_the_order_of_paths() {
    let place = Workspace::new();
    fs::create_dir_all(place.at("d/a/b/c")).unwrap();
    fs::create_dir_all(place.at("d/z")).unwrap();
    for file in ["d/a/b/c/f", "d/a/b/g", "d/a/b-", "d/a.txt", "d/a-", "d/z/y", "d/B", "d/ä"] {
        fs::write(place.at(file), file).unwrap();
    }
    symlink("a", place.at("d/link")).unwrap();
    symlink("/etc", place.at("d/out")).unwrap();
    let whole = ["B", "a", "a/b", "a/b/c", "a/b/c/f", "a/b/g", "a/b-", "a-", "a.txt", "link", "out", "z", "z/y", "ä"];
    for size in 1..=whole.len() + 1 {
        let (listed, count) = pages(&place, "d", 64, size);
        assert_eq!(listed, whole, "in pages of {size}");
        assert_eq!(count, whole.len().div_ceil(size), "in pages of {size}");
    }
    let to = |depth: u64| -> Vec<&str> {
        whole.iter().copied().filter(|path| path.split('/').count() as u64 <= depth).collect()
    };
    for depth in 1..5 {
        for size in [1, 2, 3, 100] {
            assert_eq!(pages(&place, "d", depth, size).0, to(depth), "to {depth} in pages of {size}");
        }
    }
    // A link to a directory is followed as the path that is asked for, and told as what it is beneath it.
    assert_eq!(pages(&place, "d/link", 2, 9).0, ["b", "b/c", "b/g", "b-"]);
    let told = entries(&place.run(&["list", "d", "1", "100", ""]));
    let link = told.iter().find(|entry| entry.name == b"out").unwrap();
    assert_eq!((link.kind, link.target.as_slice()), (Kind::Symlink, &b"/etc"[..]));
}

#[test]
fn pages_go_on_from_a_place_that_is_gone_and_tell_nothing_twice() {
    let place = Workspace::new();
    for n in 0..30 {
        fs::create_dir_all(place.at(&format!("d/{n:02}/x"))).unwrap();
    }
    let first = place.run(&["list", "d", "2", "7", ""]);
    let after = names(&first).pop().unwrap();
    assert_eq!(after, "03");
    fs::remove_dir_all(place.at("d/03")).unwrap();
    fs::create_dir_all(place.at("d/00a")).unwrap();
    fs::create_dir_all(place.at("d/03a")).unwrap();
    let token = page::token(b"d", 2, after.as_bytes());
    assert_eq!(names(&place.run(&["list", "d", "2", "3", &token])), ["03a", "04", "04/x"]);
}

/// As many names as a workspace has inodes, each as long as a name can be, would be 50 MiB.
#[test]
fn a_page_of_a_huge_directory_stays_within_a_message_and_in_little_memory() {
    let place = Workspace::new();
    fs::create_dir(place.at("d")).unwrap();
    fs::write(place.at("d/0"), "").unwrap();
    for n in 0..30_000 {
        // Further names of one file cost the host no file.
        fs::hard_link(place.at("d/0"), place.at(&format!("d/{n:0>255}"))).unwrap();
    }
    // Address space of the tool, in KiB: the pages of the binary, and some for the listing.
    let limited = format!("ulimit -v 90000; exec {} tool list d 2 10000 ''", env!("CARGO_BIN_EXE_coffer-agent"));
    let tool = Command::new("sh").args(["-c", &limited]).current_dir(place.path()).output().unwrap();
    assert!(tool.status.success(), "{tool:?}");
    let reports = workspace::reports(&tool.stderr);
    assert!(tool.stderr.len() < 4 << 20, "{} bytes of reports", tool.stderr.len());
    let told = reports.iter().filter(|report| matches!(report, Report::Entry(_))).count();
    assert!((8_000..10_001).contains(&told), "{told}");
    assert!(matches!(reports[reports.len() - 2], Report::More { .. }));
    assert_eq!(pages(&place, "d", 1, 10_000).0.len(), 30_001);
}

#[test]
fn a_removal_takes_what_is_named_counts_it_and_follows_no_link() {
    let place = Workspace::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("kept"), "kept").unwrap();
    let make = || {
        fs::create_dir_all(place.at("t/a/b")).unwrap();
        fs::write(place.at("t/a/f"), "f").unwrap();
        fs::write(place.at("t/a/b/g"), "g").unwrap();
        symlink(outside.path(), place.at("t/a/out")).unwrap();
        symlink(outside.path(), place.at("out")).unwrap();
        assert!(Command::new("mkfifo").arg(place.at("t/pipe")).status().unwrap().success());
    };
    make();
    let rows = [
        ("t", "one", "path: Is a directory (os error 21)"),
        ("t/missing", "tree", "path: No such file or directory (os error 2)"),
        ("t/a/f/g", "tree", "path: Not a directory (os error 20)"),
        ("out/kept", "one", "path: Invalid cross-device link (os error 18)"),
        ("out", "tree", "done 1"),
        ("t/a/out", "one", "done 1"),
        ("t/pipe", "one", "done 1"),
        ("t/a/f", "tree", "done 1"),
        ("t", "tree", "done 4"),
        ("t", "tree", "path: No such file or directory (os error 2)"),
    ];
    for (path, reach, expected) in rows {
        assert_eq!(place.run(&["remove", path, reach]).word(), expected, "{path} {reach}");
    }
    make();
    assert_eq!(place.run(&["remove", "t", "tree"]).word(), "done 7");
    assert!(!place.at("t").exists());
    assert_eq!(fs::read(outside.path().join("kept")).unwrap(), b"kept");
}

#[test]
fn a_removal_has_a_depth_and_says_how_far_it_came() {
    let place = Workspace::new();
    let deep = |levels: usize| {
        // Deeper than any path can name.
        let make = format!(
            "import os\nos.chdir({:?})\nfor _ in range({levels}):\n os.mkdir('d'*20)\n os.chdir('d'*20)",
            place.path()
        );
        Command::new("python3").args(["-c", &make]).status().is_ok_and(|status| status.success())
    };
    if !deep(256) {
        eprintln!("NOT RUN: no python3 here");
        return;
    }
    let name = "d".repeat(20);
    assert_eq!(place.run(&["remove", &name, "tree"]).word(), "done 256");
    assert!(deep(257));
    fs::write(place.at(&name).join("0"), "").unwrap();
    let ended = place.run(&["remove", &name, "tree"]);
    assert_eq!(ended.word(), "depth: File too large (os error 27)");
    let done = ended.reports.iter().find_map(|report| match report {
        Report::Done { files, .. } => Some(*files),
        _ => None,
    });
    assert!(done.is_some_and(|files| files <= 1), "{ended:?}");
    assert!(Command::new("rm").arg("-r").arg(place.at(&name)).status().unwrap().success());
}

#[test]
fn a_move_is_one_step_and_replaces_only_when_it_is_asked_to() {
    let place = Workspace::new();
    for directory in ["d/e", "full/x", "empty"] {
        fs::create_dir_all(place.at(directory)).unwrap();
    }
    fs::write(place.at("a"), "a").unwrap();
    fs::write(place.at("b"), "b").unwrap();
    fs::hard_link(place.at("a"), place.at("twin")).unwrap();
    symlink("/etc", place.at("out")).unwrap();
    symlink("a", place.at("link")).unwrap();
    let escape = "path: Invalid cross-device link (os error 18)";
    let rows = [
        ("a", "b", "refuse", "path: File exists (os error 17)"),
        ("a", "link", "refuse", "path: File exists (os error 17)"),
        ("a", "out/a", "replace", escape),
        ("out/passwd", "a", "replace", escape),
        ("a", "twin", "replace", "move: File exists (os error 17)"),
        ("a", "a", "replace", "move: File exists (os error 17)"),
        ("d", "d/e/d", "replace", "move: Invalid argument (os error 22)"),
        ("a", "missing/a", "refuse", "path: No such file or directory (os error 2)"),
        ("missing", "c", "refuse", "path: No such file or directory (os error 2)"),
        ("a", "d", "replace", "path: Is a directory (os error 21)"),
        ("d", "a", "replace", "path: Not a directory (os error 20)"),
        ("d", "full", "replace", "path: Directory not empty (os error 39)"),
        ("a", "c", "refuse", "done 1"),
        ("c", "b", "replace", "done 1"),
        ("d", "empty", "replace", "done 1"),
        ("link", "d", "refuse", "done 1"),
        ("b", "out", "replace", "done 1"),
    ];
    for (from, to, taken, expected) in rows {
        assert_eq!(place.run(&["move", from, to, taken]).word(), expected, "{from} -> {to}, {taken}");
    }
    assert_eq!(fs::read(place.at("out")).unwrap(), b"a");
    assert_eq!(fs::read_link(place.at("d")).unwrap().to_str(), Some("a"));
    assert!(place.at("empty/e").is_dir());
}

#[test]
fn a_directory_has_the_mode_that_is_asked_for_and_those_above_it_are_made_on_request() {
    let place = Workspace::new();
    fs::write(place.at("file"), "").unwrap();
    symlink("/tmp", place.at("out")).unwrap();
    symlink("nowhere", place.at("gone")).unwrap();
    let rows = [
        ("a", "511", "expected", "done 1"),
        ("a", "448", "expected", "path: File exists (os error 17)"),
        ("a", "448", "made", "done 0"),
        ("b/c", "448", "expected", "path: No such file or directory (os error 2)"),
        ("b/c/d", "448", "made", "done 3"),
        ("file", "448", "made", "path: Not a directory (os error 20)"),
        ("file/x", "448", "made", "path: Not a directory (os error 20)"),
        ("out/x", "448", "made", "path: Invalid cross-device link (os error 18)"),
        ("out/x", "448", "expected", "path: Invalid cross-device link (os error 18)"),
        ("gone", "448", "expected", "path: File exists (os error 17)"),
        ("gone/x", "448", "made", "path: File exists (os error 17)"),
    ];
    for (path, mode, above, expected) in rows {
        assert_eq!(place.run(&["mkdir", path, mode, above]).word(), expected, "{path} {above}");
    }
    let mode = |path: &str| fs::metadata(place.at(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(["a", "b", "b/c", "b/c/d"].map(mode), [0o777, 0o755, 0o755, 0o700]);
}

#[test]
fn a_file_is_written_over_what_its_writer_expects_and_over_nothing_else() {
    use sha2::Digest as _;
    let place = Workspace::new();
    let digest = |content: &[u8]| hex::encode(sha2::Sha256::digest(content));
    let write = |wanted: &str, content: &str| place.run_with(&["write", "a", "420", wanted], content.as_bytes()).word();
    assert_eq!(write(&digest(b"old"), "x"), "match: No such file or directory (os error 2)");
    assert_eq!(write("nothing", "old"), "done 1");
    assert_eq!(write("nothing", "x"), "match: File exists (os error 17)");
    assert_eq!(write(&digest(b"other"), "x"), "match: Stale file handle (os error 116)");
    let before = fs::metadata(place.at("a")).unwrap().ino();
    assert_eq!(write(&digest(b"old"), "new"), "done 1");
    assert_ne!(fs::metadata(place.at("a")).unwrap().ino(), before, "it was written in place");
    assert_eq!(fs::read_to_string(place.at("a")).unwrap(), "new");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "something is left beside it");
}

/// Many writers count in one file, each only over what it has read: no count is lost.
#[test]
fn writers_that_name_what_they_read_lose_nothing_of_each_other() {
    use sha2::Digest as _;
    const WRITERS: usize = 4;
    const EACH: u64 = 25;
    let place = Workspace::new();
    fs::write(place.at("count"), "0").unwrap();
    let refused = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                let mut done = 0;
                while done < EACH {
                    let before = fs::read_to_string(place.at("count")).unwrap();
                    let next = (before.parse::<u64>().unwrap() + 1).to_string();
                    let wanted = hex::encode(sha2::Sha256::digest(&before));
                    let word = place.run_with(&["write", "count", "420", &wanted], next.as_bytes()).word();
                    if word == "done 1" {
                        done += 1;
                    } else {
                        assert!(word.starts_with("match: "), "{word}");
                        refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(fs::read_to_string(place.at("count")).unwrap(), (WRITERS as u64 * EACH).to_string());
    assert!(refused.into_inner() > 0, "they never met");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "something is left beside it");
}

/// Pipes, sockets, devices, files of the kernel, a file of 8 EiB: each tool is done with them at once.
#[test]
fn what_is_no_ordinary_file_holds_no_tool_up() {
    let place = Workspace::new();
    let make = || {
        assert!(Command::new("mkfifo").arg(place.at("pipe")).status().unwrap().success());
        drop(UnixListener::bind(place.at("socket")).unwrap());
        let sparse = fs::File::create(place.at("sparse")).unwrap();
        sparse.set_len((1 << 63) - 1).or_else(|_| sparse.set_len(1 << 43)).unwrap();
    };
    make();
    let zeros = "0".repeat(64);
    let began = Instant::now();
    let kind = "No such device or address (os error 6)";
    let rows: [(&[&str], String); 17] = [
        (&["read", "pipe", "0", "0"], format!("type: {kind}")),
        (&["read", "socket", "0", "0"], format!("path: {kind}")),
        (&["read", "sparse", "0", "0"], "limit: File too large (os error 27)".into()),
        (&["read", "/dev/zero", "0", "0"], format!("type: {kind}")),
        (&["read", "/proc/self/status", "0", "0"], "done 1".into()),
        (
            &["read", "/proc/self/root/etc/passwd", "0", "0"],
            "path: Too many levels of symbolic links (os error 40)".into(),
        ),
        (&["write", "pipe", "420", &zeros], format!("match: {kind}")),
        (&["write", "socket", "420", &zeros], format!("match: {kind}")),
        (&["write", "sparse", "420", &zeros], "match: File too large (os error 27)".into()),
        (&["list", "pipe", "2", "9", ""], "path: Not a directory (os error 20)".into()),
        (&["list", "/proc", "3", "500", ""], "done 500".into()),
        (&["watch", "pipe", "tree", "60000", "60000"], "path: Not a directory (os error 20)".into()),
        (&["mkdir", "pipe/a", "448", "made"], "path: Not a directory (os error 20)".into()),
        (&["move", "pipe", "other", "refuse"], "done 1".into()),
        (&["remove", "other", "one"], "done 1".into()),
        (&["remove", "socket", "one"], "done 1".into()),
        (&["remove", "sparse", "one"], "done 1".into()),
    ];
    for (arguments, expected) in rows {
        assert_eq!(place.run(arguments).word(), expected, "{arguments:?}");
    }
    make();
    for name in ["pipe", "socket", "sparse"] {
        assert_eq!(place.run_with(&["write", name, "420", "any"], b"written").word(), "done 1", "{name}");
        assert_eq!(place.run(&["read", name, "0", "0"]).output, b"written", "{name}");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn an_absolute_path_starts_at_the_root_and_a_relative_one_in_the_workspace() {
    let (place, other) = (Workspace::new(), Workspace::new());
    fs::write(other.at("file"), "other").unwrap();
    symlink("file", other.at("near")).unwrap();
    symlink(other.at("file"), other.at("far")).unwrap();
    let at = |name: &str| other.at(name).to_str().unwrap().to_owned();
    assert_eq!(place.run(&["read", &at("file"), "0", "0"]).output, b"other");
    assert_eq!(place.run(&["read", &at("near"), "0", "0"]).output, b"other");
    // A link that starts at the root leads out of any directory, the root included.
    assert_eq!(place.run(&["read", &at("far"), "0", "0"]).word(), "path: Invalid cross-device link (os error 18)");
    let stat = place.run(&["stat", &at("file")]);
    assert_eq!(names(&stat), [at("file")]);
    assert_eq!(names(&place.run(&["list", &at(""), "1", "9", ""])), ["far", "file", "near"]);
    assert_eq!(place.run_with(&["write", &at("made"), "420", "nothing"], b"x").word(), "done 1");
    assert_eq!(place.run(&["move", &at("made"), "here", "refuse"]).word(), "done 1");
    assert_eq!(fs::read(place.at("here")).unwrap(), b"x");
    assert_eq!(place.run(&["mkdir", &at("d/e"), "448", "made"]).word(), "done 2");
    assert_eq!(place.run(&["remove", &at("d"), "tree"]).word(), "done 2");
    assert_eq!(place.run(&["move", "here", "/proc/here", "refuse"]).word().split(':').next(), Some("move"));
}
