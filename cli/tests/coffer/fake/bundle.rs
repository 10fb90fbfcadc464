//! Evidence for whatever intent the command signed, with collateral that is current when the test runs.

use std::sync::Mutex;

use chrono::Datelike as _;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::Digest256;
use coffer_evidence::intent::Intent;

use super::{Fault, Known};
use crate::platform::Dates;
use crate::session::{Recipe, opening, sealed};

/// The fixtures' hooks are plain functions: what they put in place waits here. One bundle at a time.
static WANTED: Mutex<Option<(Intent, [u8; 64])>> = Mutex::new(None);
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn wanted() -> (Intent, [u8; 64]) {
    WANTED.lock().expect("the wish").clone().expect("a wish")
}

/// The one image that the fixtures boot.
pub(super) fn image() -> Digest256 {
    opening(&Recipe::default()).intent.image
}

/// The sealed bundle of a session.
pub(super) fn bundle(session: &Known, fault: Fault) -> Vec<u8> {
    let _turn = ONE_AT_A_TIME.lock().expect("a turn");
    let intent = Intent::parse(&session.intent).expect("the command's intent");
    *WANTED.lock().expect("the wish") = Some((intent, session.owner_sig));
    let now = chrono::DateTime::from_timestamp_millis(milliseconds()).expect("now");
    let month = |year: i32| (year, u8::try_from(now.month()).expect("a month"));
    let dates = Dates { issued: month(now.year()), ends: month(now.year() + 1) };
    // What the command sends when it is given none.
    let policy = coffer_policy::texts::DEFAULT;
    let mut recipe = Recipe { policy, opening_dates: dates, final_dates: dates, ..Recipe::default() };
    match fault {
        Fault::OtherOwner => {
            recipe.intent = |intent| {
                intent.session = wanted().0.session;
                intent.not_after = u64::MAX / 2;
            }
        }
        _ => {
            recipe.intent = |intent| *intent = wanted().0;
            recipe.config = |config| config.owner_sig = wanted().1;
        }
    }
    let mut bytes = sealed(&recipe);
    if matches!(fault, Fault::ChangedBundle | Fault::ClosedLate) {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }
    bytes
}

fn milliseconds() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    i64::try_from(now.as_millis()).expect("a time")
}
