//! What the controllers share, and what they remember of each Cache between rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::apply::kube::Writer;
use crate::events::Events;
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::node::Hub;
use crate::observe::Stores;
use crate::plan::WaitReason;
use crate::platform::CacheKey;

/// A status in which only keys, bytes and offsets have changed is written this often at most.
const COUNTERS_EVERY: Duration = Duration::from_secs(30);
/// What is over sooner is no news.
const WAIT_TOLD_AFTER: Duration = Duration::from_secs(2);
/// A user's Secret that was found is not looked at again for this long.
const SECRET_EVERY: Duration = Duration::from_secs(60);

pub struct Context {
    pub writer: Writer,
    pub stores: Stores,
    pub hub: Hub,
    pub events: Events,
    pub metrics: Arc<Metrics>,
    pub leadership: Leadership,
    /// The image of cache-node for Caches that name none.
    pub cache_image: String,
    /// This operator's own, for backup Jobs.
    pub self_image: String,
    pub memories: Mutex<BTreeMap<CacheKey, Memory>>,
    /// When the figures of a CacheRegion were last written.
    pub region_figures: Mutex<BTreeMap<CacheKey, Instant>>,
}

/// Nothing that a restarted operator would miss.
#[derive(Default)]
pub struct Memory {
    counters_written: Option<Instant>,
    secret_seen: Option<(String, Instant)>,
    /// Since when is waited for what, and whether an event has told.
    waiting: BTreeMap<WaitReason, (Instant, bool)>,
    /// The failure that an event has told.
    failure: Option<String>,
    failures: u32,
}

impl Context {
    pub fn memory<T>(&self, key: &CacheKey, with: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        with(memories.entry(key.clone()).or_default())
    }

    /// Told with every turn, also of one that was deleted, as that may have been undecodable.
    pub fn show_undecodable(&self) {
        show_undecodable(&self.stores, &self.metrics);
    }

    fn region_figures(&self) -> MutexGuard<'_, BTreeMap<CacheKey, Instant>> {
        let figures = self.region_figures.lock();
        figures.unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the figures of a CacheRegion were written; as long as it gets if this process never did.
    pub fn since_region_figures(&self, region: &CacheKey) -> u64 {
        let written = self.region_figures().get(region).copied();
        written.map_or(u64::MAX, |at| {
            u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)
        })
    }

    pub fn wrote_region_figures(&self, region: &CacheKey) {
        self.region_figures().insert(region.clone(), Instant::now());
    }

    pub fn forget_region(&self, region: &CacheKey) {
        self.region_figures().remove(region);
    }

    pub fn forget(&self, key: &CacheKey) {
        self.hub.forget(key);
        self.metrics.forget(key);
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        memories.remove(key);
    }
}

