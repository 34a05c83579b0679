//! Questions about what is observed, asked by every part of the planner.

use crate::api::node_state::{NodeRole, NodeState, SyncState};
use crate::api::topology::{Member, Role, Shard, Topology};

use super::{Desired, Link, MemberObserved, Observed};

/// The stored topology beside what is wanted and seen.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub desired: &'a Desired,
    pub observed: &'a Observed,
    pub topology: &'a Topology,
    pub now_ms: u64,
}

/// How a shard's primary is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrimaryState<'a> {
    /// It can be asked, and holds the data that made it primary.
    There(&'a str),
    Unreachable {
        name: &'a str,
        since_ms: u64,
    },
    /// The data that made it primary is gone for certain.
    Gone(&'a str),
    /// The topology names none.
    Unnamed,
}

impl<'a> View<'a> {
    pub fn member(&self, name: &str) -> Option<&'a MemberObserved> {
        self.observed.members.get(name)
    }

    pub fn connected(&self, name: &str) -> Option<&'a NodeState> {
        self.observed.connected(name)
    }

    /// The process that last spoke for this member has certainly ended, and none runs that could hold its data.
    pub fn is_gone(&self, name: &str) -> bool {
        self.member(name).is_none_or(|member| {
            member.process_ended || (member.link != Link::Connected && member.pod.is_none())
        })
    }

    pub fn primary_state(&self, shard: &'a Shard) -> PrimaryState<'a> {
        let Some(entry) = shard.primary() else {
            return PrimaryState::Unnamed;
        };
        let name = entry.name.as_str();
        match self.connected(name) {
            Some(state) if state.data_id != entry.data_id => PrimaryState::Gone(name),
            // Without leave to serve from empty memory it never will.
            Some(state) if state.fresh && !shard.bootstrap => PrimaryState::Gone(name),
            Some(_) => PrimaryState::There(name),
            None if self.is_gone(name) => PrimaryState::Gone(name),
            None => PrimaryState::Unreachable {
                name,
                since_ms: self
                    .member(name)
                    .and_then(|member| member.link.down_since_ms())
                    .unwrap_or_default(),
            },
        }
    }

    /// The state of a shard's primary that can be asked, serves its data and knows the stored topology.
    pub fn serving_primary(&self, shard: &Shard) -> Option<&'a NodeState> {
        self.primary_that_serves(shard)
            .filter(|state| state.epoch == self.topology.epoch)
    }

    /// The same, though it may not have heard of the newest topology yet. For what users are told: to them it serves.
    pub fn primary_that_serves(&self, shard: &Shard) -> Option<&'a NodeState> {
        let entry = shard.primary()?;
        let state = self.connected(&entry.name)?;
        (state.data_id == entry.data_id && state.role == NodeRole::Primary && state.serving)
            .then_some(state)
    }

    /// The member holds all that its primary has acknowledged, up to what is on its way.
    pub fn is_synced(&self, shard: &Shard, name: &str) -> bool {
        self.serving_primary(shard)
            .is_some_and(|primary| self.follows(primary, name))
    }

    fn follows(&self, primary: &NodeState, name: &str) -> bool {
        let Some(state) = self.connected(name) else {
            return false;
        };
        state.sync.state == SyncState::Streaming
            && !state.fresh
            && primary.replicas.iter().any(|replica| {
                replica.member == name && replica.data_id == state.data_id && replica.synced
            })
    }

    /// Everything about a listed member is as it should be, and it knows the stored topology.
    pub fn is_well(&self, name: &str) -> bool {
        let knows = self
            .connected(name)
            .is_some_and(|state| state.epoch == self.topology.epoch);
        knows && self.serves(name)
    }

    /// The same, though it, or its primary, may not have heard of the newest topology yet.
    pub fn serves(&self, name: &str) -> bool {
        let (Some((shard, entry)), Some(member)) = (self.topology.find(name), self.member(name))
        else {
            return false;
        };
        let (Some(workload), Some(pod), Some(state)) =
            (&member.workload, &member.pod, member.connected())
        else {
            return false;
        };
        let runs = pod.ready
            && !pod.deleting
            && !workload.deleting
            && pod.template_hash == workload.template_hash;
        runs && !state.stopping
            && state.data_id == entry.data_id
            && match (entry.role, self.primary_that_serves(shard)) {
                (Role::Primary, primary) => primary.is_some(),
                (Role::Replica, Some(primary)) => self.follows(primary, name),
                (Role::Replica, None) | (Role::Learner, _) => false,
            }
    }

    /// Whether every listed member of the shard, `except` one, is well.
    pub fn others_well(&self, shard: &Shard, except: &str) -> bool {
        shard
            .members
            .iter()
            .filter(|entry| entry.name != except)
            .all(|entry| self.is_well(&entry.name))
    }

    /// Members of a shard that hold a consistent copy of its data and can be asked, the primary aside.
    pub fn copies(&self, shard: &'a Shard) -> Vec<(&'a Member, &'a NodeState)> {
        let primary = shard.primary().map(|entry| entry.name.as_str());
        let copy = |entry: &'a Member| {
            let state = self.connected(&entry.name)?;
            let consistent = !state.fresh
                && state.log_epoch > 0
                && state.sync.state != SyncState::Full
                && state.cluster_id == self.topology.cluster_id;
            (consistent && primary != Some(entry.name.as_str())).then_some((entry, state))
        };
        shard.members.iter().filter_map(copy).collect()
    }

    /// The replica that should take over in a planned change: synced, and likely to stay.
    pub fn successor(&self, shard: &'a Shard) -> Option<&'a str> {
        let rank = |entry: &Member| {
            let member = self.member(&entry.name);
            let workload = member.and_then(|member| member.workload.as_ref());
            let current = workload
                .is_some_and(|workload| workload.template_hash == self.desired.template_hash);
            let offset = self
                .connected(&entry.name)
                .map_or((0, 0), NodeState::position);
            (
                self.desired.wants_member(&entry.name),
                current,
                self.node_is_good(&entry.name),
                offset,
            )
        };
        let able = |entry: &&Member| {
            entry.role == Role::Replica
                && self.is_synced(shard, &entry.name)
                && self.connected(&entry.name).is_some_and(|state| {
                    !state.stopping
                        && state.data_id == entry.data_id
                        && state.epoch == self.topology.epoch
                })
                && !self.is_leaving(&entry.name)
        };
        // Of equals the first: `max_by_key` takes the last, hence the reversal.
        let best = shard
            .members
            .iter()
            .rev()
            .filter(able)
            .max_by_key(|entry| rank(entry));
        best.map(|entry| entry.name.as_str())
    }

    /// Its pod or workload is being deleted.
    pub fn is_leaving(&self, name: &str) -> bool {
        self.member(name).is_none_or(|member| {
            member.pod.as_ref().is_some_and(|pod| pod.deleting)
                || member
                    .workload
                    .as_ref()
                    .is_none_or(|workload| workload.deleting)
        })
    }

    /// The Kubernetes node it runs on is ready and takes pods; true where there are no nodes.
    pub fn node_is_good(&self, name: &str) -> bool {
        let node = self
            .member(name)
            .and_then(|member| member.pod.as_ref()?.node.as_ref());
        node.and_then(|node| self.observed.kube_nodes.get(node))
            .is_none_or(|node| node.ready && !node.unschedulable)
    }

    /// Members whose topology is older than the stored one and can be sent it.
    pub fn behind(&self) -> Vec<String> {
        let behind = |(name, member): (&String, &MemberObserved)| {
            let state = member.connected()?;
            let concerned =
                self.topology.find(name).is_some() || state.cluster_id == self.topology.cluster_id;
            (concerned && state.epoch < self.topology.epoch && member.push_error.is_none())
                .then(|| name.clone())
        };
        self.observed.members.iter().filter_map(behind).collect()
    }

    pub fn address(&self, name: &str) -> Option<String> {
        self.member(name)?.pod.as_ref()?.address.clone()
    }
}
