//! The next topology, and why it differs.

use crate::api::node_state::NodeRole;
use crate::api::topology::{Role, Topology};

use super::view::View;
use super::{Observed, Reason, ReasonKind, TopologyChange};

/// Changes to the stored topology that go into one compare-and-swap.
pub struct Edit {
    pub topology: Topology,
    reasons: Vec<Reason>,
}

impl Edit {
    pub fn of(topology: &Topology) -> Edit {
        let mut topology = topology.clone();
        topology.epoch += 1;
        Edit {
            topology,
            reasons: Vec::new(),
        }
    }

    pub fn because(&mut self, kind: ReasonKind, message: impl Into<String>) {
        self.reasons.push(Reason {
            kind,
            message: message.into(),
        });
    }

    pub fn is_changed(&self) -> bool {
        !self.reasons.is_empty()
    }

    /// The change, pushed to everyone in the safe order.
    pub fn finish(self, view: &View) -> TopologyChange {
        let push = push_order(view.observed, Some(view.topology), &self.topology);
        TopologyChange {
            topology: self.topology,
            replaces: Some(view.topology.epoch),
            reasons: self.reasons,
            push,
        }
    }

    /// The change, pushed to `first` in this order and then to everyone else.
    pub fn finish_pushing_first(self, view: &View, first: &[&str]) -> TopologyChange {
        let mut change = self.finish(view);
        let rank = |name: &String| first.iter().position(|f| f == name).unwrap_or(first.len());
        // A stable sort keeps the safe order among the others.
        change.push.sort_by_key(rank);
        change
    }
}

/// Who is told in which order: those that gain a role or slots, then those that lose them, then the rest. So at no time two members believe that
/// they own the same slot and clients are sent nowhere for as short a time as can be.
pub fn push_order(observed: &Observed, old: Option<&Topology>, new: &Topology) -> Vec<String> {
    let rank = |name: &str| {
        let state = observed.connected(name)?;
        let listed = new.find(name);
        let known = listed.is_some() || state.cluster_id == new.cluster_id;
        if !known {
            return None;
        }
        let becomes_primary = listed.is_some_and(|(shard, entry)| {
            let owned = old
                .and_then(|old| old.shard(&shard.name))
                .map(|shard| &shard.slots);
            let gains = match owned {
                Some(owned) => *owned != shard.slots && shard.slot_count() >= slot_count(owned),
                None => !state.imports.is_empty(),
            };
            entry.role == Role::Primary && (state.role != NodeRole::Primary || gains)
        });
        Some(match (becomes_primary, state.role) {
            (true, _) => 0,
            (false, NodeRole::Primary) => 1,
            (false, _) => 2,
        })
    };
    let mut order: Vec<(u8, &String)> = observed
        .members
        .keys()
        .filter_map(|name| Some((rank(name)?, name)))
        .collect();
    order.sort();
    order.into_iter().map(|(_, name)| name.clone()).collect()
}

fn slot_count(ranges: &[crate::api::SlotRange]) -> u32 {
    ranges.iter().map(|range| range.count()).sum()
}
