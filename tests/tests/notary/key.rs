//! Where the log key is: in the notary's memory while it signs, nowhere once it asks for the final quote. Another process looks, so that
//! looking leaves nothing behind in this one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;

use super::played::Played;

struct Scan {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Scan {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_key-scan"));
        command.arg(std::process::id().to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("key-scan beside this test");
        let (orders, answers) = (child.stdin.take().expect("stdin"), child.stdout.take().expect("stdout"));
        Self { child, orders, answers: BufReader::new(answers) }
    }

    /// Copies; `None` when this system lets nobody look.
    fn ask(&mut self, order: &str) -> Option<usize> {
        writeln!(self.orders, "{order}").ok()?;
        let mut line = String::new();
        self.answers.read_line(&mut line).ok()?;
        line.trim().parse().ok()
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_log_key_is_in_no_memory_when_the_final_quote_is_asked_for() {
    let (asked, at_the_seal) = mpsc::channel();
    let (go_on, looked) = mpsc::channel::<()>();
    let mut played = Played::start_and_look_at_the_seal(move || {
        asked.send(()).expect("a test that waits");
        looked.recv().expect("a test that looks");
    });
    let open = played.open();
    played.denied();
    let mut scan = Scan::start();
    let Some(there) = scan.ask(&format!("find {}", hex::encode(open.log_key.as_bytes()))) else {
        return eprintln!("NOT RUN: this system does not let a process look at another's memory");
    };
    // The control: who looks can see it.
    assert!(there > 0, "no key found while it must be there");
    let sealing = std::thread::spawn(move || played.seal());
    at_the_seal.recv().expect("a final quote");
    let left = scan.ask("count").expect("an answer");
    go_on.send(()).expect("a notary that waits");
    sealing.join().expect("no panic").expect("a seal");
    assert_eq!(left, 0, "copies of the log key, or of what it signs with, of {there} before");
}
