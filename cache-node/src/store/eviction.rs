//! Eviction: finds the item that the policy names, takes it out and logs that as a delete.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Store;
use super::domain::SlotState;
use super::evict::{Candidate, Mark, Policy, PolicyKind, Print, Queue, Seen, Verdict, counted};
use super::guard::Guard;
use super::item::{self, ItemRef};
use super::pages::Ref;
use super::point::{DOMAINS, Point, SLOTS, SLOTS_PER_DOMAIN, hash_of};
use super::steps::Step;
use super::table::Spot;

/// Candidates looked at for one that goes: beyond, all that is left is too hot or not ours to evict.
const TRIES: usize = 4096;
/// One eviction in so many is timed.
const TIMED: u64 = 16;
/// Items a sampled policy looks at, those of one place at most, and places at most.
const SAMPLES: usize = 20;
const SAMPLES_HERE: usize = 7;
const PLACES: usize = 40;
/// Items looked at in one table for some that may go.
const LOOKED_HERE: usize = 512;
/// Queues hold at most so many entries for each key that is there, and so many in any case.
const QUEUED_MAX: usize = 3;
const QUEUED_FREE: usize = 1 << 16;

/// The policy in force and what it has done.
#[derive(Default)]
pub(super) struct Eviction {
    kind: AtomicU8,
    mark: AtomicU8,
    /// The policy's present, for those who do not lock it.
    now: AtomicU32,
    policy: Mutex<Option<Box<dyn Policy>>>,
    random: AtomicU64,
    max_items: AtomicU64,
    /// The queues are to be filled with what is there.
    anew: AtomicBool,
    evicted: AtomicU64,
    evicted_bytes: AtomicU64,
    policy_bytes: AtomicU64,
}

/// An item that was looked at. Of equal scores chance decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Scored {
    score: u64,
    chance: u64,
    slot: u16,
    hash: u64,
}

/// What a round of eviction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evicted {
    pub items: u64,
    pub bytes: u64,
}

impl Eviction {
    pub fn kind(&self) -> PolicyKind {
        PolicyKind::from_index(self.kind.load(Ordering::Relaxed))
    }

    pub fn evicted(&self) -> Evicted {
        Evicted {
            items: self.evicted.load(Ordering::Relaxed),
            bytes: self.evicted_bytes.load(Ordering::Relaxed),
        }
    }

    pub fn policy_bytes(&self) -> u64 {
        self.policy_bytes.load(Ordering::Relaxed)
    }

    fn is_on(&self) -> bool {
        self.kind.load(Ordering::Relaxed) != 0
    }

    fn mark(&self) -> Mark {
        match self.mark.load(Ordering::Relaxed) {
            0 => Mark::Nothing,
            1 => Mark::Heat,
            2 => Mark::Time,
            _ => Mark::Count,
        }
    }

    /// The clock of an item that is written now; `before`: of the one it replaces.
    pub fn clock(&self, before: Option<u32>) -> Option<u32> {
        match self.mark() {
            Mark::Nothing | Mark::Heat => None,
            Mark::Time => Some(self.now.load(Ordering::Relaxed)),
            Mark::Count => Some(counted(
                before.unwrap_or(0),
                self.now.load(Ordering::Relaxed),
            )),
        }
    }

    pub fn inserted(&self, p: Point) {
        if !self.is_on() {
            return;
        }
        if let Some(policy) = &mut *self.policy.lock() {
            policy.inserted(Print::of(p));
            self.now.store(policy.now(), Ordering::Relaxed);
        }
    }

    fn set(&self, kind: PolicyKind) {
        let new = kind.policy();
        let mark = new.as_ref().map_or(Mark::Nothing, |p| p.mark());
        let mut policy = self.policy.lock();
        *policy = new;
        self.kind.store(kind as u8, Ordering::Relaxed);
        self.mark.store(mark as u8, Ordering::Relaxed);
    }

    fn next(&self) -> Candidate {
        let mut policy = self.policy.lock();
        policy.as_mut().map_or(Candidate::Nothing, |p| p.next())
    }

    fn random(&self) -> u64 {
        let n = self.random.fetch_add(1, Ordering::Relaxed) + 1;
        let mixed = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 7
    }
}

impl Store {
    pub fn policy(&self) -> PolicyKind {
        self.eviction.kind()
    }

    /// Keys at most; 0: no limit. Those beyond are evicted, a moment later.
    pub fn set_max_items(&self, items: u64) {
        self.eviction.max_items.store(items, Ordering::Relaxed);
        self.call_for_room();
    }

