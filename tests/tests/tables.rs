//! The ACPI tables that reference values are made of come from a machine without a vsock device, which needs a backend. Here
//! there is one: the tables are the same bytes.

use std::io::BufRead as _;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use coffer_image::acpi::{PhysicalBits, Ran, Vsock, show};
use coffer_image::kit::Kit;
use coffer_measurement::Shape;
use coffer_tests::host::binaries;
use coffer_tests::kit::{KillOnDrop, kit_directory};
use coffer_tests::needs_an_image;

#[test]
fn the_device_in_the_slot_of_vsock_makes_the_tables_of_vsock() -> anyhow::Result<()> {
    let image = needs_an_image!();
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("vhost.sock");
    let mut device = Command::new(binaries().join("coffer-vsock"));
    device.args(["--cid", "4096", "--vhost-socket"]).arg(&socket).arg("--uds").arg(dir.path().join("vsock.sock"));
    let mut device = KillOnDrop(device.stdout(Stdio::piped()).spawn().context("start coffer-vsock")?);
    let mut line = String::new();
    std::io::BufReader::new(device.0.stdout.take().context("stdout")?).read_line(&mut line)?;
    assert_eq!(line, "coffer-vsock: ready\n");

    let kit = Kit::at(kit_directory()?.canonicalize()?);
    let (firmware, kernel) = (std::fs::read(image.join("firmware.fd"))?, std::fs::read(image.join("vmlinuz"))?);
    for shape in Shape::ALL {
        let ran = Ran { kit: &kit, firmware: &firmware, kernel: &kernel, bits: PhysicalBits::SERVER };
        let with = show(ran, *shape, &Vsock::VhostUser(socket.clone()))?;
        assert!(with == show(ran, *shape, &Vsock::StandIn)?, "{shape}: other tables");
    }
    Ok(())
}
