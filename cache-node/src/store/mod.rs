//! The items of a node: a table a slot, one lock for 16 neighbouring slots, items in pages of our own.

mod budget;
pub mod collections;
mod compact;
pub mod compress;
mod domain;
mod due;
pub mod effect;
mod evict;
mod eviction;
mod expire;
mod garbage;
mod guard;
mod item;
mod judge;
pub mod notify;
mod order;
mod pages;
pub mod point;
mod prefetch;
pub mod ready;
mod regions;
mod segment;
mod snapshot;
mod spans;
mod steps;
mod table;
mod tracking;
mod usage;
mod watch;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::log::Log;
use budget::Budget;
pub use budget::OutOfMemory;
use collections::Packing;
pub use compact::CompactionPass;
use compact::Upkeep;
use compress::Compression;
use domain::{Domain, Locked};
pub use domain::{SlotState, observer};
pub use evict::PolicyKind;
pub use eviction::Evicted;
use eviction::Eviction;
use expire::DomainDues;
pub use expire::Expired;
use garbage::Garbage;
pub use guard::{End, Fault, Guard, Held};
pub use item::{BIG_VALUE, ItemRef, Kind, ValueRef};
use pages::Pages;
pub use pages::Ref;
use point::{DOMAINS, domain_of};
pub use point::{Point, SLOTS, slot_of};
pub use regions::{RegionSpec, RegionStats, Ttl};
use segment::Entry;
pub use snapshot::{SnapshotSink, SnapshotWalk};
pub use spans::SharedValue;
use spans::Spans;
use steps::Steps;
pub use steps::{STEP_BOUNDS_US, STEPS, Step, StepCounts};
use table::Table;
pub use tracking::{Listener, Tracker, Tracking};
pub use usage::Usage;
pub use watch::Watches;

/// Bytes of the largest value, as in Redis.
pub const MAX_VALUE: usize = crate::limits::BULK_MAX;

/// How a store is made.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes for items and tables; 0: no limit but the reach of references, 64 GiB.
    pub max_memory: u64,
    /// Seeds the hash of keys: random in production.
    pub hash_seed: u64,
}

/// Counts of the store.
#[derive(Debug, Default)]
struct Counters {
    keys: AtomicI64,
    expires: AtomicI64,
    expired: AtomicU64,
    moved_bytes: AtomicU64,
    contended: AtomicU64,
    expire_lag_ms: AtomicU64,
}

