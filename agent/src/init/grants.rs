//! Asks the process `grants` what the policy lets each identity do with files.

use super::error::{BootError, Context as _};
use super::jail::{Access, Grant, Reach};
use super::reap::{self, Who};
use super::spawn::{self, Class, Command, Directory, Launch};
use crate::fixed;
use crate::frames::grant::{EXACT, Granted};
use crate::frames::{FRAME_MAX, Frame as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::CString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

const STAGE: &str = "grants";
/// How long it may take: a policy has an end.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of its answer for all identities.
const ANSWER_MAX: usize = 4 << 20;
/// Grants of one identity.
pub(super) const GRANTS_MAX: usize = 1024;

/// The grants of each identity, in the order they are asked for. `cgroup` and `policy` are for the process to have.
pub(super) fn ask(cgroup: OwnedFd, policy: OwnedFd, identities: &[String]) -> Result<Vec<Vec<Grant>>, BootError> {
    let (answer, to_answer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context(STAGE, || "make a pipe".into())?;
    let console = File::options().write(true).open("/dev/console").or_else(|_| File::open("/dev/null"));
    let console = console.context(STAGE, || "open the console".into())?;
    let text = |word: &str| CString::new(word).unwrap_or_default();
    let command = Command {
        program: c"/proc/self/exe".into(),
        arguments: ["coffer-agent", "grants"]
            .into_iter()
            .chain(identities.iter().map(String::as_str))
            .map(text)
            .collect(),
        environment: Vec::new(),
        directory: Directory::Root,
        terminal: None,
    };
    let descriptors = vec![(0, policy), (1, to_answer), (2, console.into())];
    let launch = Launch { command, uid: fixed::UID_GRANTS, descriptors, cgroup: Some(cgroup), class: Class::Own };
    let born = spawn::spawn(launch).map_err(|error| unexpected("a process for it", &error.to_string()))?;
    let pid = born.pid;
    let answer = born
        .verdict
        .read()
        .map_err(|error| unexpected("a program for it", &error.to_string()))
        .and_then(|()| read(File::from(answer)));
    if answer.is_err()
        && let Some(pid) = Pid::from_raw(pid)
    {
        let _ = kill_process(pid, Signal::KILL);
    }
    // Its output has ended, or it was killed: the wait is short.
    let status = reap::reap_waiting(Who::Pid(pid));
    let answer = answer?;
    if status.and_then(|status| status.code) != Some(0) {
        return Err(unexpected("the grants of the policy", &format!("that its reader ended: {status:?}")));
    }
    parse(&answer, identities)
}

fn unexpected(expected: &str, found: &str) -> BootError {
    BootError::Unexpected { stage: STAGE, expected: expected.into(), found: found.into() }
}

/// Everything until the end, within time and size.
fn read(mut answer: File) -> Result<Vec<u8>, BootError> {
    let (until, mut bytes) = (Instant::now() + PATIENCE, Vec::new());
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::from_borrowed_fd(answer.as_fd(), PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(unexpected("an answer in time", "none")),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno).context(STAGE, || "wait for the answer".into()),
        }
        let count = answer.read(&mut chunk).context(STAGE, || "read the answer".into())?;
        if count == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&chunk[..count]);
        if bytes.len() > ANSWER_MAX {
            return Err(unexpected("an answer of at most 4 MiB", "a longer one"));
        }
    }
}

/// One frame for each identity, in their order, and nothing else.
fn parse(mut bytes: &[u8], identities: &[String]) -> Result<Vec<Vec<Grant>>, BootError> {
    let mut all = Vec::with_capacity(identities.len());
    for identity in identities {
        let length = bytes.first_chunk::<4>().map(|head| u32::from_le_bytes(*head) as usize);
        let end = length.filter(|length| *length <= FRAME_MAX).map(|length| length + 4);
        let Some((packet, rest)) = end.and_then(|end| bytes.split_at_checked(end)) else {
            return Err(unexpected("a frame for each identity", "fewer"));
        };
        bytes = rest;
        let granted = Granted::decode(packet).map_err(|error| unexpected("grants", &error.to_string()))?;
        if granted.identity != *identity
            || granted.paths.len() != granted.access.len()
            || granted.paths.len() > GRANTS_MAX
        {
            return Err(unexpected("the grants of one identity", "others"));
        }
        let grants = granted.paths.iter().zip(&granted.access).map(|(path, [access])| {
            let plain = Path::new(path).components().collect::<PathBuf>();
            let reach = if access & EXACT == 0 { Reach::Beneath } else { Reach::File };
            let up = plain.components().any(|part| part == Component::ParentDir);
            let is_plain = path.starts_with('/') && !up && plain.as_os_str() == path.as_str();
            let access = Access::from_number(access & !EXACT).filter(|_| is_plain);
            access
                .map(|access| Grant { path: plain, access, reach })
                .ok_or_else(|| unexpected("a plain absolute path", path))
        });
        all.push(grants.collect::<Result<_, _>>()?);
    }
    if bytes.is_empty() { Ok(all) } else { Err(unexpected("a frame for each identity", "more")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(identity: &str, paths: &[&str], access: &[u64]) -> Vec<u8> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        Granted { identity: identity.into(), paths, access: access.iter().map(|one| [*one]).collect() }.encode()
    }

    fn grants(bytes: &[u8], identities: &[&str]) -> Option<Vec<Vec<Grant>>> {
        parse(bytes, &identities.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).ok()
    }

    #[test]
    fn grants_are_those_of_each_identity_in_order_and_nothing_else() {
        let (a, b) = (frame("a", &["/workspace", "/"], &[7, 1]), frame("b", &[], &[]));
        let both = [a.clone(), b.clone()].concat();
        let found = grants(&both, &["a", "b"]).unwrap();
        assert_eq!((found[0].len(), found[1].len()), (2, 0));
        assert!(found[0][0].access.has(Access::WRITE) && !found[0][0].access.has(Access::EXECUTE));
        assert!(!found[0][1].access.has(Access::WRITE));
        for wrong in [&a[..], &[b, a.clone()].concat(), &[both.clone(), vec![0]].concat(), &both[..both.len() - 1], &[]]
        {
            assert_eq!(grants(wrong, &["a", "b"]), None);
        }
    }

    #[test]
    fn a_path_that_is_not_plain_or_an_unknown_right_is_no_grant() {
        assert!(grants(&frame("a", &["/a/b"], &[15]), &["a"]).is_some());
        for path in ["", "a", "/a/../b", "/a/./b", "//a", "/a/", "/a//b"] {
            assert_eq!(grants(&frame("a", &[path], &[1]), &["a"]), None, "{path}");
        }
        assert_eq!(grants(&frame("a", &["/a"], &[32]), &["a"]), None);
        assert_eq!(grants(&frame("a", &["/a"], &[]), &["a"]), None);
        let exact = grants(&frame("a", &["/a"], &[17]), &["a"]).unwrap();
        assert_eq!((exact[0][0].reach, exact[0][0].access), (Reach::File, Access::READ));
    }
}
