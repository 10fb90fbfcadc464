//! The QEMU kit as `coffer-image kit` leaves it, and a bare boot of an image with it: the baseline that session start
//! is measured against. No `cofferd` takes part.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// What the simulated image prints first of all from user space.
const FIRST_USERSPACE_LINE: &str = "coffer-shim: first userspace line";

/// The kit directory: `COFFER_TEST_KIT`, else the one in the user's cache.
///
/// # Errors
/// When neither is there.
pub fn kit_directory() -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("COFFER_TEST_KIT") {
        return Ok(PathBuf::from(dir));
    }
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("expected HOME to be set")?).join(".cache"),
    };
    let dir = cache.join("coffer/qemu/current");
    if !dir.join("kit.json").exists() {
        bail!("expected a QEMU kit in {}, found none: run `coffer-image kit`", dir.display());
    }
    Ok(dir)
}

/// The command that runs the kit's QEMU under the kit's own loader, without arguments of its own yet.
///
/// # Errors
/// When `kit.json` is missing or lacks a field.
pub fn qemu_command(kit: &Path) -> anyhow::Result<Command> {
    let text = std::fs::read(kit.join("kit.json")).with_context(|| format!("read {}/kit.json", kit.display()))?;
    let json: serde_json::Value = serde_json::from_slice(&text).context("parse kit.json")?;
    let field = |name: &str| json[name].as_str().map(|s| kit.join(s)).with_context(|| format!("kit.json: no {name}"));
    let list = |name: &str| -> anyhow::Result<Vec<PathBuf>> {
        let items = json[name].as_array().with_context(|| format!("kit.json: no {name}"))?;
        Ok(items.iter().filter_map(|v| v.as_str()).map(|s| kit.join(s)).collect())
    };
    let mut command = Command::new(field("loader")?);
    let libraries: Vec<String> = list("library_path")?.iter().map(|p| p.display().to_string()).collect();
    command.arg("--library-path").arg(libraries.join(":")).arg(field("binary")?);
    for dir in list("data")? {
        command.arg("-L").arg(dir);
    }
    Ok(command)
}

/// Writes a program that can be run as QEMU: `edits` is bash that may change the array `arguments` and use `$disk`, the boot
/// disk, and `$run`, the only directory that it may write to; then the kit's QEMU is run with them.
///
/// # Errors
/// When the kit is missing or the file cannot be written.
pub fn write_wrapper(path: &Path, edits: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    // The jail shows the kit under its real name.
    let qemu = qemu_command(&kit_directory()?.canonicalize()?)?;
    let mut line = vec![qemu.get_program().to_string_lossy().into_owned()];
    line.extend(qemu.get_args().map(|a| a.to_string_lossy().into_owned()));
    let command: Vec<String> = line.iter().map(|a| format!("'{a}'")).collect();
    let script = format!(
        r#"#!/bin/bash
set -eu
disk= run=
for argument in "$@"; do
  case $argument in
    *file=*/boot.img) disk=${{argument##*file=}};;
    unix:*/qmp.sock,*) run=${{argument#unix:}} run=${{run%/qmp.sock,*}};;
  esac
done
arguments=("$@")
{edits}
exec {command} "${{arguments[@]}}"
"#,
        command = command.join(" "),
    );
    std::fs::write(path, script)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Boots the image with nothing beside it and returns the time from the start of QEMU to the first user-space line.
///
/// # Errors
/// When QEMU cannot be started, or the line does not come within `limit`.
pub fn bare_boot(kit: &Path, image: &Path, limit: Duration) -> anyhow::Result<Duration> {
    let cmdline = std::fs::read_to_string(image.join("cmdline")).context("read the image's command line")?;
    let mut command = qemu_command(kit)?;
    command
        .args([
            "-machine",
            "q35,kernel-irqchip=split,smm=off,hpet=off,memory-backend=mem0",
            "-accel",
            "tcg,thread=multi",
        ])
        .args(["-cpu", "max", "-smp", "2", "-m", "2G", "-object", "memory-backend-memfd,id=mem0,size=2G,share=on"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"])
        .arg("-bios")
        .arg(image.join("firmware.fd"))
        .arg("-kernel")
        .arg(image.join("vmlinuz"))
        .arg("-initrd")
        .arg(image.join("initrd.img"))
        .args(["-append", &cmdline]);
    for (name, file) in [("coffer-root", "root.erofs"), ("coffer-verity", "root.verity")] {
        let file = image.join(file);
        command.arg("-drive").arg(format!("if=none,id={name},format=raw,readonly=on,file={}", file.display()));
        command.arg("-device").arg(format!("virtio-blk-pci,drive={name},serial={name}"));
    }
    let begin = Instant::now();
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("start QEMU")?;
    let mut guard = KillOnDrop(child);
    let stdout = guard.0.stdout.take().context("QEMU's console")?;
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if String::from_utf8_lossy(&line).contains(FIRST_USERSPACE_LINE) {
                let _ = sender.send(Instant::now());
                return;
            }
        }
    });
    match receiver.recv_timeout(limit) {
        Ok(end) => Ok(end.duration_since(begin)),
        Err(_) => bail!("expected `{FIRST_USERSPACE_LINE}` on the console within {limit:?}, found none"),
    }
}

/// A child that does not outlive its owner.
pub struct KillOnDrop(pub Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
