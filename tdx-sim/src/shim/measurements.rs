//! SIMULATED: `tdx_guest/measurements` as the kernel's tdx-guest driver shows it: one binary file a register, as it is
//! at each read; RTMR2 and RTMR3 are extended by writing exactly one digest at the start.

use std::sync::Arc;

use coffer_tdx_sim::protocol::{REGISTER_BYTES, Register, Registers};

use crate::files::{Habit, Kind, Node, ROOT, Tree};
use crate::simulator::Td;

const DRIVER: u64 = 2;
const DIRECTORY: u64 = 3;
const FIRST_FILE: u64 = 4;

struct File {
    name: &'static str,
    value: fn(&Registers) -> &Register,
    /// The RTMR that a write extends.
    extends: Option<u8>,
}

const FILES: [File; 8] = [
    File { name: "mrconfigid", value: |registers| &registers.mr_config_id, extends: None },
    File { name: "mrowner", value: |registers| &registers.mr_owner, extends: None },
    File { name: "mrownerconfig", value: |registers| &registers.mr_owner_config, extends: None },
    File { name: "mrtd:sha384", value: |registers| &registers.mrtd, extends: None },
    File { name: "rtmr0:sha384", value: |registers| &registers.rtmr[0], extends: None },
    File { name: "rtmr1:sha384", value: |registers| &registers.rtmr[1], extends: None },
    File { name: "rtmr2:sha384", value: |registers| &registers.rtmr[2], extends: Some(2) },
    File { name: "rtmr3:sha384", value: |registers| &registers.rtmr[3], extends: Some(3) },
];

/// The tree.
pub(crate) struct Measurements<T> {
    td: Arc<T>,
    /// As they were after the last extend. Nobody else changes them, and the driver, too, asks the module only once.
    known: Option<Registers>,
}

impl<T: Td> Measurements<T> {
    pub(crate) fn new(td: Arc<T>) -> Self {
        Self { td, known: None }
    }
}

fn file(number: u64) -> Option<&'static File> {
    FILES.get(usize::try_from(number.checked_sub(FIRST_FILE)?).ok()?)
}

impl<T: Td> Tree for Measurements<T> {
    const HABIT: Habit = Habit::Sysfs;

    fn node(&self, number: u64) -> Option<Node> {
        if matches!(number, ROOT | DRIVER | DIRECTORY) {
            return Some(Node { kind: Kind::Directory, mode: 0o755, size: 0 });
        }
        let mode = if file(number)?.extends.is_some() { 0o644 } else { 0o444 };
        Some(Node { kind: Kind::File, mode, size: REGISTER_BYTES as u64 })
    }

    fn children(&self, number: u64) -> Vec<(String, u64)> {
        match number {
            ROOT => vec![("tdx_guest".into(), DRIVER)],
            DRIVER => vec![("measurements".into(), DIRECTORY)],
            DIRECTORY => FILES.iter().zip(FIRST_FILE..).map(|(file, number)| (file.name.into(), number)).collect(),
            _ => Vec::new(),
        }
    }

    fn read(&mut self, number: u64) -> Result<Vec<u8>, i32> {
        let file = file(number).ok_or(libc::ENOENT)?;
        if self.known.is_none() {
            self.known = self.td.registers();
        }
        Ok((file.value)(self.known.as_ref().ok_or(libc::EIO)?).to_vec())
    }

    fn write(&mut self, number: u64, offset: u64, bytes: &[u8]) -> Result<(), i32> {
        let index = file(number).and_then(|file| file.extends).ok_or(libc::EACCES)?;
        let digest = bytes.try_into().map_err(|_| libc::EINVAL)?;
        if offset != 0 {
            return Err(libc::EINVAL);
        }
        self.known = None;
        self.td.extend(index, digest).ok_or(libc::EIO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::tests::FakeTd;

    fn tree() -> (Arc<FakeTd>, Measurements<FakeTd>) {
        let td = Arc::new(FakeTd::default());
        (td.clone(), Measurements::new(td))
    }

    #[test]
    fn every_register_has_the_kernels_name_and_its_own_value() {
        let (_td, mut tree) = tree();
        let files = tree.children(DIRECTORY);
        assert_eq!(files.len(), 8);
        let expected = [1, 2, 3, 0, 4, 5, 6, 7];
        for ((_, number), value) in files.iter().zip(expected) {
            assert_eq!(tree.read(*number).unwrap(), [value; 48]);
        }
        assert_eq!(files[7].0, "rtmr3:sha384");
    }

    #[test]
    fn a_write_extends_and_only_whole_digests_of_writable_registers_are_taken() {
        let (td, mut tree) = tree();
        assert_eq!(tree.write(11, 0, &[9; 48]), Ok(()));
        assert_eq!(tree.write(10, 0, &[8; 48]), Ok(()));
        assert_eq!(td.0.lock().unwrap().extended, [(3, [9; 48]), (2, [8; 48])]);
        assert_eq!(tree.read(11).unwrap(), [8; 48], "read anew after an extend");
        for (number, offset, length) in [(11, 0, 47), (11, 0, 49), (11, 1, 48), (11, 48, 0), (9, 0, 48), (4, 0, 48)] {
            assert!(tree.write(number, offset, &vec![1; length]).is_err(), "{number} {offset} {length}");
        }
        assert_eq!(td.0.lock().unwrap().extended.len(), 2);
    }

    #[test]
    fn without_the_simulator_there_is_no_register() {
        let (td, mut tree) = tree();
        td.0.lock().unwrap().gone = true;
        assert_eq!(tree.read(11), Err(libc::EIO));
        assert_eq!(tree.write(11, 0, &[9; 48]), Err(libc::EIO));
    }
}
