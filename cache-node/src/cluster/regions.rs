//! The list of regions as the operator pushes it (docs/protocol.md, "Regions"): read, checked, put into force, kept.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Cluster;
use crate::limits::{
    COMPRESSION_VALUE_MAX, NAME_MAX, REGION_PREFIX_MAX, REGION_SIZE_MAX, REGION_TTL_MAX_MS,
    REGIONS_BYTES_MAX, REGIONS_MAX,
};
use crate::store::compress::Setting;
use crate::store::{PolicyKind, RegionSpec, Ttl};

/// Why a list was not taken. Says field, value and mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("BADREGIONS {field}: {problem}")]
pub struct BadRegions {
    pub field: String,
    pub problem: String,
}

fn bad(field: impl Into<String>, problem: impl Into<String>) -> BadRegions {
    BadRegions {
        field: field.into(),
        problem: problem.into(),
    }
}

/// What holds for keys of a region, or of none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rules {
    /// A name of `maxmemory-policy`.
    pub eviction: String,
    /// Keys at most, of the node for keys of no region, of the whole Cache for a region's; 0: no limit.
    pub max_items: u64,
    /// 0: none.
    pub ttl_ms: u64,
    pub jitter_percent: u8,
    /// `none`, `lz4`, `zstd` or `zstd:<level>`. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// Bytes of the smallest value that is compressed. Absent: 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression_min_size: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegionEntry {
    pub name: String,
    pub prefix: String,
    /// Of the whole Cache; 0: no limit.
    pub size_bytes: u64,
    #[serde(flatten)]
    pub rules: Rules,
}

/// See the module's text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegionList {
    /// For keys of no region. Absent: what the node was started with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Rules>,
    pub regions: Vec<RegionEntry>,
}

/// A list, the text it was read from, and the hash of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRegions {
    pub list: RegionList,
    pub json: String,
    pub hash: String,
}

impl KnownRegions {
    pub fn parse(json: &[u8]) -> Result<Self, BadRegions> {
        if json.len() > REGIONS_BYTES_MAX {
            let problem = format!("{} bytes: {REGIONS_BYTES_MAX} at most", json.len());
            return Err(bad("json", problem));
        }
        let list: RegionList =
            serde_json::from_slice(json).map_err(|e| bad("json", e.to_string()))?;
        list.check()?;
        let digest = Sha256::digest(json);
        Ok(Self {
            list,
            json: String::from_utf8_lossy(json).into_owned(),
            hash: digest[..8].iter().map(|b| format!("{b:02x}")).collect(),
        })
    }
}

impl Rules {
    fn check(&self, of: &str) -> Result<PolicyKind, BadRegions> {
        self.compression(of)?;
        if self.jitter_percent > 100 {
            let problem = format!("{}: give 0 to 100", self.jitter_percent);
            return Err(bad(format!("{of}.jitterPercent"), problem));
        }
        if self.ttl_ms > REGION_TTL_MAX_MS {
            let problem = format!("{}: {REGION_TTL_MAX_MS} at most", self.ttl_ms);
            return Err(bad(format!("{of}.ttlMs"), problem));
        }
        PolicyKind::named(&self.eviction).ok_or_else(|| {
            let names: Vec<&str> = PolicyKind::ALL.iter().map(|(_, name)| *name).collect();
            let problem = format!("{:?}: give one of {}", self.eviction, names.join(", "));
            bad(format!("{of}.eviction"), problem)
        })
    }

    fn compression(&self, of: &str) -> Result<Setting, BadRegions> {
        let mut setting = Setting::default();
        if let Some(method) = &self.compression {
            setting.method = method.parse().map_err(|mend: String| {
                bad(format!("{of}.compression"), format!("{method:?}: {mend}"))
            })?;
        }
        if let Some(bytes) = self.compression_min_size {
            let fits = (1..=COMPRESSION_VALUE_MAX as u64).contains(&bytes);
            setting.min_size = if fits {
                bytes as u32
            } else {
                let problem = format!("{bytes}: give 1 to {COMPRESSION_VALUE_MAX}");
                return Err(bad(format!("{of}.compressionMinSize"), problem));
            };
        }
        Ok(setting)
    }

    fn ttl(&self) -> Ttl {
        Ttl {
            ms: self.ttl_ms,
            jitter_percent: self.jitter_percent,
        }
    }
}

impl RegionList {
    fn check(&self) -> Result<(), BadRegions> {
        if self.regions.len() > REGIONS_MAX {
            let problem = format!("{} regions: {REGIONS_MAX} at most", self.regions.len());
            return Err(bad("regions", problem));
        }
        if let Some(rules) = &self.default {
            rules.check("default")?;
        }
        let (mut names, mut prefixes) = (BTreeSet::new(), BTreeSet::new());
        for (i, region) in self.regions.iter().enumerate() {
            let of = format!("regions[{i}]");
            region.rules.check(&of)?;
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if region.name.is_empty()
                || region.name.len() > NAME_MAX
                || !region.name.chars().all(plain)
            {
                let problem = format!(
                    "{:?}: give 1 to {NAME_MAX} letters, digits, '-', '_' or '.'",
                    region.name
                );
                return Err(bad(format!("{of}.name"), problem));
            }
            if region.prefix.is_empty() || region.prefix.len() > REGION_PREFIX_MAX {
                let problem = format!("{:?}: give 1 to {REGION_PREFIX_MAX} bytes", region.prefix);
                return Err(bad(format!("{of}.prefix"), problem));
            }
            if region.size_bytes > REGION_SIZE_MAX {
                let problem = format!("{}: {REGION_SIZE_MAX} at most", region.size_bytes);
                return Err(bad(format!("{of}.sizeBytes"), problem));
            }
            if !names.insert(&region.name) {
                let problem = format!("{:?} is there twice", region.name);
                return Err(bad(format!("{of}.name"), problem));
            }
            if !prefixes.insert(&region.prefix) {
                let problem = format!("{:?} is another region's too", region.prefix);
                return Err(bad(format!("{of}.prefix"), problem));
            }
        }
        Ok(())
    }

