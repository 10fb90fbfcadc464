//! How a session gets its machine: launched once, or taken over after a restart of this process. Each gives the same
//! [`Running`]; nothing here decides whether the session goes on.

use std::sync::Arc;

use coffer_evidence::config::{Config, boot_disk, measured_config};
use coffer_evidence::fields::Canonical as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::conversation::Conversation;
use super::evidence;
use super::machine::Event;
use super::mirror::MirrorStore;
use super::perform::{Host, chain, image_changed, log_console, now};
use super::record::SessionRecord;
use super::signal::Signal;
use super::types::Timestamp;
use crate::host::blocking::blocking;
use crate::host::cgroup::SessionCgroup;
use crate::host::session_dir::{Readers, SessionDir};
use crate::image::Image;
use crate::jail::EndOnDrop;
use crate::link::{Dial, GuestStream, Place, Tasks};
use crate::vmm::qemu::console;
use crate::vmm::{LaunchError, LeftMachine, Machine, Vm};

/// The most memory of a session's processes: the guest's 2 GiB, and what emulating it takes.
const MEMORY_MAX: u64 = 3 << 30;
/// Name of the record of the launch in a session's directory.
const LAUNCH: &str = "launch.json";
/// Name of the boot disk in a session's directory.
const BOOT_DISK: &str = "boot.img";
/// Children of a session's cgroup.
const PROGRAMS: [&str; 2] = ["qemu", "vsock"];

/// A session whose processes run.
pub(crate) struct Running {
    pub(crate) vm: Arc<dyn Vm>,
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) control: mpsc::Receiver<GuestStream>,
    pub(crate) record: mpsc::Receiver<GuestStream>,
    pub(crate) mirror: MirrorStore,
    pub(crate) conversation: Conversation,
    /// Link and console run in this process until this is dropped.
    pub(crate) tasks: Tasks,
    /// Kills it all when nobody takes this over.
    pub(crate) started: Started,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

/// Written before the first process starts.
#[derive(Serialize, Deserialize)]
struct LaunchRecord {
    session: String,
    boot_id: String,
    cid: u32,
    uid: Option<u32>,
    image: String,
    at: Timestamp,
}

/// Start everything, or nothing.
pub(crate) async fn launch(host: Arc<Host>, record: SessionRecord, given_up: CancellationToken) -> Signal {
    let mut started = Started::default();
    let result = tokio::select! {
        result = start(&host, &record, &mut started) => result,
        () = given_up.cancelled() => Err(LaunchError::GivenUp),
    };
    match result {
        Ok(running) => Signal::Launched(Box::new(running)),
        Err(error) => {
            drop(started);
            log_console(&host.directory(&record));
            let mut why = chain(&error);
            // A program that does not start with a file may have been given another than the one that was checked.
            if let Some(changed) = image_changed(host, &record).await
                && !why.contains(&changed)
            {
                why.push_str(&format!("; the image is not what was checked before the launch: {changed}"));
            }
            Event::LaunchFailed(why).into()
        }
    }
}

/// What a launch has started: ended when the launch fails, or when it is through and nobody takes it over.
#[derive(Default)]
pub(crate) struct Started {
    program: Option<EndOnDrop>,
    vm: Option<Arc<dyn Vm>>,
}

impl Started {
    /// Somebody has taken it over.
    pub(crate) fn keep(mut self) {
        if let Some(program) = self.program.take() {
            program.keep();
        }
        self.vm = None;
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(vm) = &self.vm {
            vm.kill();
        }
    }
}

async fn start(host: &Arc<Host>, record: &SessionRecord, started: &mut Started) -> Result<Running, LaunchError> {
    let image = checked_image(host, record).await?;
    let dir = host.directory(record);
    let cgroup = host.cgroup(record);
    let cid = record.cid.ok_or_else(|| LaunchError::Unsupported("no context id was set aside".to_owned()))?;
    let intent = Config::parse(&record.config).and_then(|config| config.intent()).map_err(malformed)?;
    lay_out(host, record, &dir, cgroup.as_ref(), &image)?;
    let console = dir.run().join(console::CONSOLE);

    let mut tasks = Tasks::default();
    let stop = CancellationToken::new();
    let done = stop.clone().cancelled_owned();
    let failed = |source| LaunchError::Io { path: console.clone(), source };
    console::start(&console, &dir.join(console::LOG), record.uid, done).map_err(failed)?;
    // The gatherer reads what is left when the session lets go, and ends.
    tasks.keep(stop.drop_guard());

    let link = host.link.open(place(record, &dir, cgroup.as_ref(), cid)).await?;
    started.program = link.program;
    let machine = Machine {
        session: record.id,
        profile: record.profile,
        shape: intent.shape,
        boot_disk: dir.join(BOOT_DISK),
        run: dir.run(),
        process_records: dir.path().to_path_buf(),
        image: image.directory.clone(),
        cmdline: image.cmdline.clone(),
        measured: measured_config(&record.config, &intent),
        link: link.device,
        uid: record.uid,
        cgroup,
        console,
    };
    let failed = |source| LaunchError::Io { path: dir.path().to_path_buf(), source };
    let mirror = MirrorStore::create(dir.clone(), intent.limits.leaves).map_err(failed)?;
    let conversation = Conversation::begin(record.id, &dir).map_err(failed)?;
    let vm: Arc<dyn Vm> = host.vmm.launch(machine).await?.into();
    started.vm = Some(Arc::clone(&vm));
    tasks.absorb(link.tasks);
    let started = std::mem::take(started);
    let (dial, control, record) = (link.dial, link.control, link.record);
    Ok(Running { vm, dial, control, record, mirror, conversation, tasks, started })
}

