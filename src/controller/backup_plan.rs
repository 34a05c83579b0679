//! What a CacheBackup's controller decides. Pure: from what is seen to the status, and to the Jobs that begin and go.

use jiff::Timestamp;

use crate::api::backup::{
    BackupPhase, BackupRun, CacheBackupStatus, RunResult, SNAPSHOTS_MAX, Snapshot,
};
use crate::api::common::Time;
use crate::backup::{Outcome, Report};
use crate::plan::cron::Schedule;

/// Finished Jobs that are kept, for their logs.
const JOBS_KEPT: usize = 3;
/// After a failure, doubling with each in a row.
const RETRY_MIN_MS: u64 = 10_000;
const RETRY_MAX_MS: u64 = 10 * 60_000;
/// What cannot be watched is looked at again this often.
const LOOK_AGAIN_MS: u64 = 10_000;
const MESSAGE_MAX: usize = 2000;

/// Whether a run can begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    CacheNotFound(String),
    CacheNotReady(String),
    SecretMissing(String),
}

impl Obstacle {
    fn reason(&self) -> &'static str {
        match self {
            Obstacle::CacheNotFound(_) => "CacheNotFound",
            Obstacle::CacheNotReady(_) => "CacheNotReady",
            Obstacle::SecretMissing(_) => "SecretMissing",
        }
    }

    fn message(&self) -> &str {
        match self {
            Obstacle::CacheNotFound(message)
            | Obstacle::CacheNotReady(message)
            | Obstacle::SecretMissing(message) => message,
        }
    }
}

/// A Job of this CacheBackup.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSeen {
    pub name: String,
    pub created_ms: u64,
    pub state: RunState,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RunState {
    /// With why its pod does not run, if it does not.
    Running(Option<String>),
    /// Its pod has not told its result yet.
    Ending,
    Reported(Box<Report>),
    /// It ended without a result: why, as far as is known.
    Silent(String),
}

/// Everything that the decision hangs on.
#[derive(Clone, Debug)]
pub struct BackupSeen<'a> {
    pub name: &'a str,
    pub generation: i64,
    pub created_ms: u64,
    /// None: once.
    pub schedule: Option<&'a Schedule>,
    pub suspend: bool,
    pub previous: &'a CacheBackupStatus,
    pub obstacle: Option<Obstacle>,
    pub runs: Vec<RunSeen>,
    pub now_ms: u64,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackupPlan {
    /// The name of the Job to be made.
    pub begin: Option<String>,
    /// Finished Jobs to be deleted.
    pub delete: Vec<String>,
    pub status: CacheBackupStatus,
    pub again_in_ms: Option<u64>,
    /// (warning, reason, message) for events.
    pub told: Vec<(bool, &'static str, String)>,
}

pub fn plan(seen: &BackupSeen<'_>) -> BackupPlan {
    let mut plan = BackupPlan {
        status: seen.previous.clone(),
        delete: surplus(&seen.runs),
        ..BackupPlan::default()
    };
    plan.status.observed_generation = Some(seen.generation);
    take_in(seen, &mut plan);
    skip_suspended(seen, &mut plan.status);
    let due = due(seen, &plan.status);
    let running = running(seen);
    let may_begin = !seen.suspend && running.is_none() && seen.obstacle.is_none();
    if let Some(due) = due.filter(|due| may_begin && due.at_ms <= seen.now_ms) {
        begin(seen, due, &mut plan);
    }
    let next = seen
        .schedule
        .filter(|_| !seen.suspend)
        .and_then(|schedule| schedule.next_after_ms(seen.now_ms));
    plan.status.next_schedule_time = next.and_then(time);
    findings::say(seen, due, running, &mut plan);
    let timers = [
        due.filter(|_| may_begin).map(|due| due.at_ms),
        next,
        (running.is_some() || seen.obstacle.is_some()).then_some(seen.now_ms + LOOK_AGAIN_MS),
    ];
    let first = timers.into_iter().flatten().min();
    plan.again_in_ms = first.map(|at| at.saturating_sub(seen.now_ms).max(100));
    plan
}

/// The status of one whose spec cannot be carried out.
pub fn invalid(
    generation: i64,
    previous: &CacheBackupStatus,
    message: &str,
    now_ms: u64,
) -> CacheBackupStatus {
    let mut status = previous.clone();
    status.observed_generation = Some(generation);
    status.phase = Some(BackupPhase::Invalid);
    status.next_schedule_time = None;
    let finding = ("False", "Invalid", message.to_string());
    status.conditions = vec![findings::condition(previous, generation, finding, now_ms)];
    status
}

/// When a run is due; `scheduled` is its time on the schedule, if it is not a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    at_ms: u64,
    scheduled_ms: Option<u64>,
}

