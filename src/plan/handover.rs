//! Planned changes of primary.

use crate::api::topology::{Role, Shard};

use super::edit::Edit;
use super::view::View;
use super::{Plan, ReasonKind, Step};

/// A primary that is about to stop hands over to a synced replica. True if it planned a step.
pub fn relieve_stopping(view: &View, plan: &mut Plan) -> bool {
    for shard in &view.topology.shards {
        let Some(state) = view.serving_primary(shard) else {
            continue;
        };
        if !state.stopping && !view.is_leaving(&state.member) {
            continue;
        }
        if let Some(heir) = view.successor(shard) {
            plan.steps.push(hand_over(view, shard, heir, "it stops"));
            return true;
        }
    }
    false
}

/// The roles change once the heir holds the whole log. The old primary stays a replica, as it holds the same data.
pub fn hand_over(view: &View, shard: &Shard, heir: &str, why: &str) -> Step {
    let from = shard
        .primary()
        .map(|entry| entry.name.clone())
        .unwrap_or_default();
    let mut edit = Edit::of(view.topology);
    if let Some(next) = edit.topology.shard_mut(&shard.name) {
        next.bootstrap = false;
        for member in &mut next.members {
            if member.name == heir {
                member.role = Role::Primary;
            } else if member.role == Role::Primary {
                member.role = Role::Replica;
            }
        }
    }
    edit.because(
        ReasonKind::HandedOver,
        format!("shard {}: {from} hands over to {heir}: {why}", shard.name),
    );
    Step::Handover {
        shard: shard.name.clone(),
        from: from.clone(),
        to: heir.into(),
        timeout_ms: view.desired.limits.handover_timeout_ms,
        then: edit.finish_pushing_first(view, &[heir, &from]),
    }
}
