//! What a node says of itself (docs/protocol.md, "NodeState").

use serde::{Deserialize, Serialize};

use super::role::Role;
use crate::store::RegionStats;

pub const PROTOCOL: u32 = 2;
/// Nodes from this protocol on know packed values among effects.
pub const EFFECTS_PROTOCOL: u32 = 2;
pub const FEATURES: [&str; 4] = ["async", "moves", "snapshotRDB", "regions"];

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeState {
    pub protocol: u32,
    pub version: String,
    pub features: Vec<String>,
    pub member: String,
    #[serde(rename = "dataID")]
    pub data_id: String,
    /// It holds no whole copy of its shard's data.
    pub fresh: bool,
    pub started_at_ms: u64,
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    pub epoch: u64,
    pub topology_hash: String,
    pub shard: String,
    pub role: Role,
    pub serving: bool,
    pub waiting_for: String,
    /// 0 while `fresh`, as is `offset`.
    pub log_epoch: u64,
    pub offset: u64,
    pub sync: Sync,
    pub replicas: Vec<ReplicaState>,
    pub moves: Vec<MoveState>,
    pub imports: Vec<ImportState>,
    pub keys: u64,
    pub bytes: u64,
    pub max_bytes: u64,
    pub expired: u64,
    pub clients: u64,
    pub stopping: bool,
    pub writes_paused: bool,
    /// Of the list of regions that each item is counted by; empty: none was ever taken.
    pub regions_hash: String,
    pub regions: Vec<RegionState>,
}

/// What a node holds of a region, and has counted since the region came to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegionState {
    pub name: String,
    pub keys: u64,
    pub bytes: u64,
    /// This node's part of the region's size; 0: no limit.
    pub max_bytes: u64,
    pub hits: u64,
    pub misses: u64,
    pub evicted_keys: u64,
    pub evicted_bytes: u64,
}

impl From<RegionStats> for RegionState {
    fn from(stats: RegionStats) -> Self {
        Self {
            name: stats.name,
            keys: stats.keys,
            bytes: stats.bytes,
            max_bytes: stats.limit,
            hits: stats.hits,
            misses: stats.misses,
            evicted_keys: stats.evicted.items,
            evicted_bytes: stats.evicted.bytes,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncPhase {
    #[default]
    None,
    Connecting,
    /// Its own data is dropped, the primary's is on its way.
    Full,
    /// Holds a whole copy and follows the log.
    Streaming,
}

/// How a replica or learner stands to its primary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sync {
    pub state: SyncPhase,
    pub primary: String,
    pub keys_done: u64,
    pub keys_total: u64,
    pub lag_bytes: u64,
    /// Why it is `Connecting`; empty when nothing went wrong.
    pub error: String,
}

/// A replica as its primary sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaState {
    pub member: String,
    #[serde(rename = "dataID")]
    pub data_id: String,
    pub synced: bool,
    pub log_epoch: u64,
    pub offset: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MovePhase {
    /// Cannot reach the destination's primary, or that is not ready.
    #[default]
    Waiting,
    Copying,
    /// Everything is copied; the destination follows the slots' writes.
    Streaming,
    Sealed,
    Failed,
}

/// A move as its source sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MoveState {
    pub id: String,
    pub state: MovePhase,
    pub keys_done: u64,
    pub keys_total: u64,
    pub bytes_done: u64,
    pub error: String,
}

/// A move as its destination sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImportState {
    pub id: String,
    pub state: MovePhase,
    pub keys: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_protocols_field_names() {
        let state = NodeState {
            moves: vec![MoveState::default()],
            imports: vec![ImportState::default()],
            replicas: vec![ReplicaState::default()],
            regions: vec![RegionState::default()],
            ..NodeState::default()
        };
        let json = serde_json::to_string(&state).unwrap();
        let fields = "protocol version features member dataID fresh startedAtMs clusterID epoch topologyHash shard role serving waitingFor \
            logEpoch offset sync state primary keysDone keysTotal lagBytes replicas synced moves bytesDone error imports keys \
            bytes maxBytes expired clients stopping writesPaused regionsHash regions hits misses evictedKeys evictedBytes";
        for field in fields.split_whitespace() {
            assert!(json.contains(&format!("\"{field}\":")), "{field} in {json}");
        }
        // Absent fields take their default, unknown ones are ignored.
        let read: NodeState = serde_json::from_str(r#"{"member":"m","novel":{}}"#).unwrap();
        assert_eq!((read.member.as_str(), read.role), ("m", Role::None));
    }
}
