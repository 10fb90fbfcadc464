//! Registers that somebody expects of a TD, by Intel's names. Which quote they are held against is for the caller.

use crate::quote::{Quote, Register};

/// A register of a TD report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "Intel's own names")]
pub enum RegisterName {
    Mrtd,
    Rtmr0,
    Rtmr1,
    Rtmr2,
    Rtmr3,
    MrSeam,
    MrConfigId,
    MrOwner,
    MrOwnerConfig,
}

impl RegisterName {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Mrtd,
        Self::Rtmr0,
        Self::Rtmr1,
        Self::Rtmr2,
        Self::Rtmr3,
        Self::MrSeam,
        Self::MrConfigId,
        Self::MrOwner,
        Self::MrOwnerConfig,
    ];

    /// As in a policy file and on a command line.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Mrtd => "mrtd",
            Self::Rtmr0 => "rtmr0",
            Self::Rtmr1 => "rtmr1",
            Self::Rtmr2 => "rtmr2",
            Self::Rtmr3 => "rtmr3",
            Self::MrSeam => "mrseam",
            Self::MrConfigId => "mrconfigid",
            Self::MrOwner => "mrowner",
            Self::MrOwnerConfig => "mrownerconfig",
        }
    }

    /// Its value in a quote.
    #[must_use]
    pub fn of(self, quote: &Quote) -> &Register {
        let [rtmr0, rtmr1, rtmr2, rtmr3] = quote.rtmrs();
        match self {
            Self::Mrtd => quote.mrtd(),
            Self::Rtmr0 => rtmr0,
            Self::Rtmr1 => rtmr1,
            Self::Rtmr2 => rtmr2,
            Self::Rtmr3 => rtmr3,
            Self::MrSeam => quote.mr_seam(),
            Self::MrConfigId => quote.mr_config_id(),
            Self::MrOwner => quote.mr_owner(),
            Self::MrOwnerConfig => quote.mr_owner_config(),
        }
    }
}

/// A register and the value that it must have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExpectedRegister {
    /// Which.
    pub name: RegisterName,
    /// Its value.
    pub value: Register,
}

impl ExpectedRegister {
    /// From 96 hexadecimal digits.
    #[must_use]
    pub fn parse(name: RegisterName, hex_digits: &str) -> Option<Self> {
        let value = hex::decode(hex_digits).ok()?.try_into().ok()?;
        Some(Self { name, value })
    }

    /// What is wrong with a quote.
    ///
    /// # Errors
    /// The register, what was expected and what was found.
    pub fn judge(&self, quote: &Quote) -> Result<(), String> {
        let found = self.name.of(quote);
        if *found == self.value {
            return Ok(());
        }
        Err(format!("{}: expected {}, found {}", self.name.key(), hex::encode(self.value), hex::encode(found)))
    }
}
