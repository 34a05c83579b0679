//! A Cache's own policy and its CacheRegions, as the list that nodes take, and what became of each CacheRegion.

use std::collections::BTreeMap;

use super::error::{FieldError, Invalid};
use crate::api::cache::CacheSpec;
use crate::api::compression::{Compression, CompressionType};
use crate::api::quantity::parse_bytes;
use crate::api::region::{CacheRegion, EvictionType, Ttl};
use crate::api::region_list::{RegionEntry, RegionList, Rules};

/// As nodes take them (`cache-node/src/limits.rs`).
pub const REGIONS_MAX: usize = 128;
const PREFIX_BYTES_MAX: usize = 256;
const SIZE_MAX: u64 = 1 << 50;
const COMPRESSED_MAX: u64 = 64 << 20;
const LEVEL: i32 = 3;

/// What is wanted of a Cache's regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regions {
    pub list: RegionList,
    /// By the name of the CacheRegion.
    pub verdicts: BTreeMap<String, RegionVerdict>,
}

/// What became of a CacheRegion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionVerdict {
    /// It is in the list.
    Accepted,
    /// An older one has its prefix.
    Conflicting {
        prefix: String,
        with: String,
    },
    Invalid(Invalid),
    /// There are as many as nodes take.
    TooMany,
}

/// The prefix of a CacheRegion's keys.
pub fn key_prefix(region: &CacheRegion) -> String {
    let name = region.metadata.name.as_deref().unwrap_or_default();
    let given = region.spec.key_prefix.clone();
    given.unwrap_or_else(|| format!("{name}:"))
}

/// The Cache's own rules, for keys of no region.
pub fn policy(spec: &CacheSpec, errors: &mut Vec<FieldError>) -> Rules {
    let Some(policy) = &spec.policy else {
        return Rules::default();
    };
    let eviction = policy.eviction.clone().unwrap_or_default();
    let (ttl_ms, jitter_percent) = ttl("spec.policy.ttl", policy.ttl.as_ref(), errors);
    let (compression, compression_min_size) = compression(
        "spec.policy.compression",
        policy.compression.as_ref(),
        errors,
    );
    Rules {
        eviction: eviction
            .kind
            .unwrap_or(EvictionType::None)
            .node_name()
            .into(),
        max_items: items(
            "spec.policy.eviction.maxItemsPerShard",
            eviction.max_items_per_shard,
            errors,
        ),
        ttl_ms,
        jitter_percent,
        compression,
        compression_min_size,
    }
}

/// The regions of a Cache, whatever else is wrong with it.
pub fn of_cache(spec: &CacheSpec, all: &[CacheRegion]) -> Regions {
    regions(spec, &policy(spec, &mut Vec::new()), all)
}

/// All CacheRegions of a Cache: of two with one prefix the older is accepted.
pub fn regions(spec: &CacheSpec, default: &Rules, all: &[CacheRegion]) -> Regions {
    let policy = spec.policy.as_ref();
    let eviction = policy.and_then(|policy| policy.eviction.as_ref()?.kind);
    let mut oldest_first: Vec<&CacheRegion> = all
        .iter()
        .filter(|region| region.metadata.deletion_timestamp.is_none())
        .collect();
    oldest_first.sort_by_key(|region| {
        let created = region.metadata.creation_timestamp.as_ref();
        (created.map(|time| time.0), region.metadata.name.clone())
    });
    let mut regions = Regions {
        list: RegionList {
            default: default.clone(),
            regions: Vec::new(),
        },
        verdicts: BTreeMap::new(),
    };
    let mut prefixes: BTreeMap<String, String> = BTreeMap::new();
    for region in oldest_first {
        let name = region.metadata.name.clone().unwrap_or_default();
        let verdict = match entry(eviction, default, region) {
            Err(invalid) => RegionVerdict::Invalid(invalid),
            Ok(entry) => match prefixes.get(&entry.prefix) {
                Some(with) => RegionVerdict::Conflicting {
                    prefix: entry.prefix,
                    with: with.clone(),
                },
                None if prefixes.len() == REGIONS_MAX => RegionVerdict::TooMany,
                None => {
                    prefixes.insert(entry.prefix.clone(), name.clone());
                    regions.list.regions.push(entry);
                    RegionVerdict::Accepted
                }
            },
        };
        regions.verdicts.insert(name, verdict);
    }
    regions.list.regions.sort_by(|a, b| a.name.cmp(&b.name));
    regions
}

