//! A QEMU and the two protocols it is asked by: QMP for the end of the guest, qtest for the items of its firmware
//! configuration device. Both over socket pairs that it inherits, so its end is the end of both.
//!
//! Items are read as a guest reads them by DMA: a request of 16 bytes in guest memory (`docs/specs/fw_cfg.rst` of QEMU). The guest
//! stands still by then, so nobody minds what is written there.

use rustix::io::{FdFlags, fcntl_setfd};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ports of the device: the selector, and the address of a request, high half first.
const SELECTOR: u16 = 0x510;
const REQUEST_HIGH: u16 = 0x514;
const REQUEST_LOW: u16 = 0x518;
/// Where request and answer lie in the memory of the guest.
const REQUEST_AT: u32 = 0x1000;
const ANSWER_AT: u32 = 0x100_0000;
const READ: u32 = 2;
const FAILED: u32 = 1;
/// The list of items, its entries, and how many there can be.
const DIRECTORY: u16 = 0x19;
const ENTRY_BYTES: usize = 64;
const ENTRIES_MAX: u32 = 1024;
/// Longest line of either protocol, in bytes.
const LINE_MAX: u64 = 32 << 20;
/// At most this much of what QEMU complains about is shown, in bytes.
const COMPLAINT_MAX: u64 = 1024;

pub(super) struct Conversation {
    process: Child,
    qmp: BufReader<UnixStream>,
    qtest: BufReader<UnixStream>,
    deadline: Instant,
}

