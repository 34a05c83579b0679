//! Eviction: finds the item that the policy names, takes it out and logs that as a delete.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Store;
use super::evict::{Candidate, Mark, Policy, PolicyKind, Print, counted};
use super::guard::Guard;
use super::judge::Scored;
use super::point::{DOMAINS, Point, SLOTS};
use super::steps::Step;
use super::usage::History;
use crate::limits::EVICTION_SAMPLES;

/// Candidates that may not go, looked at for one that does: beyond, all that is left is not ours to evict.
const TRIES: usize = 4096;
/// Rounds through the queues for one that goes: heat is three at most, so what nobody reads meanwhile has gone by then.
const ROUNDS: usize = 4;
/// One eviction in so many is timed.
const TIMED: u64 = 16;
const PLACES: usize = 40;
/// Places without any item that may go, beyond which there is none.
const EMPTY: usize = 16;
/// Queues hold at most so many entries for each key that is there, and so many in any case.
const QUEUED_MAX: usize = 3;
const QUEUED_FREE: usize = 1 << 16;

/// A policy in force and what it has done: one for the keys of each region, and one for all others.
#[derive(Default)]
pub(super) struct Eviction {
    kind: AtomicU8,
    mark: AtomicU8,
    /// The policy's present, for those who do not lock it.
    now: AtomicU32,
    pub policy: Mutex<Option<Box<dyn Policy>>>,
    /// See [`PolicyKind::policy`].
    pooled: bool,
    random: AtomicU64,
    max_items: AtomicU64,
    /// The queues are to be filled with what is there.
    anew: AtomicBool,
    filling: AtomicBool,
    evicted: AtomicU64,
    evicted_bytes: AtomicU64,
    policy_bytes: AtomicU64,
    /// When the present was what, for a policy that goes by it.
    pub history: Mutex<History>,
}

/// What became of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tried {
    /// It went, so many bytes.
    Evicted(u64),
    /// It had gone before, or it stays and is less hot now.
    Passed,
    /// So many candidates may not go now.
    Spared(usize),
}

/// What a round of eviction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evicted {
    pub items: u64,
    pub bytes: u64,
}

impl Eviction {
    /// For a region.
    pub fn pooled() -> Self {
        Self {
            pooled: true,
            ..Self::default()
        }
    }

    pub fn max_items(&self) -> u64 {
        self.max_items.load(Ordering::Relaxed)
    }

    pub fn set_max_items(&self, items: u64) {
        self.max_items.store(items, Ordering::Relaxed);
    }

    /// Puts a policy into force, if it is another. What is there is queued by [`Store::tidy_queues`].
    pub fn change(&self, kind: PolicyKind) {
        if kind != self.kind() {
            self.set(kind);
            self.anew.store(true, Ordering::Release);
        }
    }

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

