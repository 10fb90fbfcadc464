//! Where things are kept by default (DESIGN §14).

use std::env;
use std::path::PathBuf;

/// Why there is no default place.
#[derive(Debug, thiserror::Error)]
#[error("expected HOME or {variable} to be an absolute path, found neither: set one, or name the place with {option}")]
pub struct NoHome {
    variable: &'static str,
    option: &'static str,
}

/// `$XDG_CACHE_HOME/coffer`.
pub fn cache() -> Result<PathBuf, NoHome> {
    base("XDG_CACHE_HOME", ".cache", "--cache")
}

/// `$XDG_CONFIG_HOME/coffer/publisher.key`.
pub fn publisher_key() -> Result<PathBuf, NoHome> {
    Ok(base("XDG_CONFIG_HOME", ".config", "--publisher-key")?.join("publisher.key"))
}

/// The images of the state directory: `/var/lib/coffer/images` as root, else below `$XDG_STATE_HOME/coffer`.
pub fn images() -> Result<PathBuf, NoHome> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/coffer/images"));
    }
    Ok(base("XDG_STATE_HOME", ".local/state", "--out")?.join("images"))
}

fn base(variable: &'static str, below_home: &str, option: &'static str) -> Result<PathBuf, NoHome> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(below_home)));
    base.map(|path| path.join("coffer")).ok_or(NoHome { variable, option })
}
