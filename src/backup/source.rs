//! What a backup needs of the nodes, as a seam: the real nodes stand behind it, and in tests a fake.

use async_trait::async_trait;

use super::Failure;
use crate::api::topology::{WireShard, WireTopology};

/// Where the snapshot stands in its shard's history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotStart {
    pub member: String,
    pub log_epoch: u64,
    pub offset: u64,
    /// What the store holds now: a guess at the snapshot's size, for choosing the part size.
    pub bytes_guess: u64,
}

/// What the node counted once the snapshot was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotEnd {
    pub keys: u64,
}

/// Gives the shards' snapshots.
#[async_trait]
pub trait SnapshotSource: Send + Sync {
    /// The newest topology that the nodes know.
    async fn topology(&self) -> Result<WireTopology, Failure>;

    /// Opens a snapshot of the shard. `attempt` counts from 0: a source moves to another member with each.
    async fn open(
        &self,
        shard: &WireShard,
        attempt: usize,
    ) -> Result<Box<dyn SnapshotStream>, Failure>;
}

/// One open snapshot. Dropping it ends it at the node.
#[async_trait]
pub trait SnapshotStream: Send {
    fn start(&self) -> &SnapshotStart;

    /// The next bytes of the RDB, `None` at its end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure>;

    /// Called after the end.
    async fn finish(&mut self) -> Result<SnapshotEnd, Failure>;
}
