//! The kernel command line of the guest, which RTMR2 measures. One line, no newline: the bytes QEMU is given.

use coffer_evidence::manifest::Profile;

/// In both profiles. From Intel's TDX guest hardening, and what needs no argument in a machine nobody administers.
const HARDENING: [&str; 17] = [
    // The machine-check handler would believe the host.
    "mce=off",
    // A kernel that went wrong ends the session: no crash dump, no second boot (QEMU runs with -no-reboot).
    "oops=panic",
    "panic=-1",
    // No device is touched before the kernel's own filters stand; configuration space by ports only.
    "pci=noearly",
    "pci=nommconf",
    // Clock and randomness from the CPU, not from the host.
    "no-kvmclock",
    "random.trust_cpu=on",
    "random.trust_bootloader=off",
    // Only modules that Debian signed; no way into the kernel's memory; no debugging file system.
    "module.sig_enforce=1",
    "lockdown=integrity",
    "debugfs=off",
    // 32-bit entry points have been an interrupt-injection target (Heckler); the image has no 32-bit program.
    "ia32_emulation=0",
    "vsyscall=none",
    "slab_nomerge",
    "noresume",
    // Grace periods by interrupt, not by waiting: loading modules, cgroups and mounts each wait for some.
    "rcupdate.rcu_expedited=1",
    "quiet",
];

/// The command line for a root file system and a profile.
pub fn command_line(root_hash: &[u8; 32], profile: Profile) -> String {
    let mut line = vec![format!("coffer.root={}", hex::encode(root_hash))];
    line.extend(words(profile));
    line.join(" ")
}

/// Every word but the first, which names the root.
pub fn words(profile: Profile) -> Vec<String> {
    let mut words = vec![format!("coffer.profile={}", profile.as_str())];
    words.extend(HARDENING.iter().map(|&word| word.to_owned()));
    words.push("loglevel=3".into());
    match profile {
        Profile::Simulated => words.push("console=ttyS0".into()),
        // Whoever runs the host reads the serial port: there is none.
        Profile::Tdx => words.push("8250.nr_uarts=0".into()),
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_root_and_profile_once_and_the_console_only_when_simulated() {
        let root = [0xab; 32];
        let (simulated, tdx) = (command_line(&root, Profile::Simulated), command_line(&root, Profile::Tdx));
        for line in [&simulated, &tdx] {
            assert_eq!(line.matches("coffer.root=").count(), 1);
            assert!(line.contains(&format!("coffer.root={}", "ab".repeat(32))));
            assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            // x86 kernels cut the line at 2,048 bytes.
            assert!(line.len() < 1024);
        }
        assert!(simulated.contains("coffer.profile=simulated") && simulated.contains("console=ttyS0"));
        assert!(tdx.contains("coffer.profile=tdx") && !tdx.contains("console="));
    }
}
