//! What a bad request must come to: a code, a reason and the words for people.

use std::fmt::Debug;
use std::sync::Mutex;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Refusals that tell what to do about a state; there was nothing to expect of the request.
const OF_STATE: [&str; 13] = [
    "CALL_ID_REUSED",
    "IDENTITY_UNKNOWN",
    "TOO_MANY_CALLS",
    "REQUEST_ID_REUSED",
    "SESSION_CLOSED",
    "SESSION_ID_REUSED",
    "SESSION_NOT_READY",
    "SESSION_OPEN",
    "OWNER_SIGNATURE",
    "NO_EVIDENCE",
    "SESSION_CLOSING",
    "ATTACHED_ELSEWHERE",
    "OUTPUT_GONE",
];

/// What was not refused as it should be: one run tells all of it.
static WRONG: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Insists on a refusal: the code, the reason in the details and in front of the text, and these words in the text.
#[track_caller]
pub(crate) fn refused<T: Debug>(what: &str, result: Result<T, Status>, code: Code, reason: &str, words: &str) {
    let at = std::panic::Location::caller();
    if let Err(why) = judge(result, code, reason, words) {
        WRONG.lock().expect("the list").push(format!("{at}: {what}: {why}"));
    }
}

/// Insists that every refusal was as it should be.
pub(crate) fn all_were_right() {
    let wrong = WRONG.lock().expect("the list");
    assert!(wrong.is_empty(), "{} refusals are not what they should be:\n{}", wrong.len(), wrong.join("\n"));
}

fn judge<T: Debug>(result: Result<T, Status>, code: Code, reason: &str, words: &str) -> Result<(), String> {
    let status = match result {
        Err(status) => status,
        Ok(answer) => return Err(format!("expected {reason}, found that it was done: {answer:?}")),
    };
    let (info, text) = (status.get_details_error_info(), status.message());
    let found = info.as_ref().map_or(("no reason", ""), |info| (&info.reason, &info.domain));
    if (status.code(), found) != (code, (reason, "coffer.dev")) {
        return Err(format!("expected {code:?} {reason}, found {:?} {found:?}: {text}", status.code()));
    }
    if !text.starts_with(&format!("{reason}: ")) || !text.contains(words) {
        return Err(format!("expected {reason} and {words:?} in {text:?}"));
    }
    if !OF_STATE.contains(&reason) && !text.contains("expected ") {
        return Err(format!("it does not say what was expected: {text}"));
    }
    if text.len() > 1_500 { Err(format!("{} bytes of text: {text}", text.len())) } else { Ok(()) }
}

/// Insists that it was done.
#[track_caller]
pub(crate) fn done<T>(what: &str, result: Result<T, Status>) -> T {
    result.unwrap_or_else(|status| panic!("{what}: expected that it is done, found {status:?}"))
}