fn place(record: &SessionRecord, dir: &SessionDir, cgroup: Option<&SessionCgroup>, cid: u32) -> Place {
    Place {
        run: dir.run(),
        process_record: dir.join("vsock.process"),
        cid,
        uid: record.uid,
        cgroup_procs: cgroup.map(|c| c.procs_of("vsock")),
        complaints: dir.run().join(console::CONSOLE),
    }
}

/// Take over what an earlier life of this process launched.
pub(crate) async fn adopt(host: Arc<Host>, record: SessionRecord, given_up: CancellationToken) -> Signal {
    let result = tokio::select! {
        result = take_over(&host, &record) => result,
        () = given_up.cancelled() => Err(LaunchError::GivenUp),
    };
    match result {
        Ok(running) => Signal::Adopted(Box::new(running)),
        Err(error) => Event::AdoptFailed(chain(&error)).into(),
    }
}

async fn take_over(host: &Arc<Host>, record: &SessionRecord) -> Result<Running, LaunchError> {
    let dir = host.directory(record);
    let cgroup = host.cgroup(record);
    let failed = |source| LaunchError::Io { path: dir.path().to_path_buf(), source };
    let cid = launched_as(host, record, &dir)?;
    let intent = Config::parse(&record.config).and_then(|config| config.intent()).map_err(malformed)?;
    // The machine first: without it nothing else is touched.
    let machine = LeftMachine {
        session: record.id,
        run: dir.run(),
        process_records: dir.path().to_path_buf(),
        uid: record.uid,
        cgroup: cgroup.clone(),
    };
    let vm: Arc<dyn Vm> = host.vmm.adopt(machine).await?.into();

    let mut tasks = Tasks::default();
    let stop = CancellationToken::new();
    let done = stop.clone().cancelled_owned();
    console::resume(&dir.run().join(console::CONSOLE), &dir.join(console::LOG), done).map_err(failed)?;
    tasks.keep(stop.drop_guard());
    let link = host.link.adopt(place(record, &dir, cgroup.as_ref(), cid)).await?;
    let mirror = MirrorStore::reopen(dir.clone(), intent.limits.leaves).map_err(failed)?;
    let conversation = Conversation::resume(record.id, &dir).map_err(failed)?;
    tasks.absorb(link.tasks);
    let (dial, control, record) = (link.dial, link.control, link.record);
    Ok(Running { vm, dial, control, record, mirror, conversation, tasks, started: Started::default() })
}

/// Whether the launch record is that of the journal's session in this boot of the host; its context id.
fn launched_as(host: &Host, record: &SessionRecord, dir: &SessionDir) -> Result<u32, LaunchError> {
    let path = dir.join(LAUNCH);
    let bytes = std::fs::read(&path).map_err(|source| LaunchError::Io { path: path.clone(), source })?;
    let found: LaunchRecord =
        serde_json::from_slice(&bytes).map_err(|error| LaunchError::Io { path, source: error.into() })?;
    let same = found.session == record.id.to_string()
        && found.boot_id == host.boot_id
        && Some(found.cid) == record.cid
        && found.uid == record.uid;
    if same {
        Ok(found.cid)
    } else {
        Err(LaunchError::Unsupported("the host was booted anew, or the launch record is another session's".to_owned()))
    }
}

fn malformed(_: coffer_evidence::fields::ParseError) -> LaunchError {
    LaunchError::Unsupported("the stored configuration is malformed".to_owned())
}

async fn checked_image(host: &Arc<Host>, record: &SessionRecord) -> Result<Arc<Image>, LaunchError> {
    let (shared, digest) = (Arc::clone(host), record.image);
    let checked = blocking(move || shared.images.check(digest)).await;
    match checked {
        Ok(Ok(Some(image))) => Ok(image),
        Ok(Ok(None)) => Err(LaunchError::Unsupported(format!("the image {digest} is gone from this host"))),
        Ok(Err(error)) => Err(LaunchError::Unsupported(chain(&error))),
        Err(error) => Err(LaunchError::Unsupported(error)),
    }
}

/// The session's directory, its cgroup, the boot disk and the record of the launch, on disk.
fn lay_out(
    host: &Host,
    record: &SessionRecord,
    dir: &SessionDir,
    cgroup: Option<&SessionCgroup>,
    image: &Image,
) -> Result<(), LaunchError> {
    let failed = |source| LaunchError::Io { path: dir.path().to_path_buf(), source };
    dir.create().map_err(failed)?;
    if let Some(cgroup) = cgroup {
        let failed = |source| LaunchError::Io { path: cgroup.path().to_path_buf(), source };
        cgroup.create(&PROGRAMS, MEMORY_MAX).map_err(failed)?;
    }
    evidence::keep_image(dir, &image.envelope).map_err(failed)?;
    let disk = boot_disk::write(&record.config, &record.policy);
    dir.write_new(BOOT_DISK, &disk, Readers::Session).map_err(failed)?;
    let launch = LaunchRecord {
        session: record.id.to_string(),
        boot_id: host.boot_id.clone(),
        cid: record.cid.unwrap_or(0),
        uid: record.uid,
        image: record.image.to_string(),
        at: now(),
    };
    let launch = serde_json::to_vec(&launch).map_err(|e| failed(e.into()))?;
    dir.write_new(LAUNCH, &launch, Readers::Host).map_err(failed)
}
