//! Guests by QEMU: the command line, the jail it runs in, and what QEMU says about its end. QMP is listened for by this
//! side, so that nobody waits for a socket to appear.

pub(crate) mod argv;
pub(crate) mod console;
pub(crate) mod kit;
pub(crate) mod kvm;
pub(crate) mod qmp;
#[cfg(test)]
mod taken_tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coffer_evidence::manifest::Profile;
use futures_util::future::BoxFuture;
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};

use super::stand_in::StandIn;
use super::{LaunchError, LeftMachine, Machine, Vm, Vmm};
use crate::host::cgroup::SessionCgroup;
use crate::host::process::ProcessRecord;
use crate::jail::{self, Access, EndOnDrop, Exit, Exposure, JailSpec, Jailed, Output};
use crate::link::{GuestDevice, vhost_user};
use crate::session::types::GuestExit;
use argv::{Cpu, Surroundings};
use kit::QemuProgram;
use qmp::Stopping;

/// Where QEMU's process writes who it is.
const PROCESS: &str = "qemu.process";
/// How long QMP may take to say why a machine stopped, once its process is gone: the line is in the socket already.
const LAST_WORD: Duration = Duration::from_millis(500);

/// How long a killed one may take to be gone.
const END: Duration = Duration::from_secs(5);
/// How long QEMU may take until it speaks QMP: that is before the guest's first instruction.
const START: Duration = Duration::from_secs(30);

/// Starts guests by QEMU.
pub(crate) struct QemuVmm {
    /// This executable, which is also the jail.
    pub(crate) launcher: PathBuf,
    /// A QEMU to run instead of the kit.
    pub(crate) program: Option<PathBuf>,
    /// Where the kit is, if not in the user's cache.
    pub(crate) kit: Option<PathBuf>,
    /// How simulated guests' CPUs are run.
    pub(crate) cpu: Cpu,
    /// The quoting service, tdx profile.
    pub(crate) quote_socket: PathBuf,
    /// The TDX simulator, simulated profile.
    pub(crate) stand_in: Option<StandIn>,
}

impl Vmm for QemuVmm {
    fn launch(&self, machine: Machine) -> BoxFuture<'_, Result<Box<dyn Vm>, LaunchError>> {
        Box::pin(async move {
            if machine.profile == Profile::Tdx || self.cpu == Cpu::Kvm {
                kvm::fault().map_or(Ok(()), |found| Err(LaunchError::Kvm { found }))?;
            }
            let program = QemuProgram::find(self.program.as_deref(), self.kit.as_deref())?;
            if let Some(version) = &program.version {
                tracing::debug!(session = %machine.session, version, "the QEMU kit");
            }
            let listener = listen(&machine.run, machine.uid)?;
            let surroundings = Surroundings { cpu: self.cpu, quote_socket: &self.quote_socket };
            let mut argv = program.prefix.clone();
            argv.extend(argv::argv(&machine, surroundings)?);
            let spec = JailSpec {
                argv,
                record: machine.process_records.join(PROCESS),
                cgroup_procs: machine.cgroup.as_ref().map(|c| c.procs_of("qemu")),
                uid: machine.uid,
                groups: self.device_groups(&machine),
                expose: self.exposures(&machine, program.expose),
            };
            let stand_in = match machine.profile {
                Profile::Simulated => Some(self.stand_in.as_ref().ok_or_else(no_simulator)?.start(&machine).await?),
                Profile::Tdx => None,
            };
            let output = Output { stdout: std::process::Stdio::null(), stderr: jail::complain_to(&machine.console)? };
            let (process, _) = jail::spawn(&self.launcher, &spec, output)?;
            tracing::info!(session = %machine.session, pid = process.pid(), "the machine's process runs");
            let started = EndOnDrop::of(process.clone());
            let (vm, speaks) = QemuVm::follow(process, listener, machine.cgroup, stand_in);
            vm.ready(speaks).await?;
            started.keep();
            Ok(Box::new(vm) as Box<dyn Vm>)
        })
    }

    fn adopt(&self, machine: LeftMachine) -> BoxFuture<'_, Result<Box<dyn Vm>, LaunchError>> {
        Box::pin(async move {
            let process = ProcessRecord::open_recorded(&machine.process_records.join(PROCESS));
            let process = process.ok_or(LaunchError::Gone { program: "QEMU" })?;
            // QEMU dials again within a second. Its simulator is ended with the rest, by its record.
            let listener = listen(&machine.run, machine.uid)?;
            let process = Jailed::adopt(process);
            tracing::info!(session = %machine.session, pid = process.pid(), "the machine's process still runs");
            // It spoke to the earlier life: nobody waits for its first word.
            let (vm, _) = QemuVm::follow(process, listener, machine.cgroup, None);
            Ok(Box::new(vm) as Box<dyn Vm>)
        })
    }
}

