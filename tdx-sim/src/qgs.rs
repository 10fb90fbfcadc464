//! SIMULATED: answers as Intel's quote generation service does, on a unix socket: one request a connection, quotes over reports of the
//! simulated TDX module. For tests and for operators who want to see QEMU's side of it; simulated sessions do not use it.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use coffer_evidence::qgs::{Answer, Platform, QgsError, Refusal, Request, length};

use crate::quote::{QE_SVN, quote};
use crate::{pki, report};

/// How long a client may take for its request.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The socket.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// Not this protocol.
    #[error("the request is none")]
    Protocol(#[from] QgsError),
}

/// Serves one client after the other, until the process ends.
///
/// # Errors
/// When the listener breaks.
pub fn serve(listener: &UnixListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        if let Err(error) = converse(stream) {
            eprintln!("coffer-tdx-sim: SIMULATED: a connection: {error}");
        }
    }
}

fn converse(mut stream: UnixStream) -> Result<(), ConnectionError> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    let mut message = vec![0; length(prefix)?];
    stream.read_exact(&mut message)?;
    let request = Request::parse(&message)?;
    stream.write_all(&answer(&request).to_wire(&request))?;
    Ok(())
}

/// The answer to a request.
#[must_use]
pub fn answer(request: &Request) -> Answer {
    match request {
        Request::Quote(report) => match report::read(report) {
            // As the service answers QEMU: without what some clients pad a quote with.
            Some((registers, report_data)) => {
                let mut quote = quote(&registers, &report_data);
                quote.truncate(quote.len() - crate::quote::PADDING_BYTES);
                Answer::Quote(quote)
            }
            None => Answer::Refused(Refusal::INVALID_PARAMETER),
        },
        Request::Platform => {
            Answer::Platform(Platform { qe_svn: QE_SVN, pce_svn: pki::PCE_SVN, id: vec![0; 16], cpu_svn: vec![0; 16] })
        }
    }
}
