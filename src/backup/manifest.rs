//! Where a snapshot's objects lie, and the manifest that makes it complete.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::topology::SlotRange;

/// The manifest's own version; a reader refuses a higher one.
pub const MANIFEST_FORMAT: u32 = 1;

/// Whose data a snapshot holds. The UID keeps two Caches of one name, made one after the other, apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheIdentity {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// The place of one snapshot in its bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Location {
    pub bucket: String,
    /// Ends with `/`: `<prefix><namespace>/<cache uid>/<snapshot>/`.
    pub folder: String,
}

impl Location {
    pub fn new(bucket: &str, prefix: &str, cache: &CacheIdentity, snapshot: &str) -> Self {
        Location {
            bucket: bucket.to_string(),
            folder: format!("{prefix}{}/{}/{snapshot}/", cache.namespace, cache.uid),
        }
    }

    pub fn manifest_key(&self) -> String {
        format!("{}manifest.json", self.folder)
    }

    pub fn shard_key(&self, shard: &str) -> String {
        format!("{}{}", self.folder, shard_object(shard))
    }

    /// `s3://<bucket>/<folder>`
    pub fn url(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.folder)
    }
}

/// A shard's object, relative to the snapshot's folder.
pub(super) fn shard_object(shard: &str) -> String {
    format!("shard-{shard}.rdb")
}

/// One shard's part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardRecord {
    pub name: String,
    /// Relative to the manifest.
    pub object: String,
    /// Inclusive ranges, ascending.
    pub slots: Vec<SlotRange>,
    /// The member that gave it, and where in the shard's history it stands.
    pub member: String,
    pub log_epoch: u64,
    pub offset: u64,
    pub keys: u64,
    pub bytes: u64,
    /// Lower-case hex over the object.
    pub sha256: String,
}

/// `manifest.json`: written last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub format: u32,
    /// The version of the program that wrote it.
    pub version: String,
    pub snapshot: String,
    pub cache: CacheIdentity,
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    /// The epoch of the topology whose slots the shards' files cover, each once.
    pub epoch: u64,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub keys: u64,
    pub bytes: u64,
    /// By name.
    pub shards: Vec<ShardRecord>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_lie_under_namespace_and_uid() {
        let cache = CacheIdentity {
            namespace: "team".into(),
            name: "main".into(),
            uid: "6f0c".into(),
        };
        let place = Location::new("cache-backup", "daily/", &cache, "daily-1");
        assert_eq!(
            place.manifest_key(),
            "daily/team/6f0c/daily-1/manifest.json"
        );
        assert_eq!(place.shard_key("2"), "daily/team/6f0c/daily-1/shard-2.rdb");
        assert_eq!(place.url(), "s3://cache-backup/daily/team/6f0c/daily-1/");
    }
}