fn due(seen: &BackupSeen<'_>, status: &CacheBackupStatus) -> Option<Due> {
    let last = status.last_run.as_ref();
    let retry = last
        .filter(|run| run.result == RunResult::Failed)
        .map(|run| Due {
            at_ms: ms(run.completed_at.as_ref().unwrap_or(&run.started_at))
                + retry_after_ms(run.failures),
            scheduled_ms: None,
        });
    let fresh = match seen.schedule {
        None => last.is_none().then_some(Due {
            at_ms: seen.created_ms,
            scheduled_ms: Some(seen.created_ms),
        }),
        Some(schedule) => {
            let since = status
                .last_schedule_time
                .as_ref()
                .map_or(seen.created_ms, |at| ms(at) + 1);
            schedule.last_until_ms(seen.now_ms, since).map(|at_ms| Due {
                at_ms,
                scheduled_ms: Some(at_ms),
            })
        }
    };
    fresh.or(retry)
}

fn retry_after_ms(failures: i32) -> u64 {
    let doublings = u32::try_from(failures - 1).unwrap_or(0).min(16);
    (RETRY_MIN_MS << doublings).min(RETRY_MAX_MS)
}

fn skip_suspended(seen: &BackupSeen<'_>, status: &mut CacheBackupStatus) {
    if !seen.suspend {
        return;
    }
    let since = status
        .last_schedule_time
        .as_ref()
        .map_or(seen.created_ms, |at| ms(at) + 1);
    let missed = seen
        .schedule
        .and_then(|schedule| schedule.last_until_ms(seen.now_ms, since));
    if let Some(at) = missed.and_then(time) {
        status.last_schedule_time = Some(at);
    }
}

fn begin(seen: &BackupSeen<'_>, due: Due, plan: &mut BackupPlan) {
    let at = due.scheduled_ms.unwrap_or(seen.now_ms);
    let name = run_name(seen.name, at);
    let failures = plan.status.last_run.as_ref().map_or(0, |run| run.failures);
    plan.status.last_run = time(seen.now_ms).map(|started_at| BackupRun {
        name: name.clone(),
        started_at,
        completed_at: None,
        result: RunResult::Running,
        message: String::new(),
        failures,
    });
    if seen.schedule.is_some() && due.scheduled_ms.is_some() {
        plan.status.last_schedule_time = time(at);
    }
    plan.told
        .push((false, "BackupStarted", format!("began snapshot {name}")));
    plan.begin = Some(name);
}

/// The same for the same time, so that a crash after a Job was made does not make another.
fn run_name(backup: &str, at_ms: u64) -> String {
    let at = timestamp(at_ms).unwrap_or_default();
    format!("{backup}-{}", at.strftime("%Y%m%d%H%M%S"))
}

fn running<'a>(seen: &'a BackupSeen<'_>) -> Option<&'a RunSeen> {
    let unfinished = |run: &&RunSeen| matches!(run.state, RunState::Running(_) | RunState::Ending);
    seen.runs
        .iter()
        .filter(unfinished)
        .max_by_key(|run| run.created_ms)
}

