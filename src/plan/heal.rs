//! Keeps the topology true to what the members are: lost primaries, synced learners, restarted replicas, newcomers.

use crate::api::topology::{Member, Role, Shard};

use super::authority::new_shard;
use super::edit::Edit;
use super::failover::fail_over;
use super::view::{PrimaryState, View};
use super::{Plan, ReasonKind};

/// Failovers only; right even while members have not heard of the stored topology yet.
pub fn fail_over_all(view: &View, edit: &mut Edit, plan: &mut Plan) {
    for shard in &view.topology.shards {
        fail_over(view, shard, edit, plan);
    }
}

/// All else that only follows what is; wants every member to know the stored topology.
pub fn follow_members(view: &View, edit: &mut Edit) {
    for shard in &view.topology.shards {
        if matches!(view.primary_state(shard), PrimaryState::There(_)) {
            end_bootstrap(view, shard, edit);
            for entry in &shard.members {
                follow_member(view, shard, entry, edit);
            }
        }
        if !view.desired.held {
            add_newcomers(view, shard, edit);
        }
    }
    if !view.desired.held {
        add_shards(view, edit);
    }
}

fn end_bootstrap(view: &View, shard: &Shard, edit: &mut Edit) {
    if !shard.bootstrap || view.serving_primary(shard).is_none_or(|state| state.fresh) {
        return;
    }
    if let Some(next) = edit.topology.shard_mut(&shard.name) {
        next.bootstrap = false;
        edit.because(
            ReasonKind::BootstrapEnded,
            format!("shard {} serves", shard.name),
        );
    }
}

/// A learner that has caught up becomes a replica; a replica that lost its memory, or cannot be reached, is a learner until it has.
fn follow_member(view: &View, shard: &Shard, entry: &Member, edit: &mut Edit) {
    if entry.role == Role::Primary {
        return;
    }
    let state = view.connected(&entry.name);
    let synced = view.is_synced(shard, &entry.name);
    let same_data = state.is_some_and(|state| state.data_id == entry.data_id);
    let (role, kind, message) = match (entry.role, state) {
        (Role::Replica, Some(_)) if same_data => return,
        (_, Some(state)) if synced && !state.stopping => (
            Role::Replica,
            ReasonKind::ReplicaSynced,
            format!("shard {}: {} is in sync", shard.name, entry.name),
        ),
        (Role::Replica, Some(_)) => (
            Role::Learner,
            ReasonKind::ReplicaRestarted,
            format!(
                "shard {}: {} restarted with an empty memory and copies anew",
                shard.name, entry.name
            ),
        ),
        (Role::Replica, None) if is_lost(view, &entry.name) => (
            Role::Learner,
            ReasonKind::ReplicaLost,
            format!("shard {}: replica {} is not there", shard.name, entry.name),
        ),
        _ => return,
    };
    let Some(next) = edit
        .topology
        .shard_mut(&shard.name)
        .and_then(|next| next.member_mut(&entry.name))
    else {
        return;
    };
    next.role = role;
    if let Some(state) = state {
        next.data_id.clone_from(&state.data_id);
        next.address = view.address(&entry.name).or(next.address.take());
    }
    edit.because(kind, message);
}

fn is_lost(view: &View, name: &str) -> bool {
    let since_ms = view
        .member(name)
        .and_then(|member| member.link.down_since_ms())
        .unwrap_or_default();
    view.is_gone(name)
        || view.now_ms >= since_ms.saturating_add(view.desired.limits.failover_grace_ms)
}

/// Members that the spec wants and that can be asked, but are not listed yet.
fn add_newcomers(view: &View, shard: &Shard, edit: &mut Edit) {
    for index in 0..view.desired.members_per_shard {
        let name = view.desired.member_name(&shard.name, index);
        if !view.desired.wants_member(&name) || shard.member(&name).is_some() {
            continue;
        }
        let Some(state) = view.connected(&name).filter(|state| !state.stopping) else {
            continue;
        };
        if let Some(next) = edit.topology.shard_mut(&shard.name) {
            next.members.push(Member {
                name: name.clone(),
                data_id: state.data_id.clone(),
                role: Role::Learner,
                address: view.address(&name),
            });
            next.members.sort_by(|a, b| a.name.cmp(&b.name));
            edit.because(
                ReasonKind::MemberAdded,
                format!("shard {}: {name} joins as a learner", shard.name),
            );
        }
    }
}

/// Shards that the spec wants, empty until slots are moved to them.
fn add_shards(view: &View, edit: &mut Edit) {
    for name in view.desired.shard_names() {
        if view.topology.shard(&name).is_some() {
            continue;
        }
        if let Some(shard) = new_shard(view.desired, view.observed, &name) {
            edit.topology.shards.push(shard);
            edit.because(ReasonKind::ShardAdded, format!("shard {name} joins, empty"));
        }
    }
    edit.topology
        .shards
        .sort_by_key(|shard| shard.name.parse::<u16>().unwrap_or(u16::MAX));
}
