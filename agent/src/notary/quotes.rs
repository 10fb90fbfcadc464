//! Asking for a quote through the kernel's report directory (configfs-tsm): one at a time, with a deadline.
//!
//! The kernel takes a write when the file is closed and fills a read when it is first read, so every access is a fresh
//! descriptor, which only root can open: init opens, the notary reads and writes. `generation` rises with each
//! write; a quote counts only if exactly our own write lies between the two readings. What a close that was refused says
//! nobody hears, so the generation is read before the quote, too.

use super::heard::{HeardError, Init};
use crate::frames::warrant::{ReportFile, ToInit, ToNotary};
use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Longest wait for one quote, retries included.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// Between two tries while the platform is busy: the kernel offers no event for that.
const PAUSE: Duration = Duration::from_millis(50);
/// No try begins so shortly before the deadline: it would end in the middle, and hide what kept the ones before it.
const LAST_TRY: Duration = Duration::from_secs(1);
/// Largest quote that is read; real ones are 5 to 8 KiB.
const QUOTE_MAX: u64 = 64 * 1024;
/// Largest text that is read.
const TEXT_MAX: u64 = 4096;
/// The driver of Intel TDX.
const PROVIDER: &str = "tdx_guest";

/// A quote that could not be had.
#[derive(Debug, Error)]
pub enum QuoteSourceError {
    /// The file could not be opened, read or written.
    #[error("the report file {name} cannot be used")]
    System {
        /// Name of the file.
        name: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Init did not hand the file over.
    #[error("init did not open the report file {name}")]
    Init {
        /// Name of the file.
        name: &'static str,
        /// What went wrong on the link.
        #[source]
        source: HeardError,
    },
    /// Not what the kernel interface promises.
    #[error("expected {expected} in the report directory, found {found}")]
    Unexpected {
        /// What was expected.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// The deadline passed.
    #[error("no quote within {} s: {why}; the platform's quoting service may be down", limit.as_secs())]
    TooLate {
        /// The deadline.
        limit: Duration,
        /// What went on until then.
        why: Delay,
    },
}

/// What kept a quote from being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// The platform said that it was busy.
    Busy,
    /// The generation is not the one of our write: it was refused, or somebody else wrote.
    Raced,
    /// A file did not answer.
    Silent(&'static str),
}

impl Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Delay::Busy => f.write_str("the platform was busy until the end"),
            Delay::Raced => f.write_str("the generation was never that of one write of ours"),
            Delay::Silent(name) => write!(f, "the report file {name} did not answer"),
        }
    }
}

/// Where quotes come from.
pub trait QuoteSource {
    /// A quote over these 64 bytes, padded or not.
    fn quote(&mut self, report_data: &[u8; 64]) -> Result<Vec<u8>, QuoteSourceError>;
}

/// Opens a file of the report directory anew.
pub trait ReportFiles {
    /// The open file.
    fn open(&self, file: ReportFile) -> Result<File, QuoteSourceError>;
}

impl ReportFiles for Init {
    fn open(&self, file: ReportFile) -> Result<File, QuoteSourceError> {
        let name = file.name();
        let init = |source| QuoteSourceError::Init { name, source };
        self.send(&ToInit::Open { file }).map_err(|error| init(error.into()))?;
        let (answer, mut descriptors) = self.answer().map_err(init)?;
        match (answer, descriptors.pop()) {
            (ToNotary::Opened, Some(descriptor)) => Ok(File::from(descriptor)),
            (ToNotary::NotOpened { errno }, _) => {
                let source = io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or(libc::EIO));
                Err(QuoteSourceError::System { name, source })
            }
            (other, _) => Err(QuoteSourceError::Unexpected { expected: "an open file", found: format!("{other:?}") }),
        }
    }
}

/// A report directory.
#[derive(Debug)]
pub struct Reports<'a, F> {
    files: &'a F,
    limit: Duration,
}

/// One quote's time.
#[derive(Debug, Clone, Copy)]
struct Time {
    limit: Duration,
    until: Instant,
}

impl Time {
    fn is_over(self, why: Delay) -> QuoteSourceError {
        QuoteSourceError::TooLate { limit: self.limit, why }
    }

    /// Does what waits for the platform on a thread of its own: no access to these files can be given a deadline. A thread
    /// that is left behind ends with the process, which does not survive a missing quote.
    fn bound<T: Send + 'static>(
        self,
        file: ReportFile,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<io::Result<T>, QuoteSourceError> {
        let (done, result) = mpsc::channel();
        std::thread::spawn(move || drop(done.send(work())));
        let left = self.until.saturating_duration_since(Instant::now());
        result.recv_timeout(left).map_err(|_| self.is_over(Delay::Silent(file.name())))
    }
}

/// What a try came to.
enum Attempt {
    Quote(Vec<u8>),
    Again(Delay),
}

