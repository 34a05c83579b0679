//! The status of a CacheRegion. Pure: from what is wanted of the Cache's regions and what its nodes tell.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::shortened;
use crate::api::common::{Condition, Time};
use crate::api::node_state::{FEATURE_REGIONS, NodeRole, NodeState, RegionState};
use crate::api::quantity::{counted, format_bytes};
use crate::api::region::{CacheRegion, CacheRegionStatus};
use crate::api::topology::{Role, Topology};
use crate::plan::{self, Desired};
use crate::validate::{RegionVerdict, regions::key_prefix};

pub const READY: &str = "Ready";
pub const CONFLICTING: &str = "Conflicting";
pub const OVERSUBSCRIBED: &str = "Oversubscribed";

/// The reasons of `Ready`, for those who explain them.
pub const REASONS: &[&str] = &[
    "CacheInvalid",
    "CacheNotFound",
    "Conflicting",
    "Enforced",
    "InvalidSpec",
    "NodesTooOld",
    "NodesWaiting",
    "Paused",
    "TooManyRegions",
];
/// Figures are written this often at most, and what changed little even more seldom.
const FIGURES_EVERY_MS: u64 = 30_000;
const SMALL_CHANGES_EVERY_MS: u64 = 120_000;

/// The Cache of a region.
pub enum CacheSeen<'a> {
    Missing,
    /// Its spec cannot be carried out.
    Invalid,
    Valid {
        desired: &'a Desired,
        verdict: &'a RegionVerdict,
        topology: Option<&'a Topology>,
        /// Of members that can be asked now.
        states: &'a BTreeMap<String, NodeState>,
    },
}

/// `Ready`, and who has the region in force.
struct Finding {
    is: bool,
    reason: &'static str,
    message: String,
}

fn finding(is: bool, reason: &'static str, message: impl Into<String>) -> Finding {
    Finding {
        is,
        reason,
        message: message.into(),
    }
}

/// What is to be said of a region.
pub fn status(region: &CacheRegion, cache: &CacheSeen<'_>, now_ms: u64) -> CacheRegionStatus {
    let previous = region.status.clone().unwrap_or_default();
    let ready = ready(region, cache);
    let (conflict, oversubscribed) = (conflict(cache), oversubscribed(cache));
    let condition = |kind: &str, finding: &Finding| condition(region, kind, finding, now_ms);
    let mut conditions = vec![condition(READY, &ready), condition(CONFLICTING, &conflict)];
    if let Some(finding) = oversubscribed {
        conditions.push(condition(OVERSUBSCRIBED, &finding));
    }
    let mut status = CacheRegionStatus {
        observed_generation: region.metadata.generation,
        conditions,
        key_prefix: Some(key_prefix(region)),
        size: region.spec.size.as_ref().map(|size| size.0.clone()),
        ..CacheRegionStatus::default()
    };
    if let CacheSeen::Valid {
        desired,
        verdict: RegionVerdict::Accepted,
        topology,
        states,
    } = cache
    {
        let enforces = |(_, state): &(&String, &NodeState)| plan::has_regions(desired, state);
        let nodes = states.iter().filter(enforces);
        status.nodes = nodes.map(|(name, _)| name.clone()).collect();
        match figures(region, *topology, states) {
            Some(figures) => put_figures(&mut status, &figures),
            None => keep_figures(&mut status, &previous),
        }
    }
    status
}

fn ready(region: &CacheRegion, cache: &CacheSeen<'_>) -> Finding {
    let name = &region.spec.cache_ref.name;
    let (desired, verdict, topology, states) = match cache {
        CacheSeen::Missing => {
            let message =
                format!("Cache {name} is not there: create it, or correct spec.cacheRef.name");
            return finding(false, "CacheNotFound", message);
        }
        CacheSeen::Invalid => {
            let message = format!("Cache {name} is not valid: correct it as its status says");
            return finding(false, "CacheInvalid", message);
        }
        CacheSeen::Valid {
            desired,
            verdict,
            topology,
            states,
        } => (desired, verdict, topology, states),
    };
    match verdict {
        RegionVerdict::Accepted => {}
        RegionVerdict::Conflicting { prefix, with } => {
            let message = format!(
                "CacheRegion {with} is older and has the prefix {prefix:?} too: give this one another spec.keyPrefix, or delete one of them"
            );
            return finding(false, "Conflicting", message);
        }
        RegionVerdict::Invalid(invalid) => {
            return finding(false, "InvalidSpec", invalid.to_string());
        }
        RegionVerdict::TooMany => {
            let max = crate::validate::regions::REGIONS_MAX;
            let message = format!("a Cache has {max} regions at most: delete some");
            return finding(false, "TooManyRegions", message);
        }
    }
    let listed: Vec<&str> = topology
        .iter()
        .flat_map(|topology| topology.members())
        .map(|(_, member)| member.name.as_str())
        .collect();
    let too_old = |name: &&str| {
        let state = states.get(*name);
        state.is_some_and(|state| !state.has_feature(FEATURE_REGIONS))
    };
    let old: Vec<&str> = listed.iter().copied().filter(too_old).collect();
    if !old.is_empty() {
        let message = format!(
            "{} run a version that knows no regions: update the Cache's image",
            old.join(", ")
        );
        return finding(false, "NodesTooOld", message);
    }
    let lacks = |name: &&str| {
        let state = states.get(*name);
        !state.is_some_and(|state| plan::has_regions(desired, state))
    };
    let waiting: Vec<&str> = listed.iter().copied().filter(lacks).collect();
    match (listed.len(), waiting.len()) {
        (0, _) => finding(false, "NodesWaiting", "the Cache has no members yet"),
        (all, 0) => {
            let message = format!("{} enforce it", counted(all, "node"));
            finding(true, "Enforced", message)
        }
        _ if desired.paused => {
            let message = "the Cache's spec.paused is true: nothing is changed";
            finding(false, "Paused", message)
        }
        _ => finding(
            false,
            "NodesWaiting",
            format!("waits for {}", waiting.join(", ")),
        ),
    }
}

