//! What the observer tells of real calls on this machine. Needs root and a cgroup v2 hierarchy; says NOT RUN where there is none.

#[path = "bench/mod.rs"]
mod bench;

use bench::{Bench, LONG, bench, pipes};
use coffer_agent::frames::start::Cause;
use coffer_agent::init::calls::Report;
use coffer_evidence::file_record::{Content, FileUse, RecordLoss, Uses};
use coffer_evidence::ids::Digest256;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

/// The files of a record by their path; the workspace is `W`.
struct Told {
    files: BTreeMap<String, FileUse>,
    lost: Vec<RecordLoss>,
}

impl Told {
    /// Of the call that ended last.
    fn of(bench: &Bench) -> Self {
        let (record, _) = bench.record();
        let workspace = bench.workspace.path().to_str().unwrap();
        let name = |path: Vec<u8>| String::from_utf8_lossy(&path).replace(workspace, "W");
        let files = record.files().map(|(path, file)| (name(path), file.clone())).collect();
        Self { files, lost: record.lost.clone() }
    }

    #[track_caller]
    fn file(&self, path: &str) -> &FileUse {
        self.files.get(path).unwrap_or_else(|| panic!("expected {path}, found {:?}", self.files.keys()))
    }

    /// The paths with all of these uses.
    fn with(&self, uses: Uses) -> Vec<&str> {
        self.files.iter().filter(|(_, file)| file.uses.has(uses)).map(|(path, _)| path.as_str()).collect()
    }
}

/// Runs a script to its end and answers what was told of it.
fn told(bench: &mut Bench, script: &str) -> Told {
    let (exit, text) = bench.run(script, LONG);
    assert_eq!((exit.cause, exit.code), (Cause::Ended, Some(0)), "{text}");
    Told::of(bench)
}

fn content(text: &[u8]) -> Content {
    Content { size: text.len() as u64, sha256: Some(Digest256::of(text)) }
}

fn put(bench: &Bench, name: &str, text: impl AsRef<[u8]>, mode: u32) {
    let path = bench.workspace.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    std::os::unix::fs::chown(&path, Some(bench::UID), Some(bench::UID)).unwrap();
}

#[test]
fn what_a_script_does_with_files_is_told_with_what_was_in_them() {
    let mut bench = bench!();
    put(&bench, "read", "to be read", 0o600);
    put(&bench, "change", "before", 0o600);
    put(&bench, "remove", "gone", 0o600);
    put(&bench, "old", "renamed", 0o600);
    let told = told(
        &mut bench,
        "cat read; echo after > change; rm remove; mv old new; mkdir made; echo x > made/y; ln -s y made/link; \
         cat change >/dev/null; echo t > /tmp/t",
    );
    assert_eq!(told.lost, []);
    let read = told.file("W/read");
    assert_eq!((read.uses, &read.opened[..], read.left), (Uses::OPENED, &[content(b"to be read")][..], None));
    let change = told.file("W/change");
    assert!(change.uses.has(Uses::OPENED.and(Uses::WRITTEN)) && !change.uses.has(Uses::CREATED));
    assert_eq!(change.left, Some(content(b"after\n")));
    let removed = told.file("W/remove");
    assert!(removed.uses.has(Uses::DELETED) && removed.left.is_none());
    let new = told.file("W/new");
    assert!(new.from.as_deref().is_some_and(|from| from.ends_with(b"/old")), "{new:?}");
    assert!(told.file("W/made").uses.has(Uses::CREATED.and(Uses::DIRECTORY)));
    let made = told.file("W/made/y");
    assert!(made.uses.has(Uses::CREATED.and(Uses::WRITTEN)));
    assert_eq!(made.left, Some(content(b"x\n")));
    assert!(told.file("W/made/link").uses.has(Uses::CREATED));
    assert_eq!(told.file("/tmp/t").left, Some(content(b"t\n")));
    let written: Vec<_> = told.with(Uses::WRITTEN);
    assert_eq!(written, ["/tmp/t", "W/change", "W/made/y"]);
}

