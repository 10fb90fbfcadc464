//! QEMU's command line as a pure function. What the guest's measurements depend on (machine, CPUs, memory, firmware, kernel,
//! devices and their order) is all here; golden files in `golden/` hold the result for each profile.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coffer_evidence::intent::Shape;
use coffer_evidence::manifest::Profile;
use serde::Serialize;

use crate::jail::{SpawnError, text};
use crate::link::GuestDevice;
use crate::vmm::Machine;

/// Processors, and memory in QEMU's words.
const fn size(shape: Shape) -> (&'static str, &'static str) {
    match shape {
        Shape::S1 => ("2", "2G"),
    }
}

/// How the guest's CPU is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cpu {
    Kvm,
    Tcg,
}

/// What of the host the command line names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) cpu: Cpu,
    /// The quoting service, tdx profile.
    pub(crate) quote_socket: &'a Path,
}

/// QEMU's option lists end an item at a comma; two stand for one.
fn escaped(path: &Path) -> Result<String, SpawnError> {
    Ok(text(path)?.replace(',', ",,"))
}

/// The arguments after the program's name.
pub(crate) fn argv(machine: &Machine, host: Surroundings<'_>) -> Result<Vec<String>, SpawnError> {
    let mut out: Vec<String> = Vec::with_capacity(64);
    let mut put = |option: &str, value: String| out.extend([option.to_owned(), value]);
    let in_run = |name: &str| escaped(&machine.run.join(name));
    let in_image = |name: &str| text(&machine.image.join(name));
    let is_tdx = machine.profile == Profile::Tdx;
    let (processors, memory) = size(machine.shape);

    put("-name", format!("coffer-{},debug-threads=on", machine.session));
    let confidential = if is_tdx { ",confidential-guest-support=tdx0" } else { "" };
    put("-machine", format!("q35,kernel-irqchip=split,smm=off,hpet=off{confidential},memory-backend=mem0"));
    let (accelerator, model) = match (is_tdx, host.cpu) {
        (true, _) | (false, Cpu::Kvm) => ("kvm", "host"),
        (false, Cpu::Tcg) => ("tcg,thread=multi", "max"),
    };
    put("-accel", accelerator.to_owned());
    put("-cpu", model.to_owned());
    put("-smp", processors.to_owned());
    put("-m", memory.to_owned());
    // A vhost-user device maps the guest's memory: it must be shared. A TD has its private pages elsewhere, in a guest_memfd that
    // QEMU makes of its own accord, which is neither swapped nor mapped; here are its bounce buffers, so nothing is allocated ahead.
    put("-object", format!("memory-backend-memfd,id=mem0,size={memory},share=on"));
    if is_tdx {
        put("-object", tdx_object(machine, host.quote_socket)?);
    }
    put("-bios", in_image("firmware.fd")?);
    put("-kernel", in_image("vmlinuz")?);
    put("-initrd", in_image("initrd.img")?);
    put("-append", machine.cmdline.clone());

    for (id, file) in [
        ("coffer-root", escaped(&machine.image.join("root.erofs"))?),
        ("coffer-verity", escaped(&machine.image.join("root.verity"))?),
        ("coffer-boot", escaped(&machine.boot_disk)?),
    ] {
        put("-drive", format!("if=none,id={id},format=raw,readonly=on,file={file}"));
        put("-device", format!("virtio-blk-pci,drive={id},serial={id}"));
    }
    match &machine.link {
        GuestDevice::VhostUser { socket } => {
            put("-chardev", format!("socket,id=vsock0,path={}", escaped(socket)?));
            put("-device", "vhost-user-vsock-pci,chardev=vsock0".to_owned());
        }
        GuestDevice::Kernel { cid } => put("-device", format!("vhost-vsock-pci,guest-cid={cid}")),
    }

    // QEMU dials: the host listens before QEMU is started, so nobody polls; and QEMU dials again after a restart.
    put("-qmp", format!("unix:{},server=off,reconnect-ms=1000", in_run("qmp.sock")?));
    match machine.profile {
        Profile::Simulated => {
            put("-chardev", format!("file,id=console0,path={},append=on", escaped(&machine.console)?));
            put("-serial", "chardev:console0".to_owned());
        }
        // Whoever runs the host would read it.
        Profile::Tdx => put("-serial", "none".to_owned()),
    }
    put("-display", "none".to_owned());
    put("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned());
    // One boot per session: a reset is an end.
    out.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned));
    Ok(out)
}

/// The `tdx-guest` object in JSON form: its socket is a structure that the comma form cannot say.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct TdxGuest<'a> {
    qom_type: &'a str,
    id: &'a str,
    mrconfigid: String,
    mrowner: String,
    mrownerconfig: String,
    quote_generation_socket: SocketAddress<'a>,
}

/// QEMU's `SocketAddress`.
#[derive(Serialize)]
struct SocketAddress<'a> {
    r#type: &'a str,
    path: String,
}

