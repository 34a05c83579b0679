use super::*;

const T0: u64 = 1_767_225_600_000; // 2026-01-01T00:00:00Z
const HOUR: u64 = 3_600_000;

fn seen<'a>(
    schedule: Option<&'a Schedule>,
    previous: &'a CacheBackupStatus,
    now_ms: u64,
) -> BackupSeen<'a> {
    BackupSeen {
        name: "weekly",
        generation: 1,
        created_ms: T0,
        schedule,
        suspend: false,
        previous,
        obstacle: None,
        runs: Vec::new(),
        now_ms,
    }
}

fn run(name: &str, created_ms: u64, state: RunState) -> RunSeen {
    RunSeen {
        name: name.into(),
        created_ms,
        state,
    }
}

fn reported(text: &str) -> RunState {
    RunState::Reported(Box::new(serde_json::from_str(text).unwrap()))
}

fn completed() -> RunState {
    reported(
        r#"{"outcome":"Completed","snapshot":"s","location":"s3://jars/x/","epoch":3,"shards":2,"keys":10,"bytes":99,
        "startedAt":"2026-01-01T00:00:01Z","finishedAt":"2026-01-01T00:00:09Z"}"#,
    )
}

fn wrong_credentials() -> RunState {
    reported(
        r#"{"outcome":"Failed","snapshot":"s","reason":"WrongCredentials","message":"key A1 is not known","mend":"correct the Secret"}"#,
    )
}

fn ready(plan: &BackupPlan) -> (&str, &str) {
    let condition = &plan.status.conditions[0];
    (&condition.status, &condition.reason)
}

#[test]
fn once_begins_at_once_and_is_complete_with_its_snapshot() {
    let none = CacheBackupStatus::default();
    let first = plan(&seen(None, &none, T0 + 500));
    assert_eq!(first.begin.as_deref(), Some("weekly-20260101000000"));
    assert_eq!(first.status.phase, Some(BackupPhase::Running));
    assert_eq!(ready(&first), ("False", "Running"));

    let mut later = seen(None, &first.status, T0 + 10_000);
    later.runs = vec![run("weekly-20260101000000", T0, completed())];
    let second = plan(&later);
    assert_eq!(second.begin, None);
    assert_eq!(second.status.phase, Some(BackupPhase::Complete));
    assert_eq!(ready(&second), ("True", "SnapshotComplete"));
    assert_eq!(second.status.snapshots[0].keys, 10);
    assert_eq!(second.status.snapshots[0].location, "s3://jars/x/");
    assert_eq!(
        (second.status.snapshot_count, second.again_in_ms),
        (1, None)
    );

    // Again: nothing changes, and nothing is counted twice.
    later.previous = &second.status;
    let third = plan(&later);
    assert_eq!(
        (third.begin, third.status, third.told),
        (None, second.status.clone(), vec![])
    );
    // Nor when its Job is gone.
    later.runs.clear();
    assert_eq!(plan(&later).status, second.status);
}

#[test]
fn a_failure_says_why_and_is_retried_with_patience() {
    let none = CacheBackupStatus::default();
    let begun = plan(&seen(None, &none, T0));
    let mut later = seen(None, &begun.status, T0 + 5_000);
    later.runs = vec![run("weekly-20260101000000", T0, wrong_credentials())];
    let failed = plan(&later);
    assert_eq!(failed.begin, None);
    assert_eq!(failed.status.phase, Some(BackupPhase::Failing));
    assert_eq!(ready(&failed), ("False", "WrongCredentials"));
    let message = &failed.status.conditions[0].message;
    assert!(
        message.contains("key A1 is not known; correct the Secret"),
        "{message}"
    );
    assert_eq!(failed.again_in_ms, Some(10_000));
    assert_eq!(failed.told.iter().filter(|told| told.0).count(), 1);

    let mut later = seen(None, &failed.status, T0 + 15_000);
    later.runs = vec![run("weekly-20260101000000", T0, wrong_credentials())];
    let again = plan(&later);
    assert_eq!(again.begin.as_deref(), Some("weekly-20260101000015"));
    assert_eq!(
        ready(&again),
        ("False", "WrongCredentials"),
        "stays said while it is tried again"
    );

    let mut later = seen(None, &again.status, T0 + 20_000);
    later.runs = vec![
        run("weekly-20260101000000", T0, wrong_credentials()),
        run("weekly-20260101000015", T0 + 15_000, completed()),
    ];
    let well = plan(&later);
    assert_eq!(ready(&well), ("True", "SnapshotComplete"));
    assert_eq!(
        well.status.last_run.as_ref().map(|run| run.failures),
        Some(0)
    );
}

#[test]
fn patience_doubles_up_to_ten_minutes() {
    let seconds: Vec<u64> = [1, 2, 3, 7, 50]
        .map(|failures| retry_after_ms(failures) / 1000)
        .into();
    assert_eq!(seconds, [10, 20, 40, 600, 600]);
}

