//! What regions may hold: who is over the limit evicts, and who cannot lets writers wait or refuses them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::super::Store;
use super::super::budget::{OutOfMemory, Room};
use super::super::evict::PolicyKind;
use super::super::guard::Guard;
use super::super::point::Point;
use super::Region;

/// Writers run ahead of eviction by a part of the limit, one in so many, and by so much in any case: bytes, keys.
const AHEAD_PART: u64 = 16;
const AHEAD_BYTES: u64 = 64 * 1024;
const AHEAD_KEYS: u64 = 64;

impl Region {
    /// Whether something is to be evicted.
    fn is_over(&self, held_slots: u32) -> bool {
        self.bytes() > self.limit(held_slots) || self.keys() > self.items_limit(held_slots)
    }

    /// Whether eviction is of use: it is over its limits, and something may go.
    pub(super) fn wants_eviction(&self, held_slots: u32) -> bool {
        self.is_over(held_slots) && self.evicts() && !self.stuck.load(Ordering::Relaxed)
    }

    fn evicts(&self) -> bool {
        self.eviction.kind() != PolicyKind::NoEviction
    }

    /// Whether so many bytes more find room. `value`: the bytes of all that the key holds then.
    fn admit(&self, held_slots: u32, is_new: bool, grows: u64, value: u64) -> bool {
        let (limit, items) = (self.limit(held_slots), self.items_limit(held_slots));
        let (bytes, keys) = (self.bytes(), self.keys());
        if !self.evicts() || self.stuck.load(Ordering::Relaxed) {
            return !(is_new && keys >= items) && bytes.saturating_add(grows) <= limit;
        }
        let ahead = |limit: u64, more| limit.saturating_add(limit / AHEAD_PART + more);
        let has_room = bytes <= ahead(limit, AHEAD_BYTES);
        value <= limit && has_room && !(is_new && keys > ahead(items, AHEAD_KEYS))
    }
}

impl Store {
    /// Whether anything is ever evicted.
    pub fn may_evict(&self) -> bool {
        self.policy() != PolicyKind::NoEviction || self.regions.evict()
    }

    /// The regions whose queues are to be looked after.
    pub(in crate::store) fn regions(&self) -> Vec<Arc<Region>> {
        self.regions.target().all().cloned().collect()
    }

    /// Whether clients waited for room in a region since this was asked last.
    pub fn regions_waited_for(&self) -> bool {
        self.regions.waiting.swap(false, Ordering::AcqRel)
    }

    /// Evicts from regions that are over their limits, until they are not or the time is over. Called by a background thread.
    pub fn evict_from_regions(&self, until: Instant) {
        let held = self.regions.held_slots();
        if self.expires_locally() {
            for region in self.regions.target().all().filter(|r| r.evicts()) {
                let mut stuck = false;
                while !stuck && region.is_over(held) && Instant::now() < until {
                    stuck = self.evict_from(&region.eviction).is_none();
                }
                region.stuck.store(stuck, Ordering::Relaxed);
            }
        }
    }

    /// Evicts an item of the region that is fullest among those where something may go: for the whole node's limits. Gives its bytes.
    pub(in crate::store) fn evict_from_fullest(&self) -> Option<u64> {
        if !self.regions.evict() {
            return None;
        }
        let held = self.regions.held_slots();
        let target = self.regions.target();
        let mut regions: Vec<&Arc<Region>> = target.all().filter(|r| r.evicts()).collect();
        // A region without a limit has nothing that is its own.
        let fullness = |r: &Region| match r.limit(held) {
            u64::MAX => u128::MAX,
            limit => (u128::from(r.bytes()) << 32) / u128::from(limit.max(1)),
        };
        regions.sort_by_key(|r| std::cmp::Reverse(fullness(r)));
        let mut regions = regions.into_iter();
        regions.find_map(|region| self.evict_from(&region.eviction))
    }
}

impl Guard<'_> {
    /// Asks a key's region for room. `grows`: by how many bytes; `value`: what the key holds then. Replicas and slot moves bring what is there
    /// already, and are not asked.
    pub(in crate::store) fn room_in_region(
        &self,
        p: Point,
        key: &[u8],
        is_new: bool,
        (grows, value): (usize, usize),
    ) -> Result<(), OutOfMemory> {
        if self.domain(p.slot).regions.is_none() {
            return Ok(());
        }
        let Some(region) = self.region(p, key) else {
            return Ok(());
        };
        let store = self.store();
        let held = store.regions.held_slots();
        if self.room() == Room::Any
            || self.is_told()
            || (grows == 0 && !is_new)
            || region.admit(held, is_new, grows as u64, value as u64)
        {
            return Ok(());
        }
        // A transaction cannot wait for what is made while it holds its locks: it goes on where something may be evicted later.
        if self.room() == Room::Slack && region.evicts() {
            return Ok(());
        }
        // What was flushed counts until it is freed.
        let is_freed = store.is_freeing();
        let is_evicted = region.evicts() && !region.stuck.load(Ordering::Relaxed);
        let waits =
            (is_evicted || is_freed) && region.limit(held) >= value as u64 && store.is_attended();
        if waits {
            store.regions.waiting.store(true, Ordering::Release);
            store.call_for_room();
        }
        Err(OutOfMemory::Region { waits })
    }
}
