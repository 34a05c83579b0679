//! Slots on their way: finishing moves under way, and beginning those that spread the slots over the wanted shards.

use std::collections::BTreeMap;

use crate::api::node_state::{MovePhase, NodeState};
use crate::api::quantity::format_bytes;
use crate::api::topology::{Move, Role, Shard};

use super::edit::Edit;
use super::slots::{self, Transfer};
use super::view::View;
use super::{Plan, ReasonKind, Step, WaitReason};

/// Switches a move that has caught up, one a plan; says what the others wait for. True if it planned a step.
pub fn finish(view: &View, plan: &mut Plan) -> bool {
    for moving in &view.topology.moves {
        let (Some(from), Some(to)) = (
            view.topology.shard(&moving.from),
            view.topology.shard(&moving.to),
        ) else {
            continue;
        };
        let Some(source) = view.serving_primary(from) else {
            plan.wait(
                WaitReason::MovingSlots,
                format!(
                    "move {}: waits for a primary of shard {}",
                    moving.id, from.name
                ),
            );
            continue;
        };
        let Some(destination) = view.serving_primary(to) else {
            plan.wait(
                WaitReason::MovingSlots,
                format!(
                    "move {}: waits for a primary of shard {}",
                    moving.id, to.name
                ),
            );
            continue;
        };
        let state = source.move_state(&moving.id);
        match state.map_or(MovePhase::Waiting, |state| state.state) {
            // A seal that an operator left behind ends by itself; sealing again answers at once.
            MovePhase::Streaming | MovePhase::Sealed if !has_copy(view, to) => {
                plan.wait(WaitReason::Syncing, without_copy(to));
            }
            MovePhase::Streaming | MovePhase::Sealed => {
                plan.steps.push(seal(view, moving, source, destination));
                return true;
            }
            MovePhase::Failed => plan.wait(
                WaitReason::MoveFailed,
                format!(
                    "move {} of {} slots from shard {} to {} failed and is tried again: {}",
                    moving.id,
                    moving.slot_count(),
                    moving.from,
                    moving.to,
                    state.map(|state| state.error.as_str()).unwrap_or_default()
                ),
            ),
            _ => {
                let done = state
                    .map(|state| (state.keys_done, state.keys_total))
                    .unwrap_or_default();
                plan.wait(
                    WaitReason::MovingSlots,
                    format!(
                        "move {}: copies {} slots from shard {} to {}, {} of {} keys",
                        moving.id,
                        moving.slot_count(),
                        moving.from,
                        moving.to,
                        done.0,
                        done.1
                    ),
                );
            }
        }
    }
    false
}

fn seal(view: &View, moving: &Move, source: &NodeState, destination: &NodeState) -> Step {
    let mut edit = Edit::of(view.topology);
    edit.topology.moves.retain(|other| other.id != moving.id);
    for shard in &mut edit.topology.shards {
        if shard.name == moving.from {
            shard.slots = slots::without(&shard.slots, &moving.slots);
        } else if shard.name == moving.to {
            shard.slots = slots::with(&shard.slots, &moving.slots);
        }
    }
    edit.because(
        ReasonKind::MoveFinished,
        format!(
            "{} slots moved from shard {} to {}",
            moving.slot_count(),
            moving.from,
            moving.to
        ),
    );
    Step::SealMove {
        id: moving.id.clone(),
        primary: source.member.clone(),
        timeout_ms: view.desired.limits.seal_timeout_ms,
        then: edit.finish_pushing_first(view, &[&destination.member, &source.member]),
    }
}

/// Drops moves to shards that are no longer wanted, and those whose shards or slots are not as they say.
pub fn cancel_unwanted(view: &View, edit: &mut Edit) {
    for moving in &view.topology.moves {
        let owns = |shard: &Shard| slots::without(&moving.slots, &shard.slots).is_empty();
        let possible = view.topology.shard(&moving.from).is_some_and(owns)
            && view.topology.shard(&moving.to).is_some();
        if possible && view.desired.wants_shard(&moving.to) {
            continue;
        }
        edit.topology.moves.retain(|other| other.id != moving.id);
        edit.because(
            ReasonKind::MoveCancelled,
            format!(
                "the move of {} slots from shard {} to {} is not wanted any more",
                moving.slot_count(),
                moving.from,
                moving.to
            ),
        );
    }
}

/// Whether the slots are to be spread anew: the number of shards has changed since they last were.
pub fn is_spreading(view: &View) -> bool {
    view.observed.maintenance.spread_over != Some(i32::from(view.desired.shards))
        || view
            .topology
            .shards
            .iter()
            .any(|shard| !view.desired.wants_shard(&shard.name) && !shard.slots.is_empty())
}

/// Transfers still to be begun so that the slots lie evenly on the wanted shards.
pub fn remaining(view: &View) -> Vec<Transfer> {
    let keep: Vec<String> = view
        .desired
        .shard_names()
        .filter(|name| view.topology.shard(name).is_some())
        .collect();
    if keep.len() < usize::from(view.desired.shards) {
        // The wanted shards have to be there first, else slots would move twice.
        return Vec::new();
    }
    slots::spread(&slots::after_moves(view.topology), &keep)
}

