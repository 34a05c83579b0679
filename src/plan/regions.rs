//! Regions: every member that can be asked has the list that the spec asks for. Nodes take it in any role and at any time.

use super::{Desired, Observed, Plan, Step};
use crate::api::node_state::{FEATURE_REGIONS, NodeState};

/// Whether a member counts its items by the wanted list.
pub fn is_in_force(desired: &Desired, state: &NodeState) -> bool {
    let list = &desired.regions;
    state.regions_hash == list.hash() || (state.regions_hash.is_empty() && list.says_nothing())
}

/// Sends the list to those that have another. What a node has taken is in force a moment later; until then it is sent again, which changes
/// nothing. Nodes of a version that knows no regions are passed over.
pub fn push(desired: &Desired, observed: &Observed, plan: &mut Plan) {
    let lacks = |name: &&String| {
        observed.connected(name).is_some_and(|state| {
            state.has_feature(FEATURE_REGIONS) && !state.stopping && !is_in_force(desired, state)
        })
    };
    let to: Vec<String> = observed.members.keys().filter(lacks).cloned().collect();
    if !to.is_empty() {
        plan.steps.push(Step::PushRegions {
            regions: desired.regions.clone(),
            to,
        });
    }
}
