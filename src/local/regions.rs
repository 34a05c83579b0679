//! CacheRegions of local mode: manifests below `regions/`, and their status beside them.

use std::collections::BTreeMap;

use anyhow::Context;

use super::folder::{StateFolder, write_whole};
use crate::api::cache::Cache;
use crate::api::node_state::NodeState;
use crate::api::region::{CacheRegion, CacheRegionStatus};
use crate::node::{Hub, now_ms};
use crate::plan::Link;
use crate::platform::CacheKey;
use crate::status::region::{self, CacheSeen};
use crate::validate;

/// Keeps these CacheRegions and no others.
pub fn write_region_specs(folder: &StateFolder, regions: &[CacheRegion]) -> anyhow::Result<()> {
    let name = |region: &CacheRegion| region.metadata.name.clone().unwrap_or_default();
    for known in folder.region_names()? {
        if !regions.iter().any(|region| name(region) == known) {
            let path = folder.region(&known);
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("removing {}", path.display()))?;
        }
    }
    for region in regions {
        let name = name(region);
        let path = folder.region(&name);
        std::fs::create_dir_all(&path)?;
        let plain = CacheRegion::new(&name, region.spec.clone());
        let text = serde_yaml::to_string(&plain)?;
        write_whole(&path.join("spec.yaml"), text.as_bytes(), false)?;
    }
    Ok(())
}

/// The CacheRegion with its status, if it has one.
pub fn read_region(folder: &StateFolder, name: &str) -> anyhow::Result<CacheRegion> {
    let path = folder.region(name);
    let text = std::fs::read_to_string(path.join("spec.yaml")).with_context(|| {
        format!(
            "there is no CacheRegion {name:?} in {}",
            folder.root().display()
        )
    })?;
    let mut region: CacheRegion =
        serde_yaml::from_str(&text).with_context(|| format!("{name}: spec.yaml"))?;
    if let Ok(text) = std::fs::read_to_string(path.join("status.yaml")) {
        region.status =
            Some(serde_yaml::from_str(&text).with_context(|| format!("{name}: status.yaml"))?);
    }
    Ok(region)
}

/// All CacheRegions of a Cache. One that cannot be read keeps none of the others out.
pub(super) fn regions_of(folder: &StateFolder, cache: &str) -> anyhow::Result<Vec<CacheRegion>> {
    let mut regions = Vec::new();
    for name in folder.region_names()? {
        match read_region(folder, &name) {
            Ok(region) if region.spec.cache_ref.name == cache => regions.push(region),
            Ok(_) => {}
            Err(error) => tracing::warn!("CacheRegion {name} is left out: {error:#}"),
        }
    }
    Ok(regions)
}

/// Writes what became of a Cache's CacheRegions.
pub(super) fn write_statuses(
    folder: &StateFolder,
    hub: &Hub,
    key: &CacheKey,
    cache: &Cache,
    context: &validate::Context,
) -> anyhow::Result<()> {
    if context.regions.is_empty() {
        return Ok(());
    }
    let desired = validate::cache(cache, context).ok();
    let wanted = validate::regions::of_cache(&cache.spec, &context.regions);
    let connected = hub.view(key).into_iter();
    let states: BTreeMap<String, NodeState> = connected
        .filter(|(_, view)| view.link == Link::Connected)
        .filter_map(|(name, view)| Some((name, view.state?)))
        .collect();
    for region in &context.regions {
        let name = region.metadata.name.clone().unwrap_or_default();
        let seen = match (&desired, wanted.verdicts.get(&name)) {
            (Some(desired), Some(verdict)) => CacheSeen::Valid {
                desired,
                verdict,
                topology: cache.status.as_ref().and_then(|s| s.topology.as_ref()),
                states: &states,
            },
            _ => CacheSeen::Invalid,
        };
        let status: CacheRegionStatus = region::status(region, &seen, now_ms());
        if region.status.as_ref() != Some(&status) {
            let path = folder.region(&name).join("status.yaml");
            write_whole(&path, serde_yaml::to_string(&status)?.as_bytes(), false)?;
        }
    }
    Ok(())
}
