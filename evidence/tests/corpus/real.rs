//! Real quotes in bundles that no real session made: the sample of the dcap-qvl package, under Intel's root. Nobody can seal a
//! session with it, so each of these is bad.

use coffer_evidence::fields::Canonical as _;
use coffer_evidence::manifest::Profile;
use coffer_evidence::verify::Rule;

use crate::opening::{seal, sealed};
use crate::session::{Ending, Recipe, parts};
use crate::vector::{Vector, of};
use crate::vectors::{collateral, not_run, vector};

/// What a machine without the sample has to do without.
pub(crate) const NAMES: [&str; 4] = [
    "simulated-image-under-intels-root",
    "intel-opening-simulated-seal",
    "simulated-opening-intel-seal",
    "simulated-image-sealed-under-intels-root",
];

pub(crate) fn vectors() -> Vec<Vector> {
    let path = "dcap-qvl/tdx_quote";
    let (Some(quote), Some(set)) = (vector(path), collateral("dcap-qvl/tdx_quote_collateral.json")) else {
        not_run(path);
        return Vec::new();
    };
    let used = coffer_evidence::quote::Quote::parse(&quote).expect("a quote").used_length();
    let (quote, set) = (quote[..used].to_vec(), set.to_bytes());
    let tdx = Recipe { manifest: |manifest| manifest.profile = Profile::Tdx, ..Recipe::default() };

    let mut simulated = parts(&Recipe::default(), Ending::Killed);
    (simulated.open_quote, simulated.open_collateral) = (quote.clone(), set.clone());
    let mut opening = sealed(&tdx);
    (opening.open_quote, opening.open_collateral) = (quote.clone(), set.clone());
    let mut last = sealed(&Recipe::default());
    (seal(&mut last).quote, seal(&mut last).collateral) = (quote.clone(), set.clone());
    let (root, profile) = ("one root for all quotes", "image profile fits the root");
    let mut foreign = sealed(&Recipe::default());
    (foreign.open_quote, foreign.open_collateral) = (quote, set);
    (seal(&mut foreign).quote, seal(&mut foreign).collateral) =
        (foreign.open_quote.clone(), foreign.open_collateral.clone());
    let [image, intel, real, other] = NAMES;
    vec![
        of(image, "a real opening quote, and an image made for the simulator", &simulated).refused(Rule::R5, profile),
        of(intel, "a real opening quote, a simulated final one", &opening).refused(Rule::R5, root),
        of(real, "a simulated opening quote, a real final one", &last).refused(Rule::R5, root),
        of(other, "two real quotes, and an image made for the simulator", &foreign).refused(Rule::R5, profile),
    ]
}
