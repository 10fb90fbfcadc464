//! What became of a call: logged, and told to its client in the same words.

use super::super::call::{self, Call};
use super::super::starter::NotStarted;
use crate::frames::start::{Cause, Exit};
use bytes::Bytes;
use coffer_evidence::call::{OutcomePrivate, StreamDigest};
use coffer_proto::guest::v1 as pb;
use tonic::Status;

/// Logs that nothing ran.
pub(super) async fn not_started(call: Call, error: &NotStarted) -> Result<pb::Exited, Status> {
    let outcome_index = call.outcome(&call::not_started(error), 0, 0).await?;
    Ok(pb::Exited {
        cause: pb::ExitCause::FailedToStart.into(),
        errno: error.errno,
        stage: error.stage.clone(),
        outcome_index,
        ..pb::Exited::default()
    })
}

/// Logs how the program ended.
pub(super) async fn outcome(
    call: Call,
    exit: &Exit,
    stdin: StreamDigest,
    [stdout, stderr]: [StreamDigest; 2],
) -> Result<pb::Exited, Status> {
    let (output, input) = (stdout.total + stderr.total, stdin.total);
    let outcome =
        OutcomePrivate { stdin: Some(stdin), stdout: Some(stdout), stderr: Some(stderr), ..call::ended(exit) };
    let outcome_index = call.outcome(&outcome, output, input).await?;
    Ok(pb::Exited { stdout: Some(stream(&stdout)), stderr: Some(stream(&stderr)), outcome_index, ..exited(exit) })
}

fn exited(exit: &Exit) -> pb::Exited {
    let cause = match (exit.cause, exit.code) {
        (Cause::Ended, Some(_)) => pb::ExitCause::Exited,
        (Cause::Ended, None) => pb::ExitCause::Signalled,
        (Cause::TimedOut, _) => pb::ExitCause::TimedOut,
        (Cause::Cancelled, _) => pb::ExitCause::Cancelled,
        (Cause::OutOfMemory, _) => pb::ExitCause::OutOfMemory,
        (Cause::SessionClosing, _) => pb::ExitCause::SessionClosing,
        (Cause::RecordIncomplete, _) => pb::ExitCause::RecordIncomplete,
    };
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let small = |number: Option<u64>| number.and_then(|number| i32::try_from(number).ok()).unwrap_or(0);
    pb::Exited {
        cause: cause.into(),
        code: small(exit.code),
        signal: small(exit.signal),
        usage: Some(pb::ResourceUsage {
            wall_ms: signed(exit.wall_ms),
            user_us: signed(exit.user_us),
            system_us: signed(exit.system_us),
            max_rss_kib: signed(exit.max_rss_kib),
        }),
        ..pb::Exited::default()
    }
}

fn stream(digest: &StreamDigest) -> pb::Stream {
    pb::Stream {
        bytes_total: digest.total,
        bytes_delivered: digest.delivered,
        sha256: Bytes::copy_from_slice(digest.sha256.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_evidence::leaf::CauseClass;

    #[test]
    fn each_end_has_one_value_in_the_log_and_one_for_its_client() {
        let table = [
            (Cause::Ended, Some(0), None, CauseClass::Completed, pb::ExitCause::Exited),
            (Cause::Ended, Some(3), None, CauseClass::Failed, pb::ExitCause::Exited),
            (Cause::Ended, None, Some(9), CauseClass::Signalled, pb::ExitCause::Signalled),
            (Cause::TimedOut, None, Some(15), CauseClass::TimedOut, pb::ExitCause::TimedOut),
            (Cause::Cancelled, Some(0), None, CauseClass::Cancelled, pb::ExitCause::Cancelled),
            (Cause::OutOfMemory, None, Some(9), CauseClass::OutOfMemory, pb::ExitCause::OutOfMemory),
            (Cause::SessionClosing, None, Some(15), CauseClass::SessionClosing, pb::ExitCause::SessionClosing),
            (Cause::RecordIncomplete, None, Some(15), CauseClass::RecordIncomplete, pb::ExitCause::RecordIncomplete),
        ];
        for (cause, code, signal, logged, told) in table {
            let exit = Exit { cause, code, signal, wall_ms: 1, user_us: 2, system_us: 3, max_rss_kib: 4 };
            let exited = exited(&exit);
            assert_eq!((call::cause(&exit), exited.cause()), (logged, told), "{exit:?}");
            let numbers = [(exited.code, code), (exited.signal, signal)];
            assert!(numbers.iter().all(|(told, known)| u64::try_from(*told).ok() == Some(known.unwrap_or(0))));
        }
        let error = NotStarted { stage: "exec".into(), errno: 13 };
        assert_eq!(call::not_started(&error).cause, CauseClass::FailedToStart);
    }
}
