//! A node by docs/protocol.md: data IDs, roles, asynchronous replication, slot moves, handovers.

use std::collections::BTreeMap;

use cache_operator::api::node_state::{
    ImportState, MovePhase, MoveState, NodeRole, NodeState, ReplicaState, SlotStat, Sync, SyncState,
};
use cache_operator::api::topology::{Addressing, Member, Role, Shard, Topology};
use rand::Rng;

use super::World;

pub type Data = BTreeMap<u16, BTreeMap<u32, u64>>;

#[derive(Clone, Debug)]
pub struct NodeSim {
    pub member: String,
    pub data_id: String,
    pub fresh: bool,
    pub topology: Option<Topology>,
    pub data: Data,
    pub log_epoch: u64,
    pub offset: u64,
    pub sync: SyncState,
    sync_left: u32,
    /// The primary's data ID that its copy comes from.
    follows: Option<String>,
    pub exports: BTreeMap<String, Export>,
    pub imports: BTreeMap<String, Data>,
    /// Sealed moves, and until when.
    pub sealed: BTreeMap<String, u64>,
    pub paused_until_ms: u64,
    pub stopping: bool,
    /// None: its version knows no regions.
    pub regions: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Export {
    to_data: String,
    left: u32,
}

impl NodeSim {
    pub fn new(member: &str, data_id: String, topology: Option<Topology>) -> NodeSim {
        NodeSim {
            member: member.into(),
            data_id,
            fresh: true,
            topology,
            data: Data::new(),
            log_epoch: 0,
            offset: 0,
            sync: SyncState::None,
            sync_left: 0,
            follows: None,
            exports: BTreeMap::new(),
            imports: BTreeMap::new(),
            sealed: BTreeMap::new(),
            paused_until_ms: 0,
            stopping: false,
            regions: None,
        }
    }

    pub fn entry(&self) -> Option<(&Shard, &Member)> {
        self.topology.as_ref()?.find(&self.member)
    }

    pub fn role(&self) -> NodeRole {
        let Some((shard, entry)) = self.entry() else {
            return NodeRole::None;
        };
        match entry.role {
            Role::Primary if entry.data_id == self.data_id && (!self.fresh || shard.bootstrap) => {
                NodeRole::Primary
            }
            Role::Primary => NodeRole::None,
            Role::Replica if entry.data_id == self.data_id => NodeRole::Replica,
            _ => NodeRole::Learner,
        }
    }

    pub fn is_primary(&self) -> bool {
        self.role() == NodeRole::Primary
    }

    pub fn owns(&self, slot: u16) -> bool {
        self.is_primary()
            && self
                .entry()
                .is_some_and(|(shard, _)| shard.slots.iter().any(|range| range.contains(slot)))
    }

    pub fn accepts_write(&self, slot: u16, now_ms: u64) -> bool {
        let moving = |id: &String| {
            self.topology
                .iter()
                .flat_map(|topology| &topology.moves)
                .find(|moving| moving.id == *id)
        };
        let sealed = self.sealed.iter().any(|(id, until)| {
            now_ms < *until
                && moving(id)
                    .is_some_and(|moving| moving.slots.iter().any(|range| range.contains(slot)))
        });
        self.owns(slot) && !sealed && now_ms >= self.paused_until_ms
    }

    /// `TOPOLOGY SET`.
    pub fn set_topology(&mut self, topology: &Topology) -> Result<(), &'static str> {
        if let Some(own) = &self.topology {
            if own.cluster_id != topology.cluster_id {
                return Err("FOREIGNDATA");
            }
            if own.epoch > topology.epoch || (own.epoch == topology.epoch && own != topology) {
                return Err("STALEEPOCH");
            }
            if own == topology {
                return Ok(());
            }
        }
        let listed = topology.find(&self.member);
        if let Some((shard, entry)) = listed
            && entry.role == Role::Primary
            && entry.data_id == self.data_id
            && self.fresh
            && !shard.bootstrap
        {
            return Err("NOTSYNCED");
        }
        let was_primary = self.is_primary();
        self.adopt_slots(topology);
        self.topology = Some(topology.clone());
        self.paused_until_ms = 0;
        self.sealed.clear();
        let listed = |id: &String| topology.moves.iter().any(|moving| moving.id == *id);
        self.imports.retain(|id, _| listed(id));
        self.exports.retain(|id, _| listed(id));
        if self.is_primary() && !was_primary {
            self.log_epoch = topology.epoch;
            self.fresh = false;
            self.sync = SyncState::None;
            self.follows = None;
        }
        Ok(())
    }

