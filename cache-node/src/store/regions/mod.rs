//! Regions: keys that begin with a prefix, with a size, a default expiry and an eviction policy of their own.
//!
//! Which region an item belongs to follows from its key alone, so nothing of it is in the log, in copies and in snapshots: whoever inserts a
//! key counts it where it belongs by the regions that are in force there. When those change, the items are counted anew (`settle`).

mod room;
mod settle;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

pub(super) use settle::DomainRegions;
use settle::Settling;

use super::compress::{LiveSetting, Setting};
use super::evict::PolicyKind;
use super::eviction::{Evicted, Eviction};
use super::point::SLOTS;

/// Reads are counted on so many cache lines, by domain.
const STRIPES: usize = 16;

/// A default expiry: so many milliseconds, give or take a part of them. 0: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ttl {
    pub ms: u64,
    pub jitter_percent: u8,
}

impl Ttl {
    /// When a key that is written now expires, in Unix milliseconds.
    pub fn expiry(self, now_ms: u64, random: u64) -> Option<u64> {
        if self.ms == 0 {
            return None;
        }
        let mixed = (random ^ now_ms).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ mixed >> 31).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 20;
        let spread = self.ms / 100 * u64::from(self.jitter_percent)
            + self.ms % 100 * u64::from(self.jitter_percent) / 100;
        Some(now_ms + self.ms - spread + mixed % (2 * spread + 1))
    }
}

/// A [`Ttl`] that changes while it is read.
#[derive(Debug, Default)]
pub(super) struct LiveTtl {
    ms: AtomicU64,
    jitter_percent: AtomicU8,
}

impl LiveTtl {
    pub fn get(&self) -> Ttl {
        Ttl {
            ms: self.ms.load(Ordering::Relaxed),
            jitter_percent: self.jitter_percent.load(Ordering::Relaxed),
        }
    }

    pub fn set(&self, ttl: Ttl) {
        self.jitter_percent
            .store(ttl.jitter_percent, Ordering::Relaxed);
        self.ms.store(ttl.ms, Ordering::Relaxed);
    }
}

/// What a region is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionSpec {
    pub name: String,
    /// Not empty; no two regions have the same.
    pub prefix: Vec<u8>,
    /// Bytes of all slots' items together; 0: no limit.
    pub size: u64,
    /// Keys of all slots together at most; 0: no limit.
    pub max_items: u64,
    pub ttl: Ttl,
    pub policy: PolicyKind,
    pub compression: Setting,
}

/// What a region holds and has done since it came to this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegionStats {
    pub name: String,
    pub prefix: Vec<u8>,
    pub keys: u64,
    /// Bytes of its items: headers, keys and values.
    pub bytes: u64,
    /// What they may be: this node's part of the region's size. 0: no limit.
    pub limit: u64,
    /// This node's part of the keys it may have; 0: no limit.
    pub max_items: u64,
    pub policy: PolicyKind,
    pub compression: Setting,
    pub hits: u64,
    pub misses: u64,
    pub evicted: Evicted,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Reads {
    hits: AtomicU64,
    misses: AtomicU64,
}

/// See the module's text. Settings change while it is in use; name and prefix stay.
pub(super) struct Region {
    name: String,
    prefix: Box<[u8]>,
    size: AtomicU64,
    pub ttl: LiveTtl,
    compression: LiveSetting,
    pub eviction: Eviction,
    keys: AtomicI64,
    bytes: AtomicI64,
    reads: [Reads; STRIPES],
    /// It is full, and nothing in it may be evicted.
    stuck: AtomicBool,
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("name", &self.name).finish()
    }
}

impl Region {
    fn new(spec: &RegionSpec) -> Self {
        let region = Self {
            name: spec.name.clone(),
            prefix: spec.prefix.clone().into(),
            size: AtomicU64::default(),
            ttl: LiveTtl::default(),
            compression: LiveSetting::default(),
            eviction: Eviction::pooled(),
            keys: AtomicI64::default(),
            bytes: AtomicI64::default(),
            reads: Default::default(),
            stuck: AtomicBool::default(),
        };
        region.eviction.set(spec.policy);
        region.configure(spec);
        region
    }

    fn configure(&self, spec: &RegionSpec) {
        self.size.store(spec.size, Ordering::Relaxed);
        self.ttl.set(spec.ttl);
        self.compression.set(spec.compression);
        self.eviction.change(spec.policy);
        self.eviction.set_max_items(spec.max_items);
        self.stuck.store(false, Ordering::Relaxed);
    }

