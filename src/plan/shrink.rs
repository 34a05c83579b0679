//! What is no longer wanted goes, last of all: replicas too many, shards without slots, and workloads that the topology does not list.

use crate::api::topology::{Role, Shard};

use super::edit::Edit;
use super::handover::hand_over;
use super::view::View;
use super::{Plan, ReasonKind, Step, WaitReason};

/// Plans the next step of shrinking. True if it planned one.
pub fn shrink(view: &View, plan: &mut Plan) -> bool {
    let mut edit = Edit::of(view.topology);
    drop_empty_shards(view, &mut edit);
    for shard in &view.topology.shards {
        if view.desired.wants_shard(&shard.name) && edit.topology.shard(&shard.name).is_some() {
            if drop_surplus_replica(view, shard, &mut edit) {
                continue;
            }
            if move_primary_from_surplus(view, shard, plan) {
                return true;
            }
        }
    }
    if edit.is_changed() {
        plan.steps.push(Step::WriteTopology(edit.finish(view)));
        return true;
    }
    delete_unlisted(view, plan)
}

fn drop_empty_shards(view: &View, edit: &mut Edit) {
    for shard in &view.topology.shards {
        let moving = view
            .topology
            .moves
            .iter()
            .any(|m| m.from == shard.name || m.to == shard.name);
        if !view.desired.wants_shard(&shard.name) && shard.slots.is_empty() && !moving {
            edit.topology
                .shards
                .retain(|other| other.name != shard.name);
            edit.because(
                ReasonKind::ShardRemoved,
                format!("shard {} has no slots left and leaves", shard.name),
            );
        }
    }
}

/// Takes one unwanted replica or learner from the list, while the primary serves.
fn drop_surplus_replica(view: &View, shard: &Shard, edit: &mut Edit) -> bool {
    let surplus = shard
        .members
        .iter()
        .rev()
        .find(|entry| entry.role != Role::Primary && !view.desired.wants_member(&entry.name));
    let (Some(entry), Some(_)) = (surplus, view.serving_primary(shard)) else {
        return false;
    };
    if let Some(next) = edit.topology.shard_mut(&shard.name) {
        next.members.retain(|member| member.name != entry.name);
        edit.because(
            ReasonKind::MemberRemoved,
            format!("shard {}: {} leaves", shard.name, entry.name),
        );
    }
    true
}

/// An unwanted member that is primary hands over to a wanted one first.
fn move_primary_from_surplus(view: &View, shard: &Shard, plan: &mut Plan) -> bool {
    let Some(primary) = shard
        .primary()
        .filter(|entry| !view.desired.wants_member(&entry.name))
    else {
        return false;
    };
    match view
        .successor(shard)
        .filter(|heir| view.desired.wants_member(heir))
    {
        Some(heir) => {
            plan.steps.push(hand_over(view, shard, heir, "it leaves"));
            true
        }
        None => {
            plan.wait(
                WaitReason::Syncing,
                format!(
                    "shard {}: {} leaves once another member is in sync",
                    shard.name, primary.name
                ),
            );
            false
        }
    }
}

fn delete_unlisted(view: &View, plan: &mut Plan) -> bool {
    let mut any = false;
    for (name, member) in &view.observed.members {
        let Some(workload) = &member.workload else {
            continue;
        };
        if view.topology.find(name).is_some() || view.desired.wants_member(name) {
            continue;
        }
        if workload.deleting {
            plan.wait(
                WaitReason::MemberStopping,
                format!("{name} is being deleted"),
            );
            continue;
        }
        plan.steps.push(Step::DeleteMember {
            member: name.clone(),
            why: "it is in no shard any more".into(),
        });
        any = true;
    }
    any
}
