//! What turns a TD's report into a quote, and what a verifier needs with it: Intel's quote generation service, asked in its own
//! protocol, and the caching service that it has its certificates of.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use coffer_evidence::qgs::{Answer, Platform, QgsError, Request, length};

use super::{Check, Need};

/// Where the service listens when nobody says otherwise; as QEMU is told to ask it.
pub(super) const SOCKET: &str = "/var/run/tdx-qgs/qgs.socket";
/// Where the service's library reads which caching service to ask.
const LIBRARY: &str = "/etc/sgx_default_qcnl.conf";
const CACHING: &str = "caching service";
const CACHING_FIX: &str =
    "start Intel's PCCS, or name another one: pccs_url in /etc/sgx_default_qcnl.conf, vmm.pccs_url for cofferd";
/// For each step of a conversation.
const PATIENCE: Duration = Duration::from_secs(5);
/// Addresses of a name that are tried.
const ADDRESSES: usize = 4;
/// Bytes of that file that are read.
const FILE_MAX: u64 = 64 * 1024;

pub(super) fn checks(socket: &Path, pccs: Option<&str>) -> Vec<Check> {
    if let Some(url) = pccs {
        return vec![service(socket), listening(url)];
    }
    let mut library = String::new();
    let read = std::fs::File::open(LIBRARY).and_then(|file| file.take(FILE_MAX).read_to_string(&mut library));
    vec![service(socket), caching(read.is_ok().then_some(library.as_str()))]
}

fn service(socket: &Path) -> Check {
    const NAME: &str = "quoting service";
    const FIX: &str = "install Intel's tdx-qgs, have it listen on its unix socket, and see `journalctl -u qgsd`";
    let shown = socket.display();
    match ask(socket) {
        Ok(Answer::Platform(Platform { qe_svn, pce_svn, .. })) => {
            Check::ok(NAME, Need::Tdx, format!("answers on {shown}: enclave version {qe_svn}, PCE version {pce_svn}"))
        }
        Ok(Answer::Refused(refusal)) => {
            let found = format!("{shown} answers with {} ({:#x})", refusal.as_str(), refusal.number());
            Check::failed(NAME, Need::Tdx, found, "register the platform with Intel, and see `journalctl -u qgsd`")
        }
        Ok(Answer::Quote(_)) => Check::failed(NAME, Need::Tdx, format!("{shown} answers what nobody asked"), FIX),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Check::missing(NAME, Need::Tdx, format!("no {shown}"), FIX)
        }
        Err(error) => Check::failed(NAME, Need::Tdx, format!("{shown}: {error}"), FIX),
    }
}

/// Asks which platform it is: that costs the service nothing, and takes no report.
fn ask(socket: &Path) -> io::Result<Answer> {
    let other = |error: QgsError| io::Error::new(io::ErrorKind::InvalidData, format!("not its protocol: {error}"));
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&Request::Platform.to_wire())?;
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    let mut message = vec![0; length(prefix).map_err(other)?];
    stream.read_exact(&mut message)?;
    Answer::parse(&message, &Request::Platform).map_err(other)
}

/// Whether somebody listens where the library looks for collateral. What it hands out is proven by its signatures, so nothing is
/// asked of it here.
fn caching(library: Option<&str>) -> Check {
    let Some(library) = library else {
        return Check::missing(CACHING, Need::Better, format!("no {LIBRARY} that can be read"), CACHING_FIX);
    };
    let Some(url) = pccs_url(library) else {
        return Check::failed(CACHING, Need::Better, format!("no pccs_url in {LIBRARY}"), CACHING_FIX);
    };
    listening(url)
}

/// Whether somebody listens at the address of a caching service, in the one form that Intel's configuration and `vmm.pccs_url` have.
fn listening(url: &str) -> Check {
    let Some(place) = authority(url) else {
        return Check::failed(CACHING, Need::Better, format!("{url:?} is no https address"), CACHING_FIX);
    };
    match reach(&place) {
        Ok(()) => Check::ok(CACHING, Need::Better, format!("{place} takes connections")),
        Err(error) => Check::failed(CACHING, Need::Better, format!("{place}: {error}"), CACHING_FIX),
    }
}

