//! The built-in file tools against a racer, with the kernel of the host: thousands of times a path is read, written,
//! listed, packed, unpacked, removed, moved, made and watched through while a thread exchanges a directory for a link that leads
//! out. Never a byte outside; and whoever opens by path alone does get there.

use rustix::fs::{CWD, RenameFlags, renameat_with};
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Times that each tool runs on each pair.
const ROUNDS: usize = 150;
/// Exchanges that a run must have seen.
const EXCHANGES: u64 = 100_000;

/// A workspace with two pairs of a directory and a link, one from the root and one that goes up; what is outside is
/// marked.
struct Place {
    base: tempfile::TempDir,
}

/// A directory that is open, and has the files that the tools work on.
struct Inner(fs::File);

impl Inner {
    fn prepare(&self) {
        let at = PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        fs::create_dir_all(at.join("tree/sub")).unwrap();
        for (file, content) in [("victim", "inside"), ("matched", "inside"), ("tree/sub/x", "inside")] {
            fs::write(at.join(file), content).unwrap();
        }
        for gone in ["new", "moved"] {
            drop(fs::remove_file(at.join(gone)));
        }
    }
}

/// Every path beneath a directory, links not followed, with the content of files.
fn snapshot(directory: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            all.append(&mut snapshot(&path));
        }
        all.insert(path.clone(), fs::read(&path).ok());
    }
    all
}

/// Tells the racer to stop, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Place {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let outside = base.path().join("outside");
        fs::create_dir_all(outside.join("here")).unwrap();
        fs::create_dir_all(outside.join("tree")).unwrap();
        for file in ["file", "victim", "matched", "tree/OUTSIDE", "OUTSIDE"] {
            fs::write(outside.join(file), "OUTSIDE").unwrap();
        }
        let place = Self { base };
        for (pair, to) in [("absolute", outside.as_path()), ("upwards", Path::new("../outside"))] {
            let directory = place.workspace().join(pair);
            fs::create_dir_all(directory.join("here")).unwrap();
            fs::write(directory.join("file"), "inside").unwrap();
            symlink(to, place.workspace().join(format!("{pair}.link"))).unwrap();
        }
        place
    }

    fn workspace(&self) -> std::path::PathBuf {
        self.base.path().join("workspace")
    }

    /// Exchanges both pairs until told to stop, and often enough.
    fn swap(&self, stop: &AtomicBool, count: &AtomicU64) {
        let pairs = ["absolute", "upwards"].map(|pair| self.workspace().join(pair));
        while !stop.load(Ordering::Relaxed) || count.load(Ordering::Relaxed) < EXCHANGES {
            for directory in &pairs {
                renameat_with(CWD, directory, CWD, directory.with_extension("link"), RenameFlags::EXCHANGE).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn outside(&self) -> PathBuf {
        self.base.path().join("outside")
    }

    /// The inner directory of a pair, whatever its name is just then.
    fn inner(&self, pair: &str) -> Inner {
        Inner(fs::File::open(self.workspace().join(pair)).unwrap())
    }

    fn tool(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_coffer-agent"))
            .arg("tool")
            .args(arguments)
            .current_dir(self.workspace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that refuses the path does not wait for its input.
        drop(tool.stdin.take().unwrap().write_all(input));
        tool.wait_with_output().unwrap()
    }
}

fn archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(8);
    archive.append_data(&mut header, "sub/unpacked", &b"unpacked"[..]).unwrap();
    archive.into_inner().unwrap()
}

/// Every tool, with `@` for the directory that is a link at times, and its input.
fn tools() -> Vec<(Vec<String>, Vec<u8>)> {
    let inside = hex::encode(sha2::Sha256::digest("inside"));
    let rows = [
        ("read @/file 0 0", ""),
        ("write @/written 420 any", "written"),
        ("write @/new 420 nothing", "written"),
        (&format!("write @/matched 420 {inside}"), "inside"),
        ("list @ 1 100 -", ""),
        ("list @ 64 100 -", ""),
        ("stat @/file", ""),
        ("pack @/file", ""),
        ("unpack @/here", "-"),
        ("remove @/victim one", ""),
        ("remove @/tree tree", ""),
        ("move @/victim out replace", ""),
        ("move in @/moved refuse", ""),
        ("mkdir @/made/deep 493 made", ""),
        ("watch @ one 1 1", ""),
        ("watch @/here tree 1 1", ""),
    ];
    let words = |row: &str| row.split(' ').map(|word| if word == "-" { "" } else { word }.to_owned()).collect();
    rows.into_iter().map(|(row, input)| (words(row), if input == "-" { archive() } else { input.into() })).collect()
}

fn at<'a>(arguments: &[String], directory: &str, kept: &'a mut Vec<String>) -> Vec<&'a str> {
    *kept = arguments.iter().map(|word| word.replace('@', directory)).collect();
    kept.iter().map(String::as_str).collect()
}