    /// Keys beyond their limit.
    pub fn items_over(&self) -> u64 {
        let keys = self.counters.keys.load(Ordering::Relaxed).max(0) as u64;
        match self.eviction.max_items.load(Ordering::Relaxed) {
            0 => 0,
            max => keys.saturating_sub(max),
        }
    }

    /// Bytes that are missing to the reserve below the limit, and beyond the limit itself.
    pub fn shortage(&self) -> (u64, u64) {
        let limit = self.budget.limit();
        let beyond = match limit {
            0 => 0,
            limit => (self.budget.used() + self.budget.other()).saturating_sub(limit),
        };
        (self.budget.shortage(), beyond)
    }

    /// Puts a policy into force. What is there already is queued by [`Store::tidy_queues`], in the order of tables.
    pub fn set_policy(&self, kind: PolicyKind) {
        if kind != self.policy() {
            self.eviction.set(kind);
            self.eviction.anew.store(true, Ordering::Release);
            self.call_for_room();
        }
    }

    /// Queues all items, those of one segment under one lock.
    fn requeue(&self) {
        for slot in 0..SLOTS {
            let mut segment = 0;
            while self.eviction.is_on() && self.lock(slot).queue_segment(slot, segment) {
                segment += 1;
            }
        }
    }

    /// Queues begin anew with another policy, and when most of what they hold is gone: keys that were deleted or expired, and not evicted,
    /// stay in them. Called by a background thread.
    pub fn tidy_queues(&self) {
        let (entries, bytes) = match &*self.eviction.policy.lock() {
            Some(policy) => (policy.entries(), policy.bytes()),
            None => (0, 0),
        };
        self.eviction
            .policy_bytes
            .store(bytes as u64, Ordering::Relaxed);
        let keys = self.counters.keys.load(Ordering::Relaxed).max(0) as usize;
        if entries > keys * QUEUED_MAX + QUEUED_FREE {
            self.eviction.set(self.policy());
            self.eviction.anew.store(true, Ordering::Release);
        }
        if self.eviction.anew.swap(false, Ordering::AcqRel) {
            self.requeue();
        }
    }

    /// Evicts until about `bytes` bytes are freed, or nothing more is to be had. Each item goes under its own lock.
    pub fn evict(&self, bytes: u64) -> Evicted {
        let mut done = Evicted::default();
        while done.bytes < bytes || done.items == 0 {
            // One in some is timed: asking for the time takes as long as the rest.
            let timed = self.eviction.random().is_multiple_of(TIMED);
            let freed = match timed {
                true => self.steps.time(Step::Eviction, || self.evict_one()),
                false => self.evict_one(),
            };
            match freed {
                Some(freed) => {
                    done.items += 1;
                    done.bytes += freed;
                }
                None => break,
            }
        }
        done
    }

    /// Gives the bytes that went; None: nothing may go.
    pub fn evict_one(&self) -> Option<u64> {
        if !self.expires_locally() {
            return None;
        }
        for _ in 0..TRIES {
            let freed = match self.eviction.next() {
                Candidate::Nothing => return None,
                Candidate::Queued(print, from) => self.lock(print.slot()).evict_queued(print, from),
                Candidate::Sample => {
                    let (slot, hash) = self.sample()?;
                    self.lock(slot).evict_point(Point { slot, hash })
                }
            };
            if let Some(freed) = freed {
                self.eviction.evicted.fetch_add(1, Ordering::Relaxed);
                let bytes = &self.eviction.evicted_bytes;
                bytes.fetch_add(freed, Ordering::Relaxed);
                return Some(freed);
            }
        }
        None
    }

    /// Of some items at random places the one with the lowest score: its slot and hash.
    fn sample(&self) -> Option<(u16, u64)> {
        let mut best: Option<Scored> = None;
        let mut seen = 0;
        for _ in 0..PLACES {
            let random = self.eviction.random();
            let first = (random % DOMAINS as u64) as usize;
            let mut domains = (first..DOMAINS).chain(0..first);
            let found = domains.find_map(|domain| {
                let guard = self.lock_domains(std::iter::once(domain));
                let scored = guard.scores(domain as u16, random >> 10);
                (!scored.is_empty()).then_some(scored)
            });
            let scored = found?;
            seen += scored.len();
            best = scored.into_iter().chain(best).min();
            if seen >= SAMPLES {
                break;
            }
        }
        best.map(|scored| (scored.slot, scored.hash))
    }
}

