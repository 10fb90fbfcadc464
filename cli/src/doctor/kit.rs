//! The QEMU kit: QEMU with its own loader, libraries and data, unpacked into the cache by `coffer-image build`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
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

/// How long QEMU may take to say something about itself.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the object must take, as `cofferd` gives it.
const PROPERTIES: [&str; 4] = ["mrconfigid", "mrowner", "mrownerconfig", "quote-generation-socket"];

pub(super) fn checks() -> Vec<Check> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    match cache {
        Some(cache) => {
            let kit = cache.join("coffer/qemu/current");
            vec![check_kit(&kit), check_tdx(&kit)]
        }
        None => {
            vec![Check::missing(NAME, Need::Both, "neither XDG_CACHE_HOME nor HOME is set", "set one of them")]
        }
    }
}

/// What the kit says of itself, or why it does not.
fn describe(kit: &Path) -> Result<Description, Check> {
    let path = kit.join("kit.json");
    let text =
        std::fs::read(&path).map_err(|_| Check::missing(NAME, Need::Both, format!("no {}", path.display()), FIX))?;
    serde_json::from_slice(&text)
        .map_err(|error| Check::failed(NAME, Need::Both, format!("{}: {error}", path.display()), FIX))
}

fn check_kit(kit: &Path) -> Check {
    let description = match describe(kit) {
        Ok(description) => description,
        Err(check) => return check,
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

/// Whether this QEMU can be asked for a TD at all.
fn check_tdx(kit: &Path) -> Check {
    const NAME: &str = "QEMU tdx-guest";
    const FIX: &str = "use QEMU 10.1 or newer: run scripts/build, which brings one; or set vmm.qemu";
    let described = describe(kit).map_err(|_| "there is no kit".to_owned());
    match described.and_then(|description| properties(kit, &description)) {
        Ok(found) => {
            let lost: Vec<&str> = PROPERTIES.into_iter().filter(|name| !found.iter().any(|has| has == name)).collect();
            match lost[..] {
                [] => Check::ok(NAME, Need::Tdx, "takes the measured fields and the quoting service's socket"),
                _ => Check::failed(NAME, Need::Tdx, format!("the object takes no {}", lost.join(", no ")), FIX),
            }
        }
        Err(why) => Check::missing(NAME, Need::Tdx, why, FIX),
    }
}

/// The properties of QEMU's object `tdx-guest`, as QEMU tells them over QMP. It starts no machine.
fn properties(kit: &Path, description: &Description) -> Result<Vec<String>, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut qemu = qemu(kit, description)
        .args(["-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(text)?;
    let ask = b"{\"execute\":\"qmp_capabilities\"}\n\
        {\"execute\":\"qom-list-properties\",\"arguments\":{\"typename\":\"tdx-guest\"},\"id\":1}\n{\"execute\":\"quit\"}\n";
    // It ends by itself after the last line; one that does not is not worth the wait.
    if let Some(stdin) = &mut qemu.stdin {
        stdin.write_all(ask).map_err(text)?;
    }
    let output = ended(qemu)?;
    let lines = String::from_utf8_lossy(&output.stdout);
    let answers = lines.lines().filter_map(|line| serde_json::from_str::<Answer>(line).ok());
    match answers.into_iter().find(|answer| answer.id == Some(1)) {
        Some(Answer { properties: Some(all), .. }) => Ok(all.into_iter().map(|property| property.name).collect()),
        Some(Answer { error: Some(error), .. }) => Err(error.desc),
        _ => Err("QEMU did not answer".to_owned()),
    }
}

/// What a QEMU said that ends by itself. One that does not within [`PATIENCE`] is killed.
fn ended(mut qemu: Child) -> Result<Output, String> {
    drop(qemu.stdin.take());
    let pidfd = Pid::from_raw(qemu.id().cast_signed())
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .ok_or("QEMU cannot be waited for")?;
    let (done, over) = mpsc::channel::<()>();
    // It writes little, but may write more than a pipe holds: somebody else watches the time.
    let watch = std::thread::spawn(move || {
        let late = over.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
        late
    });
    let output = qemu.wait_with_output();
    drop(done);
    match (watch.join(), output) {
        (Ok(true), _) => Err(format!("it did not end within {} s", PATIENCE.as_secs())),
        (_, output) => output.map_err(|error| error.to_string()),
    }
}

/// What QEMU says on a line.
#[derive(Deserialize)]
struct Answer {
    id: Option<u64>,
    #[serde(rename = "return")]
    properties: Option<Vec<Property>>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Property {
    name: String,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

fn qemu(kit: &Path, description: &Description) -> Command {
    let libraries: Vec<_> = description.library_path.iter().map(|path| kit.join(path).into_os_string()).collect();
    let mut command = Command::new(kit.join(&description.loader));
    command.arg("--library-path").arg(libraries.join(":".as_ref())).arg(kit.join(&description.binary));
    command.env_remove("LD_PRELOAD").env_remove("LD_LIBRARY_PATH");
    command
}

/// What the kit's QEMU itself says: the only proof that it runs here.
fn version(kit: &Path, description: &Description) -> Result<String, String> {
    let mut command = qemu(kit, description);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = ended(command.spawn().map_err(|error| error.to_string())?)?;
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
        assert_eq!(check_tdx(kit.path()).result, Found::Missing, "it does not answer");
        let says = |text: &str| {
            std::fs::write(&loader, format!("#!/bin/sh\ncat >/dev/null\ncat <<'E'\n{text}\nE\n")).expect("a file");
            check_tdx(kit.path())
        };
        let names = PROPERTIES.map(|name| format!("{{\"name\":\"{name}\",\"type\":\"string\"}}")).join(",");
        let greeting = "{\"QMP\":{}}\n{\"return\":{}}";
        assert_eq!(says(&format!("{greeting}\n{{\"return\":[{names}],\"id\":1}}")).result, Found::Ok);
        let some = says(&format!("{greeting}\n{{\"return\":[{{\"name\":\"mrowner\"}}],\"id\":1}}"));
        assert!(some.result == Found::Failed && some.found.contains("mrconfigid"), "{}", some.found);
        let refusal = "{\"id\":1,\"error\":{\"class\":\"GenericError\",\"desc\":\"Class 'tdx-guest' not found\"}}";
        let none = says(&format!("{greeting}\n{refusal}"));
        assert_eq!((none.result, none.found.as_str()), (Found::Missing, "Class 'tdx-guest' not found"));
    }
}
