//! The one line of text that init leaves behind: the console, else the kernel's log. Diagnostics only; nothing here
//! may fail, and nothing secret is ever passed in.

use std::io::Write as _;

/// Writes one line, prefixed with the program's name.
pub fn say(text: &str) {
    let line = format!("coffer-agent: {text}\n");
    for path in ["/dev/console", "/dev/kmsg"] {
        let Ok(mut file) = std::fs::OpenOptions::new().write(true).open(path) else { continue };
        if file.write_all(line.as_bytes()).is_ok() {
            return;
        }
    }
    // Nobody reads this in a guest; in a test it is the terminal.
    drop(std::io::stderr().write_all(line.as_bytes()));
}