impl Guard<'_> {
    /// Notes that an item was asked for.
    pub(super) fn touch(&self, at: Ref) {
        let eviction = &self.store().eviction;
        let pages = &self.store().pages;
        let mark = eviction.mark();
        if mark == Mark::Nothing {
            return;
        }
        let item = self.item(at);
        // SAFETY: the item is live and locked, and `item` is not used any more when it is written to.
        unsafe {
            match mark {
                Mark::Heat if item.heat() < 3 => item::set_heat(pages, at, item.heat() + 1),
                Mark::Heat | Mark::Nothing => {}
                Mark::Time | Mark::Count => {
                    if let Some(clock) = eviction.clock(item.clock()) {
                        item::set_clock(pages, at, clock);
                    }
                }
            }
        }
    }

    /// The item in place of another is as hot, and was asked for once more.
    pub(super) fn keep_heat(&self, old: Ref, new: Ref) {
        if self.store().eviction.mark() == Mark::Heat {
            let heat = (self.item(old).heat() + 1).min(3);
            // SAFETY: the new item is ours alone.
            unsafe { item::set_heat(&self.store().pages, new, heat) };
        }
    }

    fn point_of(&self, slot: u16, at: Ref) -> Point {
        let hash = hash_of(self.item(at).key(), self.store().seed);
        Point { slot, hash }
    }

    /// Queues the items of a segment. False: there is no such segment.
    fn queue_segment(&self, slot: u16, segment: usize) -> bool {
        let table = self.table(slot);
        if segment >= table.segment_count() {
            return false;
        }
        for at in table.segment(segment).refs() {
            self.store().eviction.inserted(self.point_of(slot, at));
        }
        true
    }

    fn seen(item: ItemRef<'_>) -> Seen {
        Seen {
            heat: item.heat(),
            clock: item.clock().unwrap_or(0),
            expires_at: item.expires_at(),
        }
    }

    /// Lets the policy judge an item of its queue. Gives the bytes that went; None: nothing did.
    fn evict_queued(&mut self, print: Print, from: Queue) -> Option<u64> {
        let store = self.store();
        let slot = print.slot();
        let found = self
            .table(slot)
            .find_print(print, &|at| Print::of(self.point_of(slot, at)) == print);
        let (spot, at) = found?;
        let seen = Self::seen(self.item(at));
        let mut policy = store.eviction.policy.lock();
        let policy = policy.as_mut()?;
        if self.slot_state(slot) != SlotState::Serve {
            policy.put_back(print);
            return None;
        }
        match policy.judge(print, from, seen) {
            Verdict::Evict => Some(self.evict(slot, spot, at)),
            Verdict::Keep(heat) => {
                // SAFETY: the item is live and locked, and nobody holds an ItemRef to it.
                unsafe { item::set_heat(&store.pages, at, heat) };
                None
            }
        }
    }

    fn evict_point(&mut self, p: Point) -> Option<u64> {
        if self.slot_state(p.slot) != SlotState::Serve {
            return None;
        }
        let found = self
            .table(p.slot)
            .find(p.hash, |at| self.point_of(p.slot, at) == p);
        let (spot, at) = found?;
        Some(self.evict(p.slot, spot, at))
    }

    fn evict(&mut self, slot: u16, spot: Spot, at: Ref) -> u64 {
        let bytes = self.item(at).bytes() as u64;
        self.log_delete(slot, at);
        self.take_out_here(slot, spot, at);
        self.shrink(slot, spot.segment as usize);
        bytes
    }

    /// Some items at a random place of a domain.
    fn scores(&self, domain: u16, random: u64) -> Vec<Scored> {
        let policy = self.store().eviction.policy.lock();
        let Some(policy) = &*policy else {
            return Vec::new();
        };
        let mut scores = Vec::new();
        let first = domain * SLOTS_PER_DOMAIN;
        if policy.only_expiring() && self.domain(first).expires == 0 {
            return scores;
        }
        let start = (random % u64::from(SLOTS_PER_DOMAIN)) as u16;
        for i in 0..SLOTS_PER_DOMAIN {
            let slot = first + (start + i) % SLOTS_PER_DOMAIN;
            if self.slot_state(slot) != SlotState::Serve {
                continue;
            }
            let mut looked = 0;
            let mut score = |at: Ref| {
                looked += 1;
                if let Some(score) = policy.score(Self::seen(self.item(at))) {
                    let hash = self.point_of(slot, at).hash;
                    scores.push(Scored {
                        score,
                        chance: hash.wrapping_mul(random | 1),
                        slot,
                        hash,
                    });
                }
                scores.len() < SAMPLES_HERE && looked < LOOKED_HERE
            };
            self.table(slot).some_from(random >> 8, &mut score);
            if scores.len() >= SAMPLES_HERE {
                break;
            }
        }
        scores
    }
}
