//! KVM and TDX. A `/dev/kvm` that exists need not work: inside some sandboxes it is a paravirtual one, on a CPU without
//! virtualisation, that cannot run a stock kernel.

use kvm_ioctls::Kvm;

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::{Check, Found, Need};

/// KVM_GET_API_VERSION since 2007.
const API_VERSION: i32 = 12;
/// KVM_CAP_VM_TYPES: a bit for each type of VM.
const CAP_VM_TYPES: std::ffi::c_ulong = 235;
/// KVM_X86_TDX_VM.
const TDX_VM: i32 = 5;
/// KVM_CAP_MEMORY_ATTRIBUTES and KVM_CAP_GUEST_MEMFD: memory that the host cannot map.
const CAPS_PRIVATE_MEMORY: [(std::ffi::c_ulong, &str); 2] = [(233, "memory attributes"), (234, "guest_memfd")];
/// Read by the module `msr`.
const MSRS: &str = "/dev/cpu/0/msr";
/// IA32_TME_ACTIVATE: bit 1 says that memory is encrypted.
const MSR_TME_ACTIVATE: u64 = 0x982;
/// IA32_MKTME_KEYID_PARTITIONING: in its upper half the number of keys that are for TDX.
const MSR_KEY_PARTITIONING: u64 = 0x87;
/// What newer kernels tell of the module that is loaded.
const TDX_HOST: &str = "/sys/devices/faux/tdx_host/version";
/// Host TDX support is upstream since this kernel.
const KERNEL_LEAST: (u32, u32) = (6, 16);
const TDX_PARAMETER: &str = "/sys/module/kvm_intel/parameters/tdx";
const CPU_FIX: &str =
    "run Coffer on the machine itself, or in a VM with nested virtualisation; the simulator runs without";

pub(super) fn checks() -> Vec<Check> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let parameter = std::fs::read_to_string(TDX_PARAMETER).ok();
    let kvm = Kvm::new();
    let is_on = tdx_parameter(parameter.as_deref());
    vec![
        device(&kvm),
        virtualisation(&cpu),
        firmware(Path::new(MSRS)),
        module(std::fs::read_to_string(TDX_HOST).ok().as_deref(), &is_on),
        tdx_vm(&kvm),
        private_memory(&kvm),
        is_on,
        kernel(&release),
    ]
}

/// What the machine's firmware left switched on, as the CPU tells it. Where nobody can read that, the module's own word counts.
fn firmware(msrs: &Path) -> Check {
    const NAME: &str = "firmware";
    const FIX: &str = "switch on TME, TME-MT (MKTME) with keys for TDX, SGX and TDX in the firmware's setup";
    let read = |register: u64| -> std::io::Result<u64> {
        let mut value = [0; 8];
        std::fs::File::open(msrs)?.read_exact_at(&mut value, register)?;
        Ok(u64::from_le_bytes(value))
    };
    match (read(MSR_TME_ACTIVATE), read(MSR_KEY_PARTITIONING)) {
        (Ok(tme), Ok(keys)) => match (tme & 2 != 0, keys >> 32) {
            (true, 0) => Check::failed(NAME, Need::Tdx, "memory is encrypted, and no keys are for TDX", FIX),
            (true, keys) => Check::ok(NAME, Need::Tdx, format!("memory is encrypted, {keys} keys are for TDX")),
            (false, _) => Check::failed(NAME, Need::Tdx, "memory is not encrypted (TME)", FIX),
        },
        (Err(error), _) | (_, Err(error)) => {
            let found = format!("{} cannot be read ({error}): not known", msrs.display());
            Check::missing(NAME, Need::Better, found, "as root: modprobe msr; without, kvm_intel.tdx has the last word")
        }
    }
}