impl<F: ReportFiles> QuoteSource for Reports<'_, F> {
    fn quote(&mut self, report_data: &[u8; 64]) -> Result<Vec<u8>, QuoteSourceError> {
        let time = Time { limit: self.limit, until: Instant::now() + self.limit };
        let provider = self.text(ReportFile::Provider, time)?;
        if provider != PROVIDER {
            return Err(QuoteSourceError::Unexpected { expected: "the provider tdx_guest", found: provider });
        }
        loop {
            let why = match self.attempt(report_data, time)? {
                Attempt::Quote(quote) => return Ok(quote),
                Attempt::Again(why) => why,
            };
            if Instant::now() + PAUSE + LAST_TRY >= time.until {
                return Err(time.is_over(why));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl<'a, F: ReportFiles> Reports<'a, F> {
    /// The directory that these files are in.
    pub fn new(files: &'a F) -> Self {
        Self::within(files, DEADLINE)
    }

    /// The same with another deadline.
    pub fn within(files: &'a F, limit: Duration) -> Self {
        Self { files, limit }
    }

    /// One try.
    fn attempt(&self, report_data: &[u8; 64], time: Time) -> Result<Attempt, QuoteSourceError> {
        let ours = self.generation(time)?.wrapping_add(1);
        let (mut inblob, bytes) = (self.files.open(ReportFile::Inblob)?, *report_data);
        match time.bound(ReportFile::Inblob, move || inblob.write(&bytes))? {
            Ok(64) => {}
            Ok(count) => {
                return Err(QuoteSourceError::Unexpected {
                    expected: "64 bytes taken by inblob",
                    found: count.to_string(),
                });
            }
            Err(error) if busy(&error) => return Ok(Attempt::Again(Delay::Busy)),
            Err(source) => return Err(QuoteSourceError::System { name: "inblob", source }),
        }
        if self.generation(time)? != ours {
            return Ok(Attempt::Again(Delay::Raced));
        }
        let quote = match self.read(ReportFile::Outblob, QUOTE_MAX, time)? {
            Ok(quote) => quote,
            Err(error) if busy(&error) => return Ok(Attempt::Again(Delay::Busy)),
            Err(source) => return Err(QuoteSourceError::System { name: "outblob", source }),
        };
        if quote.len() as u64 > QUOTE_MAX || quote.is_empty() {
            return Err(QuoteSourceError::Unexpected {
                expected: "a quote of 1 to 65536 bytes",
                found: quote.len().to_string(),
            });
        }
        let is_ours = self.generation(time)? == ours;
        Ok(if is_ours { Attempt::Quote(quote) } else { Attempt::Again(Delay::Raced) })
    }

    fn generation(&self, time: Time) -> Result<u64, QuoteSourceError> {
        let text = self.text(ReportFile::Generation, time)?;
        let unexpected = |_| QuoteSourceError::Unexpected { expected: "a number in generation", found: text.clone() };
        text.parse().map_err(unexpected)
    }

    fn text(&self, file: ReportFile, time: Time) -> Result<String, QuoteSourceError> {
        let system = |source| QuoteSourceError::System { name: file.name(), source };
        let bytes = self.read(file, TEXT_MAX, time)?.map_err(system)?;
        let text = String::from_utf8(bytes).map_err(|_| system(io::ErrorKind::InvalidData.into()))?;
        Ok(text.trim_end_matches('\n').to_owned())
    }

    /// Reads a file, and one byte more than it may have.
    fn read(&self, file: ReportFile, most: u64, time: Time) -> Result<io::Result<Vec<u8>>, QuoteSourceError> {
        let opened = self.files.open(file)?;
        time.bound(file, move || {
            let mut bytes = Vec::new();
            opened.take(most + 1).read_to_end(&mut bytes).map(|_| bytes)
        })
    }
}

fn busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::EINTR))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::channel::{self, Wait};
    use std::io::Seek as _;
    use std::os::fd::AsFd as _;

    /// Init in the middle of calls: before each file it tells the end of one.
    #[test]
    fn a_quote_is_had_while_calls_end_and_their_ends_are_kept() {
        let (init, notary) = channel::pair::<ToNotary, ToInit>().unwrap();
        let serving = std::thread::spawn(move || {
            let (mut generation, mut opened) = (7, 0);
            while let Ok((ToInit::Open { file }, _)) = init.receive(Wait::Block) {
                init.send(&ToNotary::NotStarted { intent: opened }, &[], Wait::Block).unwrap();
                opened += 1;
                let text = match file {
                    ReportFile::Provider => "tdx_guest\n".to_owned(),
                    ReportFile::Generation => format!("{generation}\n"),
                    ReportFile::Outblob => "a quote".to_owned(),
                    ReportFile::Inblob => {
                        generation += 1;
                        String::new()
                    }
                };
                let mut content = tempfile::tempfile().unwrap();
                content.write_all(text.as_bytes()).unwrap();
                content.rewind().unwrap();
                init.send(&ToNotary::Opened, &[content.as_fd()], Wait::Block).unwrap();
            }
            opened
        });
        let notary = Init::new(notary);
        assert_eq!(Reports::new(&notary).quote(&[5; 64]).unwrap(), b"a quote");
        let mut ends = Vec::new();
        while let Some((ToNotary::NotStarted { intent }, _)) = notary.said().unwrap() {
            ends.push(intent);
        }
        drop(notary);
        assert_eq!(ends, (0..serving.join().unwrap()).collect::<Vec<_>>());
        assert_eq!(ends.len(), 6, "provider, generation three times, inblob, outblob");
    }
}
