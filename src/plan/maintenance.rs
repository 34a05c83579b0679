//! Work at set times. A run begins when its time has come and the Cache is settled, and goes on until the work is done; a time that passes while a
//! run is under way, or while nothing could be done, is made up for once.

use jiff::Timestamp;

use crate::api::cache::MaintenanceStatus;
use crate::api::common::Time;
use crate::api::quantity::counted;

use super::edit::Edit;
use super::moves;
use super::rebalance::{self, Balance};
use super::view::View;
use super::{Plan, Step, WaitReason};

/// Plans the next step of maintenance. True if it planned one.
pub fn maintain(view: &View, plan: &mut Plan) -> bool {
    let status = &view.observed.maintenance;
    let Some(maintenance) = &view.desired.maintenance else {
        return stop_run(status, plan);
    };
    if status.running_since.is_some() {
        return match maintenance.rebalance_threshold_percent {
            Some(percent) => rebalance(view, percent, plan),
            None => stop_run(status, plan),
        };
    }
    if let Some(next_ms) = maintenance.schedule.next_after_ms(view.now_ms) {
        plan.again_by(next_ms);
    }
    let Some(last_ms) = maintenance.schedule.last_until_ms(view.now_ms, 0) else {
        return false;
    };
    let mut next = status.clone();
    next.last_schedule_time = time(last_ms);
    match &status.last_schedule_time {
        // Times before the schedule was made are not made up for.
        None => record(plan, next, "maintenance is scheduled".into()),
        Some(done) if millis(done) >= last_ms => false,
        Some(_) => {
            next.running_since = time(last_ms);
            next.moves = 0;
            record(
                plan,
                next,
                "maintenance begins: rebalances the shards".into(),
            )
        }
    }
}

/// A run whose task was taken from the spec ends.
fn stop_run(status: &MaintenanceStatus, plan: &mut Plan) -> bool {
    if status.running_since.is_none() {
        return false;
    }
    let mut next = status.clone();
    next.running_since = None;
    record(
        plan,
        next,
        "maintenance ends: the spec asks for it no more".into(),
    )
}

fn rebalance(view: &View, percent: u32, plan: &mut Plan) -> bool {
    if !view.topology.moves.is_empty() {
        return false;
    }
    if let Some(from) = stale_stats(view, plan) {
        if from.is_empty() {
            return false;
        }
        plan.steps.push(Step::FetchSlotStats { from });
        return true;
    }
    let status = &view.observed.maintenance;
    if status.moves >= view.desired.limits.maintenance_moves_max {
        return finish(
            view,
            format!(
                "stopped after {} moves; goes on at its next time",
                status.moves
            ),
            plan,
        );
    }
    match rebalance::next(view, percent) {
        Balance::Balanced { over_percent } => {
            let result = format!(
                "the fullest shard is {over_percent} % above the average, after {} moves",
                status.moves
            );
            finish(view, result, plan)
        }
        Balance::Stuck { over_percent, why } => {
            let result = format!(
                "the fullest shard stays {over_percent} % above the average: {why}; {} moves were made",
                status.moves
            );
            finish(view, result, plan)
        }
        Balance::Move(transfer) => {
            if !moves::has_room(view, std::slice::from_ref(&transfer), plan) {
                return finish(view, "stopped: the emptiest shard has no room".into(), plan);
            }
            if let Some(missing) = moves::missing_copies(view, &transfer.to) {
                return finish(view, format!("stopped: {missing}"), plan);
            }
            let mut next = status.clone();
            next.moves += 1;
            let why = format!("rebalancing, move {}", next.moves);
            record(plan, next, why);
            let mut edit = Edit::of(view.topology);
            moves::add(view, &transfer, &mut edit);
            plan.steps.push(Step::WriteTopology(edit.finish(view)));
            true
        }
    }
}

/// Whose slot statistics are missing or older than the topology; none if all are there.
fn stale_stats(view: &View, plan: &mut Plan) -> Option<Vec<(String, String)>> {
    let mut from = Vec::new();
    let mut any = false;
    for shard in &view.topology.shards {
        let fresh = view
            .observed
            .slot_stats
            .get(&shard.name)
            .is_some_and(|stats| {
                let age_ms = view.now_ms.saturating_sub(stats.at_ms);
                stats.epoch == view.topology.epoch
                    && age_ms <= view.desired.limits.slot_stats_age_max_ms
            });
        if fresh {
            continue;
        }
        any = true;
        match view.serving_primary(shard) {
            Some(state) => from.push((shard.name.clone(), state.member.clone())),
            None => plan.wait(
                WaitReason::SlotStats,
                format!("rebalancing waits for a primary of shard {}", shard.name),
            ),
        }
    }
    any.then_some(from)
}

fn finish(view: &View, result: String, plan: &mut Plan) -> bool {
    let mut next = view.observed.maintenance.clone();
    next.running_since = None;
    next.last_completed_time = time(view.now_ms);
    next.last_result = Some(result.clone());
    record(plan, next, format!("maintenance is done: {result}"))
}

/// Notes over how many shards the slots now lie evenly. True if that is news.
pub fn note_spread(view: &View, plan: &mut Plan) -> bool {
    let mut next = view.observed.maintenance.clone();
    let shards = Some(i32::from(view.desired.shards));
    if next.spread_over == shards {
        return false;
    }
    next.spread_over = shards;
    record(
        plan,
        next,
        format!(
            "slots lie evenly on {}",
            counted(usize::from(view.desired.shards), "shard")
        ),
    )
}

fn record(plan: &mut Plan, status: MaintenanceStatus, why: String) -> bool {
    plan.steps.push(Step::RecordMaintenance { status, why });
    true
}

fn time(ms: u64) -> Option<Time> {
    let ms = i64::try_from(ms).ok()?;
    // Kubernetes' times have whole seconds.
    Timestamp::from_second(ms.div_euclid(1000)).ok().map(Time)
}

fn millis(time: &Time) -> u64 {
    u64::try_from(time.0.as_millisecond()).unwrap_or(0)
}