#[test]
fn programs_are_told_with_the_digest_of_what_was_executed_interpreters_and_scripts_too() {
    let mut bench = bench!();
    put(&bench, "script", "#!/bin/sh\necho from a script\n", 0o755);
    let own = fs::read("/bin/true").unwrap();
    put(&bench, "program", &own, 0o755);
    let told = told(&mut bench, "./script; ./program; ls >/dev/null");
    assert_eq!(told.lost, []);
    assert_eq!(told.file("W/script").executed, [content(b"#!/bin/sh\necho from a script\n")]);
    assert_eq!(told.file("W/program").executed, [content(&own)]);
    let executed = told.with(Uses::EXECUTED);
    let real = |path: &str| fs::canonicalize(path).unwrap();
    for program in ["/bin/sh", "/bin/ls", "/lib64/ld-linux-x86-64.so.2"].map(real) {
        let found = told.file(program.to_str().unwrap());
        assert!(found.uses.has(Uses::EXECUTED), "{executed:?}");
        assert_eq!(found.executed, [content(&fs::read(&program).unwrap())]);
    }
    assert!(executed.len() == 5, "{executed:?}");
}

#[test]
fn a_program_that_is_executed_twice_with_a_change_between_has_both_digests() {
    let mut bench = bench!();
    put(&bench, "s", "#!/bin/sh\nexit 0\n", 0o755);
    let told = told(&mut bench, "./s; echo 'echo more' >> s; ./s >/dev/null");
    let expected = [content(b"#!/bin/sh\nexit 0\n"), content(b"#!/bin/sh\nexit 0\necho more\n")];
    assert_eq!(told.file("W/s").executed, expected);
}

#[test]
fn nobody_executes_what_somebody_may_still_write() {
    let mut bench = bench!();
    let own = fs::read("/bin/true").unwrap();
    put(&bench, "program", &own, 0o755);
    put(&bench, "script", "#!/bin/sh\n", 0o755);
    // The shell has it open for writing while it starts the program.
    let script = "exec 3>>program; ./program 2>/dev/null; echo $?; exec 3>&-; ./program; echo $?; \
                  exec 3>>script; ./script 2>/dev/null; echo $?; exec 3>&-; ./script; echo $?";
    let (exit, text) = bench.run(script, LONG);
    assert_eq!(exit.code, Some(0));
    let codes: Vec<&str> = text.lines().collect();
    assert_eq!(codes, ["126", "0", "126", "0"]);
    let told = Told::of(&bench);
    assert_eq!(told.file("W/program").executed, [content(&own)]);
}