#[test]
fn a_path_that_changes_under_a_tool_never_leads_out() {
    let place = Place::new();
    let before = snapshot(&place.outside());
    let inner = ["absolute", "upwards"].map(|pair| (pair, place.inner(pair)));
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| place.swap(&stop, &count));
        let racing = Stop(&stop);
        let mut told = Vec::new();
        for (arguments, input) in tools() {
            let (mut done, mut refused) = (0, 0);
            for round in 0..2 * ROUNDS {
                let (pair, inner) = &inner[round % 2];
                inner.prepare();
                fs::write(place.workspace().join("in"), "inside").unwrap();
                let mut kept = Vec::new();
                let output = place.tool(&at(&arguments, pair, &mut kept), &input);
                let said = [output.stdout, output.stderr].concat();
                assert!(!said.windows(7).any(|bytes| bytes == b"OUTSIDE"), "{arguments:?}");
                match output.status.code() {
                    Some(0) => done += 1,
                    Some(1) => refused += 1,
                    other => panic!("{arguments:?}: {other:?}"),
                }
            }
            told.push((arguments.join(" "), done, refused));
        }
        drop(racing);
        println!("after {} exchanges, done and refused: {told:?}", count.load(Ordering::Relaxed));
        for (name, done, refused) in told {
            assert!(done > 0 && refused > 0, "{name} met only one of the two: {done} done, {refused} refused");
        }
    });
    assert_eq!(snapshot(&place.outside()), before);
    assert!(!fs::read(place.workspace().join("out")).is_ok_and(|content| content == b"OUTSIDE"));
}

/// Each tool is refused at the link; who opens the same path like any program gets through it, and does outside what the tool
/// would have done.
#[test]
fn what_a_tool_refuses_a_program_that_opens_by_path_can_do() {
    let place = Place::new();
    let before = snapshot(&place.outside());
    fs::write(place.workspace().join("in"), "inside").unwrap();
    for (arguments, input) in tools() {
        for link in ["absolute.link", "upwards.link"] {
            let mut kept = Vec::new();
            let output = place.tool(&at(&arguments, link, &mut kept), &input);
            let said = [output.stdout, output.stderr].concat();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}");
            // The reports are frames; the last one names the stage and ends with EXDEV.
            assert!(said.windows(4).any(|bytes| bytes == b"path") && said.ends_with(&[18]), "{arguments:?}: {said:?}");
        }
    }
    assert_eq!(snapshot(&place.outside()), before);
    for link in ["absolute.link", "upwards.link"] {
        let at = |name: &str| place.workspace().join(link).join(name);
        assert_eq!(fs::read(at("file")).unwrap(), b"OUTSIDE");
        assert!(fs::read_dir(at("tree")).unwrap().any(|entry| entry.unwrap().file_name() == "OUTSIDE"));
        fs::write(at("new"), "control").unwrap();
        fs::remove_file(at("new")).unwrap();
        fs::rename(at("victim"), place.workspace().join("out")).unwrap();
        fs::rename(place.workspace().join("out"), at("victim")).unwrap();
        fs::create_dir_all(at("made/deep")).unwrap();
        fs::remove_dir_all(at("made")).unwrap();
        let notify = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::NONBLOCK).unwrap();
        rustix::fs::inotify::add_watch(&notify, at(""), rustix::fs::inotify::WatchFlags::CREATE).unwrap();
    }
    assert_eq!(snapshot(&place.outside()), before, "the controls put back what they did");
}

/// The racer is within the tree that is removed, listed and watched.
#[test]
fn a_link_that_takes_a_directorys_place_within_a_tree_is_not_entered() {
    let place = Place::new();
    let before = snapshot(&place.outside());
    let tree = place.workspace().join("t");
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Neither may be there just then.
                let (directory, link) = (tree.join("sub"), tree.join("link"));
                if renameat_with(CWD, directory, CWD, link, RenameFlags::EXCHANGE).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let _racing = Stop(&stop);
        let mut removed = 0;
        for round in 0..ROUNDS {
            fs::create_dir_all(tree.join("sub/a/b")).unwrap();
            for n in 0..20 {
                fs::write(tree.join(format!("sub/a/b/{n}")), "inside").unwrap();
            }
            symlink(if round % 2 == 0 { place.outside() } else { "../../outside".into() }, tree.join("link")).unwrap();
            for arguments in [&["list", "t", "64", "1000", ""][..], &["watch", "t", "tree", "1", "1"], &["pack", "t"]] {
                let output = place.tool(arguments, b"");
                let said = [output.stdout, output.stderr].concat();
                assert!(!said.windows(7).any(|bytes| bytes == b"OUTSIDE"), "{arguments:?}");
            }
            removed += u32::from(place.tool(&["remove", "t", "tree"], b"").status.success());
            // The racer may be in its way.
            while tree.exists() {
                drop(fs::remove_dir_all(&tree));
            }
        }
        assert!(removed > 0, "it never came to its end");
    });
    let exchanges = count.into_inner();
    assert!(exchanges > 1_000, "{exchanges} exchanges are no race");
    assert_eq!(snapshot(&place.outside()), before);
}

/// What has no content is left out; it is not a file without any.
#[test]
fn a_file_that_becomes_a_pipe_is_never_packed_as_an_empty_one() {
    let place = Place::new();
    let directory = place.workspace().join("mixed");
    fs::create_dir(&directory).unwrap();
    let names = ["a", "b"].map(|name| directory.join(name));
    fs::write(&names[0], "inside").unwrap();
    assert!(Command::new("mkfifo").arg(&names[1]).status().unwrap().success());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &names[0], CWD, &names[1], RenameFlags::EXCHANGE).unwrap();
            }
        });
        let _racing = Stop(&stop);
        let mut packed = 0;
        let wrong = (0..ROUNDS).find_map(|_| {
            let output = place.tool(&["pack", "mixed"], b"");
            if !output.status.success() {
                return None;
            }
            let mut archive = tar::Archive::new(&output.stdout[..]);
            archive.entries().unwrap().find_map(|entry| {
                let mut content = String::new();
                entry.unwrap().read_to_string(&mut content).unwrap();
                packed += 1;
                (content != "inside").then_some(content)
            })
        });
        assert_eq!(wrong, None);
        assert!(packed > 0, "it never met the file");
    });
}
