//! Whose topology holds: the stored one, a newer one that nodes made while no operator was there, or the very first.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use crate::api::node_state::{NodeRole, NodeState};
use crate::api::quantity::counted;
use crate::api::topology::{Member, Role, Shard, Topology};

use super::edit::push_order;
use super::{
    Desired, MemberObserved, Observed, Plan, Reason, ReasonKind, Step, TopologyChange, WaitReason,
    Waiting, slots,
};

/// Makes sure that the stored topology is the one to go by; if not, plans what makes it so and returns false.
pub fn is_settled(desired: &Desired, observed: &Observed, now_ms: u64, plan: &mut Plan) -> bool {
    if let Some(message) = foreign(observed) {
        plan.wait(WaitReason::ForeignData, message);
        return false;
    }
    match &observed.topology {
        None => {
            first(desired, observed, now_ms, plan);
            false
        }
        Some(stored) => {
            !adopt_newer(observed, stored, plan)
                && !settle_conflict(desired, observed, stored, plan)
        }
    }
}

fn connected(observed: &Observed) -> impl Iterator<Item = (&String, &MemberObserved, &NodeState)> {
    observed
        .members
        .iter()
        .filter_map(|(name, member)| Some((name, member, member.connected()?)))
}

/// Says which nodes belong to another Cache, or to one of before.
fn foreign(observed: &Observed) -> Option<String> {
    let ids: BTreeSet<&str> = connected(observed)
        .map(|(_, _, state)| state.cluster_id.as_str())
        .chain(
            observed
                .topology
                .iter()
                .map(|topology| topology.cluster_id.as_str()),
        )
        .filter(|id| !id.is_empty())
        .collect();
    if ids.len() < 2 {
        return None;
    }
    let ours = observed
        .topology
        .as_ref()
        .map(|topology| topology.cluster_id.as_str());
    let holders: Vec<String> = connected(observed)
        .filter(|(_, _, state)| {
            !state.cluster_id.is_empty() && Some(state.cluster_id.as_str()) != ours
        })
        .map(|(name, _, state)| format!("{name} ({})", state.cluster_id))
        .collect();
    Some(format!(
        "members hold data of another topology{}: {}; nothing is changed until those are deleted, or the right status is restored",
        ours.map(|id| format!(" than this Cache's {id}"))
            .unwrap_or_default(),
        holders.join(", ")
    ))
}

/// Reads and stores a topology that nodes hold and that is newer than ours.
fn adopt_newer(observed: &Observed, stored: &Topology, plan: &mut Plan) -> bool {
    let Some(epoch) = newest_epoch(observed).filter(|epoch| *epoch > stored.epoch) else {
        return false;
    };
    adopt(observed, epoch, Some(stored.epoch), plan);
    true
}

fn newest_epoch(observed: &Observed) -> Option<u64> {
    connected(observed)
        .map(|(_, _, state)| state.epoch)
        .max()
        .filter(|epoch| *epoch > 0)
}

fn adopt(observed: &Observed, epoch: u64, replaces: Option<u64>, plan: &mut Plan) {
    let holders: Vec<(&String, &MemberObserved)> = connected(observed)
        .filter(|(_, _, state)| state.epoch == epoch)
        .map(|(name, member, _)| (name, member))
        .collect();
    let read = holders.iter().find_map(|(name, member)| {
        let topology = member
            .topology
            .as_ref()
            .filter(|topology| topology.epoch == epoch)?;
        Some((*name, topology))
    });
    let Some((name, topology)) = read else {
        let members: Vec<String> = holders
            .into_iter()
            .map(|(name, _)| name.clone())
            .take(1)
            .collect();
        plan.wait(
            WaitReason::AdoptingTopology,
            format!(
                "{} holds topology epoch {epoch}, newer than the stored one; reads it",
                members.join(", ")
            ),
        );
        plan.steps.push(Step::FetchTopology { members });
        return;
    };
    let mut topology = topology.clone();
    topology.epoch += 1;
    let message = format!("took over topology epoch {epoch} from {name}");
    write(
        observed,
        topology,
        replaces,
        ReasonKind::Adopted,
        message,
        plan,
    );
}