/// Takes results into the status.
fn take_in(seen: &BackupSeen<'_>, plan: &mut BackupPlan) {
    // A Job whose beginning was not written down, as the operator crashed in between.
    let newest = seen.runs.iter().max_by_key(|run| run.created_ms);
    if let Some(newest) = newest {
        let last = plan.status.last_run.as_ref();
        let known_since = last.map_or(0, |run| ms(&run.started_at));
        let unknown = last.is_none_or(|run| run.name != newest.name);
        let taken = plan
            .status
            .snapshots
            .iter()
            .any(|snapshot| snapshot.name == newest.name);
        if unknown && !taken && newest.created_ms >= known_since {
            let failures = last.map_or(0, |run| run.failures);
            plan.status.last_run = time(newest.created_ms).map(|started_at| BackupRun {
                name: newest.name.clone(),
                started_at,
                completed_at: None,
                result: RunResult::Running,
                message: String::new(),
                failures,
            });
        }
    }
    let Some(run) = plan
        .status
        .last_run
        .clone()
        .filter(|run| run.result == RunResult::Running)
    else {
        return;
    };
    let job = seen.runs.iter().find(|job| job.name == run.name);
    match job.map(|job| &job.state) {
        Some(RunState::Running(_) | RunState::Ending) => {}
        Some(RunState::Reported(report)) if report.outcome == Outcome::Completed => {
            succeeded(run, report, seen.now_ms, plan);
        }
        Some(RunState::Reported(report)) => {
            let reason = report
                .reason
                .map_or("BackupFailed".into(), |reason| format!("{reason:?}"));
            let parts = [report.message.as_deref(), report.mend.as_deref()];
            let message: Vec<&str> = parts.into_iter().flatten().collect();
            failed(
                run,
                &format!("{reason}: {}", message.join("; ")),
                seen.now_ms,
                plan,
            );
        }
        Some(RunState::Silent(why)) => {
            failed(run, &format!("BackupFailed: {why}"), seen.now_ms, plan)
        }
        None => failed(
            run,
            "BackupFailed: its Job was deleted before it told a result",
            seen.now_ms,
            plan,
        ),
    }
}

fn succeeded(mut run: BackupRun, report: &Report, now_ms: u64, plan: &mut BackupPlan) {
    let count = |value: Option<u64>| i64::try_from(value.unwrap_or(0)).unwrap_or(i64::MAX);
    let completed = report.finished_at.map(Time).or_else(|| time(now_ms));
    run.result = RunResult::Succeeded;
    run.failures = 0;
    run.completed_at = completed.clone();
    if let Some(completed_at) = completed {
        let snapshot = Snapshot {
            name: run.name.clone(),
            started_at: report
                .started_at
                .map_or_else(|| run.started_at.clone(), Time),
            completed_at: completed_at.clone(),
            bytes: count(report.bytes),
            keys: count(report.keys),
            shards: i32::try_from(report.shards.unwrap_or(0)).unwrap_or(i32::MAX),
            location: report.location.clone().unwrap_or_default(),
        };
        let message = format!(
            "snapshot {} is complete: {} keys, {} bytes, at {}",
            snapshot.name, snapshot.keys, snapshot.bytes, snapshot.location
        );
        plan.told.push((false, "BackupCompleted", message));
        plan.status.snapshots.insert(0, snapshot);
        plan.status.snapshots.truncate(SNAPSHOTS_MAX);
        plan.status.snapshot_count += 1;
        plan.status.last_success_time = Some(completed_at);
    }
    plan.status.last_run = Some(run);
}

fn failed(mut run: BackupRun, message: &str, now_ms: u64, plan: &mut BackupPlan) {
    let message = cut(message);
    run.result = RunResult::Failed;
    run.failures = run.failures.saturating_add(1);
    run.completed_at = time(now_ms);
    plan.told.push((
        true,
        "BackupFailed",
        format!("snapshot {} failed: {message}", run.name),
    ));
    run.message = message;
    plan.status.last_run = Some(run);
}

/// All but the newest few of those that ended.
fn surplus(runs: &[RunSeen]) -> Vec<String> {
    let ended = |run: &&RunSeen| matches!(run.state, RunState::Reported(_) | RunState::Silent(_));
    let mut ended: Vec<&RunSeen> = runs.iter().filter(ended).collect();
    ended.sort_by_key(|run| std::cmp::Reverse(run.created_ms));
    ended
        .iter()
        .skip(JOBS_KEPT)
        .map(|run| run.name.clone())
        .collect()
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MESSAGE_MAX)].to_string()
}

fn timestamp(ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()
}

/// In whole seconds, as Kubernetes keeps times.
fn time(ms: u64) -> Option<Time> {
    Some(Time(
        Timestamp::from_second(timestamp(ms)?.as_second()).ok()?,
    ))
}

fn ms(time: &Time) -> u64 {
    u64::try_from(time.0.as_millisecond()).unwrap_or(0)
}

mod findings;
#[cfg(test)]
mod tests;