    pub fn mark(&self) -> Mark {
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

    pub fn set(&self, kind: PolicyKind) {
        let new = kind.policy(self.pooled);
        let mark = new.as_ref().map_or(Mark::Nothing, |p| p.mark());
        let mut policy = self.policy.lock();
        *policy = new;
        let now = policy.as_ref().map_or(0, |p| p.now());
        self.now.store(now, Ordering::Relaxed);
        *self.history.lock() = History::default();
        self.kind.store(kind as u8, Ordering::Relaxed);
        self.mark.store(mark as u8, Ordering::Relaxed);
    }

    /// An item that is there already; it is queued if the queues are being filled.
    pub fn found(&self, p: Point) {
        if self.filling.load(Ordering::Relaxed) {
            self.inserted(p);
        }
    }

    /// Begins its queues anew when most of what they hold is gone, `keys` being what is there. Whether they are to be filled.
    fn tidy(&self, keys: usize) -> bool {
        let (entries, bytes) = match &*self.policy.lock() {
            Some(policy) => (policy.entries(), policy.bytes()),
            None => (0, 0),
        };
        self.policy_bytes.store(bytes as u64, Ordering::Relaxed);
        if entries > keys * QUEUED_MAX + QUEUED_FREE {
            self.set(self.kind());
            self.anew.store(true, Ordering::Release);
        }
        let anew = self.anew.swap(false, Ordering::AcqRel);
        self.filling.store(anew, Ordering::Relaxed);
        anew
    }

    /// The policy's present.
    pub fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    /// Time goes on, whether something comes in or not. Gives the present; None: there is no policy.
    pub fn advance(&self) -> Option<u32> {
        let mut policy = self.policy.lock();
        let policy = policy.as_mut()?;
        policy.tick();
        self.now.store(policy.now(), Ordering::Relaxed);
        Some(policy.now())
    }

    fn entries(&self) -> usize {
        self.policy.lock().as_ref().map_or(0, |p| p.entries())
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

    /// Lets the clocks of policies go on. Called by a background thread, ten times a second.
    pub fn tick_policies(&self, now_ms: u64) {
        self.eviction.tick(now_ms);
        for region in &self.regions() {
            region.eviction.tick(now_ms);
        }
    }

    /// Keys at most; 0: no limit. Those beyond are evicted, a moment later.
    pub fn set_max_items(&self, items: u64) {
        self.eviction.set_max_items(items);
        self.call_for_room();
    }

    /// Keys beyond their limit.
    pub fn items_over(&self) -> u64 {
        let keys = self.counters.keys.load(Ordering::Relaxed).max(0) as u64;
        match self.eviction.max_items() {
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
            self.eviction.change(kind);
            self.call_for_room();
        }
    }

    /// Queues all items, those of one segment under one lock.
    fn requeue(&self) {
        for slot in 0..SLOTS {
            let mut segment = 0;
            while self.lock(slot).queue_segment(slot, segment) {
                segment += 1;
            }
        }
    }

    /// Queues begin anew with another policy, and when most of what they hold is gone: keys that were deleted or expired, and not evicted,
    /// stay in them. Called by a background thread.
    pub fn tidy_queues(&self) {
        let regions = self.regions();
        let in_regions: u64 = regions.iter().map(|r| r.keys()).sum();
        let keys = self.counters.keys.load(Ordering::Relaxed).max(0) as u64;
        let mut fills = self.eviction.tidy(keys.saturating_sub(in_regions) as usize);
        for region in &regions {
            fills |= region.eviction.tidy(region.keys() as usize);
        }
        if fills {
            self.requeue();
        }
    }

    /// Evicts until about `bytes` bytes are freed, or nothing more is to be had. Each item goes under its own lock.
    pub fn evict(&self, bytes: u64) -> Evicted {
        let mut done = Evicted::default();
        while done.bytes < bytes || done.items == 0 {
            match self.evict_one() {
                Some(freed) => {
                    done.items += 1;
                    done.bytes += freed;
                }
                None => break,
            }
        }
        done
    }

    /// One in some is timed: asking for the time takes as long as the rest.
    fn timed<T>(&self, evict: impl FnOnce() -> T) -> T {
        match self.eviction.random().is_multiple_of(TIMED) {
            true => self.steps.time(Step::Eviction, evict),
            false => evict(),
        }
    }

    /// Evicts an item for the whole node's limits: what is in no region goes first, then of the fullest regions. Gives the bytes that went;
    /// None: nothing may go.
    pub fn evict_one(&self) -> Option<u64> {
        if !self.expires_locally() {
            return None;
        }
        self.evict_from(&self.eviction)
            .or_else(|| self.evict_from_fullest())
    }

    /// Evicts an item of those that a policy is for. However many are hot, one goes.
    pub(super) fn evict_from(&self, whose: &Eviction) -> Option<u64> {
        let (mut spared, mut passed) = (0, 0);
        while spared < TRIES {
            let candidate = whose.next();
            match self.try_candidate(whose, candidate)? {
                Tried::Evicted(freed) => {
                    for eviction in [whose, &self.eviction] {
                        eviction.evicted.fetch_add(1, Ordering::Relaxed);
                        eviction.evicted_bytes.fetch_add(freed, Ordering::Relaxed);
                        if std::ptr::eq(whose, &self.eviction) {
                            break;
                        }
                    }
                    return Some(freed);
                }
                Tried::Spared(count) => spared += count,
                Tried::Passed => {
                    passed += 1;
                    if passed % TRIES == 0 && passed > whose.entries() * ROUNDS {
                        return None;
                    }
                }
            }
        }
        None
    }

    /// None: there is no candidate.
    fn try_candidate(&self, whose: &Eviction, candidate: Candidate) -> Option<Tried> {
        let freed = match candidate {
            Candidate::Nothing => return None,
            Candidate::Queued(print, from) => {
                let judge = || self.lock(print.slot()).evict_queued(whose, print, from);
                return Some(self.timed(judge));
            }
            Candidate::Sample => {
                let (slot, hash) = self.sample(whose)?;
                self.timed(|| self.lock(slot).evict_point(whose, Point { slot, hash }))
            }
            Candidate::Drawn(prints, count) => {
                self.evict_drawn(whose, &prints[..usize::from(count)])
            }
        };
        let looked = match candidate {
            Candidate::Drawn(_, count) => usize::from(count),
            _ => 1,
        };
        Some(freed.map_or(Tried::Spared(looked), Tried::Evicted))
    }

    /// Evicts the item with the lowest score; the others come again after those that were not drawn.
    fn evict_drawn(&self, whose: &Eviction, prints: &[Print]) -> Option<u64> {
        let mut scores: Vec<(Option<Scored>, Print)> = Vec::with_capacity(prints.len());
        for &print in prints {
            // What is gone, or of another region by now, is drawn no more.
            if let Some(score) = self.lock(print.slot()).score_queued(whose, print) {
                scores.push((score, print));
            }
        }
        let worst = scores.iter().filter_map(|(scored, _)| *scored).min();
        for (scored, print) in scores {
            if (worst.is_none() || scored != worst)
                && let Some(policy) = &mut *whose.policy.lock()
            {
                policy.put_back(print);
            }
        }
        let Scored { slot, hash, .. } = worst?;
        self.timed(|| self.lock(slot).evict_point(whose, Point { slot, hash }))
    }

    /// Of some items at random places the one with the lowest score: its slot and hash.
    fn sample(&self, whose: &Eviction) -> Option<(u16, u64)> {
        let mut best: Option<Scored> = None;
        let (mut seen, mut empty) = (0, 0);
        for _ in 0..PLACES {
            let random = self.eviction.random();
            let first = (random % DOMAINS as u64) as usize;
            let mut domains = (first..DOMAINS).chain(0..first);
            let found = domains.find_map(|domain| {
                let look = |guard: Guard<'_>| guard.scores(whose, domain as u16, random >> 10);
                let scored = self.timed(|| look(self.lock_domains(std::iter::once(domain))));
                (!scored.is_empty()).then_some(scored)
            });
            // Most of a table's segments may be empty: another place may have some.
            let Some(scored) = found else {
                empty += 1;
                if empty == EMPTY {
                    break;
                }
                continue;
            };
            seen += scored.len();
            best = scored.into_iter().chain(best).min();
            if seen >= EVICTION_SAMPLES {
                break;
            }
        }
        best.map(|scored| (scored.slot, scored.hash))
    }
}
