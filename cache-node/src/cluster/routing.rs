//! Where clients find what: an immutable view of a topology, for `MOVED` and the `CLUSTER` commands.

use sha2::{Digest, Sha256};

use super::topology::{Known, MemberRole, SlotRange};
use crate::store::SLOTS;

/// A member as clients are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingNode {
    pub member: String,
    /// 40 hex digits; the same on all nodes and over restarts.
    pub id: String,
    pub host: String,
    pub port: u16,
    pub control_port: u16,
    /// It is this node.
    pub myself: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingShard {
    pub name: String,
    pub slots: Vec<SlotRange>,
    pub primary: Option<RoutingNode>,
    /// Without learners and members that were not seen yet.
    pub replicas: Vec<RoutingNode>,
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    /// Empty: no topology yet.
    pub cluster_id: String,
    pub epoch: u64,
    /// This node's id, also when no topology lists it.
    pub my_id: String,
    pub shards: Vec<RoutingShard>,
    owners: Box<[Option<u16>]>,
}

impl Routing {
    /// Before the first topology.
    pub fn empty(member: &str) -> Self {
        Self {
            cluster_id: String::new(),
            epoch: 0,
            my_id: node_id("", member),
            shards: Vec::new(),
            owners: vec![None; usize::from(SLOTS)].into(),
        }
    }

    pub fn new(known: &Known, member: &str) -> Self {
        let topology = &known.topology;
        let node = |m: &super::topology::Member| RoutingNode {
            member: m.name.clone(),
            id: node_id(&topology.cluster_id, &m.name),
            host: m.host.clone(),
            port: m.port,
            control_port: m.control_port,
            myself: m.name == member,
        };
        let shards = topology.shards.iter().map(|shard| RoutingShard {
            name: shard.name.clone(),
            slots: shard.slots.clone(),
            primary: shard.primary().map(node),
            replicas: shard
                .members
                .iter()
                .filter(|m| m.role == MemberRole::Replica && !m.data_id.is_empty())
                .map(node)
                .collect(),
        });
        Self {
            cluster_id: topology.cluster_id.clone(),
            epoch: topology.epoch,
            my_id: node_id(&topology.cluster_id, member),
            shards: shards.collect(),
            owners: topology.owners(),
        }
    }

    /// The shard that owns a slot.
    pub fn shard_of(&self, slot: u16) -> Option<&RoutingShard> {
        let index = (*self.owners.get(usize::from(slot))?)?;
        self.shards.get(usize::from(index))
    }

    /// The primary that serves a slot: where `MOVED` points.
    pub fn owner(&self, slot: u16) -> Option<&RoutingNode> {
        self.shard_of(slot)?.primary.as_ref()
    }

    /// Slots that have an owner.
    pub fn assigned(&self) -> usize {
        self.owners.iter().flatten().count()
    }

    /// Primaries first, shard by shard, each followed by its replicas.
    pub fn nodes(&self) -> impl Iterator<Item = (&RoutingShard, &RoutingNode, bool)> {
        self.shards.iter().flat_map(|shard| {
            let primary = shard.primary.iter().map(move |n| (shard, n, true));
            primary.chain(shard.replicas.iter().map(move |n| (shard, n, false)))
        })
    }
}

fn node_id(cluster_id: &str, member: &str) -> String {
    let mut digest = Sha256::new();
    digest.update(cluster_id.as_bytes());
    digest.update([0]);
    digest.update(member.as_bytes());
    let digest = digest.finalize();
    digest[..20].iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::topology::tests::TWO;
    use super::*;

    #[test]
    fn clients_are_sent_to_primaries_and_told_of_replicas_that_hold_data() {
        let known = Known::parse(TWO.as_bytes()).unwrap();
        let routing = Routing::new(&known, "main-0-1");
        assert_eq!(
            routing.owner(0).map(|n| (n.host.as_str(), n.port)),
            Some(("h00", 6379))
        );
        assert_eq!(routing.owner(16_383).map(|n| n.host.as_str()), Some("h10"));
        assert_eq!(routing.assigned(), 16_384);
        // main-1-1 was not seen yet.
        let nodes: Vec<_> = routing
            .nodes()
            .map(|(s, n, p)| (&*s.name, &*n.member, p))
            .collect();
        assert_eq!(
            nodes,
            [
                ("0", "main-0-0", true),
                ("0", "main-0-1", false),
                ("1", "main-1-0", true)
            ]
        );
        let mine: Vec<_> = routing.nodes().filter(|(_, n, _)| n.myself).collect();
        assert_eq!(mine.len(), 1);
        assert_eq!(mine[0].1.id, routing.my_id);
        assert_eq!(routing.my_id.len(), 40);
        let empty = Routing::empty("main-0-1");
        assert!(empty.owner(0).is_none() && empty.assigned() == 0);
    }
}
