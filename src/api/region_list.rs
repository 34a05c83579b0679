//! The list of regions as nodes take it (docs/protocol.md, "Regions").

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::region::EvictionType;

/// What holds for keys of a region, or of none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rules {
    pub eviction: String,
    /// Of a node for keys of no region, of the whole Cache for a region's; 0: no limit.
    pub max_items: u64,
    /// 0: none.
    pub ttl_ms: u64,
    pub jitter_percent: u8,
    /// As a node calls it. Absent: none, as nodes that know of no compression take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// Absent: 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression_min_size: Option<u64>,
}

impl Default for Rules {
    /// What a node does that was told nothing.
    fn default() -> Self {
        Rules {
            eviction: EvictionType::None.node_name().into(),
            max_items: 0,
            ttl_ms: 0,
            jitter_percent: 0,
            compression: None,
            compression_min_size: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionEntry {
    pub name: String,
    pub prefix: String,
    /// Of the whole Cache; 0: no limit.
    pub size_bytes: u64,
    #[serde(flatten)]
    pub rules: Rules,
}

/// Ordered by name, so that equal lists are equal texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionList {
    pub default: Rules,
    pub regions: Vec<RegionEntry>,
}

impl RegionList {
    /// As it is pushed, and stored for nodes that start.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("strings, integers and lists")
    }

    /// What nodes call it by: the first 16 hex digits of SHA-256 over its JSON.
    pub fn hash(&self) -> String {
        let digest = Sha256::digest(self.json().as_bytes());
        let bytes = digest[..8].iter();
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }

    /// A node that never took a list does the same.
    pub fn says_nothing(&self) -> bool {
        *self == RegionList::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_the_protocol_says() {
        let list = RegionList {
            default: Rules::default(),
            regions: vec![RegionEntry {
                name: "session".into(),
                prefix: "session:".into(),
                size_bytes: 5,
                rules: Rules {
                    eviction: "fifo".into(),
                    compression: Some("lz4".into()),
                    ..Rules::default()
                },
            }],
        };
        assert_eq!(
            list.json(),
            r#"{"default":{"eviction":"noeviction","maxItems":0,"ttlMs":0,"jitterPercent":0},"regions":[{"name":"session","prefix":"session:","sizeBytes":5,"eviction":"fifo","maxItems":0,"ttlMs":0,"jitterPercent":0,"compression":"lz4"}]}"#
        );
        assert_eq!(list.hash().len(), 16);
        assert!(RegionList::default().says_nothing() && !list.says_nothing());
    }
}
