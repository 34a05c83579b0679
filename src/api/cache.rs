//! The `Cache` resource.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{Condition, SecretKeyRef, Time};
use super::compression::Compression;
use super::region::{EvictionType, Ttl};
use super::topology::{Role, Topology};

/// A sharded, replicated cache that speaks the Redis protocol.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "cache.clusterdb.io",
    version = "v1alpha1",
    kind = "Cache",
    plural = "caches",
    singular = "cache",
    category = "all",
    namespaced,
    status = "CacheStatus",
    derive = "PartialEq",
    doc = "A sharded, replicated cache that speaks the Redis protocol.",
    scale(
        spec_replicas_path = ".spec.shards",
        status_replicas_path = ".status.shards",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Shards", type_ = "integer", json_path = ".spec.shards", description = "Shards asked for"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.readyShards", description = "Shards that serve, of those there are"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint", description = "Where cluster clients connect to"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 46").message("metadata.name may have 46 characters at most, as members are named <name>-<shard>-<index>: choose a shorter name"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name becomes a Service's name: use lower-case letters, digits and '-', beginning with a letter, without dots"),
    cel
)]
#[x_kube(
    validation = Rule::new("(has(self.resources) && has(self.resources.limits) && has(self.resources.limits.memory)) || (has(self.policy) && has(self.policy.maxMemoryPerShard))").message("the cache needs a bound: set spec.resources.limits.memory, for example 1Gi, or spec.policy.maxMemoryPerShard"),
)]
#[serde(rename_all = "camelCase")]
pub struct CacheSpec {
    /// How many shards share the keys. Changing it moves slots while the cache serves.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 128))]
    pub shards: i32,
    /// Copies of each shard beside its primary. With 0 a restart of a member loses its keys.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 5))]
    pub replicas_per_shard: i32,
    /// The image of cache-node. Unless set, the operator's default at the time of creation, kept until an update is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.contains(' ')").message("spec.image is one image reference without spaces, for example registry.example/cache-node:1.2.3"))]
    pub image: Option<String>,
    /// Resources of each member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// How the members' pods are made and placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodSettings>,
    /// The applications' password. Unless set, one is generated into the Secret `<name>-auth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
    /// While true the operator changes nothing; the cache goes on serving.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

fn one() -> i32 {
    1
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceList>,
    /// Memory defaults to its limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<ResourceList>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceList {
    /// Cores, for example 2 or 500m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::cpu")]
    pub cpu: Option<Quantity>,
    /// For example 1Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::memory")]
    pub memory: Option<Quantity>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSettings {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::string_map")]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('cache.clusterdb.io/') && !k.startsWith('app.kubernetes.io/'))").message("labels under cache.clusterdb.io/ and app.kubernetes.io/ are the operator's: choose another prefix"))]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::string_map")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::string_map")]
    pub node_selector: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<core::Affinity>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<core::Toleration>,
    /// Unless set, the members of a shard spread over nodes as far as possible.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Vec<core::TopologySpreadConstraint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<core::LocalObjectReference>,
    /// Annotations of the members' ServiceAccount.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::string_map")]
    pub service_account_annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    pub secret: SecretKeyRef,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Bounds everything a member's store holds. Unless set: the memory limit less a quarter, and less 64Mi at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::memory")]
    pub max_memory_per_shard: Option<Quantity>,
    /// What goes when a member is full. Changes without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction: Option<Eviction>,
    /// The expiry of keys that are written without one. Changes without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// How values are stored. None unless set. Changes without a restart, for what is written from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Eviction {
    /// None unless set: writes are refused when a member is full.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<EvictionType>,
    /// Keys of a shard at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_items_per_shard: Option<i64>,
}

/// Work that is done at set times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Maintenance {
    /// Cron: minute, hour, day of month, month, day of week.
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[^ ]+( +[^ ]+){4}$')").message("schedule has five fields: minute hour day-of-month month day-of-week, for example \"0 3 * * *\""))]
    pub schedule: String,
    /// An IANA time zone, for example Europe/Berlin; UTC unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z][A-Za-z0-9_+/-]*$')").message("timeZone is an IANA name, for example Europe/Berlin or UTC"))]
    pub time_zone: Option<String>,
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(validation = Rule::new("self.filter(t, has(t.rebalance)).size() <= 1").message("each task is named once: keep one rebalance, with the lowest thresholdPercent"))]
    pub tasks: Vec<MaintenanceTask>,
}

/// Exactly one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.rebalance)").message("a task names what to do: {rebalance: {thresholdPercent: 20}}"))]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceTask {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<Rebalance>,
}

/// Moves slots until no shard holds more keys or bytes than the average by more than a threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rebalance {
    #[serde(default = "default_threshold")]
    #[schemars(range(min = 1, max = 1000))]
    pub threshold_percent: i32,
}

fn default_threshold() -> i32 {
    20
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Where cluster clients connect to: host:port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub endpoint: Option<String>,
    /// Shards there are; the scale subresource's replicas.
    #[serde(default)]
    pub shards: i32,
    /// Shards that serve, of those there are: "3/3".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub ready_shards: Option<String>,
    /// Matches one pod a shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub selector: Option<String>,
    /// The image in use, kept until an update is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub members: Vec<MemberStatus>,
    /// What is still to be done, or waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 1024)))]
    pub pending_actions: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<MaintenanceStatus>,
    /// Who holds what. Written by the operator by compare-and-swap only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Phase {
    /// Nothing serves yet.
    Creating,
    Ready,
    /// Slots, shards or replicas are on their way.
    Scaling,
    /// Members are being restarted with a new template.
    Updating,
    Rebalancing,
    /// Something is broken; see the conditions.
    Degraded,
    Paused,
    /// The spec cannot be carried out; see the conditions.
    Invalid,
    Deleting,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    #[schemars(length(max = 63))]
    pub name: String,
    #[schemars(length(max = 8))]
    pub shard: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    #[serde(default)]
    pub ready: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub pod: Option<String>,
    /// The Kubernetes node it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node: Option<String>,
    #[serde(default)]
    pub keys: i64,
    #[serde(default)]
    pub bytes: i64,
    /// Its position in the log, in bytes.
    #[serde(default)]
    pub offset: i64,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceStatus {
    /// The scheduled time of the run in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_since: Option<Time>,
    /// The scheduled time up to which runs are done, skipped, or not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_completed_time: Option<Time>,
    /// What the last run did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub last_result: Option<String>,
    /// Moves that the run in progress has begun.
    #[serde(default)]
    pub moves: i32,
    /// How many shards the slots were last spread over evenly. Weights that rebalancing gives stay until the number of shards changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread_over: Option<i32>,
}
