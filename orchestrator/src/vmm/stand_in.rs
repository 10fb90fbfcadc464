//! Starts the TDX simulator beside a machine of a simulated image, as an external program: nothing of it is linked in
//! here. Without the program on this host simulated images are refused.

use std::path::{Path, PathBuf};

use super::{LaunchError, Machine};
use crate::jail::{self, Access, EndOnDrop, Exposure, Helper, JailSpec, text};
use crate::link::{PORT_SIMULATOR, vhost_user};

/// What it says when it has measured the files and listens.
const READY: &str = "coffer-tdx-sim: ready";

/// The simulator's program.
#[derive(Clone, Debug)]
pub(crate) struct StandIn {
    /// This executable, which is also the jail.
    pub(crate) launcher: PathBuf,
    /// `coffer-tdx-sim`.
    pub(crate) program: PathBuf,
}

impl StandIn {
    /// Serves the registers and quotes of this machine. It measures the very files that QEMU is given.
    pub(crate) async fn start(&self, machine: &Machine) -> Result<EndOnDrop, LaunchError> {
        let socket = vhost_user::port_socket(&machine.run.join("vsock.sock"), PORT_SIMULATOR);
        let in_image = |name: &str| text(&machine.image.join(name));
        let argv = vec![
            text(&self.program)?,
            "serve".to_owned(),
            "--socket".to_owned(),
            text(&socket)?,
            "--firmware".to_owned(),
            in_image("firmware.fd")?,
            "--kernel".to_owned(),
            in_image("vmlinuz")?,
            "--initrd".to_owned(),
            in_image("initrd.img")?,
            "--cmdline".to_owned(),
            in_image("cmdline")?,
            "--shape".to_owned(),
            machine.shape.as_str().to_owned(),
            "--mrconfigid".to_owned(),
            hex::encode(machine.measured.mr_config_id),
            "--mrowner".to_owned(),
            hex::encode(machine.measured.mr_owner),
            "--mrownerconfig".to_owned(),
            hex::encode(machine.measured.mr_owner_config),
        ];
        let read = |path: &Path| Exposure { path: path.to_path_buf(), access: Access::ReadOnly };
        let spec = JailSpec {
            argv,
            record: machine.process_records.join("simulator.process"),
            cgroup_procs: machine.cgroup.as_ref().map(|c| c.procs_of("vsock")),
            uid: machine.uid,
            groups: Vec::new(),
            expose: vec![
                read(&self.program),
                read(&machine.image),
                Exposure { path: machine.run.clone(), access: Access::ReadWrite },
            ],
        };
        let helper = Helper { name: "coffer-tdx-sim", ready: READY, setting: "simulator.command" };
        jail::start_helper(&self.launcher, &spec, &machine.console, helper).await
    }
}