/// Listens for QEMU's dial, in the place of an earlier life's socket.
fn listen(run: &Path, uid: Option<u32>) -> Result<UnixListener, LaunchError> {
    let qmp = run.join("qmp.sock");
    vhost_user::bind(&qmp, uid).map_err(|source| LaunchError::Io { path: qmp, source })
}

impl QemuVmm {
    fn exposures(&self, machine: &Machine, mut expose: Vec<Exposure>) -> Vec<Exposure> {
        expose.push(Exposure { path: machine.image.clone(), access: Access::ReadOnly });
        expose.push(Exposure { path: machine.boot_disk.clone(), access: Access::ReadOnly });
        expose.push(Exposure { path: machine.run.clone(), access: Access::ReadWrite });
        if machine.profile == Profile::Tdx {
            expose.push(Exposure { path: self.quote_socket.clone(), access: Access::ReadWrite });
        }
        expose
    }

    /// The groups that own the devices QEMU opens.
    fn device_groups(&self, machine: &Machine) -> Vec<u32> {
        use std::os::unix::fs::MetadataExt as _;
        let mut devices = Vec::new();
        if machine.profile == Profile::Tdx || self.cpu == Cpu::Kvm {
            devices.push(Path::new("/dev/kvm"));
        }
        if let GuestDevice::Kernel { .. } = machine.link {
            devices.push(Path::new(crate::link::kernel::DEVICE));
        }
        let mut groups: Vec<u32> = devices.iter().filter_map(|d| d.metadata().ok().map(|m| m.gid())).collect();
        groups.sort_unstable();
        groups.dedup();
        // Root's own group opens more than the device.
        groups.retain(|gid| *gid != 0);
        groups
    }
}

fn no_simulator() -> LaunchError {
    LaunchError::Unsupported("simulated images need coffer-tdx-sim: set simulator.command".to_owned())
}

/// One QEMU.
struct QemuVm {
    process: Jailed,
    exit: watch::Receiver<Option<GuestExit>>,
}

impl QemuVm {
    fn follow(
        process: Jailed,
        listener: UnixListener,
        cgroup: Option<SessionCgroup>,
        stand_in: Option<EndOnDrop>,
    ) -> (Self, oneshot::Receiver<()>) {
        let stopping = Arc::new(watch::Sender::new(Stopping::NotSaid));
        let said = Arc::clone(&stopping);
        let (ready, speaks) = oneshot::channel();
        let talking = process.clone();
        let mut conversation = tokio::spawn(async move {
            // One connection: QEMU dials again only after an end of this process.
            let Ok((stream, _)) = listener.accept().await else { return };
            if let Err(error) = qmp::follow(stream, &said, ready).await {
                tracing::warn!(%error, "QMP ended");
            }
            if *said.borrow() == Stopping::Halted {
                tracing::warn!(pid = talking.pid(), "the machine stands still: it is ended");
                drop(talking.kill());
            }
        });
        let (ended, exit) = watch::channel(None);
        let waiting = process.clone();
        tokio::spawn(async move {
            let exit = waiting.ended().await;
            // It has no work after the machine.
            drop(stand_in);
            // The socket is at its end now; what QEMU said last is in it.
            if tokio::time::timeout(LAST_WORD, &mut conversation).await.is_err() {
                conversation.abort();
                // Its socket goes with it.
                drop(conversation.await);
            }
            let out_of_memory = cgroup.is_some_and(|c| c.ran_out_of_memory());
            let meaning = meaning(exit, *stopping.borrow(), out_of_memory);
            tracing::info!(%exit, %meaning, "the machine's process ended");
            let _ = ended.send(Some(meaning));
        });
        (Self { process, exit }, speaks)
    }

