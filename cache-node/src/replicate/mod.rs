//! Replication: a full copy of the primary's data, then its log (docs/protocol.md, "Replication stream").

pub mod effects;
pub mod frame;
pub mod history;
pub mod primary;
pub mod replica;

use serde::{Deserialize, Serialize};

/// What a replica asks its primary for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncRequest {
    #[serde(default = "protocol")]
    pub protocol: u32,
    pub member: String,
    #[serde(rename = "dataID")]
    pub data_id: String,
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    pub epoch: u64,
    /// 0 with offset 0: it holds nothing to go on from.
    #[serde(default)]
    pub log_epoch: u64,
    #[serde(default)]
    pub offset: u64,
}

/// The payload of a `b` frame.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Begin {
    pub log_epoch: u64,
    pub keys_total: u64,
}

/// Of nodes that do not say it.
fn protocol() -> u32 {
    1
}