/// The TDX module. The kernel loads it when kvm_intel starts, and without it `kvm_intel.tdx` is off.
fn module(version: Option<&str>, is_on: &Check) -> Check {
    const NAME: &str = "TDX module";
    match (version.map(str::trim).filter(|text| !text.is_empty()), is_on.result) {
        (Some(version), _) => Check::ok(NAME, Need::Better, format!("version {version}")),
        (None, Found::Ok) => Check::ok(NAME, Need::Better, "loaded; this kernel does not tell its version"),
        (None, _) => {
            let fix = "update the machine's firmware, which brings it, and see `dmesg | grep -i tdx`";
            Check::missing(NAME, Need::Better, "not loaded", fix)
        }
    }
}

fn private_memory(kvm: &Result<Kvm, kvm_ioctls::Error>) -> Check {
    const NAME: &str = "KVM memory";
    let is_there = |cap| kvm.as_ref().is_ok_and(|kvm| kvm.check_extension_raw(cap) > 0);
    let missing: Vec<&str> =
        CAPS_PRIVATE_MEMORY.into_iter().filter(|(cap, _)| !is_there(*cap)).map(|(_, name)| name).collect();
    if missing.is_empty() {
        return Check::ok(NAME, Need::Tdx, "guest_memfd and memory attributes");
    }
    let fix = "a kernel with host TDX support has them: 6.16 or newer with CONFIG_KVM_INTEL_TDX";
    Check::missing(NAME, Need::Tdx, format!("KVM has no {}", missing.join(", no ")), fix)
}

/// For the simulator KVM only makes VMs faster; a TD cannot be without.
fn device(kvm: &Result<Kvm, kvm_ioctls::Error>) -> Check {
    const NAME: &str = "/dev/kvm";
    match kvm {
        Ok(kvm) => match kvm.get_api_version() {
            API_VERSION => Check::ok(NAME, Need::Tdx, format!("opens, API version {API_VERSION}")),
            other => Check::failed(NAME, Need::Tdx, format!("API version {other}, expected {API_VERSION}"), CPU_FIX),
        },
        Err(error) => {
            let error = std::io::Error::from_raw_os_error(error.errno());
            match error.kind() {
                std::io::ErrorKind::NotFound => {
                    let fix = "load the module kvm_intel (or kvm_amd, for the simulator), and switch virtualisation on in the firmware";
                    Check::missing(NAME, Need::Tdx, error.to_string(), fix)
                }
                std::io::ErrorKind::PermissionDenied => {
                    Check::failed(NAME, Need::Tdx, error.to_string(), "run as root, or join the group kvm")
                }
                _ => Check::failed(NAME, Need::Tdx, error.to_string(), CPU_FIX),
            }
        }
    }
}

fn virtualisation(cpuinfo: &str) -> Check {
    const NAME: &str = "CPU flags";
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let found = flags.split_ascii_whitespace().find(|flag| matches!(*flag, "vmx" | "svm"));
    match found {
        Some("vmx") => Check::ok(NAME, Need::Tdx, "vmx"),
        Some(flag) => Check::failed(
            NAME,
            Need::Tdx,
            format!("{flag}: not an Intel CPU"),
            "use a host with Intel TDX; the simulator runs here with KVM",
        ),
        None => Check::missing(
            NAME,
            Need::Tdx,
            "neither vmx nor svm: whatever /dev/kvm is, it cannot run a stock kernel; guests are emulated (TCG), slowly",
            CPU_FIX,
        ),
    }
}

fn tdx_vm(kvm: &Result<Kvm, kvm_ioctls::Error>) -> Check {
    const NAME: &str = "KVM TDX";
    let types = kvm.as_ref().map_or(0, |kvm| kvm.check_extension_raw(CAP_VM_TYPES));
    if types > 0 && types & (1 << TDX_VM) != 0 {
        return Check::ok(NAME, Need::Tdx, "KVM makes TDX VMs");
    }
    let found = if types > 0 {
        format!("VM types {types:#x}, TDX is not among them")
    } else {
        "KVM names no VM types".to_owned()
    };
    Check::missing(
        NAME,
        Need::Tdx,
        found,
        "a 4th generation Xeon or newer with TDX switched on in the firmware, and kvm_intel.tdx=1",
    )
}

