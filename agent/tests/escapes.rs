//! The built-in file tools against a racer, with the kernel of the host: thousands of times a path is read, written,
//! listed, packed and unpacked through while a thread exchanges a directory for a link that leads out. Never a byte outside.

use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Times that each tool runs on each pair.
const ROUNDS: usize = 400;
/// Exchanges that a run must have seen.
const EXCHANGES: u64 = 100_000;

/// A workspace with two pairs of a directory and a link, one from the root and one that goes up; what is outside is
/// marked.
struct Place {
    base: tempfile::TempDir,
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
        fs::write(outside.join("file"), "OUTSIDE").unwrap();
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

#[test]
fn a_path_that_changes_under_a_tool_never_leads_out() {
    let place = Place::new();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(8);
    archive.append_data(&mut header, "sub/unpacked", &b"unpacked"[..]).unwrap();
    let archive = archive.into_inner().unwrap();
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| place.swap(&stop, &count));
        let racing = Stop(&stop);
        let tools: [(&str, &str, &[&str], &[u8]); 6] = [
            ("read", "file", &["0", "0"], b""),
            ("write", "written", &["420"], b"written"),
            ("list", "", &[], b""),
            ("stat", "file", &[], b""),
            ("pack", "file", &[], b""),
            ("unpack", "here", &[], &archive),
        ];
        let mut told = Vec::new();
        for (name, path, more, input) in tools {
            let (mut done, mut refused) = (0, 0);
            for round in 0..2 * ROUNDS {
                let path = format!("{}/{path}", ["absolute", "upwards"][round % 2]);
                let output = place.tool(&[&[name, &*path], more].concat(), input);
                let said = [output.stdout, output.stderr].concat();
                assert!(!said.windows(7).any(|bytes| bytes == b"OUTSIDE"), "{name} {path}");
                match output.status.code() {
                    Some(0) => done += 1,
                    Some(1) => refused += 1,
                    other => panic!("{name} {path}: {other:?}"),
                }
            }
            told.push((name, done, refused));
        }
        drop(racing);
        println!("after {} exchanges, done and refused: {told:?}", count.load(Ordering::Relaxed));
        for (name, done, refused) in told {
            assert!(done > 0 && refused > 0, "{name} met only one of the two: {done} done, {refused} refused");
        }
    });
    let outside = place.base.path().join("outside");
    let names = |path: &Path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(names(&outside).len(), 2, "{:?}", names(&outside));
    assert_eq!(names(&outside.join("here")).len(), 0);
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"OUTSIDE");
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
