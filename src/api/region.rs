//! The `CacheRegion` resource, and what it shares with a Cache's own policy.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{CacheRef, Condition};
use super::compression::Compression;
use super::duration::Duration;

/// Keys of a Cache that begin with a prefix, with a size, a default expiry and an eviction policy of their own.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "cache.clusterdb.io",
    version = "v1alpha1",
    kind = "CacheRegion",
    plural = "cacheregions",
    singular = "cacheregion",
    category = "all",
    namespaced,
    status = "CacheRegionStatus",
    derive = "PartialEq",
    doc = "Keys of a Cache that begin with a prefix, with a size, a default expiry and an eviction policy of their own.",
    printcolumn(name = "Cache", type_ = "string", json_path = ".spec.cacheRef.name"),
    printcolumn(name = "Keys", type_ = "integer", json_path = ".status.keys"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size", description = "What it may hold in the whole Cache"),
    printcolumn(name = "Used", type_ = "string", json_path = ".status.used", description = "What it holds"),
    printcolumn(name = "Hit%", type_ = "integer", json_path = ".status.hitPercent", description = "Of 100 reads, how many found their key"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name may have 63 characters at most: choose a shorter name"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name begins the region's keys and labels its metrics: use lower-case letters, digits and '-', without dots"),
    cel
)]
#[x_kube(
    validation = Rule::new("!has(self.eviction) || !has(self.eviction.type) || self.eviction.type != 'TTL' || has(self.ttl)").message("eviction.type TTL evicts keys with an expiry only: set ttl.default, for example 30m, so that all keys have one, or choose another type"),
)]
#[serde(rename_all = "camelCase")]
pub struct CacheRegionSpec {
    #[x_kube(validation = Rule::new("self == oldSelf").message("cacheRef cannot be changed: create another CacheRegion"))]
    pub cache_ref: CacheRef,
    /// Keys that begin with it are the region's; of several regions the longest prefix wins. `<name>:` unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub key_prefix: Option<String>,
    /// What it may hold in the whole Cache, keys and values, for example 500Mi. Each shard has its part by its slots. No limit unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::memory")]
    pub size: Option<Quantity>,
    /// The expiry of keys that are written without one. The Cache's `policy.ttl` unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction: Option<RegionEviction>,
    /// The Cache's `policy.compression` unless set. Holds for what is written from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
}

/// A default expiry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ttl {
    /// For example 30m, 1h30m or 7d.
    pub default: Duration,
    /// Spreads the expiries: each is up to so many percent shorter or longer.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = 100))]
    pub jitter_percent: i32,
}

fn is_zero(n: &i32) -> bool {
    *n == 0
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegionEviction {
    /// The Cache's `policy.eviction.type` unless set, and S3FIFO where that is not set either.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<EvictionType>,
    /// Keys in the whole Cache at most. Each shard has its part by its slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_items: Option<i64>,
}

/// Which item goes when room is needed.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum EvictionType {
    /// Three queues; what is read once only goes soon.
    S3FIFO,
    SIEVE,
    /// In the order in which they came.
    FIFO,
    WTinyLFU,
    /// The one that was not read for longest, of some.
    LRU,
    /// The one that was read least, of some.
    LFU,
    Random,
    /// The one that expires next, of some; keys without an expiry stay.
    TTL,
    /// Nothing goes: writes are refused when it is full.
    None,
}

impl EvictionType {
    /// What a node calls it.
    pub fn node_name(self) -> &'static str {
        match self {
            EvictionType::S3FIFO => "s3-fifo",
            EvictionType::SIEVE => "sieve",
            EvictionType::FIFO => "fifo",
            EvictionType::WTinyLFU => "w-tinylfu",
            EvictionType::LRU => "allkeys-lru",
            EvictionType::LFU => "allkeys-lfu",
            EvictionType::Random => "allkeys-random",
            EvictionType::TTL => "volatile-ttl",
            EvictionType::None => "noeviction",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheRegionStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Keys that begin with it are the region's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub key_prefix: Option<String>,
    /// What it may hold in the whole Cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub size: Option<String>,
    /// What it holds, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub used: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<i64>,
    /// Of 100 reads since the primaries know the region, how many found their key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hit_percent: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evicted_keys: Option<i64>,
    /// Members that have the region in force as the spec says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 63)))]
    pub nodes: Vec<String>,
}
