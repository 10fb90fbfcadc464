//! SIMULATED: the registers of one trust domain, as its TDX module would hold them.

use coffer_measurement as measurement;

use crate::protocol::{Register, Registers};

/// One simulated TD. It starts as the firmware, kernel and initrd would have left it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimulatedTd {
    registers: Registers,
}

/// What the VMM supplies when it creates a TD; measured as given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CreationInputs {
    /// MRCONFIGID.
    pub mr_config_id: Register,
    /// MROWNER.
    pub mr_owner: Register,
    /// MROWNERCONFIG.
    pub mr_owner_config: Register,
}

impl SimulatedTd {
    /// A TD that has booted what was measured.
    #[must_use]
    pub fn new(measured: &measurement::Registers, inputs: &CreationInputs) -> Self {
        SimulatedTd {
            registers: Registers {
                mrtd: measured.mrtd,
                mr_config_id: inputs.mr_config_id,
                mr_owner: inputs.mr_owner,
                mr_owner_config: inputs.mr_owner_config,
                rtmr: [measured.rtmr0, measured.rtmr1, measured.rtmr2, measurement::ZERO_REGISTER],
            },
        }
    }

    /// All registers.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// Extends RTMR `index`; an index above 3 changes nothing and is told.
    #[must_use]
    pub fn extend(&mut self, index: u8, digest: &Register) -> Extended {
        match self.registers.rtmr.get_mut(usize::from(index)) {
            Some(register) => {
                *register = measurement::extend(*register, digest);
                Extended::Done
            }
            None => Extended::NoSuchRegister,
        }
    }
}

/// Whether an extend happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extended {
    /// It did.
    Done,
    /// There are four RTMRs.
    NoSuchRegister,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extends_change_one_register_and_follow_the_tdx_rule() {
        let measured = measurement::Registers { mrtd: [1; 48], rtmr0: [2; 48], rtmr1: [3; 48], rtmr2: [4; 48] };
        let inputs = CreationInputs { mr_config_id: [5; 48], mr_owner: [6; 48], mr_owner_config: [7; 48] };
        let mut td = SimulatedTd::new(&measured, &inputs);
        let before = *td.registers();
        assert_eq!(before.rtmr, [[2; 48], [3; 48], [4; 48], [0; 48]]);
        assert_eq!(td.extend(3, &[9; 48]), Extended::Done);
        assert_eq!(td.registers().rtmr[3], measurement::sha384(&[[0; 48], [9; 48]].concat()));
        assert_eq!(td.registers().rtmr[..3], before.rtmr[..3]);
        assert_eq!(td.extend(4, &[9; 48]), Extended::NoSuchRegister);
    }
}
