//! What is said of a CacheBackup: its phase, and its `Ready` condition.

use jiff::Timestamp;

use super::{BackupPlan, BackupSeen, Due, RunSeen, RunState, cut, retry_after_ms, time};
use crate::api::backup::{BackupPhase, BackupRun, CacheBackupStatus, RunResult};
use crate::api::common::{Condition, Time};

/// Phase and condition.
pub(super) fn say(
    seen: &BackupSeen<'_>,
    due: Option<Due>,
    running: Option<&RunSeen>,
    plan: &mut BackupPlan,
) {
    let last = plan.status.last_run.as_ref();
    let failure = last.filter(|run| run.failures > 0);
    let succeeded = last.is_some_and(|run| run.result == RunResult::Succeeded);
    let is_running = running.is_some() || plan.begin.is_some();
    let is_due = due.is_some_and(|due| due.at_ms <= seen.now_ms);
    let phase = if seen.suspend {
        BackupPhase::Suspended
    } else if is_running {
        BackupPhase::Running
    } else if is_due && seen.obstacle.is_some() {
        BackupPhase::Pending
    } else if failure.is_some() {
        BackupPhase::Failing
    } else if seen.schedule.is_some() {
        BackupPhase::Scheduled
    } else if succeeded {
        BackupPhase::Complete
    } else {
        BackupPhase::Pending
    };
    let finding = match (&seen.obstacle, failure, running) {
        (Some(obstacle), _, _) if phase == BackupPhase::Pending => {
            ("False", obstacle.reason(), obstacle.message().to_string())
        }
        (
            _,
            _,
            Some(RunSeen {
                name,
                state: RunState::Running(Some(problem)),
                ..
            }),
        ) => (
            "False",
            "PodNotRunning",
            format!("the pod of {name} does not run: {problem}"),
        ),
        (_, Some(_), _) if is_running => retrying(seen.previous),
        (_, Some(run), _) => failing(run),
        _ if succeeded || plan.status.last_success_time.is_some() => (
            "True",
            "SnapshotComplete",
            "the last snapshot is complete".into(),
        ),
        _ if is_running => (
            "False",
            "Running",
            "the first snapshot is being taken".into(),
        ),
        _ if seen.schedule.is_some() => (
            "True",
            "Scheduled",
            "waits for its first scheduled time".into(),
        ),
        _ => ("False", "Pending", "the snapshot begins soon".into()),
    };
    plan.status.phase = Some(phase);
    let condition = condition(seen.previous, seen.generation, finding, seen.now_ms);
    plan.status.conditions = vec![condition];
}

type Finding = (&'static str, &'static str, String);

/// What a run may tell as its reason, and what is said of one that told none.
const REASONS: &[&str] = &[
    "BadConfiguration",
    "WrongCredentials",
    "AccessDenied",
    "BucketNotFound",
    "WrongRegion",
    "EndpointUnreachable",
    "StorageRefused",
    "StorageMismatch",
    "NodeUnreachable",
    "WrongControlPassword",
    "NodeBusy",
    "SnapshotFailed",
    "TopologyChanged",
    "Interrupted",
    "BackupFailed",
];

/// The reason that the run told is the condition's.
fn failing(run: &BackupRun) -> Finding {
    let (reason, message) = run
        .message
        .split_once(": ")
        .unwrap_or(("BackupFailed", &run.message));
    let reason = REASONS
        .iter()
        .find(|known| **known == reason)
        .unwrap_or(&"BackupFailed");
    let seconds = retry_after_ms(run.failures) / 1000;
    (
        "False",
        reason,
        format!(
            "{message}; tries again {seconds} s after the failure (failure {})",
            run.failures
        ),
    )
}

/// While it is tried again, what went wrong stays said. Jobs that others began leave nothing to say.
fn retrying(previous: &CacheBackupStatus) -> Finding {
    let before = previous
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready");
    let reason = before.and_then(|before| REASONS.iter().find(|known| **known == before.reason));
    match (before, reason) {
        (Some(before), Some(reason)) => ("False", reason, before.message.clone()),
        _ => ("False", "Retrying", "tries again after a failure".into()),
    }
}

pub(super) fn condition(
    previous: &CacheBackupStatus,
    generation: i64,
    finding: Finding,
    now_ms: u64,
) -> Condition {
    let (status, reason, message) = finding;
    let before = previous
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready");
    let since = before
        .filter(|before| before.status == status)
        .map(|before| before.last_transition_time.clone());
    Condition {
        type_: "Ready".into(),
        status: status.into(),
        reason: reason.into(),
        message: cut(&message),
        observed_generation: Some(generation),
        last_transition_time: since
            .or_else(|| time(now_ms))
            .unwrap_or(Time(Timestamp::UNIX_EPOCH)),
    }
}
