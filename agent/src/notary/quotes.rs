//! Asking for a quote through the kernel's report directory (configfs-tsm): one at a time, with a deadline.
//!
//! The kernel takes a write when the file is closed and fills a read when it is opened, so every access is a fresh
//! descriptor, which only root can open: init opens, the notary reads and writes. `generation` rises with each
//! write; a quote counts only if exactly our own write lies between the two readings.

use crate::channel::{Channel, ChannelError, Wait};
use crate::frames::warrant::{ReportFile, ToInit, ToNotary};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Longest wait for one quote, retries included.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// Between two tries while the platform is busy: the kernel offers no event for that.
const PAUSE: Duration = Duration::from_millis(50);
/// Largest quote that is read; real ones are 5 to 8 KiB.
const QUOTE_MAX: u64 = 64 * 1024;
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
        source: ChannelError,
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
    #[error("no quote within {} s; the platform's quoting service may be down", DEADLINE.as_secs())]
    TooLate,
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

impl ReportFiles for Channel<ToInit, ToNotary> {
    fn open(&self, file: ReportFile) -> Result<File, QuoteSourceError> {
        let name = file.name();
        let init = |source| QuoteSourceError::Init { name, source };
        self.send(&ToInit::Open { file }, &[], Wait::Block).map_err(init)?;
        let (answer, mut descriptors) = self.receive(Wait::Block).map_err(init)?;
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
pub struct Reports<'a, F>(pub &'a F);

impl<F: ReportFiles> QuoteSource for Reports<'_, F> {
    fn quote(&mut self, report_data: &[u8; 64]) -> Result<Vec<u8>, QuoteSourceError> {
        let until = Instant::now() + DEADLINE;
        let provider = self.text(ReportFile::Provider)?;
        if provider != PROVIDER {
            return Err(QuoteSourceError::Unexpected { expected: "the provider tdx_guest", found: provider });
        }
        loop {
            if let Some(quote) = self.attempt(report_data, until)? {
                return Ok(quote);
            }
            if Instant::now() + PAUSE >= until {
                return Err(QuoteSourceError::TooLate);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl<F: ReportFiles> Reports<'_, F> {
    /// One try; nothing when the platform is busy or somebody else wrote in between.
    fn attempt(&self, report_data: &[u8; 64], until: Instant) -> Result<Option<Vec<u8>>, QuoteSourceError> {
        let before = self.generation()?;
        match self.0.open(ReportFile::Inblob)?.write(report_data) {
            Ok(64) => {}
            Ok(count) => {
                return Err(QuoteSourceError::Unexpected {
                    expected: "64 bytes taken by inblob",
                    found: count.to_string(),
                });
            }
            Err(error) if busy(&error) => return Ok(None),
            Err(source) => return Err(QuoteSourceError::System { name: "inblob", source }),
        }
        let outblob = self.0.open(ReportFile::Outblob)?;
        let Some(quote) = read_until(outblob, until)? else { return Ok(None) };
        Ok((self.generation()? == before + 1).then_some(quote))
    }

    fn generation(&self) -> Result<u64, QuoteSourceError> {
        let text = self.text(ReportFile::Generation)?;
        let unexpected = |_| QuoteSourceError::Unexpected { expected: "a number in generation", found: text.clone() };
        text.parse().map_err(unexpected)
    }

    fn text(&self, file: ReportFile) -> Result<String, QuoteSourceError> {
        let mut text = String::new();
        let opened = self.0.open(file)?;
        let read = opened.take(4096).read_to_string(&mut text);
        read.map_err(|source| QuoteSourceError::System { name: file.name(), source })?;
        Ok(text.trim_end_matches('\n').to_owned())
    }
}

/// Reads the quote on a thread of its own: the read waits for the platform and cannot be given a deadline. A thread
/// that is left behind ends with the process, which does not survive a missing quote.
fn read_until(outblob: File, until: Instant) -> Result<Option<Vec<u8>>, QuoteSourceError> {
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || {
        let mut quote = Vec::new();
        let read = outblob.take(QUOTE_MAX + 1).read_to_end(&mut quote);
        drop(done.send(read.map(|_| quote)));
    });
    let left = until.saturating_duration_since(Instant::now());
    match result.recv_timeout(left).map_err(|_| QuoteSourceError::TooLate)? {
        Ok(quote) if quote.len() as u64 > QUOTE_MAX || quote.is_empty() => Err(QuoteSourceError::Unexpected {
            expected: "a quote of 1 to 65536 bytes",
            found: quote.len().to_string(),
        }),
        Ok(quote) => Ok(Some(quote)),
        Err(error) if busy(&error) => Ok(None),
        Err(source) => Err(QuoteSourceError::System { name: "outblob", source }),
    }
}

fn busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::EINTR))
}
