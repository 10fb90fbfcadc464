//! The `coffer` command as its users meet it: the real binary, its exit status and its outputs, against files made here
//! and against a `cofferd` that is acted by the test. Real guests are met in `tests/`.

mod commits;
mod copying;
mod encrypted;
mod evidence;
mod execution;
mod fake;
mod files;
mod hostile;
mod policy;
mod quote;
mod running;
mod sessions;
mod terminal;
mod usage;

// Bundles that are right everywhere, and lies where a test wants one: the verifier's own fixtures.
#[path = "../../../evidence/tests/rules/platform.rs"]
#[allow(dead_code, reason = "its own tests use more of it")]
mod platform;
#[path = "../../../evidence/tests/rules/session.rs"]
#[allow(dead_code, reason = "its own tests use more of it")]
mod session;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The binary with keys and caches of the test's own, no input, and no `cofferd`.
fn coffer(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("XDG_STATE_HOME", home.join("state"))
        .env("COFFER_SOCKET", home.join("cofferd.sock"))
        .env("TMPDIR", home)
        .current_dir(home)
        .stdin(Stdio::null());
    command
}

/// Runs it to its end.
fn output<S: AsRef<OsStr>>(home: &Path, arguments: &[S]) -> Output {
    coffer(home).args(arguments).output().expect("run coffer")
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text on stdout")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> serde_json::Value {
    let text = stdout(output);
    assert_eq!(text.lines().count(), 1, "one line: {text:?}, {}", stderr(output));
    serde_json::from_str(&text).expect("JSON")
}