    /// Waits until QEMU has answered: from then on it is the guest's turn.
    async fn ready(&self, speaks: oneshot::Receiver<()>) -> Result<(), LaunchError> {
        let answer = async {
            tokio::select! {
                biased;
                spoken = speaks => match spoken {
                    Ok(()) => None,
                    Err(_) => Some(match tokio::time::timeout(LAST_WORD, self.process.ended()).await {
                        Ok(exit) => format!("that it ended with {exit}"),
                        Err(_) => "an answer that is not QMP".to_owned(),
                    }),
                },
                exit = self.process.ended() => Some(format!("that it ended with {exit}")),
            }
        };
        let found = match tokio::time::timeout(START, answer).await {
            Ok(None) => return Ok(()),
            Ok(Some(found)) => found,
            Err(_) => format!("no word of QMP within {START:?}"),
        };
        self.kill();
        // Whoever cleans up then finds nothing of it.
        drop(tokio::time::timeout(END, self.ended()).await);
        Err(LaunchError::NotReady { program: "QEMU", setting: "vmm.qemu, else the kit", found })
    }
}

fn meaning(exit: Exit, said: Stopping, out_of_memory: bool) -> GuestExit {
    match (exit, said) {
        (Exit::Signal(_) | Exit::Unseen, _) if out_of_memory => GuestExit::OutOfMemory,
        (Exit::Signal(signal), Stopping::NotSaid) => GuestExit::Killed(signal),
        (_, Stopping::PowerOff) => GuestExit::PoweredOff,
        (_, Stopping::Reset) => GuestExit::Reset,
        (_, Stopping::Panic) => GuestExit::Panicked,
        (_, Stopping::Halted) => GuestExit::Halted,
        (Exit::Unseen, Stopping::NotSaid) => GuestExit::Lost,
        // It stopped by itself and had no chance to say why.
        (Exit::Status(0), Stopping::NotSaid) => GuestExit::PoweredOff,
        (Exit::Status(status), Stopping::NotSaid) => GuestExit::Failed(status),
    }
}

impl Vm for QemuVm {
    fn ended(&self) -> BoxFuture<'_, GuestExit> {
        let mut exit = self.exit.clone();
        Box::pin(async move {
            match exit.wait_for(Option::is_some).await {
                Ok(exit) => exit.unwrap_or(GuestExit::Lost),
                Err(_) => GuestExit::Lost,
            }
        })
    }

    fn kill(&self) {
        if let Err(error) = self.process.kill() {
            tracing::error!(%error, pid = self.process.pid(), "a machine's process cannot be killed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_means_what_was_said_before_it() {
        let (killed, zero, one) = (Exit::Signal(9), Exit::Status(0), Exit::Status(1));
        for (exit, said, memory, expected) in [
            (killed, Stopping::NotSaid, false, GuestExit::Killed(9)),
            (killed, Stopping::NotSaid, true, GuestExit::OutOfMemory),
            (killed, Stopping::PowerOff, false, GuestExit::PoweredOff),
            (zero, Stopping::PowerOff, false, GuestExit::PoweredOff),
            (zero, Stopping::Reset, false, GuestExit::Reset),
            (zero, Stopping::Panic, false, GuestExit::Panicked),
            (killed, Stopping::Halted, false, GuestExit::Halted),
            (zero, Stopping::NotSaid, false, GuestExit::PoweredOff),
            (one, Stopping::NotSaid, false, GuestExit::Failed(1)),
            (Exit::Unseen, Stopping::PowerOff, false, GuestExit::PoweredOff),
            (Exit::Unseen, Stopping::NotSaid, false, GuestExit::Lost),
            (Exit::Unseen, Stopping::NotSaid, true, GuestExit::OutOfMemory),
        ] {
            assert_eq!(meaning(exit, said, memory), expected, "{exit:?} {said:?}");
        }
    }
}