/// A CacheRegion by itself.
///
/// # Errors
/// All mistakes at once, each with field, value and mend.
pub fn region(region: &CacheRegion) -> Result<(), Invalid> {
    entry(None, &Rules::default(), region).map(|_| ())
}

fn entry(
    caches: Option<EvictionType>,
    default: &Rules,
    region: &CacheRegion,
) -> Result<RegionEntry, Invalid> {
    let mut errors = Vec::new();
    let given = &region.spec;
    let prefix = key_prefix(region);
    if prefix.is_empty() || prefix.len() > PREFIX_BYTES_MAX {
        let mend = format!("use 1 to {PREFIX_BYTES_MAX} bytes");
        errors.push(FieldError::new("spec.keyPrefix", &prefix, mend));
    }
    let size_bytes = match given.size.as_ref().map(|size| (size, parse_bytes(size))) {
        None => 0,
        Some((size, Ok(bytes))) if bytes == 0 || bytes > SIZE_MAX => {
            let mend = "must be more than 0, and 1Pi at most";
            errors.push(FieldError::new("spec.size", &size.0, mend));
            0
        }
        Some((_, Ok(bytes))) => bytes,
        Some((size, Err(mend))) => {
            errors.push(FieldError::new("spec.size", &size.0, mend));
            0
        }
    };
    let eviction = given.eviction.clone().unwrap_or_default();
    let kind = eviction.kind.or(caches).unwrap_or(EvictionType::S3FIFO);
    if eviction.kind == Some(EvictionType::TTL) && given.ttl.is_none() {
        errors.push(FieldError::new(
            "spec.eviction.type",
            "TTL",
            "evicts keys with an expiry only: set spec.ttl.default, for example 30m, or choose another type",
        ));
    }
    let max_items = items("spec.eviction.maxItems", eviction.max_items, &mut errors);
    let (ttl_ms, jitter_percent) = match &given.ttl {
        None => (default.ttl_ms, default.jitter_percent),
        given => ttl("spec.ttl", given.as_ref(), &mut errors),
    };
    let (compression, compression_min_size) = match &given.compression {
        None => (default.compression.clone(), default.compression_min_size),
        given => compression("spec.compression", given.as_ref(), &mut errors),
    };
    if !errors.is_empty() {
        return Err(Invalid { errors });
    }
    Ok(RegionEntry {
        name: region.metadata.name.clone().unwrap_or_default(),
        prefix,
        size_bytes,
        rules: Rules {
            eviction: kind.node_name().into(),
            max_items,
            ttl_ms,
            jitter_percent,
            compression,
            compression_min_size,
        },
    })
}

fn items(field: &str, given: Option<i64>, errors: &mut Vec<FieldError>) -> u64 {
    match given {
        None => 0,
        Some(items @ 1..) => items.unsigned_abs(),
        Some(items) => {
            errors.push(FieldError::new(
                field,
                items,
                "use at least 1, or remove it",
            ));
            0
        }
    }
}

fn ttl(field: &str, given: Option<&Ttl>, errors: &mut Vec<FieldError>) -> (u64, u8) {
    let Some(given) = given else {
        return (0, 0);
    };
    let ms = given.default.milliseconds().unwrap_or_else(|mend| {
        let field = format!("{field}.default");
        errors.push(FieldError::new(&field, &given.default.0, mend));
        0
    });
    let jitter = u8::try_from(given.jitter_percent)
        .ok()
        .filter(|p| *p <= 100);
    let jitter = jitter.unwrap_or_else(|| {
        let field = format!("{field}.jitterPercent");
        errors.push(FieldError::new(
            &field,
            given.jitter_percent,
            "use 0 to 100",
        ));
        0
    });
    (ms, jitter)
}