fn tdx_parameter(text: Option<&str>) -> Check {
    const NAME: &str = "kvm_intel.tdx";
    match text.map(str::trim) {
        Some("Y" | "1") => Check::ok(NAME, Need::Tdx, "on"),
        Some(other) => Check::failed(NAME, Need::Tdx, format!("{other:?}"), "boot with kvm_intel.tdx=1"),
        None => Check::missing(
            NAME,
            Need::Tdx,
            format!("no {TDX_PARAMETER}"),
            "load kvm_intel of a kernel with host TDX support, with tdx=1",
        ),
    }
}

fn kernel(release: &str) -> Check {
    const NAME: &str = "kernel";
    let (major, minor) = KERNEL_LEAST;
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= KERNEL_LEAST {
        Check::ok(NAME, Need::Tdx, release)
    } else {
        Check::failed(
            NAME,
            Need::Tdx,
            format!("{release}, expected {major}.{minor} or newer"),
            "install a newer kernel, for example from trixie-backports",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmware_must_have_left_keys_for_tdx() {
        let directory = tempfile::tempdir().expect("a directory");
        let msrs = directory.path().join("msr");
        let found = |tme: u64, keys: u64| {
            let file = std::fs::File::create(&msrs).expect("a file");
            file.write_all_at(&tme.to_le_bytes(), MSR_TME_ACTIVATE).expect("write");
            file.write_all_at(&keys.to_le_bytes(), MSR_KEY_PARTITIONING).expect("write");
            firmware(&msrs)
        };
        assert_eq!(found(3, 64 << 32 | 63).result, Found::Ok);
        assert_eq!(found(3, 64 << 32 | 63).found, "memory is encrypted, 64 keys are for TDX");
        assert_eq!(found(3, 63).result, Found::Failed);
        assert_eq!(found(1, 64 << 32).result, Found::Failed);
        let unknown = firmware(&directory.path().join("none"));
        assert_eq!(
            (unknown.result, unknown.need),
            (Found::Missing, Need::Better),
            "what nobody can read decides nothing"
        );
    }

    #[test]
    fn the_module_is_told_with_its_version_where_the_kernel_has_it() {
        let (on, off) = (tdx_parameter(Some("Y")), tdx_parameter(None));
        assert_eq!(module(Some("1.5.06\n"), &on).found, "version 1.5.06");
        assert_eq!(module(None, &on).result, Found::Ok);
        assert_eq!(module(None, &off).result, Found::Missing);
    }

    #[test]
    fn flags_are_words_not_parts_of_words() {
        assert_eq!(virtualisation("processor : 0\nflags\t\t: fpu vmx sse\n").result, Found::Ok);
        assert_eq!(virtualisation("flags\t\t: fpu svm\n").result, Found::Failed);
        assert_eq!(virtualisation("flags\t\t: fpu vmx_like svm_lock\nvmx flags : ept\n").result, Found::Missing);
        assert_eq!(virtualisation("").result, Found::Missing);
    }

    #[test]
    fn a_kernel_is_judged_by_its_numbers() {
        for (release, result) in [
            ("6.16.0", Found::Ok),
            ("6.16-rc1", Found::Ok),
            ("7.0.1-cloud", Found::Ok),
            ("6.9.12", Found::Failed),
            ("x", Found::Failed),
        ] {
            assert_eq!(kernel(release).result, result, "{release}");
        }
    }

    #[test]
    fn the_module_must_say_that_tdx_is_on() {
        assert_eq!(tdx_parameter(Some("Y\n")).result, Found::Ok);
        assert_eq!(tdx_parameter(Some("N\n")).result, Found::Failed);
        assert_eq!(tdx_parameter(None).result, Found::Missing);
    }
}
