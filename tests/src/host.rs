//! A `cofferd` of its own for a test: temporary state, temporary socket, the real image, real guests. What a user
//! would do is done through the `coffer` command; nothing here reaches into the product's code.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, bail};

use crate::repository;

/// The image directory that guests boot from, named by `COFFER_TEST_IMAGE`.
#[must_use]
pub fn image_directory() -> Option<PathBuf> {
    std::env::var_os("COFFER_TEST_IMAGE").map(|dir| {
        let dir = PathBuf::from(dir);
        if dir.is_absolute() { dir } else { repository().join(dir) }
    })
}

/// The directory of the release binaries.
#[must_use]
pub fn binaries() -> PathBuf {
    repository().join("target/release")
}

/// How many uids each host has.
const UIDS: u32 = 64;

/// The lines of `[vmm]` that give a new host uids of its own. Hosts that share some take each other's processes for their
/// own leftovers.
#[must_use]
pub fn uids_of_its_own() -> String {
    static HOSTS: AtomicU32 = AtomicU32::new(0);
    let of_this_process = HOSTS.fetch_add(1, Ordering::Relaxed) % 64;
    let first = 1_000_000 + (std::process::id() % 4_096) * 64 * UIDS + of_this_process * UIDS;
    format!("uid_first = {first}\nuid_count = {UIDS}\n")
}

