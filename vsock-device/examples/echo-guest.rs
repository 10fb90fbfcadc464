//! `/init` of the guest in `tests/real_guest.rs`: loads the image's modules, listens on vsock port 5000 and gives back
//! what it is sent, each connection in a thread of its own. Not part of any image.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;

use vsock::{VMADDR_CID_ANY, VsockListener};

fn main() -> std::io::Result<()> {
    println!("echo-guest: started");
    let list = std::fs::read_to_string("/etc/coffer/modules")?;
    for line in list.lines().filter(|line| !line.is_empty()) {
        let file = std::fs::File::open(line.trim_start_matches('?'))?;
        if let Err(error) = rustix::system::finit_module(file.as_fd(), c"", 0) {
            println!("echo-guest: {line}: {error}");
        }
    }
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, 5000)?;
    println!("echo-guest: listening");
    for stream in listener.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || -> std::io::Result<()> {
            let mut buffer = vec![0; 256 * 1024];
            loop {
                let length = stream.read(&mut buffer)?;
                if length == 0 {
                    return stream.shutdown(std::net::Shutdown::Both);
                }
                stream.write_all(buffer.get(..length).unwrap_or_default())?;
            }
        });
    }
    Ok(())
}