/// Begins the next moves, as many as may run at once. True if it planned a step.
pub fn begin(view: &View, transfers: &[Transfer], plan: &mut Plan) -> bool {
    if transfers.is_empty() || !has_room(view, transfers, plan) {
        return false;
    }
    let mut edit = Edit::of(view.topology);
    for transfer in transfers {
        if edit.topology.moves.len() >= view.desired.limits.moves_max {
            break;
        }
        // One move a source at a time: a second would only slow the first.
        if edit
            .topology
            .moves
            .iter()
            .any(|other| other.from == transfer.from)
        {
            continue;
        }
        let ready = |name: &str| {
            view.topology
                .shard(name)
                .is_some_and(|shard| view.serving_primary(shard).is_some())
        };
        if !ready(&transfer.from) || !ready(&transfer.to) {
            plan.wait(
                WaitReason::MovingSlots,
                format!(
                    "waits for the primaries of shards {} and {} before slots move",
                    transfer.from, transfer.to
                ),
            );
            continue;
        }
        if let Some(missing) = missing_copies(view, &transfer.to) {
            plan.wait(WaitReason::MovingSlots, missing);
            continue;
        }
        add(view, transfer, &mut edit);
    }
    if !edit.is_changed() {
        return false;
    }
    plan.steps.push(Step::WriteTopology(edit.finish(view)));
    true
}

/// Slots go only to where all copies that are asked for are in sync: else their keys, which were safe on the source, would be lost with
/// the one process that has them. The answer says what is missing.
pub fn missing_copies(view: &View, shard: &str) -> Option<String> {
    let receiver = view.topology.shard(shard)?;
    let wanted = usize::from(view.desired.members_per_shard.saturating_sub(1));
    let synced = receiver
        .members
        .iter()
        .filter(|member| member.role == Role::Replica && view.is_synced(receiver, &member.name))
        .count();
    (synced < wanted).then(|| {
        format!("waits for shard {shard} to have {wanted} replicas in sync before slots move there; it has {synced}")
    })
}

/// Whether a shard that gets slots has the second copy that the spec asks for: the source drops its own after the switch.
fn has_copy(view: &View, shard: &Shard) -> bool {
    view.desired.members_per_shard < 2
        || shard
            .members
            .iter()
            .any(|entry| view.is_synced(shard, &entry.name))
}

fn without_copy(shard: &Shard) -> String {
    format!(
        "waits for a synced replica of shard {} before slots move there, so that they are never on one member alone",
        shard.name
    )
}

/// Adds one move of at most a batch of the transfer's slots.
pub fn add(view: &View, transfer: &Transfer, edit: &mut Edit) {
    let limits = &view.desired.limits;
    let per_slot = bytes_per_slot(view, &transfer.from).max(1);
    let most = u32::try_from(limits.bytes_per_move_max / per_slot).unwrap_or(u32::MAX);
    let slots = slots::first_slots(&transfer.slots, most.clamp(1, limits.slots_per_move_max));
    let index = edit.topology.moves.len();
    let moving = Move {
        id: format!("m{}-{index}", edit.topology.epoch),
        slots,
        from: transfer.from.clone(),
        to: transfer.to.clone(),
    };
    edit.because(
        ReasonKind::MoveStarted,
        format!(
            "{} slots move from shard {} to {}",
            moving.slot_count(),
            moving.from,
            moving.to
        ),
    );
    edit.topology.moves.push(moving);
}

fn primary<'a>(view: &View<'a>, shard: &str) -> Option<&'a NodeState> {
    view.serving_primary(view.topology.shard(shard)?)
}

/// What a slot of the shard holds on average, in bytes.
fn bytes_per_slot(view: &View, shard: &str) -> u64 {
    let slots = view.topology.shard(shard).map_or(0, Shard::slot_count);
    match primary(view, shard) {
        Some(state) if state.keys > 0 && slots > 0 => state.bytes / u64::from(slots),
        _ => 0,
    }
}

/// Whether every receiver can hold what is to come, moves under way included.
pub fn has_room(view: &View, transfers: &[Transfer], plan: &mut Plan) -> bool {
    let under_way = view
        .topology
        .moves
        .iter()
        .map(|moving| (&moving.from, &moving.to, moving.slot_count()));
    let to_come = transfers
        .iter()
        .map(|transfer| (&transfer.from, &transfer.to, transfer.count()));
    let mut incoming: BTreeMap<&String, u64> = BTreeMap::new();
    for (from, to, slots) in under_way.chain(to_come) {
        *incoming.entry(to).or_default() += bytes_per_slot(view, from) * u64::from(slots);
    }
    let percent = view.desired.limits.fill_percent_max;
    let mut short = Vec::new();
    for (shard, bytes) in incoming {
        let Some(state) = primary(view, shard) else {
            continue;
        };
        // What it gives away at the same time is not counted: it is only free later.
        let usable = state.max_bytes / 100 * percent;
        if state.max_bytes > 0 && bytes > 0 && state.bytes.saturating_add(bytes) > usable {
            short.push(format!(
                "shard {shard} would get {} beside its {}, and may hold {} ({percent} % of {})",
                format_bytes(bytes),
                format_bytes(state.bytes),
                format_bytes(usable),
                format_bytes(state.max_bytes)
            ));
        }
    }
    if short.is_empty() {
        return true;
    }
    plan.wait(
        WaitReason::NoRoom,
        format!(
            "no room to spread the slots over {} shards: {}; raise spec.resources.limits.memory, or ask for more shards",
            view.desired.shards,
            short.join("; ")
        ),
    );
    false
}