impl Conversation {
    /// Starts `command` with the two sockets; everything must be over after `within`.
    pub(super) fn start(mut command: Command, within: Duration) -> io::Result<Self> {
        let (qmp, theirs_qmp) = UnixStream::pair()?;
        let (qtest, theirs_qtest) = UnixStream::pair()?;
        let inherited = [OwnedFd::from(theirs_qmp), OwnedFd::from(theirs_qtest)];
        for (name, descriptor) in ["qmp0", "qtest0"].iter().zip(&inherited) {
            fcntl_setfd(descriptor, FdFlags::empty())?;
            command.arg("-chardev").arg(format!("socket,id={name},fd={}", descriptor.as_raw_fd()));
        }
        command.args(["-mon", "chardev=qmp0,mode=control", "-qtest", "chardev:qtest0", "-qtest-log", "/dev/null"]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        // Ours alone now: when QEMU is gone, both say so.
        drop(inherited);
        let deadline = Instant::now() + within;
        Ok(Self { process, qmp: BufReader::new(qmp), qtest: BufReader::new(qtest), deadline })
    }

    /// Lets the guest run to its end, as QMP tells it.
    pub(super) fn wait_for_the_end_of_the_guest(&mut self) -> Result<(), String> {
        let result = self.hear_the_end();
        result.map_err(|error| self.why(error))
    }

    fn hear_the_end(&mut self) -> io::Result<()> {
        line(&mut self.qmp, self.deadline)?;
        self.qmp.get_mut().write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
        loop {
            let said: serde_json::Value = serde_json::from_str(&line(&mut self.qmp, self.deadline)?)?;
            match said["event"].as_str() {
                Some("SHUTDOWN") if said["data"]["reason"] == "guest-reset" => return Ok(()),
                Some("SHUTDOWN" | "GUEST_PANICKED") => return Err(io::Error::other(said.to_string())),
                _ => {}
            }
        }
    }

    /// The content of an item.
    pub(super) fn item(&mut self, name: &str, max: u32) -> Result<Vec<u8>, String> {
        let result = self.read_item(name, max);
        result.map_err(|error| self.why(error))
    }

    fn read_item(&mut self, name: &str, max: u32) -> io::Result<Vec<u8>> {
        self.ask(&format!("outw {SELECTOR:#x} {DIRECTORY:#x}"))?;
        let count = self.read(4)?.try_into().map(u32::from_be_bytes).unwrap_or(u32::MAX);
        if count > ENTRIES_MAX {
            return Err(io::Error::other(format!("it offers {count} items")));
        }
        let directory = self.read(count * ENTRY_BYTES as u32)?;
        let entry = directory
            .chunks_exact(ENTRY_BYTES)
            .find(|entry| entry[8..].split(|byte| *byte == 0).next() == Some(name.as_bytes()));
        let entry = entry.ok_or_else(|| io::Error::other(format!("it offers no {name}")))?;
        let size = u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let key = u16::from_be_bytes([entry[4], entry[5]]);
        if size == 0 || size > max {
            return Err(io::Error::other(format!("{name} has {size} bytes")));
        }
        self.ask(&format!("outw {SELECTOR:#x} {key:#x}"))?;
        self.read(size)
    }

    /// The next `length` bytes of the selected item.
    fn read(&mut self, length: u32) -> io::Result<Vec<u8>> {
        let mut request = READ.to_be_bytes().to_vec();
        request.extend(length.to_be_bytes());
        request.extend(u64::from(ANSWER_AT).to_be_bytes());
        self.ask(&format!("write {REQUEST_AT:#x} 0x10 0x{}", hex::encode(request)))?;
        self.ask(&format!("outl {REQUEST_HIGH:#x} 0x0"))?;
        // The ports are big-endian.
        self.ask(&format!("outl {REQUEST_LOW:#x} {:#x}", REQUEST_AT.swap_bytes()))?;
        let control = self.memory(REQUEST_AT, 4)?;
        if control.try_into().map(u32::from_be_bytes).unwrap_or(FAILED) & FAILED != 0 {
            return Err(io::Error::other("its configuration device refuses a request"));
        }
        self.memory(ANSWER_AT, length)
    }

    fn memory(&mut self, at: u32, length: u32) -> io::Result<Vec<u8>> {
        let answer = self.ask(&format!("read {at:#x} {length:#x}"))?;
        let bytes = answer.strip_prefix("0x").and_then(|text| hex::decode(text).ok());
        let bytes = bytes.filter(|bytes| bytes.len() as u64 == u64::from(length));
        bytes.ok_or_else(|| io::Error::other("it answers a request for memory with something else"))
    }

    fn ask(&mut self, request: &str) -> io::Result<String> {
        self.qtest.get_mut().write_all(format!("{request}\n").as_bytes())?;
        loop {
            let answer = line(&mut self.qtest, self.deadline)?;
            if answer.starts_with("IRQ ") {
                continue;
            }
            let ok = answer.strip_prefix("OK").map(|rest| rest.trim().to_owned());
            return ok.ok_or_else(|| io::Error::other(format!("it answers {answer:?}")));
        }
    }

    /// An error with what QEMU said about it.
    fn why(&mut self, error: io::Error) -> String {
        drop(self.process.kill());
        let mut complaint = Vec::new();
        if let Some(stderr) = self.process.stderr.take() {
            drop(stderr.take(COMPLAINT_MAX).read_to_end(&mut complaint));
        }
        let complaint = String::from_utf8_lossy(&complaint);
        let what = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "its time was over".to_owned(),
            io::ErrorKind::UnexpectedEof => "it ended".to_owned(),
            _ => error.to_string(),
        };
        if complaint.trim().is_empty() { what } else { format!("{what}; it said: {}", complaint.trim()) }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// One line, without its end.
fn line(stream: &mut BufReader<UnixStream>, deadline: Instant) -> io::Result<String> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    stream.get_ref().set_read_timeout(Some(left))?;
    let mut text = String::new();
    stream.by_ref().take(LINE_MAX).read_line(&mut text)?;
    if text.ends_with('\n') { Ok(text.trim_end().to_owned()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell in the place of QEMU, which finds its end of the first socket under the number that `-chardev` names.
    fn with(script: &str, within: Duration) -> Conversation {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("fd=${{2##*fd=}}; fd2=${{4##*fd=}}; {script}"), "-chardev"]);
        Conversation::start(command, within).unwrap()
    }

    #[test]
    fn a_program_that_ends_hangs_or_talks_nonsense_is_named_and_not_waited_for() {
        let long = Duration::from_secs(20);
        for (script, within, words) in [
            ("echo on purpose >&2; exit 1", long, &["it ended", "on purpose"][..]),
            ("exec sleep 100", Duration::from_millis(200), &["its time was over"]),
            ("echo greeting >&$fd; echo words >&$fd; exec sleep 100", long, &["expected value"]),
            (
                r#"echo {} >&$fd; echo '{"event":"SHUTDOWN","data":{"reason":"host-qmp-quit"}}' >&$fd; exec sleep 100"#,
                long,
                &["host-qmp-quit"],
            ),
        ] {
            let said = with(script, within).wait_for_the_end_of_the_guest().unwrap_err();
            assert!(words.iter().all(|word| said.contains(word)), "{script}: {said}");
        }
        let said = with("echo FAIL >&$fd2; exec sleep 100", long).item("etc/x", 10).unwrap_err();
        assert!(said.contains("FAIL"), "{said}");
    }
}
