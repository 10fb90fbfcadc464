//! SIMULATED: the connection to the simulator on the host. One connection in the life of the guest; once anything on it
//! went wrong it is closed for good, and every file that needs it answers EIO.

use std::io::{Read, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use coffer_tdx_sim::protocol::{ProtocolError, Register, Registers, Request, read_answer};
use vsock::VsockStream;

/// The host, and the simulator's port there.
const HOST_CID: u32 = 2;
const PORT: u32 = 1025;
/// A simulator that is silent for this long is gone. Longer than the agent waits for a quote: of one that never comes the agent
/// says so, as it does on a real platform.
const PATIENCE: Duration = Duration::from_secs(45);

/// Why there is no quote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoQuote {
    /// The simulator has no time for it now.
    Busy,
    /// There is no simulator any more.
    Gone,
}

/// What the file trees ask of a TD.
pub(crate) trait Td: Send + Sync + 'static {
    /// All registers as they are now.
    fn registers(&self) -> Option<Registers>;
    /// Extends RTMR `index`.
    fn extend(&self, index: u8, digest: &Register) -> Option<()>;
    /// A quote over the registers as they are now.
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, NoQuote>;
}

/// The connection, while it is good.
#[derive(Debug)]
pub(crate) struct Simulator<S>(Mutex<Option<S>>);

/// Reaches the host.
pub(crate) fn connect() -> std::io::Result<Simulator<VsockStream>> {
    let stream = VsockStream::connect_with_cid_port(HOST_CID, PORT)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(Simulator(Mutex::new(Some(stream))))
}

impl<S: Read + Write> Simulator<S> {
    /// Asks, and gives up for ever at the first fault: nobody knows what the simulator did after it.
    fn ask<T>(&self, request: Request, parse: impl FnOnce(Vec<u8>) -> Result<T, ProtocolError>) -> Result<T, NoQuote> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = connection.as_mut().ok_or(NoQuote::Gone)?;
        match request.write(stream).and_then(|()| read_answer(stream)).and_then(parse) {
            Ok(answer) => Ok(answer),
            // That is an answer.
            Err(ProtocolError::Busy) => Err(NoQuote::Busy),
            Err(error) => {
                eprintln!("coffer-shim: SIMULATED TDX: {error}");
                *connection = None;
                Err(NoQuote::Gone)
            }
        }
    }
}

impl<S: Read + Write + Send + 'static> Td for Simulator<S> {
    fn registers(&self) -> Option<Registers> {
        self.ask(Request::Registers, |bytes| Registers::from_bytes(&bytes)).ok()
    }

    fn extend(&self, index: u8, digest: &Register) -> Option<()> {
        self.ask(Request::Extend { index, digest: *digest }, |bytes| match bytes.len() {
            0 => Ok(()),
            found => Err(ProtocolError::Unexpected { expected: "an empty answer", found }),
        })
        .ok()
    }

    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, NoQuote> {
        self.ask(Request::Quote { report_data: *report_data }, Ok)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::net::UnixStream;

    use coffer_tdx_sim::protocol::{write_answer, write_busy};

    use super::*;

    /// A TD in memory; `None` everywhere once it is gone.
    #[derive(Default)]
    pub(crate) struct FakeTd(pub(crate) Mutex<FakeState>);

    #[derive(Default)]
    pub(crate) struct FakeState {
        pub(crate) extended: Vec<(u8, Register)>,
        pub(crate) quotes: usize,
        /// How many quotes it has no time for.
        pub(crate) busy: usize,
        pub(crate) gone: bool,
    }

    impl Td for FakeTd {
        fn registers(&self) -> Option<Registers> {
            let state = self.0.lock().unwrap();
            let of = |n: u8| [n; 48];
            let rtmr = [of(4), of(5), of(6), state.extended.last().map_or(of(7), |(_, digest)| *digest)];
            let registers =
                Registers { mrtd: of(0), mr_config_id: of(1), mr_owner: of(2), mr_owner_config: of(3), rtmr };
            (!state.gone).then_some(registers)
        }

        fn extend(&self, index: u8, digest: &Register) -> Option<()> {
            let mut state = self.0.lock().unwrap();
            state.extended.push((index, *digest));
            (!state.gone).then_some(())
        }

        fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, NoQuote> {
            let mut state = self.0.lock().unwrap();
            state.quotes += 1;
            match (state.gone, state.busy.checked_sub(1)) {
                (true, _) => Err(NoQuote::Gone),
                (false, None) => Ok(report_data.to_vec()),
                (false, Some(left)) => {
                    state.busy = left;
                    Err(NoQuote::Busy)
                }
            }
        }
    }

    #[test]
    fn a_fault_ends_the_connection_for_good() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let simulator = Simulator(Mutex::new(Some(near)));
        write_answer(&mut far, &[7; 8 * 48]).unwrap();
        assert_eq!(simulator.registers().unwrap().mrtd, [7; 48]);
        write_answer(&mut far, &[7; 5]).unwrap();
        assert_eq!(simulator.registers(), None);
        // It would be well-formed, but nobody listens any more.
        drop(write_answer(&mut far, &[7; 8 * 48]));
        assert_eq!(simulator.registers(), None);
    }

    #[test]
    fn a_host_that_went_away_leaves_nothing() {
        let (near, far) = UnixStream::pair().unwrap();
        let simulator = Simulator(Mutex::new(Some(near)));
        drop(far);
        assert_eq!(simulator.extend(3, &[0; 48]), None);
        assert_eq!(simulator.quote(&[0; 64]), Err(NoQuote::Gone));
    }

    #[test]
    fn a_busy_simulator_is_asked_again() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let simulator = Simulator(Mutex::new(Some(near)));
        write_busy(&mut far).unwrap();
        write_answer(&mut far, b"quote").unwrap();
        assert_eq!(simulator.quote(&[0; 64]), Err(NoQuote::Busy));
        assert_eq!(simulator.quote(&[0; 64]), Ok(b"quote".to_vec()));
    }
}