#[test]
fn who_could_not_execute_a_file_may_write_it_at_once_and_so_may_everybody_when_it_runs() {
    let mut bench = bench!();
    put(&bench, "s", "#!/no/such/interpreter\n", 0o755);
    let script = "python3 -c 'import os,time
b=time.monotonic()
try: os.execv(\"./s\", [\"s\"])
except FileNotFoundError: pass
open(\"s\", \"a\").write(\"x\")
print(time.monotonic()-b < 1)' || echo none";
    let (_, text) = bench.run(script, LONG);
    if text.ends_with("none\n") {
        eprintln!("NOT RUN: no python3 here: {text}");
        return;
    }
    assert_eq!(text, "True\n");
    // Somebody else's wish to write waits, and the observer does not mind the kernel's word of it.
    put(&bench, "t", "#!/no/such/interpreter\n", 0o755);
    let script = "python3 -c 'import os,time
if os.fork() == 0:
  time.sleep(0.3)
  open(\"t\", \"a\").write(\"x\")
  os._exit(0)
try: os.execv(\"./t\", [\"t\"])
except FileNotFoundError: os.wait()'";
    let (exit, _) = bench.run(script, LONG);
    assert_eq!(exit.code, Some(0));
    let told = told(&mut bench, "echo x > after");
    assert!(told.file("W/after").uses.has(Uses::CREATED));
    let (_, text) = bench.run("exec 3>>s; ./s 2>/dev/null; echo $?", LONG);
    assert_eq!((text.as_str(), Told::of(&bench).with(Uses::EXECUTED).contains(&"W/s")), ("126\n", false));
}

#[test]
fn a_file_without_a_name_is_no_trouble() {
    let mut bench = bench!();
    let script = "python3 -c 'import os
fd = os.open(\".\", os.O_TMPFILE | os.O_RDWR); os.write(fd, b\"x\")
g = os.open(\"gone\", os.O_CREAT | os.O_RDWR); os.unlink(\"gone\"); os.write(g, b\"y\")
print(open(f\"/proc/self/fd/{g}\").read())' 2>&1 || echo none";
    let (exit, text) = bench.run(script, LONG);
    if text.ends_with("none\n") {
        eprintln!("NOT RUN: no python3 here: {text}");
        return;
    }
    assert_eq!((exit.code, text.as_str()), (Some(0), "y\n"));
    let told = Told::of(&bench);
    assert_eq!(told.lost, []);
    assert!(told.file("W/gone").uses.has(Uses::DELETED));
}

#[test]
fn a_file_that_replaces_another_is_one_row_with_before_and_after() {
    let mut bench = bench!();
    put(&bench, "f", "one", 0o644);
    let told = told(&mut bench, "cat f >/dev/null; sleep 0.2; echo two > f.tmp; mv f.tmp f");
    let file = told.file("W/f");
    assert_eq!((&file.opened[..], file.left), (&[content(b"one")][..], Some(content(b"two\n"))));
    assert!(file.from.as_deref().is_some_and(|from| from.ends_with(b"/f.tmp")), "{file:?}");
    assert!(!told.files.contains_key("W/f.tmp"));
}

#[test]
fn names_of_one_file_are_told_one_by_one_and_a_link_in_place_of_a_name_is_a_renaming() {
    let mut bench = bench!();
    put(&bench, "a", "linked", 0o644);
    put(&bench, "twice", "two names", 0o644);
    let told = told(&mut bench, "ln twice gone");
    assert!(told.file("W/gone").uses.has(Uses::CREATED));
    let told = self::told(&mut bench, "ln a b; echo x > tmp; ln tmp final; rm tmp; rm twice; mkfifo p; rm p");
    assert_eq!(told.lost, []);
    let both = [told.files.get("W/a"), told.files.get("W/b")];
    assert_eq!(both.iter().flatten().filter(|file| file.uses.has(Uses::CREATED)).count(), 1, "{both:?}");
    assert!(both[1].is_some_and(|b| b.uses.has(Uses::CREATED)));
    let made = told.file("W/final");
    assert!(made.uses.has(Uses::CREATED.and(Uses::WRITTEN)) && !made.uses.has(Uses::DELETED), "{made:?}");
    assert_eq!(made.left, Some(content(b"x\n")));
    assert!(made.from.as_deref().is_some_and(|from| from.ends_with(b"/tmp")), "{made:?}");
    assert!(!told.files.contains_key("W/tmp"));
    assert!(told.file("W/twice").uses.has(Uses::DELETED));
    assert!(!told.files.get("W/gone").is_some_and(|file| file.uses.has(Uses::DELETED)));
    assert!(told.file("W/p").uses.has(Uses::CREATED.and(Uses::DELETED)));
}

#[test]
fn a_tree_that_was_made_and_removed_is_told_file_by_file() {
    let mut bench = bench!();
    let told = told(&mut bench, "mkdir -p a/b/c; for n in 1 2 3; do echo $n > a/b/c/$n; done; rm -r a");
    assert_eq!(told.lost, []);
    for path in ["W/a", "W/a/b", "W/a/b/c", "W/a/b/c/1", "W/a/b/c/3"] {
        assert!(told.file(path).uses.has(Uses::CREATED.and(Uses::DELETED)), "{path}");
    }
}

#[test]
fn what_processes_do_that_outlive_their_parents_is_told_of_their_call() {
    let mut bench = bench!();
    // The writer is alive when its parents are gone, and gone when anybody looks.
    let told = told(&mut bench, "(setsid sh -c 'echo x > late; rm -f late; mkdir d' &) ; while [ ! -d d ]; do :; done");
    assert_eq!(told.lost, []);
    assert!(told.file("W/late").uses.has(Uses::CREATED.and(Uses::WRITTEN).and(Uses::DELETED)));
    assert!(told.file("W/d").uses.has(Uses::CREATED.and(Uses::DIRECTORY)));
}

#[test]
fn names_that_no_text_can_hold_and_devices_that_nobody_answers_are_no_trouble() {
    let mut bench = bench!();
    let script =
        r#"printf x > "$(printf 'n\377\n')"; mkfifo fifo; (cat fifo >/dev/null &); echo z > fifo; : > /dev/null"#;
    bench.run(script, LONG);
    let (record, _) = bench.record();
    assert!(record.files().any(|(path, file)| path.ends_with(b"/n\xff") && file.uses.has(Uses::CREATED)));
    assert!(record.files().any(|(path, _)| path.ends_with(b"/fifo")));
    assert!(!record.files().any(|(path, _)| path.starts_with(b"/dev/")), "views of the kernel are no files");
    assert_eq!(record.lost, []);
}

#[test]
fn a_mapping_that_writes_is_told_by_what_the_file_is_left_as() {
    let mut bench = bench!();
    put(&bench, "m", "0123456789", 0o600);
    let script = "python3 -c 'import mmap,os
fd=os.open(\"m\", os.O_RDWR); m=mmap.mmap(fd, 10); os.close(fd); m[0:1]=b\"X\"; m.close()' || exit 9";
    let (exit, _) = bench.run(script, LONG);
    if exit.code == Some(9) {
        eprintln!("NOT RUN: no python3 here");
        return;
    }
    let told = Told::of(&bench);
    let file = told.file("W/m");
    assert!(file.uses.has(Uses::WRITTEN));
    assert_eq!(file.left, Some(content(b"X123456789")));
}

#[test]
fn a_large_file_is_told_with_its_size_alone() {
    let mut bench = bench!();
    let large = Content { size: 65 << 20, sha256: None };
    assert_eq!(told(&mut bench, "truncate -s 65M large").file("W/large").left, Some(large));
    assert_eq!(told(&mut bench, "head -c 1 large >/dev/null").file("W/large").opened, [large]);
}

#[test]
fn a_file_is_not_changed_by_its_name_alone() {
    let mut bench = bench!();
    put(&bench, "f", "whole", 0o600);
    let script = "python3 -c 'import os
try: os.truncate(\"f\", 1)
except OSError as error: print(error.errno)'";
    let (_, text) = bench.run(script, LONG);
    if text.is_empty() {
        eprintln!("NOT RUN: no python3 here");
        return;
    }
    assert_eq!(text, format!("{}\n", libc::ENOSYS));
    assert_eq!(fs::read_to_string(bench.workspace.path().join("f")).unwrap(), "whole");
}

#[test]
fn a_lease_is_not_for_tools() {
    let mut bench = bench!();
    put(&bench, "f", "whole", 0o600);
    let script = "python3 -c 'import fcntl,os
try: fcntl.fcntl(os.open(\"f\", os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)
except OSError as error: print(error.errno)'";
    let (_, text) = bench.run(script, LONG);
    if text.is_empty() {
        eprintln!("NOT RUN: no python3 here");
        return;
    }
    assert_eq!(text, format!("{}\n", libc::EPERM));
}

#[test]
fn more_files_than_are_kept_is_said_while_the_call_runs_and_in_its_record() {
    let mut bench = bench!();
    let script = "i=0; while [ $i -lt 16000 ]; do : > f$i; i=$((i+1)); done; echo done; read x";
    let report = bench.start(&["/bin/sh", "-c", script], ".", LONG);
    let [stdin, stdout, _stderr] = pipes(report);
    let mut said = [0; 5];
    let reader = std::thread::spawn(move || {
        File::from(stdout).read_exact(&mut said).unwrap();
        said
    });
    // It would wait for its input for ever.
    bench.until_lost(Duration::from_secs(60));
    assert_eq!(&reader.join().unwrap(), b"done\n");
    drop(stdin);
    let report = bench.next(Duration::from_secs(60));
    assert!(matches!(report, Report::Exited(1, _)), "{report:?}");
    assert_eq!(bench.lost, [1], "it is told once, and before the end");
    let told = Told::of(&bench);
    assert!(told.lost.contains(&RecordLoss::Files), "{:?}", told.lost);
    assert!(bench.record().1 <= coffer_agent::frames::observe::RECORD_MAX);
    assert!(told.files.len() > 4000, "{}", told.files.len());
    // The next call is told whole.
    let next = self::told(&mut bench, "echo x > g");
    assert_eq!((next.lost, next.files.contains_key("W/g")), (vec![], true));
}