fn conflict(cache: &CacheSeen<'_>) -> Finding {
    if let CacheSeen::Valid {
        verdict: RegionVerdict::Conflicting { prefix, with },
        ..
    } = cache
    {
        let message = format!("CacheRegion {with} has the prefix {prefix:?} and is older");
        return finding(true, "SamePrefix", message);
    }
    finding(false, "OwnPrefix", "no older CacheRegion has its prefix")
}

/// The regions may hold more together than there is memory: then none is sure of its size.
fn oversubscribed(cache: &CacheSeen<'_>) -> Option<Finding> {
    let CacheSeen::Valid { desired, .. } = cache else {
        return None;
    };
    let sizes = desired.regions.regions.iter().map(|r| r.size_bytes);
    let sum: u64 = sizes.fold(0, u64::saturating_add);
    let memory = desired.max_memory_bytes * u64::from(desired.shards);
    (sum > memory).then(|| {
        let message = format!(
            "the regions of Cache {} may hold {} together, its shards {}: lower spec.size, or give the Cache more shards or memory",
            desired.name,
            format_bytes(sum),
            format_bytes(memory)
        );
        finding(true, "MoreThanMemory", message)
    })
}

/// What the primaries tell together. None: not all of them tell.
fn figures(
    region: &CacheRegion,
    topology: Option<&Topology>,
    states: &BTreeMap<String, NodeState>,
) -> Option<RegionState> {
    let name = region.metadata.name.as_deref()?;
    let mut sum = RegionState::default();
    for shard in &topology?.shards {
        let primary = shard.members.iter().find(|m| m.role == Role::Primary)?;
        let state = states.get(&primary.name)?;
        if state.role != NodeRole::Primary {
            return None;
        }
        let told = state.regions.iter().find(|told| told.name == name)?;
        sum.keys += told.keys;
        sum.bytes += told.bytes;
        sum.hits += told.hits;
        sum.misses += told.misses;
        sum.evicted_keys += told.evicted_keys;
    }
    Some(sum)
}

fn put_figures(status: &mut CacheRegionStatus, figures: &RegionState) {
    let integer = |n: u64| Some(i64::try_from(n).unwrap_or(i64::MAX));
    status.keys = integer(figures.keys);
    status.used_bytes = integer(figures.bytes);
    status.used = Some(format_bytes(figures.bytes));
    status.evicted_keys = integer(figures.evicted_keys);
    let reads = figures.hits.saturating_add(figures.misses);
    if reads > 0 {
        let percent = (u128::from(figures.hits) * 100 + u128::from(reads) / 2) / u128::from(reads);
        status.hit_percent = i64::try_from(percent).ok();
    }
}

fn keep_figures(status: &mut CacheRegionStatus, previous: &CacheRegionStatus) {
    status.keys = previous.keys;
    status.used_bytes = previous.used_bytes;
    status.used.clone_from(&previous.used);
    status.evicted_keys = previous.evicted_keys;
    status.hit_percent = previous.hit_percent;
}

/// Whether a status is to be written: at once when something happened; when only figures changed, not often.
pub fn is_news(old: &CacheRegionStatus, new: &CacheRegionStatus, since_figures_ms: u64) -> bool {
    let still = |status: &CacheRegionStatus| {
        let mut still = status.clone();
        keep_figures(&mut still, &CacheRegionStatus::default());
        still
    };
    if still(old) != still(new) {
        return true;
    }
    if old == new || since_figures_ms < FIGURES_EVERY_MS {
        return false;
    }
    since_figures_ms >= SMALL_CHANGES_EVERY_MS
        || old.hit_percent != new.hit_percent
        || is_much(old.keys, new.keys)
        || is_much(old.used_bytes, new.used_bytes)
}

/// A hundredth of it, or the first and the last.
fn is_much(old: Option<i64>, new: Option<i64>) -> bool {
    let (old, new) = (old.unwrap_or(0), new.unwrap_or(0));
    old.abs_diff(new).saturating_mul(100) >= old.unsigned_abs().max(1) && old != new
}

fn condition(region: &CacheRegion, kind: &str, finding: &Finding, now_ms: u64) -> Condition {
    let status = if finding.is { "True" } else { "False" };
    let previous = region.status.as_ref();
    let mut conditions = previous.iter().flat_map(|status| &status.conditions);
    let before = conditions.find(|c| c.type_ == kind && c.status == status);
    let seconds = i64::try_from(now_ms / 1000).unwrap_or(0);
    let now = Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH));
    Condition {
        type_: kind.into(),
        status: status.into(),
        reason: finding.reason.into(),
        message: shortened(&finding.message),
        observed_generation: region.metadata.generation,
        last_transition_time: before.map_or(now, |c| c.last_transition_time.clone()),
    }
}

#[cfg(test)]
mod tests;
