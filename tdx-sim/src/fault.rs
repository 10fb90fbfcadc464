//! SIMULATED: what goes wrong with quotes when a test asks for it by an argument of the simulator. Nothing else can ask: `cofferd`
//! names no fault, and the image for TDX hosts has neither simulator nor shim.

use std::str::FromStr;

/// What becomes of a quote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The platform says that it is busy, each time.
    Busy,
    /// It never answers.
    Stall,
    /// Half of the quote comes.
    Short,
}

/// A word that names no fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected busy, stall or short")]
pub struct NoFault;

impl FromStr for Fault {
    type Err = NoFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "busy" => Ok(Self::Busy),
            "stall" => Ok(Self::Stall),
            "short" => Ok(Self::Short),
            _ => Err(NoFault),
        }
    }
}

/// A fault from the quote after this many good ones on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Which.
    pub fault: Fault,
    /// Quotes that are given before it.
    pub after: u32,
}

/// What happens to the quotes of one TD.
#[derive(Debug)]
pub struct Quotes {
    plan: Option<Plan>,
    given: u32,
}

impl Quotes {
    /// None given yet.
    #[must_use]
    pub fn new(plan: Option<Plan>) -> Self {
        Self { plan, given: 0 }
    }

    /// The fault of the next quote; without one it counts as given.
    pub fn fault_of_next(&mut self) -> Option<Fault> {
        let fault = self.plan.filter(|plan| self.given >= plan.after).map(|plan| plan.fault);
        if fault.is_none() {
            self.given = self.given.saturating_add(1);
        }
        fault
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_begins_after_the_quotes_before_it_and_stays() {
        let mut quotes = Quotes::new(Some(Plan { fault: Fault::Short, after: 2 }));
        let found: Vec<_> = (0..4).map(|_| quotes.fault_of_next()).collect();
        assert_eq!(found, [None, None, Some(Fault::Short), Some(Fault::Short)]);
        let mut quotes = Quotes::new(None);
        assert!((0..4).all(|_| quotes.fault_of_next().is_none()));
        assert_eq!("none".parse::<Fault>(), Err(NoFault));
    }
}