    /// What was imported for slots that are its own now becomes its data; data of slots that are not is dropped.
    fn adopt_slots(&mut self, topology: &Topology) {
        let Some((shard, _)) = topology.find(&self.member) else {
            self.data.clear();
            return;
        };
        let owns = |slot: u16| shard.slots.iter().any(|range| range.contains(slot));
        for (id, data) in std::mem::take(&mut self.imports) {
            let mut kept = Data::new();
            for (slot, keys) in data {
                if owns(slot) {
                    self.data.insert(slot, keys);
                    self.offset += 10;
                } else {
                    kept.insert(slot, keys);
                }
            }
            self.imports.insert(id, kept);
        }
        self.data.retain(|slot, _| owns(*slot));
    }

    /// `SLOTSTATS`; every key weighs 100 bytes.
    pub fn slot_stats(&self) -> Vec<SlotStat> {
        let stat = |(slot, keys): (&u16, &BTreeMap<u32, u64>)| {
            let count = u64::try_from(keys.len()).unwrap_or(0);
            SlotStat(*slot, count, count * 100)
        };
        self.data
            .iter()
            .filter(|(_, keys)| !keys.is_empty())
            .map(stat)
            .collect()
    }
}

impl World {
    /// The topology that a starting node finds: the mounted one and its peers', the highest epoch.
    pub fn topology_at_start(&self, name: &str) -> Option<Topology> {
        let peers = self
            .pods
            .keys()
            .filter(|peer| *peer != name && !self.cut.contains(*peer) && !self.cut.contains(name))
            .filter_map(|peer| self.node(peer)?.topology.clone());
        let published = self.stored.clone();
        peers.chain(published).max_by_key(|topology| topology.epoch)
    }

