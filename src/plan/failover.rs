//! A primary is lost: who takes over, and when nobody may.
//!
//! While the old primary may still hold its data, only a replica that it last called synced takes its place, after a grace for blips. Once its
//! data is gone for certain, the most advanced copy that can be reached does: there is nothing better to come. "Most advanced" is the highest
//! (log epoch, offset). With no copy left anywhere, the shard begins anew, empty, and says so.

use crate::api::node_state::{NodeRole, NodeState, SyncState};
use crate::api::topology::{Member, Role, Shard};

use super::edit::Edit;
use super::view::{PrimaryState, View};
use super::{Plan, ReasonKind, WaitReason};

/// Gives the shard a primary if it lost it and one may take over.
pub fn fail_over(view: &View, shard: &Shard, edit: &mut Edit, plan: &mut Plan) {
    let grace_ms = view.desired.limits.failover_grace_ms;
    match view.primary_state(shard) {
        PrimaryState::There(_) => {}
        PrimaryState::Unreachable { name, since_ms } => {
            let due_ms = since_ms.saturating_add(grace_ms);
            if view.now_ms < due_ms {
                let message = format!(
                    "shard {}: its primary {name} cannot be reached; a replica takes over if that lasts",
                    shard.name
                );
                plan.wait(WaitReason::PrimaryUnreachable, message);
                plan.again_by(due_ms);
                return;
            }
            let synced =
                |(_, state): &(&Member, &NodeState)| called_synced(view, name, shard, state);
            let copies: Vec<_> = view.copies(shard).into_iter().filter(synced).collect();
            match most_advanced(view, &copies) {
                Some(heir) => promote(view, shard, heir, format!("{name} cannot be reached"), edit),
                None => plan.wait(
                    WaitReason::NoCandidate,
                    format!(
                        "shard {}: its primary {name} cannot be reached and no synced replica can take over; waits for {name}",
                        shard.name
                    ),
                ),
            }
        }
        PrimaryState::Gone(name) => {
            replace(view, shard, &format!("{name} lost its memory"), edit, plan)
        }
        PrimaryState::Unnamed => replace(view, shard, "it had no primary", edit, plan),
    }
}

/// The primary's data is gone: the best copy there is, or a fresh start if there is none for certain.
fn replace(view: &View, shard: &Shard, why: &str, edit: &mut Edit, plan: &mut Plan) {
    let primary = shard.primary().map(|entry| entry.name.as_str());
    let others = || {
        shard
            .members
            .iter()
            .filter(|entry| Some(entry.name.as_str()) != primary)
    };
    let unheard: Vec<&str> = others()
        .filter(|entry| {
            !entry.data_id.is_empty()
                && view.connected(&entry.name).is_none()
                && !view.is_gone(&entry.name)
        })
        .map(|entry| entry.name.as_str())
        .collect();
    let down_since = |name: &str| {
        view.member(name)
            .and_then(|member| member.link.down_since_ms())
            .unwrap_or_default()
    };
    let due_ms = unheard
        .iter()
        .map(|name| down_since(name).saturating_add(view.desired.limits.failover_grace_ms))
        .max()
        .unwrap_or_default();
    if view.now_ms < due_ms {
        plan.wait(
            WaitReason::PrimaryUnreachable,
            format!(
                "shard {}: {why}; waits a little for {}, which may hold more than the others",
                shard.name,
                unheard.join(", ")
            ),
        );
        plan.again_by(due_ms);
        return;
    }
    if let Some(heir) = most_advanced(view, &view.copies(shard)) {
        promote(view, shard, heir, why.to_string(), edit);
    } else if unheard.is_empty() {
        begin_anew(view, shard, why, edit, plan);
    } else {
        plan.wait(
            WaitReason::NoCandidate,
            format!(
                "shard {}: {why} and no other member with its data can be reached; waits for {}",
                shard.name,
                unheard.join(", ")
            ),
        );
    }
}

/// The primary, when last heard, had this copy in sync. If it was never heard by this operator, nothing speaks against the copy.
fn called_synced(view: &View, primary: &str, shard: &Shard, copy: &NodeState) -> bool {
    let data_id = shard.primary().map(|entry| entry.data_id.as_str());
    let last_word = view
        .member(primary)
        .and_then(|member| member.state.as_ref())
        .filter(|state| state.role == NodeRole::Primary && Some(state.data_id.as_str()) == data_id);
    last_word.is_none_or(|word| {
        word.replicas.iter().any(|replica| {
            replica.member == copy.member && replica.data_id == copy.data_id && replica.synced
        })
    })
}

fn most_advanced<'a>(
    view: &View,
    copies: &[(&'a Member, &'a NodeState)],
) -> Option<(&'a Member, &'a NodeState)> {
    // Of equals the first: `max_by_key` takes the last, hence the reversal.
    copies
        .iter()
        .rev()
        .max_by_key(|(entry, state)| {
            (
                state.position(),
                !state.stopping,
                view.node_is_good(&entry.name),
            )
        })
        .copied()
}

fn promote(view: &View, shard: &Shard, heir: (&Member, &NodeState), why: String, edit: &mut Edit) {
    let (entry, state) = heir;
    let Some(next) = edit.topology.shard_mut(&shard.name) else {
        return;
    };
    next.bootstrap = false;
    for member in &mut next.members {
        if member.name == entry.name {
            member.role = Role::Primary;
            member.data_id.clone_from(&state.data_id);
            member.address = view.address(&entry.name).or(member.address.take());
        } else if member.role == Role::Primary {
            member.role = Role::Learner;
        }
    }
    edit.because(
        ReasonKind::FailedOver,
        format!(
            "shard {}: {why}; {} takes over at log position {}:{}",
            shard.name, entry.name, state.log_epoch, state.offset
        ),
    );
}

/// Every member's data is gone for certain.
fn begin_anew(view: &View, shard: &Shard, why: &str, edit: &mut Edit, plan: &mut Plan) {
    let empty = |entry: &&Member| {
        let without_data = |state: &NodeState| state.fresh || state.sync.state == SyncState::Full;
        view.connected(&entry.name)
            .is_some_and(|state| without_data(state) && !state.stopping)
    };
    let wanted = |entry: &&Member| {
        view.desired.wants_member(&entry.name) || !view.desired.wants_shard(&shard.name)
    };
    let Some(first) = shard.members.iter().filter(empty).find(wanted) else {
        plan.wait(
            WaitReason::NoCandidate,
            format!("shard {}: {why} and no copy is left; waits for a member to start, and begins anew, empty", shard.name),
        );
        return;
    };
    let Some(next) = edit.topology.shard_mut(&shard.name) else {
        return;
    };
    next.bootstrap = true;
    for member in &mut next.members {
        member.role = if member.name == first.name {
            Role::Primary
        } else {
            Role::Learner
        };
        if let Some(state) = view.connected(&member.name) {
            member.data_id.clone_from(&state.data_id);
            member.address = view.address(&member.name).or(member.address.take());
        }
    }
    let message = format!(
        "shard {}: {why} and no copy was left: the keys of its {} slots are lost, and it begins anew on {}",
        shard.name,
        shard.slot_count(),
        first.name
    );
    edit.because(ReasonKind::DataLost, message);
}