/// The value of `pccs_url`, in JSON with comments and in the older form of lines.
fn pccs_url(library: &str) -> Option<&str> {
    let line = library.lines().map(str::trim).find(|line| {
        let key = line.trim_start_matches('"');
        key.starts_with("pccs_url") || key.starts_with("PCCS_URL")
    })?;
    let (_, value) = line.split_once([':', '='])?;
    let value = value.trim().trim_start_matches('"');
    value.split(['"', ',', ' ']).next().filter(|value| !value.is_empty())
}

/// Host and port of an address.
fn authority(url: &str) -> Option<String> {
    let (rest, port) = match url.strip_prefix("https://") {
        Some(rest) => (rest, 443),
        None => (url.strip_prefix("http://")?, 80),
    };
    let authority = rest.split('/').next().filter(|authority| !authority.is_empty())?;
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Some(if has_port { authority.to_owned() } else { format!("{authority}:{port}") })
}

fn reach(place: &str) -> io::Result<()> {
    // A name may have addresses on which nobody listens beside the one that counts.
    let mut answer = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for address in place.to_socket_addrs()?.take(ADDRESSES) {
        answer = TcpStream::connect_timeout(&address, PATIENCE).map(drop);
        if answer.is_ok() {
            break;
        }
    }
    answer
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::Found;
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A service written from the description of the protocol, not with the codec: answers these bytes.
    fn answers(bytes: &'static [u8]) -> Check {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("qgs.socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 20];
            stream.read_exact(&mut request).unwrap();
            assert_eq!(request, *b"\0\0\0\x10\x01\0\x01\0\x04\0\0\0\x10\0\0\0\0\0\0\0");
            stream.write_all(bytes).unwrap();
        });
        let check = service(&socket);
        served.join().unwrap();
        check
    }

    #[test]
    fn a_service_is_believed_when_it_answers_in_its_protocol() {
        let good = answers(b"\0\0\0\x20\x01\0\x01\0\x05\0\0\0\x20\0\0\0\0\0\0\0\x08\0\x0d\0\x02\0\0\0\x02\0\0\0AABB");
        assert_eq!(good.result, Found::Ok, "{}", good.found);
        assert!(good.found.ends_with("enclave version 8, PCE version 13"), "{}", good.found);
        let refused = answers(b"\0\0\0\x10\x01\0\x01\0\x05\0\0\0\x10\0\0\0\x01\x20\x01\0");
        assert_eq!(refused.result, Found::Failed);
        assert!(refused.found.contains("an unexpected error (0x12001)"), "{}", refused.found);
        for other in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            b"\0\0\0\x10\x02\0\x01\0\x05\0\0\0\x10\0\0\0\0\0\0\0",
            b"\0\0",
            b"",
        ] {
            assert_eq!(answers(other).result, Found::Failed, "{other:?}");
        }
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(service(&directory.path().join("none")).result, Found::Missing);
        std::fs::write(directory.path().join("file"), "").unwrap();
        assert_eq!(service(&directory.path().join("file")).result, Found::Failed);
    }

    #[test]
    fn the_caching_service_is_the_one_that_the_library_asks() {
        let json = "{\n  // comment\n  \"pccs_url\": \"https://localhost:8081/sgx/certification/v4/\",\n \"use_secure_cert\": true\n}";
        assert_eq!(pccs_url(json).and_then(authority).as_deref(), Some("localhost:8081"));
        assert_eq!(
            pccs_url("PCCS_URL=https://pccs.example/sgx/").and_then(authority).as_deref(),
            Some("pccs.example:443")
        );
        assert_eq!(pccs_url("{}"), None);
        assert_eq!(authority("ftp://x/"), None);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let there = format!("\"pccs_url\": \"http://{}/\"", listener.local_addr().unwrap());
        assert_eq!(caching(Some(&there)).result, Found::Ok);
        // Of the name's addresses, ::1 often the first, only this one listens.
        let named = there.replace("127.0.0.1", "localhost");
        assert_eq!(caching(Some(&named)).result, Found::Ok);
        // cofferd's own setting has the same form.
        let own = pccs_url(&there).map(str::to_owned).unwrap();
        let asked = |url: &str| checks(Path::new("/no/such"), Some(url)).remove(1);
        assert_eq!((asked(&own).name, asked(&own).result), (CACHING, Found::Ok));
        assert_eq!(asked("pccs.example").result, Found::Failed);
        drop(listener);
        assert_eq!(asked(&own).result, Found::Failed);
        assert_eq!(caching(Some(&there)).result, Found::Failed);
        assert_eq!(caching(None).result, Found::Missing);
    }
}
