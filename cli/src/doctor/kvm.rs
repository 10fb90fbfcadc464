//! KVM and TDX. A `/dev/kvm` that exists need not work: inside some sandboxes it is a paravirtual one, on a CPU without
//! virtualisation, that cannot run a stock kernel.

use kvm_ioctls::Kvm;

use super::{Check, Need};

/// KVM_GET_API_VERSION since 2007.
const API_VERSION: i32 = 12;
/// KVM_CAP_VM_TYPES: a bit for each type of VM.
const CAP_VM_TYPES: std::ffi::c_ulong = 235;
/// KVM_X86_TDX_VM.
const TDX_VM: i32 = 5;
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
    vec![device(&kvm), virtualisation(&cpu), tdx_vm(&kvm), tdx_parameter(parameter.as_deref()), kernel(&release)]
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
    use super::super::Found;
    use super::*;

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
