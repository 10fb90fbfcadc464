//! `guest-stream SOCKET PORT LINE`: connects to a port of the guest behind the socket of its vsock device, says the line, and
//! hands the connection over on stdout. A `ProxyCommand` for ssh with `ProxyUseFdpass`: nothing then stands between the two.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::Context as _;
use coffer_tests::guest::dial;
use coffer_tests::openssh::send_descriptor;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, port, line] = arguments.as_slice() else { anyhow::bail!("usage: guest-stream SOCKET PORT LINE") };
    let mut stream = dial(Path::new(device), port.parse().context("PORT is a number")?)?;
    writeln!(stream, "{line}")?;
    send_descriptor(std::io::stdout().as_fd(), stream.as_fd())
}
