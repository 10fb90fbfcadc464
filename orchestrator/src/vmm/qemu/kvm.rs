//! Whether KVM can run a guest here. `/dev/kvm` alone says little: without vmx or svm it is a paravirtual one, under which a
//! stock kernel stops at its first unusual instruction, and its machine stands still without a word.

use std::io;

/// Why KVM cannot be used; `None` when it can.
pub(crate) fn fault() -> Option<String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let opened = std::fs::File::options().read(true).write(true).open("/dev/kvm").map(drop);
    fault_of(&cpuinfo, opened)
}

fn fault_of(cpuinfo: &str, opened: io::Result<()>) -> Option<String> {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    match opened {
        Err(error) => Some(format!("/dev/kvm that cannot be opened ({error})")),
        Ok(()) if flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm") => None,
        Ok(()) => Some("a /dev/kvm without vmx or svm in the CPU flags, which cannot run a stock kernel".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kvm_counts_only_where_it_opens_and_the_cpu_virtualises() {
        let with = |flag: &str| format!("processor : 0\nflags\t\t: fpu {flag} sse\n");
        assert_eq!(fault_of(&with("vmx"), Ok(())), None);
        assert_eq!(fault_of(&with("svm"), Ok(())), None);
        assert!(fault_of(&with("vmxx"), Ok(())).is_some_and(|why| why.contains("vmx or svm")));
        let missing = fault_of(&with("vmx"), Err(io::ErrorKind::NotFound.into()));
        assert!(missing.is_some_and(|why| why.contains("cannot be opened")));
    }
}