fn tdx_object(machine: &Machine, quote_socket: &Path) -> Result<String, SpawnError> {
    let object = TdxGuest {
        qom_type: "tdx-guest",
        id: "tdx0",
        mrconfigid: STANDARD.encode(machine.measured.mr_config_id),
        mrowner: STANDARD.encode(machine.measured.mr_owner),
        mrownerconfig: STANDARD.encode(machine.measured.mr_owner_config),
        quote_generation_socket: SocketAddress { r#type: "unix", path: text(quote_socket)? },
    };
    // Text and structures of text: serialising cannot fail.
    Ok(serde_json::to_string(&object).unwrap_or_default())
}

#[cfg(test)]
pub(super) mod fixtures {
    //! Machines that command lines are made of.

    use super::*;
    use coffer_evidence::config::MeasuredConfig;
    use coffer_evidence::ids::SessionId;
    use std::path::PathBuf;

    pub(crate) fn machine(profile: Profile, link: GuestDevice) -> Machine {
        Machine {
            session: SessionId::new([0x11; 16]),
            profile,
            shape: Shape::S1,
            boot_disk: PathBuf::from("/var/lib/coffer/sessions/11111111-1111-1111-1111-111111111111/boot.img"),
            run: PathBuf::from("/var/lib/coffer/sessions/11111111-1111-1111-1111-111111111111/run"),
            process_records: PathBuf::from("/var/lib/coffer/sessions/11111111-1111-1111-1111-111111111111"),
            image: PathBuf::from("/var/lib/coffer/images/aa"),
            cmdline: "coffer.root=bb coffer.profile=x quiet".to_owned(),
            measured: MeasuredConfig { mr_config_id: [1; 48], mr_owner: [2; 48], mr_owner_config: [3; 48] },
            link,
            uid: Some(200_001),
            cgroup: None,
            console: PathBuf::from("/var/lib/coffer/sessions/11111111-1111-1111-1111-111111111111/run/console"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::machine;
    use super::*;
    use std::path::PathBuf;

    fn vhost_user() -> GuestDevice {
        GuestDevice::VhostUser {
            socket: "/var/lib/coffer/sessions/11111111-1111-1111-1111-111111111111/run/vhost.sock".into(),
        }
    }

    fn golden(name: &str, found: &[String], golden: &str) {
        let found: String = found.iter().map(|argument| format!("{argument}\n")).collect();
        assert_eq!(found, golden, "golden/{name} differs: the guest's measurements may, too");
    }

    fn built(profile: Profile, link: GuestDevice, cpu: Cpu) -> Vec<String> {
        let host = Surroundings { cpu, quote_socket: Path::new("/var/run/tdx-qgs/qgs.socket") };
        argv(&machine(profile, link), host).expect("text")
    }

    #[test]
    fn the_simulated_profile_is_as_written_down() {
        let found = built(Profile::Simulated, vhost_user(), Cpu::Tcg);
        golden("simulated-tcg.txt", &found, include_str!("golden/simulated-tcg.txt"));
        let found = built(Profile::Simulated, vhost_user(), Cpu::Kvm);
        golden("simulated-kvm.txt", &found, include_str!("golden/simulated-kvm.txt"));
    }

    #[test]
    fn the_tdx_profile_is_as_written_down() {
        let found = built(Profile::Tdx, GuestDevice::Kernel { cid: 5_000 }, Cpu::Kvm);
        golden("tdx.txt", &found, include_str!("golden/tdx.txt"));
        let asked_for_tcg = built(Profile::Tdx, GuestDevice::Kernel { cid: 5_000 }, Cpu::Tcg);
        assert_eq!(found, asked_for_tcg, "there is no emulated TD");
    }

    #[test]
    fn the_profiles_differ_only_in_what_the_design_names() {
        let simulated = built(Profile::Simulated, vhost_user(), Cpu::Kvm);
        let tdx = built(Profile::Tdx, vhost_user(), Cpu::Kvm);
        let only = |a: &[String], b: &[String]| -> Vec<String> {
            a.iter()
                .filter(|x| !b.contains(x))
                .map(|x| x.split(['=', ',', ':']).next().unwrap_or("").to_owned())
                .collect()
        };
        assert_eq!(only(&simulated, &tdx), ["q35", "file", "chardev"]);
        assert_eq!(only(&tdx, &simulated), ["q35", "{\"qom-type\""]);
    }

    #[test]
    fn a_comma_in_a_path_does_not_end_an_option() {
        let mut machine = machine(Profile::Simulated, vhost_user());
        machine.boot_disk = PathBuf::from("/tmp/a,b/boot.img");
        let host = Surroundings { cpu: Cpu::Tcg, quote_socket: Path::new("/q") };
        let found = argv(&machine, host).expect("text");
        assert!(found.iter().any(|a| a.ends_with("file=/tmp/a,,b/boot.img")), "{found:?}");
    }
}
