//! Which builds of QEMU and firmware follow which rules: a table. A pair that is in no row is refused: what it measures is not
//! known, and reference values that were guessed would either match nothing or, worse, something else.

use super::{DIRECT_BOOT, DIRECT_BOOT_2024, DIRECT_BOOT_TWO_PASSES, Rules};

/// Versions from the first to the last, both known; major and minor number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    /// The first.
    pub first: (u32, u32),
    /// The last.
    pub last: (u32, u32),
}

impl Versions {
    fn hold(self, version: (u32, u32)) -> bool {
        (self.first..=self.last).contains(&version)
    }
}

/// One row: these builds, these rules, and how that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stack {
    /// Releases of QEMU.
    pub qemu: Versions,
    /// Releases of edk2: year and month of the stable tag.
    pub firmware: Versions,
    /// What they measure.
    pub rules: &'static Rules,
    /// How it is known.
    pub source: &'static str,
}

/// Every known combination.
pub const STACKS: [Stack; 3] = [
    Stack {
        qemu: Versions { first: (10, 1), last: (11, 1) },
        firmware: Versions { first: (2026, 8), last: (2026, 8) },
        rules: &DIRECT_BOOT,
        source: "QEMU: TDX upstream since 10.1, 11.1 run here; edk2: source and code of Debian's ovmf-inteltdx 2026.08+ds-2",
    },
    Stack {
        qemu: Versions { first: (9, 0), last: (9, 2) },
        firmware: Versions { first: (2024, 2), last: (2025, 2) },
        rules: &DIRECT_BOOT_2024,
        source: "dstack quote-report.json (QEMU 9.2.1), dstack-mr machine.rs",
    },
    Stack {
        qemu: Versions { first: (8, 0), last: (8, 2) },
        firmware: Versions { first: (2024, 2), last: (2025, 2) },
        rules: &DIRECT_BOOT_TWO_PASSES,
        source: "dstack-mr machine.rs: two passes for QEMU 8",
    },
];

/// A pair of builds that no row knows.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "expected a known pair of QEMU and firmware ({}), found QEMU {qemu} with firmware {firmware}: what this pair measures is not \
     known; use the builds of `coffer-image build`, or add a row with its source to measurement/src/rules/builds.rs",
    table()
)]
pub struct UnknownBuild {
    qemu: String,
    firmware: String,
}

fn table() -> String {
    let show = |Versions { first, last }: Versions| {
        let [first, last] = [first, last].map(|(major, minor)| format!("{major}.{minor}"));
        if first == last { first } else { format!("{first} to {last}") }
    };
    let rows = STACKS.iter().map(|stack| format!("QEMU {} with edk2 {}", show(stack.qemu), show(stack.firmware)));
    rows.collect::<Vec<_>>().join("; ")
}

/// The rules for a QEMU and a firmware, each by its version as Debian or upstream writes it: `1:11.1.3+ds-1`, `9.2.1`,
/// `2026.08+ds-2`.
///
/// # Errors
/// [`UnknownBuild`] for everything else than a known pair.
pub fn known(qemu: &str, firmware: &str) -> Result<&'static Rules, UnknownBuild> {
    let unknown = || UnknownBuild { qemu: qemu.to_owned(), firmware: firmware.to_owned() };
    let (Some(q), Some(f)) = (release(qemu), release(firmware)) else { return Err(unknown()) };
    let row = STACKS.iter().find(|stack| stack.qemu.hold(q) && stack.firmware.hold(f));
    row.map(|stack| stack.rules).ok_or_else(unknown)
}

/// Major and minor number: `1:11.1.3+ds-1` is 11, 1. A version with letters in these is none.
fn release(version: &str) -> Option<(u32, u32)> {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    let mut numbers = upstream.split(['.', '+', '-', '~']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