/// Two writers made the same epoch: what is stored holds, but who became primary by the other one and acknowledges writes stays primary.
fn settle_conflict(
    desired: &Desired,
    observed: &Observed,
    stored: &Topology,
    plan: &mut Plan,
) -> bool {
    let hash = stored.hash(&desired.addressing);
    let other = connected(observed).find(|(_, _, state)| {
        state.epoch == stored.epoch
            && !state.topology_hash.is_empty()
            && state.topology_hash != hash
    });
    let Some((name, member, _)) = other else {
        return false;
    };
    let Some(theirs) = member
        .topology
        .as_ref()
        .filter(|theirs| theirs.epoch == stored.epoch)
    else {
        plan.wait(
            WaitReason::AdoptingTopology,
            format!(
                "{name} holds another topology of epoch {}; reads it",
                stored.epoch
            ),
        );
        plan.steps.push(Step::FetchTopology {
            members: vec![name.clone()],
        });
        return true;
    };
    let mut merged = stored.clone();
    merged.epoch += 1;
    let mut kept = Vec::new();
    for shard in &theirs.shards {
        if let Some(primary) = risen_primary(observed, stored, shard)
            && let Some(ours) = merged.shard_mut(&shard.name)
            && ours.slots == shard.slots
        {
            ours.members.clone_from(&shard.members);
            kept.push(primary.to_string());
        }
    }
    let (kind, message) = if *theirs == *stored {
        (
            ReasonKind::Refreshed,
            format!("{name} holds epoch {} in another form", stored.epoch),
        )
    } else if kept.is_empty() {
        (
            ReasonKind::Conflict,
            format!(
                "{name} held another topology of epoch {}; the stored one holds",
                stored.epoch
            ),
        )
    } else {
        (
            ReasonKind::Conflict,
            format!(
                "{name} held another topology of epoch {}; {} stays primary",
                stored.epoch,
                kept.join(", ")
            ),
        )
    };
    write(observed, merged, Some(stored.epoch), kind, message, plan);
    true
}

/// The member that became primary of `shard` at just this epoch, by a topology that is not ours.
fn risen_primary<'a>(observed: &Observed, stored: &Topology, shard: &'a Shard) -> Option<&'a str> {
    let entry = shard.primary()?;
    let state = observed.connected(&entry.name)?;
    let ours = stored
        .shard(&shard.name)?
        .primary()
        .map(|primary| primary.name.as_str());
    let acts = state.role == NodeRole::Primary
        && state.data_id == entry.data_id
        && state.log_epoch == stored.epoch
        && !state.fresh;
    (acts && ours != Some(entry.name.as_str())).then_some(entry.name.as_str())
}

fn write(
    observed: &Observed,
    topology: Topology,
    replaces: Option<u64>,
    kind: ReasonKind,
    message: String,
    plan: &mut Plan,
) {
    let push = push_order(observed, observed.topology.as_ref(), &topology);
    plan.steps.push(Step::WriteTopology(TopologyChange {
        topology,
        replaces,
        reasons: vec![Reason { kind, message }],
        push,
    }));
}