/// As nodes call it, and the bytes of the smallest value.
fn compression(
    field: &str,
    given: Option<&Compression>,
    errors: &mut Vec<FieldError>,
) -> (Option<String>, Option<u64>) {
    let Some(given) = given else {
        return (None, None);
    };
    if given.level.is_some() && given.kind != CompressionType::Zstd {
        errors.push(FieldError::new(
            &format!("{field}.level"),
            given.level.unwrap_or_default(),
            "is of Zstd only: remove it, or set type: Zstd",
        ));
    }
    if let Some(size) = &given.min_size
        && given.kind == CompressionType::None
    {
        let field = format!("{field}.minSize");
        errors.push(FieldError::new(
            &field,
            &size.0,
            "is of LZ4 and Zstd: remove it",
        ));
    }
    let level = given.level.unwrap_or(LEVEL);
    if !(1..=12).contains(&level) {
        let field = format!("{field}.level");
        errors.push(FieldError::new(&field, level, "use 1 to 12"));
    }
    let min_size = given.min_size.as_ref().and_then(|size| {
        let mend = match parse_bytes(size) {
            Ok(bytes @ 1..=COMPRESSED_MAX) => return Some(bytes),
            Ok(_) => "must be more than 0, and 64Mi at most".to_owned(),
            Err(mend) => mend,
        };
        errors.push(FieldError::new(&format!("{field}.minSize"), &size.0, mend));
        None
    });
    match given.kind {
        CompressionType::None => (None, None),
        CompressionType::LZ4 => (Some("lz4".into()), min_size),
        CompressionType::Zstd => (Some(format!("zstd:{level}")), min_size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn region(name: &str, age: u32, spec: Value) -> CacheRegion {
        let created = format!("2026-01-01T00:00:{:02}Z", 59 - age);
        let mut spec = spec;
        spec["cacheRef"] = json!({"name": "main"});
        serde_json::from_value(json!({
            "apiVersion": "cache.clusterdb.io/v1alpha1", "kind": "CacheRegion", "spec": spec,
            "metadata": {"name": name, "namespace": "n", "creationTimestamp": created},
        }))
        .unwrap()
    }

    fn cache(policy: Value) -> CacheSpec {
        serde_json::from_value(json!({"policy": policy})).unwrap()
    }

    #[test]
    fn what_a_region_leaves_out_is_the_caches_and_then_the_products() {
        let spec = cache(
            json!({"eviction": {"type": "LRU", "maxItemsPerShard": 7}, "ttl": {"default": "1h", "jitterPercent": 5}, "compression": {"type": "LZ4", "minSize": "1Ki"}}),
        );
        let default = policy(&spec, &mut Vec::new());
        assert_eq!(
            (default.eviction.as_str(), default.max_items, default.ttl_ms),
            ("allkeys-lru", 7, 3_600_000)
        );
        let all = [
            region("plain", 1, json!({})),
            region(
                "own",
                2,
                json!({"keyPrefix": "x", "size": "1Ki", "ttl": {"default": "30m"}, "eviction": {"type": "FIFO", "maxItems": 9}, "compression": {"type": "Zstd"}}),
            ),
        ];
        let found = regions(&spec, &default, &all);
        let [own, plain] = &found.list.regions[..] else {
            panic!("{found:?}")
        };
        assert_eq!((plain.prefix.as_str(), plain.size_bytes), ("plain:", 0));
        assert_eq!(
            (plain.rules.ttl_ms, plain.rules.jitter_percent),
            (3_600_000, 5)
        );
        assert_eq!(
            (plain.rules.eviction.as_str(), plain.rules.max_items),
            ("allkeys-lru", 0)
        );
        assert_eq!((own.prefix.as_str(), own.size_bytes), ("x", 1024));
        assert_eq!((own.rules.ttl_ms, own.rules.jitter_percent), (1_800_000, 0));
        assert_eq!(
            (own.rules.eviction.as_str(), own.rules.max_items),
            ("fifo", 9)
        );
        let packs = |rules: &Rules| (rules.compression.clone(), rules.compression_min_size);
        assert_eq!(packs(&default), (Some("lz4".into()), Some(1024)));
        assert_eq!(packs(&plain.rules), packs(&default));
        assert_eq!(packs(&own.rules), (Some("zstd:3".into()), None));
        // What says None has none, whatever the Cache has.
        let none = [region("n", 1, json!({"compression": {"type": "None"}}))];
        let found = regions(&spec, &default, &none);
        assert_eq!(packs(&found.list.regions[0].rules), (None, None));
        let bare = regions(&cache(json!({})), &Rules::default(), &all[..1]);
        assert_eq!(bare.list.regions[0].rules.eviction, "s3-fifo");
    }

    #[test]
    fn of_two_with_one_prefix_the_older_is_accepted() {
        let all = [
            region("b", 1, json!({"keyPrefix": "x:"})),
            region("c", 9, json!({"keyPrefix": "x:"})),
            region("x", 5, json!({})),
            region("a", 3, json!({"keyPrefix": "x:y"})),
        ];
        let found = regions(&cache(json!({})), &Rules::default(), &all);
        let names: Vec<&str> = found.list.regions.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["a", "c"]);
        for loser in ["b", "x"] {
            let with = RegionVerdict::Conflicting {
                prefix: "x:".into(),
                with: "c".into(),
            };
            assert_eq!(found.verdicts[loser], with);
        }
        // Once it is gone, the next oldest has the prefix.
        let found = regions(
            &cache(json!({})),
            &Rules::default(),
            &[all[0].clone(), all[2].clone()],
        );
        assert_eq!(found.verdicts["x"], RegionVerdict::Accepted);
        assert_ne!(found.verdicts["b"], RegionVerdict::Accepted);
    }

    #[test]
    fn what_is_wrong_is_named_and_keeps_nothing_else_out() {
        let table = [
            (json!({"size": "10GB"}), "spec.size"),
            (json!({"size": "2Pi"}), "spec.size"),
            (json!({"ttl": {"default": "30"}}), "spec.ttl.default"),
            (
                json!({"ttl": {"default": "1h", "jitterPercent": 101}}),
                "spec.ttl.jitterPercent",
            ),
            (
                json!({"eviction": {"maxItems": 0}}),
                "spec.eviction.maxItems",
            ),
            (json!({"eviction": {"type": "TTL"}}), "spec.eviction.type"),
            (json!({"keyPrefix": ""}), "spec.keyPrefix"),
            (
                json!({"compression": {"type": "LZ4", "level": 3}}),
                "spec.compression.level",
            ),
            (
                json!({"compression": {"type": "Zstd", "level": 13}}),
                "spec.compression.level",
            ),
            (
                json!({"compression": {"type": "None", "minSize": "1Ki"}}),
                "spec.compression.minSize",
            ),
            (
                json!({"compression": {"type": "LZ4", "minSize": "65Mi"}}),
                "spec.compression.minSize",
            ),
        ];
        for (spec, field) in table {
            let all = [region("bad", 1, spec), region("good", 2, json!({}))];
            let found = regions(&cache(json!({})), &Rules::default(), &all);
            let RegionVerdict::Invalid(invalid) = &found.verdicts["bad"] else {
                panic!("{field}: {found:?}")
            };
            assert_eq!(invalid.errors[0].field, field);
            assert_eq!(found.verdicts["good"], RegionVerdict::Accepted);
        }
    }

    #[test]
    fn there_are_as_many_as_nodes_take() {
        let all: Vec<CacheRegion> = (0..REGIONS_MAX + 2)
            .map(|i| region(&format!("r{i:03}"), 1, json!({})))
            .collect();
        let found = regions(&cache(json!({})), &Rules::default(), &all);
        assert_eq!(found.list.regions.len(), REGIONS_MAX);
        assert_eq!(found.verdicts["r128"], RegionVerdict::TooMany);
    }
}
