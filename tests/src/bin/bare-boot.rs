//! `bare-boot IMAGE_DIR`: prints the milliseconds that QEMU alone needs from its start to the first user-space line of
//! the image. The baseline of the demo and of the benchmarks.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    let image = std::env::args_os().nth(1).map(PathBuf::from).context("usage: bare-boot IMAGE_DIR")?;
    let kit = coffer_tests::kit::kit_directory()?;
    let took = coffer_tests::kit::bare_boot(&kit, &image, Duration::from_secs(120))?;
    println!("{}", took.as_millis());
    Ok(())
}