    pub fn nodes_tick(&mut self) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        for name in &names {
            self.replicate(name);
        }
        for name in &names {
            self.export(name);
        }
    }

    /// The reachable node that acts as primary of the shard, as `name` sees it.
    fn primary_for(&self, name: &str) -> Option<String> {
        let node = self.reachable(name)?;
        let (shard, _) = node.entry()?;
        let primary = shard.primary()?.name.clone();
        let acts = primary != name && self.reachable(&primary).is_some_and(NodeSim::is_primary);
        acts.then_some(primary)
    }

    fn replicate(&mut self, name: &str) {
        let Some(node) = self.node(name) else {
            return;
        };
        if !matches!(node.role(), NodeRole::Replica | NodeRole::Learner) {
            return;
        }
        let Some(primary) = self
            .primary_for(name)
            .and_then(|primary| self.node(&primary).cloned())
        else {
            if let Some(node) = self.node_mut(name) {
                node.sync = SyncState::Connecting;
            }
            return;
        };
        let late = self.lag && self.random.random_bool(0.3);
        let Some(node) = self.node_mut(name) else {
            return;
        };
        let same_history = node.follows.as_ref() == Some(&primary.data_id)
            && !node.fresh
            && node.log_epoch == primary.log_epoch;
        match node.sync {
            SyncState::Full if node.follows.as_ref() == Some(&primary.data_id) => {
                node.sync_left = node.sync_left.saturating_sub(1);
                if node.sync_left > 0 {
                    return;
                }
            }
            _ if same_history => {}
            _ => {
                // Its own data goes, before the primary's comes.
                node.sync = SyncState::Full;
                node.sync_left = 3;
                node.follows = Some(primary.data_id.clone());
                node.fresh = true;
                (node.log_epoch, node.offset) = (0, 0);
                node.data.clear();
                return;
            }
        }
        if node.sync == SyncState::Streaming && late {
            return;
        }
        node.sync = SyncState::Streaming;
        node.fresh = false;
        node.data.clone_from(&primary.data);
        // What is imported is in the log too.
        node.imports.clone_from(&primary.imports);
        (node.log_epoch, node.offset) = (primary.log_epoch, primary.offset);
    }

    /// The source's side of moves.
    fn export(&mut self, name: &str) {
        let now_ms = self.now_ms;
        let Some(node) = self.node_mut(name) else {
            return;
        };
        node.sealed.retain(|_, until| now_ms < *until);
        let Some(topology) = node.topology.clone().filter(|_| node.is_primary()) else {
            node.exports.clear();
            return;
        };
        let own = node
            .entry()
            .map(|(shard, _)| shard.name.clone())
            .unwrap_or_default();
        for moving in topology.moves.iter().filter(|moving| moving.from == own) {
            let to = topology
                .shard(&moving.to)
                .and_then(Shard::primary)
                .map(|entry| entry.name.clone())
                .unwrap_or_default();
            let ready = self.reachable(&to).filter(|to| {
                to.is_primary()
                    && to
                        .topology
                        .as_ref()
                        .is_some_and(|theirs| theirs.epoch == topology.epoch)
            });
            let to_data = ready.map(|to| to.data_id.clone());
            let linked = self.reachable(name).is_some();
            let Some(to_data) = to_data.filter(|_| linked) else {
                if let Some(node) = self.node_mut(name) {
                    node.exports.remove(&moving.id);
                }
                continue;
            };
            let Some(node) = self.node_mut(name) else {
                continue;
            };
            let export = node.exports.entry(moving.id.clone()).or_insert(Export {
                to_data: to_data.clone(),
                left: 4,
            });
            if export.to_data != to_data {
                *export = Export { to_data, left: 4 };
            }
            export.left = export.left.saturating_sub(1);
            if export.left == 0 {
                self.drain(name, &to, moving);
            }
        }
    }

    /// Everything the source has in the move's slots is with the destination.
    pub fn drain(&mut self, from: &str, to: &str, moving: &cache_operator::api::topology::Move) {
        let Some(source) = self.node(from) else {
            return;
        };
        let moved = |slot: u16| moving.slots.iter().any(|range| range.contains(slot));
        let data: Data = source
            .data
            .iter()
            .filter(|(slot, _)| moved(**slot))
            .map(|(slot, keys)| (*slot, keys.clone()))
            .collect();
        if let Some(destination) = self.node_mut(to) {
            destination.imports.insert(moving.id.clone(), data);
        }
    }

    /// The destination acknowledges a seal once the replicas that follow it hold what was moved.
    pub fn replicate_imports(&mut self, primary: &str) {
        let Some(destination) = self.node(primary).cloned() else {
            return;
        };
        let names: Vec<String> = self.pods.keys().cloned().collect();
        for name in names {
            if self.is_streaming_from(&name, &destination)
                && let Some(replica) = self.node_mut(&name)
            {
                replica.imports.clone_from(&destination.imports);
            }
        }
    }

    /// A primary that stops with no operator present hands over by itself.
    pub fn hand_over_alone(&mut self, name: &str) {
        let Some(node) = self
            .reachable(name)
            .filter(|node| node.is_primary())
            .cloned()
        else {
            return;
        };
        let Some((shard, _)) = node.entry() else {
            return;
        };
        let synced =
            |entry: &&Member| entry.name != name && self.is_streaming_from(&entry.name, &node);
        let Some(heir) = shard
            .members
            .iter()
            .find(synced)
            .map(|entry| entry.name.clone())
        else {
            return;
        };
        let mut topology = node.topology.clone().unwrap_or_default();
        topology.epoch += 1;
        let heir_data = self
            .node(&heir)
            .map(|node| node.data_id.clone())
            .unwrap_or_default();
        for member in topology
            .shards
            .iter_mut()
            .flat_map(|shard| &mut shard.members)
        {
            if member.name == heir {
                member.role = Role::Primary;
                member.data_id.clone_from(&heir_data);
            } else if member.name == name {
                member.role = Role::Replica;
            }
        }
        if let Some(target) = self.node_mut(&heir) {
            target.data.clone_from(&node.data);
            (target.log_epoch, target.offset) = (node.log_epoch, node.offset);
        }
        self.note(format!(
            "{name} hands over to {heir} by itself, epoch {}",
            topology.epoch
        ));
        let others: Vec<String> = self
            .pods
            .keys()
            .filter(|other| *other != &heir)
            .cloned()
            .collect();
        for member in std::iter::once(heir).chain(others) {
            if self.cut.contains(&member) {
                continue;
            }
            if let Some(node) = self.node_mut(&member) {
                // One that knows a newer topology refuses this one, as it should.
                let _ = node.set_topology(&topology);
            }
        }
    }

    pub fn is_streaming_from(&self, name: &str, primary: &NodeSim) -> bool {
        self.reachable(name).is_some_and(|node| {
            node.sync == SyncState::Streaming
                && node.follows.as_ref() == Some(&primary.data_id)
                && !node.fresh
        })
    }

    pub fn state_of(&self, name: &str, node: &NodeSim) -> NodeState {
        let addressing = Addressing::Pods {
            service: "orders-nodes".into(),
            namespace: "shop".into(),
        };
        let topology = node.topology.as_ref();
        let shard = node.entry().map(|(shard, _)| shard);
        let role = node.role();
        let is_primary = role == NodeRole::Primary;
        let replica = |entry: &Member| {
            let other = self
                .reachable(&entry.name)
                .filter(|_| self.is_streaming_from(&entry.name, node))?;
            Some(ReplicaState {
                member: entry.name.clone(),
                data_id: other.data_id.clone(),
                synced: true,
                log_epoch: other.log_epoch,
                offset: other.offset,
            })
        };
        let keys: usize = node.data.values().map(BTreeMap::len).sum();
        let keys = u64::try_from(keys).unwrap_or(0);
        NodeState {
            protocol: 1,
            member: name.into(),
            data_id: node.data_id.clone(),
            fresh: node.fresh,
            cluster_id: topology
                .map(|topology| topology.cluster_id.clone())
                .unwrap_or_default(),
            epoch: topology.map_or(0, |topology| topology.epoch),
            topology_hash: topology
                .map(|topology| topology.hash(&addressing))
                .unwrap_or_default(),
            shard: shard.map(|shard| shard.name.clone()).unwrap_or_default(),
            role,
            serving: is_primary || node.sync == SyncState::Streaming,
            log_epoch: node.log_epoch,
            offset: node.offset,
            sync: Sync {
                state: node.sync,
                ..Sync::default()
            },
            replicas: shard
                .iter()
                .filter(|_| is_primary)
                .flat_map(|shard| shard.members.iter().filter_map(replica))
                .collect(),
            moves: node
                .exports
                .iter()
                .map(|(id, export)| MoveState {
                    id: id.clone(),
                    state: if export.left == 0 {
                        MovePhase::Streaming
                    } else {
                        MovePhase::Copying
                    },
                    ..MoveState::default()
                })
                .collect(),
            imports: node
                .imports
                .keys()
                .map(|id| ImportState {
                    id: id.clone(),
                    ..ImportState::default()
                })
                .collect(),
            keys,
            bytes: keys * self.bytes_per_key,
            max_bytes: 768 << 20,
            stopping: node.stopping,
            features: node.regions.iter().map(|_| "regions".into()).collect(),
            regions_hash: node.regions.clone().unwrap_or_default(),
            writes_paused: self.now_ms < node.paused_until_ms,
            ..NodeState::default()
        }
    }
}