/// No topology is stored: takes the nodes' one, or makes the first.
fn first(desired: &Desired, observed: &Observed, now_ms: u64, plan: &mut Plan) {
    let held = newest_epoch(observed);
    let unheard: Vec<&str> = observed
        .members
        .iter()
        .filter(|(_, member)| member.link != super::Link::Connected && member.may_run())
        .filter(|(_, member)| {
            // A topology that is adopted may be replaced by a newer one later; the first one is made once, so it waits for everybody.
            let since = member.link.down_since_ms().unwrap_or_default();
            held.is_none() || now_ms < since.saturating_add(desired.limits.failover_grace_ms)
        })
        .map(|(name, _)| name.as_str())
        .collect();
    if !unheard.is_empty() {
        plan.wait(
            WaitReason::MembersStarting,
            format!(
                "no topology is stored; waits to hear from {} before one is made",
                unheard.join(", ")
            ),
        );
        plan.again_by(now_ms + desired.limits.failover_grace_ms);
        return;
    }
    if let Some(epoch) = held {
        adopt(observed, epoch, None, plan);
        return;
    }
    let mut shards = Vec::new();
    let mut missing = Vec::new();
    let assignment = slots::even(desired.shards);
    for (name, slots) in desired.shard_names().zip(assignment) {
        match new_shard(desired, observed, &name) {
            Some(mut shard) => {
                shard.slots = slots;
                shards.push(shard);
            }
            None => missing.push(name),
        }
    }
    if !missing.is_empty() {
        plan.wait(
            WaitReason::MembersStarting,
            format!(
                "waits for a member of shard {} to start",
                missing.join(", ")
            ),
        );
        return;
    }
    let topology = Topology {
        cluster_id: cluster_id(&desired.uid),
        epoch: 1,
        shards,
        moves: Vec::new(),
    };
    let message = format!(
        "slots are shared by {}",
        counted(usize::from(desired.shards), "shard")
    );
    write(
        observed,
        topology,
        None,
        ReasonKind::Bootstrapped,
        message,
        plan,
    );
}

/// A shard that begins empty, with every wanted member and no slots; none while no member of it can be asked, or one runs unheard.
pub fn new_shard(desired: &Desired, observed: &Observed, name: &str) -> Option<Shard> {
    let wanted: Vec<String> = (0..desired.members_per_shard)
        .map(|index| desired.member_name(name, index))
        .collect();
    let heard = |member: &str| observed.connected(member).filter(|state| !state.stopping);
    let unheard_runs = wanted.iter().any(|member| {
        let seen = observed.members.get(member);
        seen.is_some_and(|seen| seen.may_run() && seen.connected().is_none())
    });
    let primary = wanted
        .iter()
        .find(|member| heard(member).is_some())?
        .clone();
    if unheard_runs {
        return None;
    }
    let entry = |member: String| Member {
        data_id: heard(&member)
            .map(|state| state.data_id.clone())
            .unwrap_or_default(),
        role: if member == primary {
            Role::Primary
        } else {
            Role::Learner
        },
        address: observed
            .members
            .get(&member)
            .and_then(|seen| seen.pod.as_ref()?.address.clone()),
        name: member,
    };
    Some(Shard {
        name: name.into(),
        slots: Vec::new(),
        bootstrap: true,
        members: wanted.iter().cloned().map(entry).collect(),
    })
}

/// Names the topology of the Cache with this UID: the same whenever asked, so that a crash between making and storing it does no harm.
pub fn cluster_id(uid: &str) -> String {
    let digest = Sha256::digest(format!("clusterdb cache topology of {uid}").as_bytes());
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes)
        .into_uuid()
        .to_string()
}

/// Sends the stored topology to members that hold an older one. False while there are any.
pub fn everyone_knows(view: &super::view::View, plan: &mut Plan) -> bool {
    for (name, member) in &view.observed.members {
        if let (Some(error), Some(_)) = (&member.push_error, member.connected()) {
            plan.wait(
                WaitReason::PushRefused,
                format!(
                    "{name} refuses topology epoch {}: {error}",
                    view.topology.epoch
                ),
            );
        }
    }
    let behind: BTreeSet<String> = view.behind().into_iter().collect();
    if behind.is_empty() {
        return true;
    }
    let to = push_order(view.observed, None, view.topology)
        .into_iter()
        .filter(|name| behind.contains(name))
        .collect();
    plan.steps.push(Step::PushTopology {
        topology: view.topology.clone(),
        to,
    });
    false
}

impl Plan {
    pub(super) fn wait(&mut self, reason: WaitReason, message: String) {
        self.waiting.push(Waiting { reason, message });
    }

    pub(super) fn again_by(&mut self, at_ms: u64) {
        self.again_at_ms = Some(self.again_at_ms.map_or(at_ms, |other| other.min(at_ms)));
    }
}
