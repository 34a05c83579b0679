//! What a node says of itself (docs/protocol.md, "NodeState"). Unknown fields and enum values are accepted, so that an operator and a node one
//! version apart understand each other.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeState {
    pub protocol: u32,
    pub version: String,
    pub features: Vec<String>,
    pub member: String,
    #[serde(rename = "dataID")]
    pub data_id: String,
    /// Its memory was never bootstrapped and never completed a sync.
    pub fresh: bool,
    pub started_at_ms: u64,
    /// Empty: it has no topology yet.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    pub epoch: u64,
    pub topology_hash: String,
    pub shard: String,
    pub role: NodeRole,
    pub serving: bool,
    pub waiting_for: String,
    pub log_epoch: u64,
    pub offset: u64,
    pub sync: Sync,
    pub replicas: Vec<ReplicaState>,
    pub moves: Vec<MoveState>,
    pub imports: Vec<ImportState>,
    pub keys: u64,
    pub bytes: u64,
    /// 0: unlimited.
    pub max_bytes: u64,
    pub expired: u64,
    pub clients: u64,
    pub stopping: bool,
    pub writes_paused: bool,
    /// Of the list of regions that every item is counted by; empty: it never took one.
    pub regions_hash: String,
    pub regions: Vec<RegionState>,
}

impl NodeState {
    /// The log position, compared lexicographically.
    pub fn position(&self) -> (u64, u64) {
        (self.log_epoch, self.offset)
    }

    pub fn has_feature(&self, name: &str) -> bool {
        self.features.iter().any(|feature| feature == name)
    }

    pub fn move_state(&self, id: &str) -> Option<&MoveState> {
        self.moves.iter().find(|state| state.id == id)
    }
}

/// A node that says so takes lists of regions.
pub const FEATURE_REGIONS: &str = "regions";

/// What a node holds and has counted of a region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegionState {
    pub name: String,
    pub keys: u64,
    pub bytes: u64,
    /// The node's part of the region's size; 0: no limit.
    pub max_bytes: u64,
    pub hits: u64,
    pub misses: u64,
    pub evicted_keys: u64,
    pub evicted_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeRole {
    #[default]
    None,
    Primary,
    Replica,
    Learner,
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sync {
    pub state: SyncState,
    pub primary: String,
    pub keys_done: u64,
    pub keys_total: u64,
    pub lag_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncState {
    #[default]
    None,
    Connecting,
    /// Its own data is dropped, the primary's is on its way.
    Full,
    /// Holds a consistent copy and follows the log.
    Streaming,
    #[serde(other)]
    Unknown,
}

/// A replica as its primary sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaState {
    pub member: String,
    #[serde(rename = "dataID")]
    pub data_id: String,
    pub synced: bool,
    pub log_epoch: u64,
    pub offset: u64,
}

/// A move as its source sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MoveState {
    pub id: String,
    pub state: MovePhase,
    pub keys_done: u64,
    pub keys_total: u64,
    pub bytes_done: u64,
    pub error: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MovePhase {
    #[default]
    Waiting,
    Copying,
    Streaming,
    Sealed,
    Failed,
    #[serde(other)]
    Unknown,
}

/// A move as its destination sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImportState {
    pub id: String,
    pub state: MovePhase,
    pub keys: u64,
}

/// One element of `SLOTSTATS`: slot, keys, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStat(pub u16, pub u64, pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_neighbouring_versions_state() {
        let text = r#"{"protocol":2,"member":"main-0-0","dataID":"d","role":"Witness","serving":true,"logEpoch":5,"offset":9,
            "sync":{"state":"Resuming"},"moves":[{"id":"m1","state":"Streaming"}],"novel":[1]}"#;
        let state: NodeState = serde_json::from_str(text).unwrap();
        assert_eq!(state.role, NodeRole::Unknown);
        assert_eq!(state.sync.state, SyncState::Unknown);
        assert_eq!(state.position(), (5, 9));
        assert_eq!(state.move_state("m1").unwrap().state, MovePhase::Streaming);
        let again: NodeState =
            serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        assert_eq!(again, state);
    }
}
