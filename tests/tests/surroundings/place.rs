//! A place for one `cofferd`: state, socket and configuration of its own, and, where a test asks for it, a mount namespace
//! in which something of the host is missing, full or read-only. Nothing that is mounted there is seen outside.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use coffer_tests::host::{binaries, image_directory, kill, processes_naming, terminate, uids_of_its_own};

/// How long `cofferd` may take to refuse to start.
const REFUSAL: Duration = Duration::from_secs(20);
/// How long a test waits for a word in the diagnostics, or a change on the host.
const SOON: Duration = Duration::from_secs(30);

/// Everything of one `cofferd`; what still runs is ended on drop.
pub(crate) struct Place {
    directory: tempfile::TempDir,
    daemon: Option<Child>,
    /// Lines of `[vmm]`.
    pub(crate) vmm: String,
    /// Other sections of the configuration.
    pub(crate) config: String,
    /// Shell commands that arrange the mount namespace; none: the host's own is used.
    pub(crate) mounts: String,
    /// The last of them: `cofferd` is `"$@"`.
    pub(crate) run: &'static str,
}

/// How a `cofferd` that did not start ended.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: Option<i32>,
    pub(crate) said: String,
}

/// Whether mounts and other users can be had here.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

impl Place {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("coffer-test.").tempdir().context("make a directory")?;
        Ok(Self {
            directory,
            daemon: None,
            vmm: uids_of_its_own(),
            config: String::new(),
            mounts: String::new(),
            run: "exec \"$@\"",
        })
    }

    /// One that boots the built image.
    pub(crate) fn with_image() -> anyhow::Result<Self> {
        let mut place = Self::new()?;
        let image = image_directory().context("expected COFFER_TEST_IMAGE to name an image directory")?;
        place.use_image(&image)?;
        Ok(place)
    }

    /// One that boots a copy of this image, of which files can be taken away; where the copy is.
    pub(crate) fn with_copy_of(image: &Path) -> anyhow::Result<(Self, PathBuf)> {
        let mut place = Self::new()?;
        let copy = place.path("images").join(image.file_name().context("a name")?);
        std::fs::create_dir(place.path("images"))?;
        linked_copy(image, &copy)?;
        place.use_image(&copy)?;
        Ok((place, copy))
    }

    /// Uses this image and no other.
    pub(crate) fn use_image(&mut self, image: &Path) -> anyhow::Result<()> {
        let (images, digest) = (image.parent().context("a parent")?, image.file_name().context("a name")?);
        let digest = digest.to_string_lossy();
        self.config += &format!("[image]\ndirectory = {:?}\ndefault = {digest:?}\n", images.display().to_string());
        Ok(())
    }

    /// A path in here.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// A program that does what the script says.
    pub(crate) fn script(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, format!("#!/bin/bash\n{text}\n"))?;
        chmod(&path, 0o755)?;
        Ok(path)
    }

    fn serve(&self) -> anyhow::Result<Command> {
        let config = self.path("cofferd.toml");
        let socket = self.path("cofferd.sock").display().to_string();
        std::fs::write(&config, format!("[listen]\nsocket = {socket:?}\n[vmm]\n{}{}", self.vmm, self.config))?;
        let program = binaries().join("cofferd");
        let mut command = if self.mounts.is_empty() {
            Command::new(program)
        } else {
            let mut command = Command::new("unshare");
            // `exec`: the process that is started is cofferd in the end.
            let script = format!("set -e\n{}\n{}", self.mounts, self.run);
            command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(program);
            command
        };
        command.arg("serve").arg("--config").arg(config).arg("--state").arg(self.state());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).env_remove("COFFER_SOCKET");
        Ok(command)
    }

    /// Starts `cofferd`, which listens when this returns.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::options().append(true).create(true).open(self.path("cofferd.log"))?;
        let mut daemon = self.serve()?.stderr(log).spawn().context("start cofferd")?;
        let stdout = daemon.stdout.take().context("cofferd's stdout")?;
        self.daemon = Some(daemon);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.starts_with("cofferd: listening"), "it does not listen: {line:?}\n{}", self.diagnostics());
        Ok(())
    }

    /// Starts a `cofferd` that is to end by itself.
    pub(crate) fn refused(&self) -> anyhow::Result<Refused> {
        refused(&mut self.serve()?)
    }

    /// The same, with another socket.
    pub(crate) fn refused_at(&self, socket: &Path) -> anyhow::Result<Refused> {
        refused(self.serve()?.arg("--socket").arg(socket))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().map_or(0, Child::id)
    }

    /// SIGKILL: nothing is tidied.
    pub(crate) fn kill_daemon(&mut self) -> anyhow::Result<()> {
        let mut daemon = self.daemon.take().context("a cofferd that runs")?;
        daemon.kill()?;
        daemon.wait()?;
        Ok(())
    }

    /// SIGTERM, and its end.
    pub(crate) fn stop(&mut self) -> anyhow::Result<Option<i32>> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(None) };
        terminate(daemon.id())?;
        Ok(daemon.wait()?.code())
    }

    /// Whether `cofferd` still runs.
    pub(crate) fn lives(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|daemon| matches!(daemon.try_wait(), Ok(None)))
    }

    pub(crate) fn diagnostics(&self) -> String {
        std::fs::read_to_string(self.path("cofferd.log")).unwrap_or_default()
    }

    /// What is at this path in the namespace of `cofferd`.
    pub(crate) fn inside(&self, path: &Path) -> PathBuf {
        let mut inside = PathBuf::from(format!("/proc/{}/root", self.pid()));
        inside.extend(path.components().skip(1));
        inside
    }

    pub(crate) fn coffer(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.command(arguments).output().context("run coffer")
    }

    /// The `coffer` command against this `cofferd`, with keys of its own.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binaries().join("coffer"));
        command.env("COFFER_SOCKET", self.path("cofferd.sock")).env("XDG_CONFIG_HOME", self.path("config"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    pub(crate) fn ok(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.coffer(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "coffer {arguments:?}: {said}\ncofferd: {}", self.diagnostics());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A session that is Ready.
    pub(crate) fn session(&self) -> anyhow::Result<String> {
        Ok(self.ok(&["session", "create", "--wait"])?.trim().to_owned())
    }

    /// A session as it is when it is closed.
    pub(crate) fn closed(&self, id: &str) -> anyhow::Result<serde_json::Value> {
        let shown = self.ok(&["session", "wait", "--for", "closed", id, "--json"])?;
        Ok(serde_json::from_str(&shown)?)
    }

    /// The verdict over a session's evidence.
    pub(crate) fn verdict(&self, id: &str) -> anyhow::Result<serde_json::Value> {
        let bundle = self.path(&format!("{id}.evidence")).display().to_string();
        self.ok(&["evidence", "export", id, &bundle])?;
        let verify = ["evidence", "verify", "--json", "--accept-simulated", "--accept-prefix", &bundle];
        Ok(serde_json::from_slice(&self.coffer(&verify)?.stdout)?)
    }

    /// Processes of this place, `cofferd` left out: pid and command line.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        processes_naming(self.directory.path(), &[self.pid(), std::process::id()])
    }

    /// The process of a session whose command line holds this.
    pub(crate) fn process(&self, id: &str, what: &str) -> anyhow::Result<u32> {
        let found = self.processes().into_iter().find(|(_, line)| line.contains(id) && line.contains(what));
        found.map(|(pid, _)| pid).with_context(|| format!("the process {what} of {id}"))
    }

    /// What is left of a session: processes, directory, cgroups, mounts of `cofferd`'s namespace.
    pub(crate) fn residue(&self, id: &str) -> Vec<String> {
        let mut left: Vec<String> = self
            .processes()
            .into_iter()
            .filter(|(_, line)| line.contains(id))
            .map(|(p, l)| format!("{p}: {l}"))
            .collect();
        let places =
            [self.inside(&self.state().join("sessions").join(id)), format!("/sys/fs/cgroup/coffer/{id}").into()];
        let unified = PathBuf::from(format!("/sys/fs/cgroup/unified/coffer/{id}"));
        left.extend(places.iter().chain([&unified]).filter(|p| p.exists()).map(|p| p.display().to_string()));
        let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", self.pid())).unwrap_or_default();
        left.extend(mounts.lines().filter(|line| line.contains(id)).map(str::to_owned));
        left
    }

    /// Waits until the diagnostics say this. A file that another process writes has no better event.
    pub(crate) fn says(&self, word: &str) -> anyhow::Result<()> {
        let begin = Instant::now();
        while !self.diagnostics().contains(word) {
            if begin.elapsed() > SOON {
                bail!("cofferd does not say {word:?}:\n{}", self.diagnostics());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.stop();
        for (pid, _) in self.processes() {
            let _ = kill(pid);
        }
    }
}

/// Runs a command that must end by itself, soon.
pub(crate) fn refused(command: &mut Command) -> anyhow::Result<Refused> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let (ended, end) = std::sync::mpsc::channel();
    let mut stderr = child.stderr.take().context("stderr")?;
    std::thread::spawn(move || {
        let mut said = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stderr, &mut said);
        let _ = ended.send(said);
    });
    let Ok(said) = end.recv_timeout(REFUSAL) else {
        child.kill()?;
        child.wait()?;
        bail!("it runs where it should have refused to start");
    };
    let status = child.wait()?.code();
    Ok(Refused { status, said: String::from_utf8_lossy(&said).into_owned() })
}

pub(crate) fn chmod(path: &Path, mode: u32) -> anyhow::Result<()> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, mode).with_context(|| format!("chmod {}", path.display()))
}

/// Copies a tree by hard links: to take files of it away, not to change them.
pub(crate) fn linked_copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").args(["-al", "--"]).arg(from).arg(to).status()?;
    // Another file system: the bytes then.
    if !status.success() {
        let _ = std::fs::remove_dir_all(to);
        let status = Command::new("cp").args(["-a", "--"]).arg(from).arg(to).status()?;
        ensure!(status.success(), "cp {} {}: {status}", from.display(), to.display());
    }
    Ok(())
}
