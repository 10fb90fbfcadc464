//! The QEMU kit: QEMU with its own loader, libraries and data, unpacked into the cache by `coffer-image build`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::{Check, Need};

const NAME: &str = "QEMU kit";
const FIX: &str =
    "run scripts/build, which makes it, or `coffer-image build`; or set vmm.qemu in cofferd's configuration";

/// `kit.json`, paths relative to the kit.
#[derive(Deserialize)]
struct Description {
    version: String,
    binary: PathBuf,
    loader: PathBuf,
    library_path: Vec<PathBuf>,
    data: Vec<PathBuf>,
}

pub(super) fn check() -> Check {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    match cache {
        Some(cache) => check_kit(&cache.join("coffer/qemu/current")),
        None => Check::missing(NAME, Need::Both, "neither XDG_CACHE_HOME nor HOME is set", "set one of them"),
    }
}

fn check_kit(kit: &Path) -> Check {
    let path = kit.join("kit.json");
    let Ok(text) = std::fs::read(&path) else {
        return Check::missing(NAME, Need::Both, format!("no {}", path.display()), FIX);
    };
    let description: Description = match serde_json::from_slice(&text) {
        Ok(description) => description,
        Err(error) => return Check::failed(NAME, Need::Both, format!("{}: {error}", path.display()), FIX),
    };
    let parts = [&description.loader, &description.binary]
        .into_iter()
        .chain(&description.library_path)
        .chain(&description.data);
    if let Some(lost) = parts.map(|part| kit.join(part)).find(|part| !part.exists()) {
        return Check::failed(NAME, Need::Both, format!("{} is not in the kit", lost.display()), FIX);
    }
    match version(kit, &description) {
        Ok(line) => Check::ok(NAME, Need::Both, format!("{line}, {}", kit.display())),
        Err(why) => Check::failed(NAME, Need::Both, format!("{} does not run: {why}", description.version), FIX),
    }
}

/// What the kit's QEMU itself says: the only proof that it runs here.
fn version(kit: &Path, description: &Description) -> Result<String, String> {
    let libraries: Vec<_> = description.library_path.iter().map(|path| kit.join(path).into_os_string()).collect();
    let output = Command::new(kit.join(&description.loader))
        .arg("--library-path")
        .arg(libraries.join(":".as_ref()))
        .arg(kit.join(&description.binary))
        .arg("--version")
        .env_remove("LD_PRELOAD")
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().next().filter(|line| output.status.success() && line.starts_with("QEMU"));
    first
        .map(str::to_owned)
        .ok_or_else(|| format!("{}, {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use super::super::Found;
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_kit_is_believed_when_it_runs() {
        let kit = tempfile::tempdir().expect("a directory");
        assert_eq!(check_kit(kit.path()).result, Found::Missing);
        let description = r#"{"version":"1","binary":"qemu","loader":"loader","library_path":[],"data":[]}"#;
        std::fs::write(kit.path().join("kit.json"), description).expect("a file");
        assert_eq!(check_kit(kit.path()).result, Found::Failed, "its parts are missing");
        std::fs::write(kit.path().join("qemu"), "").expect("a file");
        let loader = kit.path().join("loader");
        std::fs::write(&loader, "#!/bin/sh\nexit 1\n").expect("a file");
        std::fs::set_permissions(&loader, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        assert_eq!(check_kit(kit.path()).result, Found::Failed, "it does not run");
        std::fs::write(&loader, "#!/bin/sh\necho QEMU emulator version 11\n").expect("a file");
        assert_eq!(check_kit(kit.path()).result, Found::Ok);
    }
}
