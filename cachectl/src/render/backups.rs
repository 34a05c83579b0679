//! The CacheBackups of a Cache, as `cachectl status` shows them.

use cache_operator::api::CacheBackup;
use cache_operator::api::backup::{BackupPhase, CacheBackupStatus};
use cache_operator::plan::cron::Schedule;
use jiff::Timestamp;
use kube::ResourceExt;

use super::{Table, ago};
use crate::style;

/// A table of them; empty without any.
pub fn backups(backups: &[CacheBackup], now: Timestamp) -> String {
    if backups.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["BACKUP", "PHASE", "LAST SNAPSHOT", "NEXT", "CONDITION"]);
    for backup in backups {
        let empty = CacheBackupStatus::default();
        let status = backup.status.as_ref().unwrap_or(&empty);
        table.row(vec![
            backup.name_any(),
            phase(status.phase),
            last(status, now),
            next(backup, status, now),
            condition(status),
        ]);
    }
    format!("\n{}", table.lines())
}

fn phase(phase: Option<BackupPhase>) -> String {
    match phase {
        None => style::dim("not run yet"),
        Some(phase @ (BackupPhase::Failing | BackupPhase::Invalid)) => {
            style::error(format!("{phase:?}"))
        }
        Some(phase @ (BackupPhase::Pending | BackupPhase::Suspended)) => {
            style::warn(format!("{phase:?}"))
        }
        Some(phase) => style::good(format!("{phase:?}")),
    }
}

fn last(status: &CacheBackupStatus, now: Timestamp) -> String {
    match status.snapshots.first() {
        Some(snapshot) => format!(
            "{}, {} ago",
            snapshot.name,
            ago(now, snapshot.completed_at.0)
        ),
        None => style::dim("none"),
    }
}

/// Local mode writes no next time down: there the schedule says it.
fn next(backup: &CacheBackup, status: &CacheBackupStatus, now: Timestamp) -> String {
    let scheduled = || {
        let spec = &backup.spec;
        let schedule =
            Schedule::parse(spec.schedule.as_deref()?, spec.time_zone.as_deref()).ok()?;
        let next = schedule.next_after_ms(u64::try_from(now.as_millisecond()).ok()?)?;
        Timestamp::from_millisecond(i64::try_from(next).ok()?).ok()
    };
    let given = status.next_schedule_time.as_ref().map(|at| at.0);
    match given.or_else(scheduled).filter(|_| !backup.spec.suspend) {
        Some(at) => format!("in {}", ago(at, now)),
        None => style::dim("none"),
    }
}

fn condition(status: &CacheBackupStatus) -> String {
    let Some(ready) = status.conditions.iter().find(|c| c.type_ == "Ready") else {
        return String::new();
    };
    match ready.status.as_str() {
        "True" => style::good(&ready.reason),
        _ => format!("{}: {}", style::warn(&ready.reason), ready.message),
    }
}
