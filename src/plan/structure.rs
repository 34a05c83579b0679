//! What is wrong with a topology by itself, whatever came before it.

use std::collections::BTreeSet;

use crate::api::names::SLOTS;
use crate::api::topology::{Role, Shard, Topology};

use super::check::Violation;
use super::slots;

/// What is wrong with a topology by itself: also for one that a node reports.
pub fn structure(topology: &Topology) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut fail = |message: String| violations.push(Violation(message));
    let mut owned = vec![0u8; usize::from(SLOTS)];
    let mut shard_names = BTreeSet::new();
    let mut member_names = BTreeSet::new();
    let mut data_ids = BTreeSet::new();
    if topology.cluster_id.is_empty() || topology.epoch == 0 {
        fail("the topology has no clusterID or no epoch".into());
    }
    for shard in &topology.shards {
        if !shard_names.insert(&shard.name) {
            fail(format!("shard {} is listed twice", shard.name));
        }
        if slots::normalized(shard.slots.clone()) != shard.slots {
            fail(format!(
                "shard {}: its slots are not ascending, separate ranges",
                shard.name
            ));
        }
        for range in &shard.slots {
            if range.0 > range.1 || range.1 >= SLOTS {
                fail(format!(
                    "shard {}: {range:?} is no range of slots",
                    shard.name
                ));
                continue;
            }
            for slot in range.0..=range.1 {
                owned[usize::from(slot)] = owned[usize::from(slot)].saturating_add(1);
            }
        }
        let primaries = shard
            .members
            .iter()
            .filter(|member| member.role == Role::Primary)
            .count();
        if primaries > 1 {
            fail(format!("shard {} has {primaries} primaries", shard.name));
        }
        for member in &shard.members {
            if !member_names.insert(&member.name) {
                fail(format!("member {} is listed twice", member.name));
            }
            if !member.data_id.is_empty() && !data_ids.insert(&member.data_id) {
                fail(format!("the data ID of {} is listed twice", member.name));
            }
        }
    }
    if let Some(slot) = owned.iter().position(|owners| *owners != 1) {
        fail(format!("slot {slot} is owned by {} shards", owned[slot]));
    }
    moves(topology, &mut fail);
    violations
}

fn moves(topology: &Topology, fail: &mut dyn FnMut(String)) {
    let mut ids = BTreeSet::new();
    let mut taken = Vec::new();
    for moving in &topology.moves {
        if !ids.insert(&moving.id) {
            fail(format!("move {} is listed twice", moving.id));
        }
        if moving.from == moving.to || topology.shard(&moving.to).is_none() {
            fail(format!("move {} leads to no other shard", moving.id));
        }
        let owns = |shard: &Shard| slots::without(&moving.slots, &shard.slots).is_empty();
        if moving.slots.is_empty() || !topology.shard(&moving.from).is_some_and(owns) {
            fail(format!(
                "move {}: shard {} does not own its slots",
                moving.id, moving.from
            ));
        }
        if slots::without(&moving.slots, &taken) != slots::normalized(moving.slots.clone()) {
            fail(format!(
                "move {}: another move has some of its slots",
                moving.id
            ));
        }
        taken = slots::with(&taken, &moving.slots);
    }
}
