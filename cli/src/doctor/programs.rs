//! The programs and services that a session needs beside `cofferd`: the vsock device, the simulator, the quoting service.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{Check, Need};

const KERNEL_VSOCK: &str = "/dev/vhost-vsock";
/// Where Intel's quote generation service listens.
const QUOTE_SOCKET: &str = "/var/run/tdx-qgs/qgs.socket";
const BUILD: &str = "build it, and keep it in the directory of coffer: cargo build --release -p";

pub(super) fn checks() -> Vec<Check> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf)).unwrap_or_default();
    vec![
        link(Path::new(KERNEL_VSOCK), &beside),
        program("simulator", Need::Simulated, &beside, "coffer-tdx-sim"),
        quoting(Path::new(QUOTE_SOCKET)),
    ]
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

fn quoting(socket: &Path) -> Check {
    const NAME: &str = "quoting service";
    const FIX: &str = "install Intel's tdx-qgs, and have it listen on its unix socket; or set vmm.quote_socket";
    match std::fs::metadata(socket) {
        Ok(metadata) if metadata.file_type().is_socket() => Check::ok(NAME, Need::Tdx, socket.display().to_string()),
        Ok(_) => Check::failed(NAME, Need::Tdx, format!("{} is no socket", socket.display()), FIX),
        Err(_) => Check::missing(NAME, Need::Tdx, format!("no {}", socket.display()), FIX),
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
