//! A simulated world: Kubernetes, nodes, clients and an operator that carries out plans, all deterministic from a seed. Time passes in ticks.

mod kube;
mod node;
mod operator;

use std::collections::{BTreeMap, BTreeSet};

use cache_operator::api::CacheRegion;
use cache_operator::api::cache::{Cache, CacheStatus, MaintenanceStatus};
use cache_operator::api::topology::{Addressing, Role, Topology};
use cache_operator::plan::{Desired, Limits, Plan};
use cache_operator::validate;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub use kube::{PodSim, WorkloadSim};
pub use node::NodeSim;
pub use operator::OperatorSim;

pub const TICK_MS: u64 = 500;
pub const BAD_IMAGE: &str = "example/broken:1";

/// An end of the first move under way; without one, the first or the last shard, which a scale out fills.
#[derive(Clone, Copy, Debug)]
pub enum End {
    Source,
    Destination,
}

#[derive(Clone)]
pub struct World {
    pub now_ms: u64,
    pub random: StdRng,
    /// Makes what the operator hears, and how far replicas are, lag at random.
    pub lag: bool,
    pub spec: serde_json::Value,
    pub regions: Vec<CacheRegion>,
    pub stored: Option<Topology>,
    pub maintenance: MaintenanceStatus,
    pub image: Option<String>,
    pub workloads: BTreeMap<String, WorkloadSim>,
    pub pods: BTreeMap<String, PodSim>,
    /// Members that nobody can reach.
    pub cut: BTreeSet<String>,
    pub operator: Option<OperatorSim>,
    /// The operator crashes at this boundary between two effects; counted from 0.
    pub crash_at: Option<usize>,
    /// Whose primary's process dies in the same instant.
    pub killed_with_operator: Option<End>,
    pub boundaries: usize,
    /// What clients were told is written: key, version.
    pub acknowledged: BTreeMap<u32, u64>,
    /// What a key weighs, with its share of tables.
    pub bytes_per_key: u64,
    version: u64,
    next_id: u64,
    /// What happened, for failure messages.
    pub journal: Vec<String>,
}

impl World {
    pub fn new(seed: u64, spec: serde_json::Value) -> World {
        let mut world = World {
            now_ms: 1_760_000_000_000,
            random: StdRng::seed_from_u64(seed),
            lag: false,
            spec,
            regions: Vec::new(),
            stored: None,
            maintenance: MaintenanceStatus::default(),
            image: None,
            workloads: BTreeMap::new(),
            pods: BTreeMap::new(),
            cut: BTreeSet::new(),
            operator: None,
            crash_at: None,
            killed_with_operator: None,
            boundaries: 0,
            acknowledged: BTreeMap::new(),
            bytes_per_key: 100,
            version: 0,
            next_id: 0,
            journal: Vec::new(),
        };
        world.start_operator();
        world
    }

