//! The programs that a session needs beside `cofferd`: the vsock device, the simulator.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{Check, Need};

const KERNEL_VSOCK: &str = "/dev/vhost-vsock";
const BUILD: &str = "build it, and keep it in the directory of coffer: cargo build --release -p";

pub(super) fn checks() -> Vec<Check> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf)).unwrap_or_default();
    vec![link(Path::new(KERNEL_VSOCK), &beside), program("simulator", Need::Simulated, &beside, "coffer-tdx-sim")]
}

/// Either vsock device will do.
fn link(kernel: &Path, beside: &Path) -> Check {
    const NAME: &str = "vsock";
    if std::fs::OpenOptions::new().read(true).write(true).open(kernel).is_ok() {
        return Check::ok(NAME, Need::Both, format!("the kernel's, {}", kernel.display()));
    }
    let own = program(NAME, Need::Both, beside, "coffer-vsock");
    let found = format!("{} does not open; {}", kernel.display(), own.found);
    Check { found, ..own }
}

fn program(name: &'static str, need: Need, beside: &Path, file: &str) -> Check {
    let path: PathBuf = beside.join(file);
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => {
            Check::ok(name, need, path.display().to_string())
        }
        Ok(_) => Check::failed(name, need, format!("{} is not a program", path.display()), format!("{BUILD} {file}")),
        Err(_) => Check::missing(name, need, format!("no {}", path.display()), format!("{BUILD} {file}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Found;
    use super::*;

    #[test]
    fn one_of_two_vsock_devices_is_enough() {
        let directory = tempfile::tempdir().expect("a directory");
        let (kernel, own) = (directory.path().join("vhost-vsock"), directory.path().join("coffer-vsock"));
        let look = || link(&kernel, directory.path()).result;
        assert_eq!(look(), Found::Missing);
        std::fs::write(&own, "").expect("a file");
        assert_eq!(look(), Found::Failed, "not executable");
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        assert_eq!(look(), Found::Ok);
        std::fs::remove_file(&own).expect("remove");
        std::fs::write(&kernel, "").expect("a file");
        assert_eq!(look(), Found::Ok);
    }
}
