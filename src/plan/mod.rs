//! The decision: `plan(&Desired, &Observed, now) -> Plan`, pure and deterministic. No client, clock, randomness or async.
//!
//! In order of urgency: whose topology holds, everyone knows it, lost primaries are replaced, the topology follows its members; then, one
//! disruptive step at a time, stopping primaries are relieved, moves under way are finished, what is surplus goes, members are rolled, slots are
//! spread, and maintenance is done. After each plan everything is observed again: no script is kept.

mod authority;
pub mod check;
pub mod cron;
pub mod desired;
mod edit;
mod failover;
mod handover;
mod heal;
mod maintenance;
mod moves;
pub mod observed;
mod rebalance;
mod regions;
mod roll;
mod shrink;
pub mod slots;
pub mod steps;
mod structure;
pub mod view;
mod waits;

pub use authority::cluster_id;
pub use desired::{Desired, Limits};
pub use observed::{KubeNode, Link, MemberObserved, Observed, Pod, SlotStats, Workload};
pub use regions::is_in_force as has_regions;
pub use steps::{Plan, Reason, ReasonKind, Report, Step, TopologyChange, WaitReason, Waiting};
pub use structure::structure;
pub use waits::why;

use crate::api::names;
use crate::api::quantity::counted;

use edit::Edit;
use view::View;

/// What to do next.
pub fn plan(desired: &Desired, observed: &Observed, now_ms: u64) -> Plan {
    let mut plan = Plan::default();
    if desired.deleting {
        plan.wait(WaitReason::Deleting, "the Cache is being deleted".into());
        return plan;
    }
    if desired.paused {
        plan.wait(
            WaitReason::Paused,
            "spec.paused is true: nothing is changed".into(),
        );
        return plan;
    }
    if !desired.held {
        create_members(desired, observed, &mut plan);
        regions::push(desired, observed, &mut plan);
    }
    if authority::is_settled(desired, observed, now_ms, &mut plan) {
        // Settled means stored.
        if let Some(topology) = &observed.topology {
            with_topology(
                &View {
                    desired,
                    observed,
                    topology,
                    now_ms,
                },
                &mut plan,
            );
        }
    } else if !desired.held {
        roll::mend_broken(desired, observed, &mut plan);
    }
    report(desired, observed, &mut plan);
    waits::members(
        desired,
        observed,
        observed.topology.as_ref(),
        now_ms,
        &mut plan,
    );
    plan
}

fn with_topology(view: &View, plan: &mut Plan) {
    let everyone_knows = authority::everyone_knows(view, plan);
    let mut edit = Edit::of(view.topology);
    heal::fail_over_all(view, &mut edit, plan);
    if everyone_knows {
        heal::follow_members(view, &mut edit);
        if !view.desired.held {
            moves::cancel_unwanted(view, &mut edit);
        }
    }
    if edit.is_changed() {
        // What would be pushed is out of date.
        plan.steps
            .retain(|step| !matches!(step, Step::PushTopology { .. }));
        plan.steps.push(Step::WriteTopology(edit.finish(view)));
        return;
    }
    if everyone_knows && !view.desired.held {
        disrupt(view, plan);
    }
}

/// The one disruptive step, if any: the first of these that has something to do.
fn disrupt(view: &View, plan: &mut Plan) {
    if handover::relieve_stopping(view, plan)
        || moves::finish(view, plan)
        || shrink::shrink(view, plan)
    {
        return;
    }
    if roll::mend_broken(view.desired, view.observed, plan) {
        return;
    }
    // A move's copy would begin anew with every new primary: moves under way end before members are restarted.
    if view.topology.moves.is_empty() && roll::roll(view, plan) == roll::Roll::UnderWay {
        return;
    }
    let rolls = !roll::outdated(view.desired, view.observed).is_empty();
    if moves::is_spreading(view) {
        let transfers = moves::remaining(view);
        if !rolls && moves::begin(view, &transfers, plan) {
            return;
        }
        let spread = transfers.is_empty()
            && view.topology.moves.is_empty()
            && view.topology.shards.len() == usize::from(view.desired.shards);
        if spread {
            maintenance::note_spread(view, plan);
        }
        return;
    }
    if !rolls {
        maintenance::maintain(view, plan);
    }
}

fn create_members(desired: &Desired, observed: &Observed, plan: &mut Plan) {
    for shard in desired.shard_names() {
        for index in 0..desired.members_per_shard {
            create(desired, observed, &shard, index, plan);
        }
    }
    // A shard on its way out keeps the members that it has, until its slots are gone.
    for (shard, entry) in observed
        .topology
        .iter()
        .flat_map(|topology| topology.members())
    {
        if !desired.wants_member(&entry.name)
            && let Some((_, index)) = names::parse_member(&desired.name, &entry.name)
            && !shard.slots.is_empty()
            && !desired.wants_shard(&shard.name)
        {
            create(desired, observed, &shard.name, index, plan);
        }
    }
}

fn create(desired: &Desired, observed: &Observed, shard: &str, index: u8, plan: &mut Plan) {
    let member = desired.member_name(shard, index);
    let exists = observed
        .members
        .get(&member)
        .is_some_and(|seen| seen.workload.is_some());
    if !exists {
        plan.steps.push(Step::CreateMember {
            member,
            shard: shard.into(),
            index,
        });
    }
}

/// How far things are.
fn report(desired: &Desired, observed: &Observed, plan: &mut Plan) {
    let mut report = Report {
        members_to_roll: if desired.held {
            0
        } else {
            u32::try_from(roll::outdated(desired, observed).len()).unwrap_or(u32::MAX)
        },
        rebalancing: observed.maintenance.running_since.is_some(),
        ..Report::default()
    };
    if let Some(topology) = &observed.topology {
        let view = View {
            desired,
            observed,
            topology,
            now_ms: 0,
        };
        let under_way: u32 = topology
            .moves
            .iter()
            .map(|moving| moving.slot_count())
            .sum();
        let to_begin: u32 = if moves::is_spreading(&view) {
            moves::remaining(&view)
                .iter()
                .map(slots::Transfer::count)
                .sum()
        } else {
            0
        };
        report.slots_to_move = under_way + to_begin;
        let leaving: Vec<&str> = topology
            .shards
            .iter()
            .filter(|shard| !desired.wants_shard(&shard.name))
            .map(|shard| shard.name.as_str())
            .collect();
        let joining: Vec<String> = desired
            .shard_names()
            .filter(|name| topology.shard(name).is_none())
            .collect();
        if !joining.is_empty() {
            report
                .pending
                .push(format!("add shard {}", joining.join(", ")));
        }
        if report.slots_to_move > 0 {
            report
                .pending
                .push(format!("move {} slots", report.slots_to_move));
        }
        if !leaving.is_empty() {
            report
                .pending
                .push(format!("remove shard {}", leaving.join(", ")));
        }
        let members: usize = topology
            .shards
            .iter()
            .map(|shard| shard.members.len())
            .sum();
        let wanted = usize::from(desired.shards) * usize::from(desired.members_per_shard);
        report.scaling = report.slots_to_move > 0 && !report.rebalancing
            || !joining.is_empty()
            || !leaving.is_empty()
            || members != wanted;
    }
    if report.members_to_roll > 0 {
        report.pending.push(format!(
            "restart {} with the new template",
            counted(
                usize::try_from(report.members_to_roll).unwrap_or(0),
                "member"
            )
        ));
    }
    if let Some(image) = &desired.update_available {
        report.pending.push(format!(
            "update to {image}: annotate the Cache with {}=once to allow it",
            names::ANNOTATION_UPDATE
        ));
    }
    plan.report = report;
}
