//! SIMULATED: serves one TD's registers and quotes on a unix socket, to the one shim that connects.
//!
//! A TD has one life and one kernel, so the first connection is the only one: later ones are closed unread, also after the first
//! has ended. What the guest sends is hostile: the protocol is bounded, and any fault ends the connection.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::{io, thread};

use crate::fault::{Fault, Plan, Quotes};
use crate::protocol::{ProtocolError, Request, write_answer, write_busy, write_refusal};
use crate::quote::quote;
use crate::td::{Extended, SimulatedTd};

/// Serves until the process ends; quotes go wrong as planned.
///
/// # Errors
/// When the listener breaks.
pub fn serve(listener: &UnixListener, td: SimulatedTd, plan: Option<Plan>) -> io::Result<()> {
    let mut td = Some(td);
    loop {
        let (mut stream, _) = listener.accept()?;
        let Some(mut state) = td.take() else { continue };
        thread::Builder::new().name("guest".into()).spawn(move || match answer_all(&mut stream, &mut state, plan) {
            Ok(()) => eprintln!("coffer-tdx-sim: SIMULATED: the guest closed its connection"),
            Err(error) => eprintln!("coffer-tdx-sim: SIMULATED: the guest's connection ended: {error}"),
        })?;
    }
}

/// Answers requests until the other side closes.
///
/// # Errors
/// [`ProtocolError`] when it breaks off or sends something else.
pub fn answer_all(
    stream: &mut (impl Read + Write),
    td: &mut SimulatedTd,
    plan: Option<Plan>,
) -> Result<(), ProtocolError> {
    let mut quotes = Quotes::new(plan);
    while let Some(request) = Request::read(stream)? {
        match request {
            Request::Registers => write_answer(stream, &td.registers().to_bytes())?,
            Request::Extend { index, digest } => match td.extend(index, &digest) {
                Extended::Done => write_answer(stream, &[])?,
                Extended::NoSuchRegister => write_refusal(stream)?,
            },
            Request::Quote { report_data } => {
                let quote = quote(td.registers(), &report_data);
                match quotes.fault_of_next() {
                    None => write_answer(stream, &quote)?,
                    Some(Fault::Busy) => write_busy(stream)?,
                    Some(Fault::Stall) => {}
                    Some(Fault::Short) => write_answer(stream, &quote[..quote.len() / 2])?,
                }
            }
        }
    }
    Ok(())
}
