//! What is wanted: a validated spec. Made by [`crate::validate`].

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::cron::Schedule;
use crate::api::names;
use crate::api::region_list::RegionList;
use crate::api::topology::Addressing;

#[derive(Clone, Debug)]
pub struct Desired {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub generation: i64,
    pub shards: u16,
    /// Primary and replicas.
    pub members_per_shard: u8,
    pub image: String,
    /// A newer default image that the Cache is not allowed to take by itself.
    pub update_available: Option<String>,
    /// The update that the `once` annotation allowed is the image in use: the annotation can go.
    pub update_taken: bool,
    pub resources: Resources,
    /// What a member's store may hold, in bytes.
    pub max_memory_bytes: u64,
    pub pod: PodSettings,
    pub auth: AuthSecret,
    /// Changes whenever a member must be restarted to carry out the spec.
    pub template_hash: String,
    pub addressing: Addressing,
    pub maintenance: Option<Maintenance>,
    /// The Cache's own policy and its regions; pushed to nodes, without a restart.
    pub regions: RegionList,
    pub paused: bool,
    /// The spec is invalid: lost primaries are replaced, and nothing else is changed.
    pub held: bool,
    pub deleting: bool,
    pub limits: Limits,
}

impl Desired {
    pub fn shard_names(&self) -> impl Iterator<Item = String> {
        (0..self.shards).map(|shard| shard.to_string())
    }

    /// Whether the spec asks for this shard.
    pub fn wants_shard(&self, shard: &str) -> bool {
        shard
            .parse::<u16>()
            .is_ok_and(|number| number < self.shards)
    }

    /// Whether the spec asks for this member.
    pub fn wants_member(&self, member: &str) -> bool {
        names::parse_member(&self.name, member)
            .is_some_and(|(shard, index)| self.wants_shard(shard) && index < self.members_per_shard)
    }

    pub fn member_name(&self, shard: &str, index: u8) -> String {
        names::member(&self.name, shard, index)
    }
}

/// Requests and limits of a member, as Kubernetes takes them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    pub limits: BTreeMap<String, Quantity>,
    pub requests: BTreeMap<String, Quantity>,
}

/// `spec.pod`, whose parts Kubernetes defines.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodSettings {
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub node_selector: BTreeMap<String, String>,
    pub affinity: Option<core::Affinity>,
    pub tolerations: Vec<core::Toleration>,
    pub topology_spread_constraints: Vec<core::TopologySpreadConstraint>,
    pub priority_class_name: Option<String>,
    pub image_pull_secrets: Vec<core::LocalObjectReference>,
    pub service_account_annotations: BTreeMap<String, String>,
}

/// Where the applications' password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthSecret {
    pub name: String,
    pub key: String,
    /// The operator makes the Secret.
    pub generated: bool,
}

#[derive(Clone, Debug)]
pub struct Maintenance {
    pub schedule: Schedule,
    pub rebalance_threshold_percent: Option<u32>,
}

/// Times and sizes that the planner goes by; not part of the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long an unreachable primary may stay so before a replica takes over.
    pub failover_grace_ms: u64,
    /// How long a restarted member may take to become well before a roll is called stuck.
    pub roll_patience_ms: u64,
    pub handover_timeout_ms: u64,
    pub seal_timeout_ms: u64,
    /// Moves that run at the same time.
    pub moves_max: usize,
    pub slots_per_move_max: u32,
    pub bytes_per_move_max: u64,
    /// A destination may be filled up to this share of its memory.
    pub fill_percent_max: u64,
    /// Slot statistics older than this are asked for again.
    pub slot_stats_age_max_ms: u64,
    /// Moves that one maintenance run may begin.
    pub maintenance_moves_max: i32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            failover_grace_ms: 3_000,
            roll_patience_ms: 180_000,
            handover_timeout_ms: 5_000,
            seal_timeout_ms: 5_000,
            moves_max: 2,
            slots_per_move_max: 1024,
            bytes_per_move_max: 256 << 20,
            fill_percent_max: 90,
            slot_stats_age_max_ms: 60_000,
            maintenance_moves_max: 64,
        }
    }
}
