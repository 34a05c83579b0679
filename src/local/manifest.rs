//! Manifests as users write them: several documents in a file, of the kinds that local mode knows.

use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::api::{Cache, CacheBackup, CacheRegion};
use crate::validate;

/// The objects of a file, in its order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifests {
    pub caches: Vec<Cache>,
    pub backups: Vec<CacheBackup>,
    pub regions: Vec<CacheRegion>,
}

/// Reads a file of YAML documents.
///
/// # Errors
/// It cannot be read; a document is of another kind, or has a field that is not known.
pub fn read_manifests(path: &Path) -> anyhow::Result<Manifests> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> anyhow::Result<Manifests> {
    let mut found = Manifests::default();
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let number = index + 1;
        let value = serde_yaml::Value::deserialize(document)
            .with_context(|| format!("document {number} is not YAML"))?;
        if value.is_null() {
            continue;
        }
        match value.get("kind").and_then(|k| k.as_str()) {
            Some("Cache") => found.caches.push(object(value, number)?),
            Some("CacheBackup") => found.backups.push(object(value, number)?),
            Some("CacheRegion") => found.regions.push(object(value, number)?),
            Some(kind) => bail!(
                "document {number} is a {kind}: local mode runs Cache, CacheRegion and CacheBackup only, so take it out of the file"
            ),
            None => bail!("document {number} has no kind: begin it with `kind: Cache`"),
        }
    }
    if found.caches.is_empty() {
        bail!("there is no Cache in it");
    }
    let has = |wanted: &String| {
        let mut caches = found.caches.iter();
        caches.any(|cache| cache.metadata.name.as_ref() == Some(wanted))
    };
    for region in &found.regions {
        let name = region.metadata.name.as_deref().unwrap_or_default();
        if let Err(invalid) = validate::regions::region(region) {
            bail!("CacheRegion {name:?}: {invalid}");
        }
        let wanted = &region.spec.cache_ref.name;
        if !has(wanted) {
            bail!(
                "CacheRegion {name:?}: spec.cacheRef.name is {wanted:?}, which is not in the file"
            );
        }
    }
    for backup in &found.backups {
        if let Err(invalid) = validate::backup(backup) {
            let name = backup.metadata.name.as_deref().unwrap_or_default();
            bail!("CacheBackup {name:?}: {invalid}");
        }
        let wanted = &backup.spec.cache_ref.name;
        if !has(wanted) {
            bail!(
                "CacheBackup {:?}: spec.cacheRef.name is {wanted:?}, which is not in the file",
                backup.metadata.name
            );
        }
    }
    Ok(found)
}

/// Typed, and refused if a field of the document is lost on the way: it would be accepted and ignored.
fn object<T: serde::de::DeserializeOwned + serde::Serialize>(
    value: serde_yaml::Value,
    number: usize,
) -> anyhow::Result<T> {
    let typed: T =
        serde_yaml::from_value(value.clone()).with_context(|| format!("document {number}"))?;
    let kept = serde_yaml::to_value(&typed)?;
    if let Some(path) = lost(&value, &kept, "") {
        bail!("document {number}: {path} is not a field: remove it, or correct its name");
    }
    Ok(typed)
}

/// The first field of `given` that `kept` has not. Empty maps and null may vanish.
fn lost(given: &serde_yaml::Value, kept: &serde_yaml::Value, path: &str) -> Option<String> {
    use serde_yaml::Value;

    match (given, kept) {
        (Value::Mapping(given), kept) => given.iter().find_map(|(key, value)| {
            let key = key.as_str().unwrap_or("?");
            let path = if path.is_empty() {
                key.to_string()
            } else {
                format!("{path}.{key}")
            };
            match kept.get(key) {
                Some(kept) => lost(value, kept, &path),
                None if is_empty(value) => None,
                None => Some(path),
            }
        }),
        (Value::Sequence(given), Value::Sequence(kept)) => given
            .iter()
            .zip(kept)
            .enumerate()
            .find_map(|(i, (given, kept))| lost(given, kept, &format!("{path}[{i}]"))),
        _ => None,
    }
}

fn is_empty(value: &serde_yaml::Value) -> bool {
    use serde_yaml::Value;

    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Mapping(map) => map.values().all(is_empty),
        Value::Sequence(list) => list.is_empty(),
        _ => false,
    }
}

/// Fields that mean nothing without Kubernetes, to be told rather than passed over in silence.
pub fn unused_fields(cache: &Cache) -> Vec<&'static str> {
    let spec = &cache.spec;
    let cpu = |list: &Option<crate::api::cache::ResourceList>| {
        list.as_ref().is_some_and(|l| l.cpu.is_some())
    };
    let given = [
        ("spec.image", spec.image.is_some()),
        ("spec.pod", spec.pod.is_some()),
        ("spec.auth", spec.auth.is_some()),
        (
            "spec.resources (but for limits.memory)",
            spec.resources
                .as_ref()
                .is_some_and(|r| r.requests.is_some() || cpu(&r.limits)),
        ),
    ];
    given
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(field, _)| field)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: &str = "kind: Cache\napiVersion: cache.clusterdb.io/v1alpha1\nmetadata: {name: main}\nspec: {shards: 3, resources: {limits: {memory: 1Gi}}}\n";
    const BACKUP: &str = "---\nkind: CacheBackup\napiVersion: cache.clusterdb.io/v1alpha1\nmetadata: {name: daily}\nspec:\n  cacheRef: {name: main}\n  schedule: '0 2 * * *'\n  storage: {s3: {bucket: vault}}\n";

    const REGION: &str = "---\nkind: CacheRegion\napiVersion: cache.clusterdb.io/v1alpha1\nmetadata: {name: session}\nspec:\n  cacheRef: {name: main}\n  size: 5Mi\n";

    #[test]
    fn documents_become_objects() {
        let found = parse(&format!("{CACHE}{BACKUP}{REGION}---\n")).expect("objects");
        assert_eq!((found.caches.len(), found.backups.len()), (1, 1));
        assert_eq!(found.regions.len(), 1);
        assert_eq!(found.caches[0].spec.shards, 3);
        assert_eq!(unused_fields(&found.caches[0]), Vec::<&str>::new());
    }

    #[test]
    fn what_cannot_be_carried_out_is_named() {
        for (text, word) in [
            (CACHE.replace("shards: 3", "shardz: 3"), "spec.shardz"),
            (
                CACHE.replace("memory: 1Gi", "memmory: 1Gi"),
                "spec.resources.limits.memmory",
            ),
            (format!("{CACHE}---\nkind: Deployment\n"), "Deployment"),
            (
                format!("{CACHE}{}", BACKUP.replace("0 2 * * *", "0 25 * * *")),
                "spec.schedule",
            ),
            (
                format!("{CACHE}{}", BACKUP.replace("vault", "s3://vault")),
                "spec.storage.s3.bucket",
            ),
            (
                format!("{CACHE}{}", REGION.replace("5Mi", "5MB")),
                "spec.size",
            ),
            (
                format!("{CACHE}{}", REGION.replace("name: main", "name: other")),
                "not in the file",
            ),
            ("shards: 3".to_string(), "kind"),
            (String::new(), "no Cache"),
        ] {
            let refused = format!("{:#}", parse(&text).expect_err(word));
            assert!(refused.contains(word), "{refused}");
        }
    }
}