fn show_undecodable(stores: &Stores, metrics: &Metrics) {
    let caches = stores.caches.count(|guard| guard.0.is_err());
    let backups = stores.backups.count(|guard| guard.0.is_err());
    let regions = stores.regions.count(|guard| guard.0.is_err());
    let counts = [
        ("Cache", caches),
        ("CacheBackup", backups),
        ("CacheRegion", regions),
    ];
    for (kind, count) in counts {
        let gauge = metrics.undecodable.with_label_values(&[kind]);
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

impl Memory {
    pub fn counters_are_fresh(&self) -> bool {
        self.counters_written
            .is_some_and(|at| at.elapsed() < COUNTERS_EVERY)
    }

    pub fn wrote_counters(&mut self) {
        self.counters_written = Some(Instant::now());
    }

    pub fn secret_is_fresh(&self, name: &str) -> bool {
        let seen = self.secret_seen.as_ref();
        seen.is_some_and(|(seen, at)| seen == name && at.elapsed() < SECRET_EVERY)
    }

    pub fn saw_secret(&mut self, name: String) {
        self.secret_seen = Some((name, Instant::now()));
    }

    /// What is to be told now of what is waited for: what has lasted, once. And when to look again, if something may be told later.
    pub fn waits_to_tell(
        &mut self,
        waited_for: &BTreeSet<WaitReason>,
        now: Instant,
    ) -> (BTreeSet<WaitReason>, Option<Duration>) {
        self.waiting.retain(|reason, _| waited_for.contains(reason));
        let (mut tell, mut again) = (BTreeSet::new(), None);
        for reason in waited_for {
            let (since, told) = self.waiting.entry(*reason).or_insert((now, false));
            let lasted = now.saturating_duration_since(*since);
            if *told {
                continue;
            }
            if lasted >= WAIT_TOLD_AFTER {
                *told = true;
                tell.insert(*reason);
            } else {
                let left = WAIT_TOLD_AFTER - lasted;
                again = Some(again.map_or(left, |again: Duration| again.min(left)));
            }
        }
        (tell, again)
    }

    /// Whether this failure is another than the last one told.
    pub fn is_new_failure(&mut self, failure: Option<String>) -> bool {
        let new = failure.is_some() && failure != self.failure;
        self.failure = failure;
        new
    }

    /// How long to wait before trying again; grows with failures in a row.
    pub fn patience(&mut self, failed: bool) -> Duration {
        self.failures = if failed {
            self.failures.saturating_add(1)
        } else {
            0
        };
        backoff(self.failures)
    }
}

/// 100 ms after the first failure, doubling to 15 s.
pub fn backoff(failures: u32) -> Duration {
    let doubled = 50u64.saturating_mul(1 << failures.min(16));
    Duration::from_millis(doubled.min(15_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Cache, CacheBackup};
    use kube::core::DeserializeGuard;
    use serde_json::json;

    #[test]
    fn undecodable_objects_of_both_kinds_are_counted_until_they_are_gone() {
        let (stores, metrics) = (Stores::default(), Metrics::new().unwrap());
        let bad = |kind: &str| {
            json!({"apiVersion": "cache.clusterdb.io/v1alpha1", "kind": kind, "spec": {"shards": "three", "storage": 7},
                   "metadata": {"name": "odd", "namespace": "n", "uid": kind, "resourceVersion": "1"}})
        };
        let cache: DeserializeGuard<Cache> = serde_json::from_value(bad("Cache")).unwrap();
        let backup: DeserializeGuard<CacheBackup> =
            serde_json::from_value(bad("CacheBackup")).unwrap();
        stores.caches.put(cache.clone());
        stores.backups.put(backup.clone());
        let shown = |kind: &str| metrics.undecodable.with_label_values(&[kind]).get();
        show_undecodable(&stores, &metrics);
        assert_eq!((shown("Cache"), shown("CacheBackup")), (1, 1));
        stores.backups.remove(&backup);
        show_undecodable(&stores, &metrics);
        assert_eq!((shown("Cache"), shown("CacheBackup")), (1, 0));
        stores.caches.remove(&cache);
        show_undecodable(&stores, &metrics);
        assert_eq!((shown("Cache"), shown("CacheBackup")), (0, 0));
    }

    #[test]
    fn patience_grows_with_failures_and_ends_with_success() {
        let mut memory = Memory::default();
        let waits: Vec<u64> = (0..4)
            .map(|_| u64::try_from(memory.patience(true).as_millis()).unwrap())
            .collect();
        assert_eq!(waits, [100, 200, 400, 800]);
        assert!(
            (0..40)
                .map(|_| memory.patience(true))
                .all(|wait| wait <= Duration::from_secs(15))
        );
        memory.patience(false);
        assert_eq!(memory.patience(true), Duration::from_millis(100));
    }

    #[test]
    fn a_wait_is_told_once_when_it_lasts() {
        let mut memory = Memory::default();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let syncing: BTreeSet<_> = [WaitReason::Syncing].into();
        let none = BTreeSet::new();
        let mut at =
            |waits: &BTreeSet<_>, seconds| memory.waits_to_tell(waits, start + second * seconds);
        assert_eq!(at(&syncing, 0), (none.clone(), Some(second * 2)));
        assert_eq!(at(&syncing, 1), (none.clone(), Some(second)));
        assert_eq!(at(&syncing, 2), (syncing.clone(), None));
        assert_eq!(at(&syncing, 9), (none.clone(), None));
        assert_eq!(at(&none, 10), (none.clone(), None));
        assert_eq!(at(&syncing, 11), (none.clone(), Some(second * 2)));
        assert_eq!(at(&syncing, 13), (syncing.clone(), None));
    }
}
