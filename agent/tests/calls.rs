//! Calls on this machine: real processes in a real cgroup of their own. Needs root and a cgroup v2 hierarchy; says
//! NOT RUN where there is none.

#[path = "bench/mod.rs"]
mod bench;

use bench::{LONG, bench, pipes};
use coffer_agent::frames::start::Cause;
use coffer_agent::init::calls::{Report, Times};
use coffer_agent::init::spawn::Stage;
use coffer_agent::init::wires::winsize;
use coffer_evidence::call::TerminalSize;
use rustix::process::Signal;
use std::fs::{self, File};
use std::io::{BufRead as _, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

/// What is shown on a terminal until this is among it.
fn shown_until(master: &mut File, wanted: &str) -> String {
    let mut shown = String::new();
    let mut buffer = [0; 4096];
    while !shown.contains(wanted) {
        let count = master.read(&mut buffer).unwrap_or(0);
        assert!(count > 0, "expected {wanted:?}, found the end after {shown:?}");
        shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    shown
}

/// The rest of what is shown: a terminal that nobody has open any more ends with an error.
fn shown_to_the_end(mut master: File) -> String {
    let (mut shown, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match master.read(&mut buffer) {
            Ok(count) if count > 0 => shown.extend_from_slice(&buffer[..count]),
            Err(error) if error.raw_os_error() != Some(libc::EIO) => panic!("{error}"),
            Ok(_) | Err(_) => return String::from_utf8_lossy(&shown).into_owned(),
        }
    }
}

#[test]
fn a_program_runs_as_its_identity_with_nothing_of_roots() {
    let mut bench = bench!();
    // As init does: what it starts goes first when memory ends.
    fs::write("/proc/self/oom_score_adj", "500").unwrap();
    let script = "id -u; id -g; id -G; pwd -P; umask; ls /proc/self/fd | wc -l; \
                  grep -E '^(CapEff|CapBnd|CapPrm|NoNewPrivs)' /proc/self/status; env | sort; ulimit -c; \
                  cat /proc/self/oom_score_adj; ps -o sid= -p $$ | tr -d ' '; echo $$";
    let (exit, text) = bench.run(script, LONG);
    assert_eq!((exit.cause, exit.code), (Cause::Ended, Some(0)), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let workspace = fs::canonicalize(bench.workspace.path()).unwrap();
    assert_eq!(&lines[..5], ["10000", "10000", "10000", workspace.to_str().unwrap(), "0022"]);
    // 0, 1, 2, the directory that `ls` reads, and the pipe's other side is not there.
    assert_eq!(lines[5], "4");
    let status: Vec<String> = lines[6..10].iter().map(|line| line.replace('\t', " ")).collect();
    let none = "0000000000000000";
    assert_eq!(
        status,
        [format!("CapPrm: {none}"), format!("CapEff: {none}"), format!("CapBnd: {none}"), "NoNewPrivs: 1".into()]
    );
    assert_eq!(lines[10..12].iter().filter(|line| line.starts_with("PATH=")).count(), 1);
    let tail = &lines[lines.len() - 4..];
    assert_eq!(tail[0], "0");
    assert_eq!(tail[1], "500");
    assert_eq!(tail[2], tail[3], "the program leads a session of its own");
}

#[test]
fn a_call_that_is_ended_before_its_program_is_known_to_run_is_killed_at_once() {
    let mut bench = bench!();
    let command = bench.command(&["/bin/sleep", "1000"], ".");
    bench.begin(command, LONG);
    bench.calls.end(1, Cause::Cancelled, Instant::now());
    let exit = loop {
        if let Report::Exited(1, exit) = bench.next(Duration::from_secs(10)) {
            break exit;
        }
    };
    assert_eq!((exit.cause, exit.signal), (Cause::Cancelled, Some(libc::SIGKILL as u64)));
}

/// Processes with this argument.
fn running(argument: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())).count()
}

/// Waits until so many processes with this argument run.
fn wait_for(count: usize, argument: &str) {
    let until = Instant::now() + Duration::from_secs(10);
    while running(argument) < count {
        assert!(Instant::now() < until, "expected {count} processes with {argument}, found {}", running(argument));
        std::thread::yield_now();
    }
}

#[test]
fn a_daemon_that_left_session_and_parent_is_gone_when_its_call_ends() {
    let mut bench = bench!();
    // Its numbers are of its own namespace; these seconds are nobody else's.
    let seconds = format!("1000.{}", std::process::id());
    let script =
        format!("for i in 1 2 3; do setsid sh -c 'setsid sleep {seconds} & echo $!' & done; wait; cat; exit 3");
    let report = bench.start(&["/bin/sh", "-c", &script], ".", LONG);
    let [stdin, stdout, _stderr] = pipes(report);
    let mut lines = std::io::BufReader::new(File::from(stdout)).lines();
    let pids: Vec<String> = (0..3).map(|_| lines.next().unwrap().unwrap()).collect();
    assert!(pids.iter().all(|pid| pid.parse::<i32>().is_ok()), "{pids:?}");
    // They tell their number before they become what they are.
    wait_for(3, &seconds);
    drop(stdin);
    let before = Instant::now();
    let report = bench.next(Duration::from_secs(10));
    assert!(matches!(report, Report::Exited(1, ref exit) if exit.code == Some(3)), "{report:?}");
    assert!(before.elapsed() < Duration::from_secs(1));
    assert_eq!(running(&seconds), 0);
    // And its cgroup, or the bench is not gone when it is dropped.
}

#[test]
fn a_program_that_ignores_sigterm_is_killed_after_its_grace() {
    let mut bench = bench!();
    let times = Times { timeout: Duration::from_millis(200), grace: Duration::from_millis(300) };
    let (exit, text) = bench.run("trap '' TERM; echo up; while :; do sleep 1; done", times);
    assert_eq!((exit.cause, exit.code, exit.signal), (Cause::TimedOut, None, Some(9)));
    assert!((450..5000).contains(&exit.wall_ms), "{} ms", exit.wall_ms);
    assert_eq!(text, "up\n");
}

#[test]
fn a_program_that_heeds_sigterm_may_say_goodbye() {
    let mut bench = bench!();
    let times = Times { timeout: Duration::from_millis(300), grace: Duration::from_secs(10) };
    let (exit, text) = bench.run("trap 'echo bye; exit 7' TERM; sleep 30 & wait", times);
    assert_eq!((exit.cause, exit.code, text.as_str()), (Cause::TimedOut, Some(7), "bye\n"));
}

#[test]
fn the_first_cause_stands_and_a_signal_is_told() {
    let mut bench = bench!();
    let report = bench.start(&["/bin/sleep", "1000"], ".", LONG);
    assert!(matches!(report, Report::Started(..)));
    bench.calls.end(1, Cause::Cancelled, Instant::now());
    bench.calls.end_all(Cause::SessionClosing, Instant::now());
    let report = bench.next(Duration::from_secs(5));
    let Report::Exited(1, exit) = report else { panic!("{report:?}") };
    assert_eq!((exit.cause, exit.signal), (Cause::Cancelled, Some(15)));
}

#[test]
fn what_is_mounted_beneath_tmp_outside_is_neither_seen_in_a_room_nor_keeps_it_open() {
    let outside = tempfile::tempdir_in("/tmp").unwrap();
    let mounted =
        nix::mount::mount(Some("tmpfs"), outside.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>);
    {
        let mut bench = bench!();
        mounted.unwrap();
        let (_, text) = bench.run("grep -c ' /tmp' /proc/self/mountinfo; ls -A /tmp | wc -l", LONG);
        assert_eq!(text, "1\n0\n");
        // Its end says so when something is still in use.
    }
    nix::mount::umount(outside.path()).unwrap();
}

#[test]
fn stdin_reaches_the_program_and_its_end_is_seen() {
    let mut bench = bench!();
    let report = bench.start(&["/bin/cat"], ".", LONG);
    let [stdin, stdout, _stderr] = pipes(report);
    File::from(stdin).write_all(b"hello").unwrap();
    let mut text = String::new();
    File::from(stdout).read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    assert!(matches!(bench.next(Duration::from_secs(5)), Report::Exited(1, exit) if exit.code == Some(0)));
}

#[test]
fn a_start_that_fails_names_the_step_and_the_errno() {
    let mut bench = bench!();
    let workspace = bench.workspace.path().to_owned();
    std::os::unix::fs::symlink("/etc", workspace.join("out")).unwrap();
    fs::write(workspace.join("plain"), "no program").unwrap();
    fs::create_dir(workspace.join("closed")).unwrap();
    fs::set_permissions(workspace.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let table: [(&[&str], &str, Stage, i32); 6] = [
        (&["/bin/true"], "missing", Stage::Directory, libc::ENOENT),
        (&["/bin/true"], "out", Stage::Directory, libc::EXDEV),
        (&["/bin/true"], "plain", Stage::Directory, libc::ENOTDIR),
        // Entered as the identity, not as root.
        (&["/bin/true"], "closed", Stage::Directory, libc::EACCES),
        (&["/no/such/program"], ".", Stage::Exec, libc::ENOENT),
        (&["./plain"], ".", Stage::Exec, libc::EACCES),
    ];
    for (argv, directory, stage, errno) in table {
        let report = bench.start(argv, directory, LONG);
        let Report::NotStarted(1, error) = report else { panic!("{report:?}") };
        assert_eq!((error.stage, error.errno), (stage, errno), "{argv:?} in {directory}");
        assert!(bench.calls.is_empty());
    }
}

#[test]
fn a_tool_cannot_open_a_vsock_socket_and_other_sockets_work() {
    let mut bench = bench!();
    let script = "python3 -c 'import socket
for family in (40, 1):
  try: socket.socket(family, 1); print(\"open\")
  except OSError as error: print(error.errno)' || echo none";
    let (_, text) = bench.run(script, LONG);
    if text == "none\n" {
        eprintln!("NOT RUN: no python3 here");
        return;
    }
    assert_eq!(text, format!("{}\nopen\n", libc::EAFNOSUPPORT));
}

#[test]
fn a_program_on_a_terminal_has_it_for_all_three_streams_and_for_its_session() {
    let mut bench = bench!();
    let script = "tty; stty size; tty <&1; tty <&2; stat -c '%u %a' $(tty); ls /proc/self/fd | wc -l; \
                  echo typed: $(head -n 1 </dev/tty); echo over >&2; exit 4";
    let mut master = bench.on_a_terminal(script, (33, 101), LONG);
    // What is typed ahead is there when the program looks.
    master.write_all(b"a line\n").unwrap();
    let exit = bench.exited();
    let shown = shown_to_the_end(master).replace("\r\n", "\n");
    assert_eq!((exit.cause, exit.code), (Cause::Ended, Some(4)), "{shown}");
    // The terminal itself shows what is typed, somewhere.
    let lines: Vec<&str> = shown.lines().filter(|line| *line != "a line").collect();
    assert!(lines[0].starts_with("/dev/pts/"), "{shown}");
    assert_eq!(lines[1], "33 101");
    assert_eq!((lines[2], lines[3]), (lines[0], lines[0]));
    assert!(lines[4].starts_with("10000 "), "it belongs to the identity: {shown}");
    // 0, 1, 2, and the directory that `ls` reads.
    assert_eq!(lines[5], "4");
    assert_eq!(&lines[6..], ["typed: a line", "over"]);
}

#[test]
fn a_terminal_that_is_resized_tells_the_program() {
    let mut bench = bench!();
    let script = "trap 'stty size; exit 0' WINCH; echo up; while :; do sleep 0.1; done";
    let mut master = bench.on_a_terminal(script, (24, 80), LONG);
    shown_until(&mut master, "up");
    rustix::termios::tcsetwinsize(&master, winsize(TerminalSize::new(50, 132).unwrap())).unwrap();
    assert_eq!(bench.exited().code, Some(0));
    assert!(shown_to_the_end(master).contains("50 132"));
}

#[test]
fn typed_control_characters_interrupt_and_end_input_as_on_any_terminal() {
    let mut bench = bench!();
    let seconds = format!("1000.9{}", std::process::id());
    let mut master = bench.on_a_terminal(&format!("exec sleep {seconds}"), (24, 80), LONG);
    // A shell that is just becoming its last program catches the signal.
    wait_for(1, &seconds);
    master.write_all(b"\x03").unwrap();
    let exit = bench.exited();
    assert_eq!((exit.cause, exit.signal), (Cause::Ended, Some(libc::SIGINT as u64)));
    let mut master = bench.on_a_terminal("echo up; cat; echo after", (24, 80), LONG);
    shown_until(&mut master, "up");
    master.write_all(b"x\n\x04").unwrap();
    assert_eq!(bench.exited().code, Some(0));
    assert!(shown_to_the_end(master).ends_with("x\r\nafter\r\n"));
}

#[test]
fn a_terminal_nobody_reads_holds_its_program_up_and_keeps_nobody_from_ending_it() {
    let mut bench = bench!();
    let times = Times { timeout: Duration::from_millis(500), grace: Duration::from_millis(200) };
    let master = bench.on_a_terminal("yes", (24, 80), times);
    let exit = bench.exited();
    assert_eq!(exit.cause, Cause::TimedOut);
    let shown = shown_to_the_end(master);
    assert!(shown.starts_with("y\r\n") && shown.len() < 1 << 20, "{} bytes", shown.len());
}

#[test]
fn a_signal_reaches_the_whole_process_group_and_is_told_as_the_end() {
    let mut bench = bench!();
    for (signal, number) in [(Signal::INT, 2), (Signal::KILL, 9), (Signal::USR1, 10)] {
        let seconds = format!("1000.{number}{}", std::process::id());
        let report = bench.start(&["/bin/sh", "-c", &format!("sleep {seconds}; :")], ".", LONG);
        let _pipes = pipes(report);
        // A shell that is just making its child may keep the signal from it.
        wait_for(1, &seconds);
        bench.calls.signal(1, signal);
        let exit = bench.exited();
        assert_eq!((exit.cause, exit.code, exit.signal), (Cause::Ended, None, Some(number)), "{signal:?}");
    }
}

#[test]
fn a_program_that_is_stopped_goes_on_when_it_is_told_to_and_its_time_runs() {
    let mut bench = bench!();
    let report = bench.start(&["/bin/sh", "-c", "trap 'echo heard' USR1; echo up; read x; echo $x"], ".", LONG);
    let [stdin, stdout, _stderr] = pipes(report);
    let mut stdout = File::from(stdout);
    shown_until(&mut stdout, "up\n");
    bench.calls.signal(1, Signal::STOP);
    File::from(stdin).write_all(b"on\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(bench.calls.reports().is_empty(), "it is stopped");
    bench.calls.signal(1, Signal::CONT);
    assert_eq!(bench.exited().code, Some(0));
    assert_eq!(shown_until(&mut stdout, "on\n"), "on\n");
    let times = Times { timeout: Duration::from_millis(300), grace: Duration::from_millis(200) };
    let _pipes = pipes(bench.start(&["/bin/sleep", "1000"], ".", times));
    bench.calls.signal(1, Signal::STOP);
    assert_eq!(bench.exited().cause, Cause::TimedOut);
    // One that is over hears nothing.
    bench.calls.signal(1, Signal::KILL);
}