#[test]
fn a_schedule_begins_each_time_once_and_only_the_last_of_those_missed() {
    let hourly = Schedule::parse("0 * * * *", None).unwrap();
    let none = CacheBackupStatus::default();
    let waits = plan(&seen(Some(&hourly), &none, T0 + 60_000));
    assert_eq!(
        (waits.begin.as_deref(), waits.status.phase),
        (Some("weekly-20260101000000"), Some(BackupPhase::Running))
    );

    let created_later = BackupSeen {
        created_ms: T0 + 1,
        ..seen(Some(&hourly), &none, T0 + 60_000)
    };
    let waits = plan(&created_later);
    assert_eq!(
        (waits.begin, waits.status.phase),
        (None, Some(BackupPhase::Scheduled))
    );
    assert_eq!(waits.again_in_ms, Some(HOUR - 60_000));
    assert_eq!(
        ready(&BackupPlan {
            status: waits.status.clone(),
            ..BackupPlan::default()
        }),
        ("True", "Scheduled")
    );

    let missed = BackupSeen {
        now_ms: T0 + 5 * HOUR + 7,
        previous: &waits.status,
        ..created_later
    };
    let late = plan(&missed);
    assert_eq!(late.begin.as_deref(), Some("weekly-20260101050000"));
    let mut next = seen(Some(&hourly), &late.status, T0 + 5 * HOUR + 60_000);
    next.runs = vec![run("weekly-20260101050000", T0 + 5 * HOUR, completed())];
    let done = plan(&next);
    assert_eq!(
        (done.begin, done.status.phase),
        (None, Some(BackupPhase::Scheduled))
    );
    assert_eq!(done.status.last_schedule_time, time(T0 + 5 * HOUR));
}

#[test]
fn a_crash_between_job_and_status_makes_no_second_job() {
    let none = CacheBackupStatus::default();
    let mut after_crash = seen(None, &none, T0 + 1_000);
    after_crash.runs = vec![run("weekly-20260101000000", T0, RunState::Running(None))];
    let adopted = plan(&after_crash);
    assert_eq!(adopted.begin, None);
    assert_eq!(adopted.status.phase, Some(BackupPhase::Running));
    assert_eq!(
        adopted.status.last_run.unwrap().name,
        "weekly-20260101000000"
    );
}

#[test]
fn suspended_runs_are_skipped_not_made_up_for() {
    let hourly = Schedule::parse("0 * * * *", None).unwrap();
    let none = CacheBackupStatus::default();
    let mut suspended = seen(Some(&hourly), &none, T0 + 3 * HOUR + 5);
    suspended.suspend = true;
    let skipped = plan(&suspended);
    assert_eq!(
        (skipped.begin, skipped.status.phase),
        (None, Some(BackupPhase::Suspended))
    );
    let resumed = plan(&seen(
        Some(&hourly),
        &skipped.status,
        T0 + 3 * HOUR + 10_000,
    ));
    assert_eq!(
        (resumed.begin, resumed.status.phase),
        (None, Some(BackupPhase::Scheduled))
    );
}

#[test]
fn an_obstacle_is_named_and_waited_for() {
    let none = CacheBackupStatus::default();
    let mut blocked = seen(None, &none, T0 + 1_000);
    blocked.obstacle = Some(Obstacle::CacheNotFound("Cache larder is not there".into()));
    let waits = plan(&blocked);
    assert_eq!(
        (waits.begin.as_deref(), waits.status.phase),
        (None, Some(BackupPhase::Pending))
    );
    assert_eq!(ready(&waits), ("False", "CacheNotFound"));
    assert_eq!(waits.again_in_ms, Some(LOOK_AGAIN_MS));
}

#[test]
fn a_job_that_vanished_or_told_nothing_has_failed() {
    let none = CacheBackupStatus::default();
    let begun = plan(&seen(None, &none, T0));
    let vanished = plan(&seen(None, &begun.status, T0 + 1_000));
    assert_eq!(ready(&vanished), ("False", "BackupFailed"));
    let mut silent = seen(None, &begun.status, T0 + 1_000);
    silent.runs = vec![run(
        "weekly-20260101000000",
        T0,
        RunState::Silent("OOMKilled".into()),
    )];
    assert!(
        plan(&silent).status.conditions[0]
            .message
            .contains("OOMKilled")
    );
}

#[test]
fn old_jobs_go() {
    let none = CacheBackupStatus::default();
    let mut many = seen(None, &none, T0 + HOUR);
    many.runs = (0..5)
        .map(|n| run(&format!("r{n}"), T0 + n, RunState::Silent("x".into())))
        .collect();
    assert_eq!(plan(&many).delete, ["r1", "r0"]);
}