    fn specs(&self) -> Vec<RegionSpec> {
        let spec = |region: &RegionEntry| RegionSpec {
            name: region.name.clone(),
            prefix: region.prefix.clone().into_bytes(),
            size: region.size_bytes,
            max_items: region.rules.max_items,
            ttl: region.rules.ttl(),
            policy: PolicyKind::named(&region.rules.eviction).unwrap_or_default(),
            compression: region.rules.compression("region").unwrap_or_default(),
        };
        self.regions.iter().map(spec).collect()
    }
}

impl Cluster {
    /// Takes a list of regions. Its settings hold at once; that items are counted by it is told by the state's `regionsHash`.
    pub async fn set_regions(self: &Arc<Self>, json: &[u8]) -> Result<(), BadRegions> {
        let known = Arc::new(KnownRegions::parse(json)?);
        // One at a time, so that what is kept is what is in force.
        let mut held = self.regions.lock().await;
        if held.as_ref() == Some(&known) {
            return Ok(());
        }
        self.put_regions_into_force(&known);
        if let Some(dir) = &self.data_dir
            && let Err(error) = dir.save_regions(&known.json).await
        {
            tracing::warn!(%error, "cannot keep the regions: a restart without an operator forgets them");
        }
        tracing::info!(regions = known.list.regions.len(), hash = %known.hash, "took regions");
        *held = Some(known);
        self.note_change();
        Ok(())
    }

    /// Takes a list that was found at the start, unless one was pushed already.
    pub(crate) async fn offer_regions(self: &Arc<Self>, known: KnownRegions) {
        let mut held = self.regions.lock().await;
        if held.is_none() {
            self.put_regions_into_force(&known);
            *held = Some(Arc::new(known));
        }
    }

    fn put_regions_into_force(&self, known: &KnownRegions) {
        if let Some(rules) = &known.list.default {
            self.store
                .set_policy(PolicyKind::named(&rules.eviction).unwrap_or_default());
            self.store.set_max_items(rules.max_items);
            self.store.set_default_ttl(rules.ttl());
            let compression = rules.compression("default").unwrap_or_default();
            self.store.compression.set(compression);
        }
        self.store.set_regions(&known.list.specs(), &known.hash);
    }

    /// The list that was taken last.
    pub async fn known_regions(&self) -> Option<Arc<KnownRegions>> {
        self.regions.lock().await.clone()
    }

    /// The list of the data directory.
    pub(crate) fn kept_regions(&self) -> Option<KnownRegions> {
        self.data_dir.as_ref()?.load_regions()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::compress::Method;

    #[test]
    fn a_list_is_read_and_what_is_wrong_names_its_field() {
        let good = r#"{"default":{"eviction":"s3-fifo","maxItems":5},
            "regions":[{"name":"a","prefix":"a:","sizeBytes":10,"eviction":"fifo","ttlMs":7,"jitterPercent":10,"compression":"zstd:5","novel":1}]}"#;
        let known = KnownRegions::parse(good.as_bytes()).unwrap();
        assert_eq!(known.hash.len(), 16);
        let specs = known.list.specs();
        assert_eq!((specs[0].policy, specs[0].ttl.ms), (PolicyKind::Fifo, 7));
        let zstd = Setting {
            method: Method::Zstd { level: 5 },
            min_size: 256,
        };
        assert_eq!(specs[0].compression, zstd);
        let region = |text: &str| {
            format!(r#"{{"regions":[{{"name":"a","prefix":"a","eviction":"none"}},{text}]}}"#)
        };
        let table = [
            ("{".into(), "json"),
            (
                r#"{"default":{"eviction":"best"}}"#.into(),
                "default.eviction",
            ),
            (
                region(r#"{"name":"","prefix":"x","eviction":"none"}"#),
                "regions[1].name",
            ),
            (
                region(r#"{"name":"a","prefix":"x","eviction":"none"}"#),
                "regions[1].name",
            ),
            (
                region(r#"{"name":"x y","prefix":"x","eviction":"none"}"#),
                "regions[1].name",
            ),
            (
                region(r#"{"name":"x","prefix":"","eviction":"none"}"#),
                "regions[1].prefix",
            ),
            (
                region(r#"{"name":"x","prefix":"a","eviction":"none"}"#),
                "regions[1].prefix",
            ),
            (
                region(r#"{"name":"x","prefix":"x"}"#),
                "regions[1].eviction",
            ),
            (
                region(r#"{"name":"x","prefix":"x","eviction":"none","jitterPercent":101}"#),
                "regions[1].jitterPercent",
            ),
            (
                region(r#"{"name":"x","prefix":"x","eviction":"none","compression":"zstd:13"}"#),
                "regions[1].compression",
            ),
            (
                region(r#"{"name":"x","prefix":"x","eviction":"none","compressionMinSize":0}"#),
                "regions[1].compressionMinSize",
            ),
            (
                region(
                    r#"{"name":"x","prefix":"x","eviction":"none","sizeBytes":9223372036854775807}"#,
                ),
                "regions[1].sizeBytes",
            ),
        ];
        for (text, field) in table {
            let error = KnownRegions::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.field, field, "{text}: {error}");
        }
    }
}
