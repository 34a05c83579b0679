//! Slot moves: the source's primary copies slots to the destination's and streams their writes, until a topology switches their owner
//! (docs/protocol.md, "A slot move").

pub mod export;
pub mod import;

use serde::{Deserialize, Serialize};

use crate::cluster::topology::SlotRange;

/// What a source tells the destination first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportRequest {
    #[serde(default)]
    pub protocol: u32,
    #[serde(rename = "move")]
    pub id: String,
    pub slots: Vec<SlotRange>,
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    pub epoch: u64,
    /// The source member.
    pub from: String,
}

/// The receiver's word that it gives up: UTF-8 text.
pub(crate) const GIVES_UP: u8 = b'x';
