//! `coffer session attach` on a real terminal: raw while the call runs, and as before on every way out.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::fake::{Cofferd, signal};

struct Terminal {
    master: File,
    slave: OwnedFd,
    before: Termios,
}

impl Terminal {
    fn open() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        unlockpt(&master).expect("unlocked");
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("its other end");
        let before = tcgetattr(&slave).expect("settings");
        let terminal = Self { master: master.into(), slave, before };
        terminal.resize(30, 90);
        terminal
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("a size");
    }

    fn spawn(&self, host: &Cofferd, arguments: &[&str]) -> Child {
        let end = || Stdio::from(self.slave.try_clone().expect("another end"));
        host.command(arguments).stdin(end()).stdout(end()).stderr(end()).spawn().expect("run coffer")
    }

    /// What is shown until this is among it.
    fn until(&mut self, wanted: &str) {
        let (mut shown, mut buffer) = (String::new(), [0; 4096]);
        while !shown.contains(wanted) {
            let count = self.master.read(&mut buffer).expect("output");
            shown.push_str(&String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()));
        }
    }

    fn modes(&self) -> LocalModes {
        tcgetattr(&self.slave).expect("settings").local_modes
    }

    fn is_as_before(&self) -> bool {
        let now = tcgetattr(&self.slave).expect("settings");
        (now.local_modes, now.input_modes, now.output_modes, now.control_modes)
            == (self.before.local_modes, self.before.input_modes, self.before.output_modes, self.before.control_modes)
    }
}

#[test]
fn every_key_goes_to_the_program_its_size_follows_and_the_terminal_is_put_back() {
    let host = Cofferd::start();
    let id = host.session();
    let mut terminal = Terminal::open();
    let mut child = terminal.spawn(&host, &["session", "attach", &id, "--", "terminal"]);
    terminal.until("ready");
    host.until_asked("terminal 30 90 ");
    assert!(!terminal.modes().intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
    terminal.resize(40, 100);
    signal(&child, "WINCH");
    host.until_asked("resize 40 100");
    terminal.master.write_all(b"\x03").expect("typed");
    host.until_asked("typed b\"\\x03\"");
    terminal.master.write_all(b"q").expect("typed");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
    assert!(terminal.is_as_before());
}

#[test]
fn a_terminal_is_put_back_when_the_call_fails_and_when_its_user_leaves() {
    let host = Cofferd::start();
    let id = host.session();
    let terminal = Terminal::open();
    let mut child = terminal.spawn(&host, &["session", "attach", &id, "--", "gone"]);
    assert_eq!(child.wait().expect("wait").code(), Some(125));
    assert!(terminal.is_as_before());
    let mut terminal = Terminal::open();
    let mut child = terminal.spawn(&host, &["session", "attach", &id, "--", "terminal"]);
    terminal.until("ready");
    signal(&child, "HUP");
    assert_eq!(child.wait().expect("wait").code(), Some(129));
    assert!(terminal.is_as_before());
    terminal.until("it runs on for a while");
}