impl Counters {
    fn moved(&self, bytes: usize) {
        if bytes > 0 {
            self.moved_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    fn added(&self, expires: bool) {
        self.keys.fetch_add(1, Ordering::Relaxed);
        if expires {
            self.expires.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn replaced(&self, had_expiry: bool, has_expiry: bool) {
        let change = i64::from(has_expiry) - i64::from(had_expiry);
        if change != 0 {
            self.expires.fetch_add(change, Ordering::Relaxed);
        }
    }

    fn removed(&self, keys: usize, expires: usize) {
        self.keys.fetch_sub(keys as i64, Ordering::Relaxed);
        if expires > 0 {
            self.expires.fetch_sub(expires as i64, Ordering::Relaxed);
        }
    }

    fn expired(&self) {
        self.expired.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    pub keys: u64,
    /// Keys with an expiry.
    pub expires: u64,
    /// Bytes against the limit: pages, spans, and what the process holds beside.
    pub bytes: u64,
    /// Bytes of pages in use: items and tables.
    pub page_bytes: u64,
    /// Bytes of large values.
    pub span_bytes: u64,
    pub table_bytes: u64,
    /// Bytes that the process holds beside the store, as far as they count.
    pub other_bytes: u64,
    /// 0: no limit.
    pub max_bytes: u64,
    /// Keys that expired since the start.
    pub expired: u64,
    /// How long the latest of those removed in the last round had been expired, in milliseconds.
    pub expire_lag_ms: u64,
    /// Keys evicted since the start, and their bytes.
    pub evicted: u64,
    pub evicted_bytes: u64,
    /// Bytes of the eviction policy's queues, a part of what the process holds beside.
    pub policy_bytes: u64,
    /// Bytes that compaction copied since the start.
    pub moved_bytes: u64,
    /// Items of flushes, and big ones that were deleted: not freed yet, and freed since the start.
    pub freeing: u64,
    pub freed: u64,
    /// Locks of domains that somebody else held when they were wanted.
    pub contended_locks: u64,
}

/// The items of a node.
pub struct Store {
    domains: Box<[Locked]>,
    pages: Pages,
    spans: Arc<Spans>,
    budget: Arc<Budget>,
    steps: Steps,
    dues: DomainDues,
    eviction: Eviction,
    regions: regions::Current,
    counters: Counters,
    table_bytes: AtomicI64,
    log: Arc<Log>,
    seed: u64,
    expire_locally: AtomicBool,
    sweeps: AtomicBool,
    snapshot: snapshot::Current,
    /// Up to where collections are packed.
    pub packing: Packing,
    pub compression: Compression,
    /// Clients that keep copies of keys.
    pub tracking: Tracking,
    /// Classes of keyspace notifications that are wanted, and who takes them.
    notify_classes: AtomicU32,
    event_sink: OnceLock<EventSink>,
    garbage: Garbage,
    room: Upkeep,
}

/// The domains of slots, ascending; one at least.
fn domains_of(slots: &[u16]) -> Vec<usize> {
    let mut domains = order::ascending(slots.iter().map(|&slot| domain_of(slot)).collect());
    if domains.is_empty() {
        domains.push(0);
    }
    domains
}

/// Takes the classes that are wanted, the name of an event, and its key. Called under the key's lock.
pub type EventSink = Box<dyn Fn(u32, &str, &[u8]) + Send + Sync>;

impl Store {
    pub fn new(options: StoreOptions, log: Arc<Log>) -> io::Result<Self> {
        let budget = Arc::new(Budget::new(options.max_memory));
        Ok(Self {
            domains: (0..DOMAINS).map(|_| Locked::default()).collect(),
            pages: Self::reserve_pages(&budget)?,
            spans: Spans::new(budget.clone())?,
            budget,
            steps: Steps::default(),
            dues: DomainDues::default(),
            eviction: Eviction::default(),
            regions: regions::Current::default(),
            counters: Counters::default(),
            table_bytes: AtomicI64::new(0),
            log,
            seed: options.hash_seed,
            expire_locally: AtomicBool::new(true),
            sweeps: AtomicBool::new(true),
            snapshot: snapshot::Current::default(),
            packing: Packing::default(),
            compression: Compression::default(),
            tracking: Tracking::default(),
            notify_classes: AtomicU32::new(0),
            event_sink: OnceLock::new(),
            garbage: Garbage::default(),
            room: Upkeep::default(),
        })
    }

    /// Reserves all addresses that references reach, or where the process may not have so many (`ulimit -v`, valgrind) as many as it may.
    fn reserve_pages(budget: &Arc<Budget>) -> io::Result<Pages> {
        const LEAST: u64 = 1 << 30;
        let mut bytes = pages::REACH;
        loop {
            match Pages::new(bytes, budget.clone()) {
                Err(_) if bytes > LEAST => bytes /= 2,
                Ok(pages) if bytes < pages::REACH => {
                    tracing::warn!(
                        bytes,
                        "not all addresses could be reserved: items end there, whatever the limit"
                    );
                    return Ok(pages);
                }
                result => return result,
            }
        }
    }

    /// Where a key lives.
    pub fn point(&self, key: &[u8]) -> Point {
        Point::new(key, self.seed)
    }

    /// Locks the domain of a slot: spins a little, then parks.
    #[inline]
    pub fn lock(&self, slot: u16) -> Guard<'_> {
        let domain = domain_of(slot);
        Guard::of_one(self, domain, self.lock_domain(domain))
    }

    /// Locks the domains of several slots, in ascending order.
    pub fn lock_slots(&self, slots: &[u16]) -> Guard<'_> {
        if let [slot] = slots {
            return self.lock(*slot);
        }
        self.lock_domains(domains_of(slots).into_iter())
    }

    /// Locks everything.
    pub fn lock_all(&self) -> Guard<'_> {
        self.lock_domains(0..DOMAINS)
    }

    /// As [`Store::lock_slots`], but asks now and then, while it waits, whether to go on. None: not to; nothing is locked.
    #[inline]
    pub fn lock_slots_while(&self, slots: &[u16], go_on: impl Fn() -> bool) -> Option<Guard<'_>> {
        if let [slot] = slots {
            let domain = domain_of(*slot);
            let lock = &self.domains[domain].0;
            let locked = lock.try_lock().or_else(|| self.wait_while(lock, &go_on))?;
            return Some(Guard::of_one(self, domain, locked));
        }
        self.lock_domains_while(domains_of(slots).into_iter(), &go_on)
    }

    /// As [`Store::lock_all`], asking as [`Store::lock_slots_while`] does.
    pub fn lock_all_while(&self, go_on: impl Fn() -> bool) -> Option<Guard<'_>> {
        self.lock_domains_while(0..DOMAINS, &go_on)
    }