    pub fn id(&mut self, what: &str) -> String {
        self.next_id += 1;
        format!("{what}-{}", self.next_id)
    }

    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        self.journal
            .push(format!("{:>7} {text}", self.now_ms % 10_000_000));
    }

    pub fn start_operator(&mut self) {
        self.operator = Some(OperatorSim::new(self.now_ms));
    }

    pub fn desired(&self) -> Desired {
        let mut cache: Cache = serde_json::from_value(serde_json::json!({
            "apiVersion": "cache.clusterdb.io/v1alpha1", "kind": "Cache",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "6d1f", "generation": 1},
            "spec": self.spec,
        }))
        .expect("a spec");
        let status = CacheStatus {
            image: self.image.clone(),
            topology: self.stored.clone(),
            ..CacheStatus::default()
        };
        cache.status = Some(status);
        let context = validate::Context {
            default_image: "example/cache-node:1".into(),
            addressing: Addressing::Pods {
                service: "orders-nodes".into(),
                namespace: "shop".into(),
            },
            regions: self.regions.clone(),
            limits: Limits {
                slots_per_move_max: 2048,
                ..Limits::default()
            },
        };
        validate::cache(&cache, &context)
            .ok()
            .or_else(|| validate::held(&cache, &context))
            .expect("a valid spec, or a Cache that is there")
    }

    /// One tick: nodes and Kubernetes go on, clients write, the operator plans and acts once.
    pub fn tick(&mut self) -> Option<Plan> {
        self.now_ms += TICK_MS;
        self.kube_tick();
        self.nodes_tick();
        self.nodes_tick();
        self.operator_tick()
    }

    /// Ticks until the operator has nothing to do and nothing to wait for.
    pub fn settle(&mut self, ticks_max: usize) {
        let mut calm = 0;
        for _ in 0..ticks_max {
            let plan = self.tick();
            let idle = plan.is_some_and(|plan| plan.steps.is_empty() && plan.waiting.is_empty());
            calm = if idle { calm + 1 } else { 0 };
            if calm >= 3 {
                return;
            }
        }
        panic!("did not settle in {ticks_max} ticks\n{}", self.story());
    }

    /// The last of what happened, and how things are.
    pub fn story(&self) -> String {
        let from = self.journal.len().saturating_sub(60);
        let mut text = self.journal[from..].join("\n");
        for (name, pod) in &self.pods {
            let state = pod.node.as_ref().map(|node| self.state_of(name, node));
            text.push_str(&format!(
                "\n{name}: deleting {:?}, {state:?}",
                pod.deleting_until
            ));
        }
        text.push_str(&format!("\nstored: {:?}", self.stored));
        text
    }

    /// A client writes; false if nobody takes the write.
    pub fn write(&mut self, key: u32) -> bool {
        let slot = slot_of(key);
        let owners: Vec<String> = self
            .pods
            .iter()
            .filter(|(name, pod)| {
                !self.cut.contains(*name)
                    && pod
                        .node
                        .as_ref()
                        .is_some_and(|node| node.accepts_write(slot, self.now_ms))
            })
            .map(|(name, _)| name.clone())
            .collect();
        if owners.is_empty() {
            return false;
        }
        let owner = owners[self.random.random_range(0..owners.len())].clone();
        self.version += 1;
        let version = self.version;
        if let Some(node) = self.node_mut(&owner) {
            node.data.entry(slot).or_default().insert(key, version);
            node.offset += 10;
        }
        self.acknowledged.insert(key, version);
        true
    }

    pub fn node(&self, name: &str) -> Option<&NodeSim> {
        self.pods.get(name)?.node.as_ref()
    }

    pub fn node_mut(&mut self, name: &str) -> Option<&mut NodeSim> {
        self.pods.get_mut(name)?.node.as_mut()
    }

    pub fn reachable(&self, name: &str) -> Option<&NodeSim> {
        self.node(name).filter(|_| !self.cut.contains(name))
    }

    /// Keys that were acknowledged and are not with the slot's owner in that version.
    pub fn lost(&self) -> Vec<u32> {
        let held = |key: &u32| {
            let slot = slot_of(*key);
            self.pods
                .values()
                .filter_map(|pod| pod.node.as_ref())
                .find_map(|node| {
                    node.owns(slot)
                        .then(|| node.data.get(&slot).and_then(|keys| keys.get(key)).copied())?
                })
        };
        self.acknowledged
            .iter()
            .filter(|(key, version)| held(key) != Some(**version))
            .map(|(key, _)| *key)
            .collect()
    }

    /// Everything is as the spec asks, by what the nodes say.
    pub fn assert_converged(&self) {
        let desired = self.desired();
        let stored = self
            .stored
            .as_ref()
            .unwrap_or_else(|| panic!("no topology\n{}", self.story()));
        assert_eq!(
            stored.shards.len(),
            usize::from(desired.shards),
            "{}",
            self.story()
        );
        let mut owners = vec![0; 16384];
        for shard in &stored.shards {
            assert_eq!(
                shard.members.len(),
                usize::from(desired.members_per_shard),
                "{}",
                self.story()
            );
            assert!(!shard.bootstrap, "{}", self.story());
            for member in &shard.members {
                assert!(desired.wants_member(&member.name), "{}", self.story());
                assert!(member.role != Role::Learner, "{}", self.story());
                let node = self
                    .node(&member.name)
                    .unwrap_or_else(|| panic!("{} does not run\n{}", member.name, self.story()));
                assert_eq!(
                    node.topology.as_ref(),
                    Some(stored),
                    "{} knows something else",
                    member.name
                );
                assert_eq!(node.data_id, member.data_id);
                if node.is_primary() {
                    for range in &shard.slots {
                        (range.0..=range.1).for_each(|slot| owners[usize::from(slot)] += 1);
                    }
                }
            }
        }
        assert!(
            owners.iter().all(|owners| *owners == 1),
            "a slot is not owned once\n{}",
            self.story()
        );
        assert!(stored.moves.is_empty(), "{}", self.story());
        let names: Vec<&String> = self.workloads.keys().collect();
        assert_eq!(
            names.len(),
            usize::from(desired.shards) * usize::from(desired.members_per_shard),
            "members left over: {names:?}\n{}",
            self.story()
        );
        assert!(
            self.workloads
                .values()
                .all(|workload| workload.hash == desired.template_hash),
            "{}",
            self.story()
        );
    }

    pub fn set(&mut self, field: &str, value: serde_json::Value) {
        self.note(format!("spec.{field} = {value}"));
        self.spec[field] = value;
    }
}

pub fn spec(shards: u16, replicas: u8) -> serde_json::Value {
    serde_json::json!({
        "shards": shards, "replicasPerShard": replicas,
        "image": "example/cache-node:1",
        "resources": {"limits": {"memory": "1Gi"}},
    })
}

/// Keys are numbers here; neighbouring ones lie far apart.
pub fn slot_of(key: u32) -> u16 {
    u16::try_from(key.wrapping_mul(2_654_435_761) >> 18).unwrap_or(0) % 16384
}
