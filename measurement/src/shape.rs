//! Shapes of virtual machines: what a session can ask for by name. Firmware measures the memory size, so a register belongs to
//! one shape.

use std::fmt;
use std::str::FromStr;

/// A named size of virtual machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Shape {
    /// `s1`: 2 processors, 2 GiB.
    S1,
}

/// A name that is no shape.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown shape; the known ones are: s1")]
pub struct UnknownShape;

impl Shape {
    /// Every shape.
    pub const ALL: &'static [Shape] = &[Shape::S1];

    /// The name in intents and manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Shape::S1 => "s1",
        }
    }

    /// Processors, as given to `-smp`.
    #[must_use]
    pub fn processors(self) -> u32 {
        match self {
            Shape::S1 => 2,
        }
    }

    /// Memory in bytes, as given to `-m`.
    #[must_use]
    pub fn memory_bytes(self) -> u64 {
        match self {
            Shape::S1 => 2 << 30,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Shape {
    type Err = UnknownShape;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Shape::ALL.iter().copied().find(|shape| shape.name() == text).ok_or(UnknownShape)
    }
}