/// The process ids whose command line names this directory, those of the list left out.
#[must_use]
pub fn processes_naming(directory: &Path, left_out: &[u32]) -> Vec<(u32, String)> {
    let needle = directory.display().to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    pids.filter(|pid| !left_out.contains(pid))
        .map(|pid| (pid, std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()))
        .map(|(pid, line)| (pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        .filter(|(_, line)| line.contains(&needle))
        .collect()
}

/// One running `cofferd`, ended and cleaned up on drop.
pub struct Host {
    directory: tempfile::TempDir,
    daemon: Child,
}

/// Settings of a test host beyond the defaults.
#[derive(Default)]
pub struct Settings {
    /// A program to run instead of the QEMU kit.
    pub qemu: Option<PathBuf>,
    /// The image directory, where it is not the one that `COFFER_TEST_IMAGE` names.
    pub image: Option<PathBuf>,
    /// More of the configuration: sections that are not in it yet.
    pub more: &'static str,
}

impl Host {
    /// Starts `cofferd` and returns when it says that it is listening.
    ///
    /// # Errors
    /// When the image or a binary is missing, or `cofferd` ends before it listens.
    pub fn start(settings: &Settings) -> anyhow::Result<Self> {
        let image = settings.image.clone().or_else(image_directory);
        let image = image.context("expected COFFER_TEST_IMAGE to name an image directory")?.canonicalize()?;
        let directory = tempfile::Builder::new().prefix("coffer-test.").tempdir().context("make a directory")?;
        let images = image.parent().context("the image directory has a parent")?;
        let digest = image.file_name().context("the image directory has a name")?.to_string_lossy();
        let qemu = match &settings.qemu {
            Some(path) => format!("qemu = {:?}\n", path.display().to_string()),
            None => String::new(),
        };
        let vmm = format!("[vmm]\n{}{qemu}", uids_of_its_own());
        let config = directory.path().join("cofferd.toml");
        std::fs::write(
            &config,
            format!(
                "[listen]\nsocket = {:?}\n[image]\ndirectory = {:?}\ndefault = {digest:?}\n{vmm}{}",
                directory.path().join("cofferd.sock").display().to_string(),
                images.display().to_string(),
                settings.more,
            ),
        )?;
        let daemon = spawn(directory.path())?;
        let mut host = Self { directory, daemon };
        host.wait_until_it_listens()?;
        Ok(host)
    }

    fn wait_until_it_listens(&mut self) -> anyhow::Result<()> {
        let stdout = self.daemon.stdout.take().context("cofferd's stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if !line.starts_with("cofferd: listening") {
            bail!("expected cofferd to say that it listens, found {line:?}; diagnostics:\n{}", self.diagnostics());
        }
        Ok(())
    }

    /// Kills `cofferd` as a crash would: nothing of it gets another turn.
    ///
    /// # Errors
    /// When it cannot be killed or waited for.
    pub fn crash(&mut self) -> anyhow::Result<()> {
        self.daemon.kill()?;
        self.daemon.wait()?;
        Ok(())
    }

    /// Starts `cofferd` again over the same state, after a crash.
    ///
    /// # Errors
    /// When it ends before it listens.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.daemon = spawn(self.directory.path())?;
        self.wait_until_it_listens()
    }

    /// The directory that holds everything of this host.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The process of `cofferd`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// The socket that `cofferd` listens on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory().join("cofferd.sock")
    }

    /// The most memory that `cofferd` has had resident so far, in KiB.
    ///
    /// # Errors
    /// When it is gone.
    pub fn peak_memory_kib(&self) -> anyhow::Result<u64> {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.daemon.id())).context("cofferd's status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// The directory of a session on the host.
    #[must_use]
    pub fn session_directory(&self, session: &str) -> PathBuf {
        self.directory().join("state/sessions").join(session)
    }

    /// What `cofferd` wrote to stderr so far.
    #[must_use]
    pub fn diagnostics(&self) -> String {
        std::fs::read_to_string(self.directory().join("cofferd.log")).unwrap_or_default()
    }

    /// The `coffer` command against this host, with keys of its own.
    #[must_use]
    pub fn coffer(&self) -> Command {
        let mut command = Command::new(binaries().join("coffer"));
        command
            .env("COFFER_SOCKET", self.socket())
            .env("XDG_CONFIG_HOME", self.directory().join("config"))
            .stdin(Stdio::null());
        command
    }

    /// Runs `coffer` with these arguments to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> anyhow::Result<Output> {
        self.coffer().args(arguments).output().context("run coffer")
    }

    /// Runs `coffer` and returns its stdout.
    ///
    /// # Errors
    /// When it exits with anything but 0: with both its outputs and the diagnostics of `cofferd`.
    pub fn ok<S: AsRef<OsStr>>(&self, arguments: &[S]) -> anyhow::Result<String> {
        let output = self.run(arguments)?;
        if !output.status.success() {
            let shown: Vec<_> = arguments.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect();
            bail!(
                "coffer {}: {}\nstdout: {}\nstderr: {}\ncofferd: {}",
                shown.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
                self.diagnostics(),
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Creates a session, waits until it is Ready, and returns its id.
    ///
    /// # Errors
    /// As [`Host::ok`].
    pub fn session(&self) -> anyhow::Result<String> {
        Ok(self.ok(&["session", "create", "--wait"])?.trim().to_owned())
    }

    /// The process ids whose command line names this host's directory, `cofferd` itself left out.
    #[must_use]
    pub fn processes(&self) -> Vec<(u32, String)> {
        processes_naming(self.directory(), &[self.daemon.id(), std::process::id()])
    }

    /// What the API says of a session.
    ///
    /// # Errors
    /// As [`Host::ok`].
    pub fn get(&self, session: &str) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.ok(&["session", "get", "--json", session])?)?)
    }

    /// A call of a shell script that has said its first word, `up`, and goes on.
    ///
    /// # Errors
    /// When it says something else, or nothing.
    pub fn running(&self, session: &str, script: &str, stdin: Stdio) -> anyhow::Result<Child> {
        self.running_with(session, &[], script, stdin)
    }

    /// As [`Host::running`], with options of `coffer session exec`.
    ///
    /// # Errors
    /// As there.
    pub fn running_with(&self, session: &str, options: &[&str], script: &str, stdin: Stdio) -> anyhow::Result<Child> {
        let mut call = self.coffer();
        call.args(["session", "exec"]).args(options).args([session, "--", "sh", "-c", script]);
        let mut call = call.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut first = [0_u8; 3];
        call.stdout.as_mut().context("stdout")?.read_exact(&mut first)?;
        if &first != b"up\n" {
            bail!("expected the call to say `up`, found {first:?}");
        }
        Ok(call)
    }

    /// The verdict over a session's evidence, simulated and a prefix accepted; none when there is no evidence.
    ///
    /// # Errors
    /// When the verifier says nothing.
    pub fn verdict(&self, session: &str) -> anyhow::Result<Option<serde_json::Value>> {
        let bundle = self.directory().join(format!("{session}.evidence")).display().to_string();
        if !self.run(&["evidence", "export", session, &bundle])?.status.success() {
            return Ok(None);
        }
        let seen = self.run(&["evidence", "verify", "--json", "--accept-simulated", "--accept-prefix", &bundle])?;
        Ok(Some(serde_json::from_slice(&seen.stdout)?))
    }

    /// The pid of a session's process whose command line holds this.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn process_of(&self, session: &str, program: &str) -> anyhow::Result<u32> {
        let all = self.processes();
        let found: Vec<u32> =
            all.iter().filter(|(_, c)| c.contains(session) && c.contains(program)).map(|(pid, _)| *pid).collect();
        match found.as_slice() {
            [pid] => Ok(*pid),
            _ => bail!("expected one {program} of session {session}, found {found:?} among {all:?}"),
        }
    }

    /// What is left of a session on the host: processes, its directory, cgroups, mounts.
    #[must_use]
    pub fn residue(&self, session: &str) -> Vec<String> {
        let mut left: Vec<String> = self
            .processes()
            .into_iter()
            .filter(|(_, c)| c.contains(session))
            .map(|(p, c)| format!("process {p}: {c}"))
            .collect();
        if self.session_directory(session).exists() {
            left.push(format!("directory {}", self.session_directory(session).display()));
        }
        for root in ["/sys/fs/cgroup/coffer", "/sys/fs/cgroup/unified/coffer"] {
            let cgroup = Path::new(root).join(session);
            if cgroup.exists() {
                left.push(format!("cgroup {}", cgroup.display()));
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        left.extend(mounts.lines().filter(|l| l.contains(session)).map(|l| format!("mount {l}")));
        let sockets = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
        left.extend(sockets.lines().filter(|l| l.contains(session)).map(|l| format!("socket {l}")));
        // What the host itself found in its second look: processes of the session's uid, too.
        match self.get(session).map(|shown| shown["scrub_failures"].as_array().cloned().unwrap_or_default()) {
            Ok(failures) => left.extend(failures.iter().map(|why| format!("clean-up: {why}"))),
            Err(error) => left.push(format!("no word about its clean-up: {error:#}")),
        }
        left
    }

    /// Ends `cofferd` with SIGTERM and waits for it: it closes what is open.
    ///
    /// # Errors
    /// When it cannot be signalled or waited for.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        terminate(self.daemon.id())?;
        self.daemon.wait()?;
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Starts `cofferd` with the files in a directory; its diagnostics are appended to those of an earlier life.
fn spawn(directory: &Path) -> anyhow::Result<Child> {
    let diagnostics = File::options().create(true).append(true).open(directory.join("cofferd.log"))?;
    Command::new(binaries().join("cofferd"))
        .arg("serve")
        .arg("--config")
        .arg(directory.join("cofferd.toml"))
        .arg("--state")
        .arg(directory.join("state"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(diagnostics)
        .spawn()
        .context("start cofferd")
}

/// Sends SIGTERM to a process that this test started.
///
/// # Errors
/// When the kernel refuses.
pub fn terminate(pid: u32) -> anyhow::Result<()> {
    signal(pid, "TERM")
}

/// Sends SIGKILL to a process that this test started.
///
/// # Errors
/// When the kernel refuses.
pub fn kill(pid: u32) -> anyhow::Result<()> {
    signal(pid, "KILL")
}

/// Sends a signal, `STOP` for one, to a process that this test started.
///
/// # Errors
/// When the kernel refuses.
pub fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().context("run kill")?;
    if !status.success() {
        bail!("expected to signal process {pid}, kill said {status}");
    }
    Ok(())
}
