//! The controller of CacheRegions: tells what became of each. What is to be done for them is done with their Cache's plan.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::core::DeserializeGuard;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::cache::validation;
use super::context::{Context, backoff};
use crate::api::cache::Cache;
use crate::api::node_state::NodeState;
use crate::api::region::{CacheRegion, CacheRegionStatus};
use crate::build::diff;
use crate::node::now_ms;
use crate::plan::Link;
use crate::plan::steps::Told;
use crate::platform::{CacheKey, Error, Stored};
use crate::status::region::{self, CacheSeen, READY};
use crate::validate;

/// Figures are looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How often a failing turn is tried again at first; doubled in `context::backoff`.
const FAILURES_ASSUMED: u32 = 5;

/// One turn of one CacheRegion.
pub async fn turn(context: Arc<Context>, key: CacheKey) -> Option<Duration> {
    context.show_undecodable();
    let found = context.stores.regions.get(&key.namespace, &key.name);
    let region = match found.as_deref() {
        None => {
            context.forget_region(&key);
            return None;
        }
        Some(DeserializeGuard(Ok(region))) => region.clone(),
        Some(guard @ DeserializeGuard(Err(invalid))) => {
            tracing::warn!(region = %key, error = invalid.error, "cannot be read");
            let told = Told {
                reason: "Unreadable",
                message: format!(
                    "the operator cannot read this CacheRegion and leaves it as it is: {}",
                    invalid.error
                ),
                warning: true,
            };
            context.events.tell(&guard.object_ref(&()), told);
            return None;
        }
    };
    if region.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let begun = Instant::now();
    let (result, again) = match reconcile(&context, &key, &region).await {
        Ok(()) => ("done", Some(LOOK_AGAIN)),
        Err(Error::NamespaceTerminating(_)) => ("namespace terminating", None),
        Err(error) => {
            tracing::warn!(region = %key, %error, "reconcile failed");
            ("failed", Some(backoff(FAILURES_ASSUMED)))
        }
    };
    context
        .metrics
        .reconciled("region", result, begun.elapsed());
    again
}

async fn reconcile(context: &Context, key: &CacheKey, region: &CacheRegion) -> Result<(), Error> {
    let of = CacheKey::new(&key.namespace, &region.spec.cache_ref.name);
    let cache = context.stores.caches.get(&of.namespace, &of.name);
    let cache = cache.as_deref().and_then(|guard| guard.0.as_ref().ok());
    let status = look(context, &of, cache, region);
    let old = region.status.clone().unwrap_or_default();
    let since = context.since_region_figures(key);
    if region.status.is_some() && !region::is_news(&old, &status, since) {
        return Ok(());
    }
    if !context.leadership.may_write() {
        return Err(Error::NotLeading);
    }
    write(context, region, &status).await?;
    context.wrote_region_figures(key);
    tell(context, region, &old, &status);
    Ok(())
}

fn look(
    context: &Context,
    of: &CacheKey,
    cache: Option<&Cache>,
    region: &CacheRegion,
) -> CacheRegionStatus {
    let Some(cache) = cache else {
        return region::status(region, &CacheSeen::Missing, now_ms());
    };
    let validation = validation(context, of);
    let Ok(desired) = validate::cache(cache, &validation) else {
        return region::status(region, &CacheSeen::Invalid, now_ms());
    };
    let wanted = validate::regions::of_cache(&cache.spec, &validation.regions);
    let Some(verdict) = wanted.verdicts.get(&region.name_any()) else {
        return region::status(region, &CacheSeen::Missing, now_ms());
    };
    let states: BTreeMap<String, NodeState> = context
        .hub
        .view(of)
        .into_iter()
        .filter(|(_, view)| view.link == Link::Connected)
        .filter_map(|(name, view)| Some((name, view.state?)))
        .collect();
    let seen = CacheSeen::Valid {
        desired: &desired,
        verdict,
        topology: cache.status.as_ref().and_then(|s| s.topology.as_ref()),
        states: &states,
    };
    region::status(region, &seen, now_ms())
}

/// An event when `Ready` changes its reason.
fn tell(context: &Context, region: &CacheRegion, old: &CacheRegionStatus, new: &CacheRegionStatus) {
    let ready = |status: &CacheRegionStatus| {
        let mut conditions = status.conditions.iter();
        conditions.find(|c| c.type_ == READY).cloned()
    };
    let Some(now) = ready(new) else { return };
    if ready(old).is_some_and(|before| before.reason == now.reason) {
        return;
    }
    let Some(&reason) = region::REASONS.iter().find(|reason| **reason == now.reason) else {
        return;
    };
    let calm = matches!(reason, "Enforced" | "NodesWaiting" | "Paused");
    let told = Told {
        reason,
        message: now.message,
        warning: !calm,
    };
    context.events.tell(&region.object_ref(&()), told);
}

async fn write(
    context: &Context,
    region: &CacheRegion,
    status: &CacheRegionStatus,
) -> Result<(), Error> {
    let value = |status: &CacheRegionStatus| {
        serde_json::to_value(status).map_err(|e| Error::Other(e.to_string()))
    };
    let old = match &region.status {
        Some(status) => value(status)?,
        None => json!({}),
    };
    let Some(change) = diff::merge_patch(&old, &value(status)?) else {
        return Ok(());
    };
    match context.writer.swap_status(region, change).await? {
        (Stored::Yes, Some(written)) => {
            context.stores.regions.put(DeserializeGuard(Ok(written)));
            Ok(())
        }
        (Stored::Yes, None) => Ok(()),
        (Stored::Conflict, _) => Err(Error::Stale(format!(
            "the newest version of {}",
            region.name_any()
        ))),
    }
}
