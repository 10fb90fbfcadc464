//! The simulator's quote generation service, asked over its socket as QEMU asks Intel's: by bytes that are written here by hand.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use coffer_tdx_sim::collateral::collateral;
use coffer_tdx_sim::pki::ROOT_DER;
use coffer_tdx_sim::protocol::Registers;
use coffer_tdx_sim::report::report;
use dcap_qvl::verify::QuoteVerifier;

const AT: u64 = 1_770_000_000;

struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(socket: &Path) -> Service {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer-tdx-sim"));
    let child = command.args(["qgs", "--socket"]).arg(socket).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut service = Service(child.expect("the simulator"));
    let mut line = String::new();
    BufReader::new(service.0.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    assert_eq!(line, "coffer-tdx-sim: ready\n");
    service
}

/// As `tdx-quote-generator.c` of QEMU does: header, sizes, report; and what it insists on in the answer.
fn ask(socket: &Path, report: &[u8; 1024]) -> (u32, Vec<u8>) {
    let mut request = vec![0, 0, 4, 0x18, 1, 0, 1, 0, 0, 0, 0, 0, 0x18, 4, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0];
    request.extend(report);
    let mut stream = UnixStream::connect(socket).expect("the service");
    stream.write_all(&request).expect("write");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read");
    let number = |at: usize| u32::from_le_bytes(answer[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(u32::from_be_bytes(answer[..4].try_into().expect("four bytes")) as usize, answer.len() - 4);
    assert_eq!(answer[4..12], [1, 0, 1, 0, 1, 0, 0, 0], "version 1.1, a quote");
    assert_eq!(number(12) as usize, answer.len() - 4);
    let error = number(16);
    if error != 0 {
        assert_eq!(answer.len(), 20);
        return (error, Vec::new());
    }
    assert_eq!((number(20), number(24) as usize), (0, answer.len() - 28), "no key's id, and the quote");
    (0, answer[28..].to_vec())
}

#[test]
fn a_quote_over_a_simulated_report_verifies_and_another_report_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("qgs.socket");
    let _service = start(&socket);
    let registers = Registers::from_bytes(&(1..=8).flat_map(|n| [n; 48]).collect::<Vec<_>>()).expect("registers");
    let report = report(&registers, &[0x42; 64]);
    let (error, quote) = ask(&socket, &report);
    assert_eq!(error, 0);
    let json = collateral(AT).expect("collateral").to_json();
    let collateral = serde_json::from_slice(&json).expect("the JSON form of dcap-qvl");
    let claims = QuoteVerifier::new(ROOT_DER.to_vec()).verify(&quote, &collateral, AT).expect("a quote");
    let td = claims.report.as_td10().expect("a TD report");
    assert_eq!((td.report_data, td.mr_td, td.rt_mr3), ([0x42; 64], [1; 48], [8; 48]));
    let mut other = report;
    other[600] ^= 1;
    assert_eq!(ask(&socket, &other), (0x1_2003, Vec::new()), "an invalid parameter");
    // Whoever speaks another protocol gets no answer, and the next one is served.
    let mut stream = UnixStream::connect(&socket).expect("the service");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("write");
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    assert!(answer.is_empty());
    assert_eq!(ask(&socket, &report).0, 0);
}
