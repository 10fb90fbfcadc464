//! A program that stands in for QEMU in tests and goes wrong over QMP, each copy of it as its own file name says. It is no
//! QEMU: it reads where QMP is listened for, and starts no guest.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

const GREETING: &str =
    r#"{"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11}, "package": ""}, "capabilities": []}}"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let place = arguments.iter().find_map(|a| a.strip_prefix("unix:")?.split(',').next());
    let mut stream = UnixStream::connect(place.ok_or("expected -qmp unix:PATH,...")?)?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mode = Path::new(&arguments[0]).file_name().and_then(|name| name.to_str()).unwrap_or("");
    if mode == "speaks-nonsense" {
        writeln!(stream, "welcome")?;
    } else {
        writeln!(stream, "{GREETING}")?;
        answers.read_line(&mut String::new())?;
        writeln!(stream, r#"{{"return": {{}}}}"#)?;
    }
    match mode {
        "dies-after-qmp" => std::process::abort(),
        "halts-after-qmp" => writeln!(stream, r#"{{"event": "STOP"}}"#)?,
        "speaks-nonsense" => {}
        other => return Err(format!("expected the name of a way to fail, found {other}").into()),
    }
    // Until the other side is gone.
    answers.read_to_end(&mut Vec::new())?;
    // And then like a machine that hangs: whoever started this ends it.
    loop {
        std::thread::park();
    }
}