    pub fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed).max(0) as u64
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed).max(0) as u64
    }

    /// Bytes that a node with so many slots may hold of it.
    fn limit(&self, held_slots: u32) -> u64 {
        match self.size.load(Ordering::Relaxed) {
            0 => u64::MAX,
            size => (u128::from(size) * u128::from(held_slots) / u128::from(SLOTS)) as u64,
        }
    }

    /// Keys that a node with so many slots may hold of it.
    fn items_limit(&self, held_slots: u32) -> u64 {
        match self.eviction.max_items() {
            0 => u64::MAX,
            max => (u128::from(max) * u128::from(held_slots)).div_ceil(u128::from(SLOTS)) as u64,
        }
    }

    fn add(&self, keys: i64, bytes: i64) {
        if keys != 0 {
            self.keys.fetch_add(keys, Ordering::Relaxed);
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn read(&self, domain: usize, hit: bool) {
        let reads = &self.reads[domain % STRIPES];
        let count = if hit { &reads.hits } else { &reads.misses };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn stats(&self, held_slots: u32) -> RegionStats {
        let sum = |count: fn(&Reads) -> &AtomicU64| {
            let counts = self.reads.iter().map(|r| count(r).load(Ordering::Relaxed));
            counts.sum()
        };
        let none_is_zero = |limit| if limit == u64::MAX { 0 } else { limit };
        RegionStats {
            name: self.name.clone(),
            prefix: self.prefix.to_vec(),
            keys: self.keys(),
            bytes: self.bytes(),
            limit: none_is_zero(self.limit(held_slots)),
            max_items: none_is_zero(self.items_limit(held_slots)),
            policy: self.eviction.kind(),
            compression: self.compression.get(),
            hits: sum(|r| &r.hits),
            misses: sum(|r| &r.misses),
            evicted: self.eviction.evicted(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    region: Arc<Region>,
    /// The entry with the longest prefix that its own begins with.
    parent: Option<usize>,
}

/// All regions, to be found by key.
#[derive(Debug)]
pub(super) struct Regions {
    /// Ascending by prefix.
    entries: Vec<Entry>,
    /// Where entries with a first byte begin; the next byte's is where they end.
    first: [u16; 257],
    /// Names the list this was made of.
    hash: String,
}

impl Default for Regions {
    fn default() -> Self {
        Self::new(Vec::new(), String::new())
    }
}

impl Regions {
    fn new(mut regions: Vec<Arc<Region>>, hash: String) -> Self {
        regions.sort_by(|a, b| a.prefix.cmp(&b.prefix));
        let mut entries: Vec<Entry> = Vec::with_capacity(regions.len());
        let mut first = [0; 257];
        for region in regions {
            let mut parent = entries.len().checked_sub(1);
            while let Some(i) = parent
                && !region.prefix.starts_with(&entries[i].region.prefix)
            {
                parent = entries[i].parent;
            }
            for end in &mut first[usize::from(region.prefix[0]) + 1..] {
                *end += 1;
            }
            entries.push(Entry { region, parent });
        }
        Self {
            entries,
            first,
            hash,
        }
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Region>> {
        self.entries.iter().map(|e| &e.region)
    }

    /// The region of a key: that of the longest prefix. What is behind it in the order and not after the key begins with it too, so it is the
    /// last entry not after the key, or one that this begins with.
    pub fn find(&self, key: &[u8]) -> Option<&Arc<Region>> {
        let byte = usize::from(*key.first()?);
        let from = usize::from(self.first[byte]);
        let same = &self.entries[from..usize::from(self.first[byte + 1])];
        let before = same.partition_point(|e| *e.region.prefix <= *key);
        let mut entry = same.get(before.checked_sub(1)?)?;
        while !key.starts_with(&entry.region.prefix) {
            entry = &self.entries[entry.parent?];
        }
        Some(&entry.region)
    }

    /// Whether every key has the same region in both.
    fn maps_like(&self, other: &Self) -> bool {
        let same = |(a, b)| Arc::ptr_eq(a, b);
        self.entries.len() == other.entries.len() && self.all().zip(other.all()).all(same)
    }
}

/// A store's regions, and what is about to become of them.
#[derive(Debug, Default)]
pub(super) struct Current {
    /// Those that were set last.
    target: Mutex<Arc<Regions>>,
    /// Those that every domain knows.
    in_force: Mutex<Arc<Regions>>,
    settling: Mutex<Option<Settling>>,
    /// Slots that this node holds or is about to.
    held_slots: AtomicU32,
    /// Of keys that are in no region.
    pub ttl: LiveTtl,
    /// Clients wait for room in a region.
    waiting: AtomicBool,
    /// Some region evicts.
    evicts: AtomicBool,
}

impl Current {
    /// A slot becomes ours, or ceases to be.
    pub fn held(&self, before: bool, after: bool) {
        match (before, after) {
            (false, true) => self.held_slots.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.held_slots.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    fn held_slots(&self) -> u32 {
        self.held_slots.load(Ordering::Relaxed)
    }

    /// Bytes of eviction queues.
    pub fn policy_bytes(&self) -> u64 {
        let target = self.target();
        target.all().map(|r| r.eviction.policy_bytes()).sum()
    }

    /// Whether some region evicts.
    pub fn evict(&self) -> bool {
        self.evicts.load(Ordering::Relaxed)
    }

    /// Those that were set last.
    fn target(&self) -> Arc<Regions> {
        self.target.lock().clone()
    }
}

#[cfg(test)]
pub(super) mod tests;