    fn lock_domains_while(
        &self,
        domains: impl Iterator<Item = usize>,
        go_on: &dyn Fn() -> bool,
    ) -> Option<Guard<'_>> {
        let mut all = true;
        let locked = domains.map_while(|d| {
            let lock = &self.domains[d].0;
            let locked = lock.try_lock().or_else(|| self.wait_while(lock, go_on));
            all = locked.is_some();
            Some((d, locked?))
        });
        let guard = Guard::new(self, locked);
        guard.filter(|_| all)
    }

    #[cold]
    fn wait_while<'s>(
        &self,
        lock: &'s Mutex<Domain>,
        go_on: &dyn Fn() -> bool,
    ) -> Option<MutexGuard<'s, Domain>> {
        const ASK: Duration = Duration::from_millis(1);
        self.counters.contended.fetch_add(1, Ordering::Relaxed);
        loop {
            if let Some(locked) = lock.try_lock_for(ASK) {
                return Some(locked);
            }
            if !go_on() {
                return None;
            }
        }
    }

    fn lock_domains(&self, domains: impl Iterator<Item = usize>) -> Guard<'_> {
        match Guard::new(self, domains.map(|d| (d, self.lock_domain(d)))) {
            Some(guard) => guard,
            None => unreachable!("at least one domain is locked"),
        }
    }

    fn lock_domain(&self, domain: usize) -> MutexGuard<'_, Domain> {
        let lock = &self.domains[domain].0;
        lock.try_lock().unwrap_or_else(|| {
            self.counters.contended.fetch_add(1, Ordering::Relaxed);
            lock.lock()
        })
    }

    /// Whether expired keys are removed and logged (a primary, a standalone node), or only hidden until the log deletes them (a replica).
    pub fn set_expire_locally(&self, yes: bool) {
        self.expire_locally.store(yes, Ordering::Relaxed);
    }

    pub fn expires_locally(&self) -> bool {
        self.expire_locally.load(Ordering::Relaxed)
    }

    /// Bytes for items and tables; 0: no limit. A lower limit refuses writes until enough is gone.
    pub fn set_max_memory(&self, bytes: u64) {
        self.budget.set_limit(bytes);
        self.call_for_room();
    }

    pub fn stats(&self) -> StoreStats {
        let positive = |n: &AtomicI64| n.load(Ordering::Relaxed).max(0) as u64;
        let (freeing, freed) = self.garbage.counts();
        StoreStats {
            freeing,
            freed,
            keys: positive(&self.counters.keys),
            expires: positive(&self.counters.expires),
            bytes: self.budget.used() + self.budget.other(),
            page_bytes: self.pages.bytes(),
            span_bytes: self.spans.bytes(),
            other_bytes: self.budget.other(),
            table_bytes: positive(&self.table_bytes),
            max_bytes: self.budget.limit(),
            expired: self.counters.expired.load(Ordering::Relaxed),
            moved_bytes: self.counters.moved_bytes.load(Ordering::Relaxed),
            contended_locks: self.counters.contended.load(Ordering::Relaxed),
            expire_lag_ms: self.counters.expire_lag_ms.load(Ordering::Relaxed),
            evicted: self.eviction.evicted().items,
            evicted_bytes: self.eviction.evicted().bytes,
            policy_bytes: self.eviction.policy_bytes() + self.regions.policy_bytes(),
        }
    }

    /// Says who takes keyspace notifications; the first one stays.
    pub fn send_events_to(&self, sink: EventSink) {
        let _ = self.event_sink.set(sink);
    }

    pub fn notify_classes(&self) -> u32 {
        self.notify_classes.load(Ordering::Relaxed)
    }

    /// Turns an observer of writes on or off in every domain, one after the other.
    pub fn set_observer(&self, bit: u32, on: bool) {
        for domain in &self.domains {
            let mut domain = domain.0.lock();
            if on {
                domain.observers |= bit;
            } else {
                domain.observers &= !bit;
            }
        }
    }

    /// Waits, for each lock, until whoever holds it has released it.
    pub fn pass_locks(&self) {
        for domain in &self.domains {
            drop(domain.0.lock());
        }
    }

    /// # Safety
    /// `at` is a live item whose domain is locked.
    unsafe fn entry(&self, at: Ref) -> Entry {
        // SAFETY: the caller's word.
        let item = unsafe { ItemRef::new(&self.pages, at) };
        Entry {
            hash: point::hash_of(item.key(), self.seed),
            due: due::due_at(item.expires_at()),
            at,
        }
    }

    fn table_bytes_changed(&self, change: isize) {
        if change != 0 {
            self.table_bytes.fetch_add(change as i64, Ordering::Relaxed);
        }
    }

    /// Bytes of pages that hold something: the rest of the pages' bytes is room in them.
    pub fn live_page_bytes(&self) -> u64 {
        self.pages.live_bytes()
    }

    /// Tells what the process holds beside the store, in bytes: it counts against the limit.
    pub fn set_other_memory(&self, bytes: u64) {
        self.budget.set_other(bytes);
    }

    /// How long the store's own work held locks.
    pub fn steps(&self, step: Step) -> StepCounts {
        self.steps.counts(step)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.free_garbage();
        for domain in &mut self.domains {
            let tables = std::mem::take(&mut domain.0.get_mut().tables);
            for at in tables.iter().flat_map(Table::refs) {
                // SAFETY: the store goes away with all its tables; pages go as a whole, so only what items hold beside matters.
                unsafe { item::drop_body(&self.pages, at) };
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
