//! The part of eviction that is done under an item's lock: what reads leave in it, how it scores, and how it goes.

use super::domain::SlotState;
use super::evict::{Mark, Print, Queue, Seen, Verdict};
use super::eviction::{Eviction, Tried};
use super::guard::Guard;
use super::item::{self, ItemRef};
use super::notify::class;
use super::pages::Ref;
use super::point::{Point, SLOTS_PER_DOMAIN, hash_of};
use super::table::Spot;

/// Items that a sampled policy looks at in one place.
const SAMPLES_HERE: usize = 7;
/// Items looked at in one table for some that may go.
const LOOKED_HERE: usize = 512;

/// An item that was looked at. Of equal scores chance decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scored {
    score: u64,
    chance: u64,
    pub slot: u16,
    pub hash: u64,
}

impl Guard<'_> {
    /// Notes that an item was asked for.
    pub(super) fn touch(&self, slot: u16, at: Ref) {
        let eviction = self.eviction_at(slot, at);
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
    pub(super) fn keep_heat(&self, slot: u16, old: Ref, new: Ref) {
        if self.eviction_at(slot, old).mark() == Mark::Heat {
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
    pub(super) fn queue_segment(&self, slot: u16, segment: usize) -> bool {
        let table = self.table(slot);
        if segment >= table.segment_count() {
            return false;
        }
        for at in table.segment(segment).refs() {
            self.eviction_at(slot, at).found(self.point_of(slot, at));
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

    fn is_of(&self, whose: &Eviction, slot: u16, at: Ref) -> bool {
        std::ptr::eq(self.eviction_at(slot, at), whose)
    }

    fn find_queued(&self, whose: &Eviction, print: Print) -> Option<(Spot, Ref)> {
        let slot = print.slot();
        let is = |at| Print::of(self.point_of(slot, at)) == print && self.is_of(whose, slot, at);
        self.table(slot).find_print(print, &is)
    }

    /// Lets the policy judge an item of its queue.
    pub(super) fn evict_queued(&mut self, whose: &Eviction, print: Print, from: Queue) -> Tried {
        let slot = print.slot();
        let Some((spot, at)) = self.find_queued(whose, print) else {
            return Tried::Passed;
        };
        let seen = Self::seen(self.item(at));
        let mut policy = whose.policy.lock();
        let Some(policy) = policy.as_mut() else {
            return Tried::Passed;
        };
        if self.slot_state(slot) != SlotState::Serve {
            policy.put_back(print);
            return Tried::Spared(1);
        }
        match policy.judge(print, from, seen) {
            Verdict::Evict => Tried::Evicted(self.evict(slot, spot, at)),
            Verdict::Keep(heat) => {
                // SAFETY: the item is live and locked, and nobody holds an ItemRef to it.
                unsafe { item::set_heat(&self.store().pages, at, heat) };
                Tried::Passed
            }
        }
    }

    /// The score of an item that was drawn, None if it may not go. None: there is no such item.
    pub(super) fn score_queued(&self, whose: &Eviction, print: Print) -> Option<Option<Scored>> {
        let slot = print.slot();
        let (_, at) = self.find_queued(whose, print)?;
        let policy = whose.policy.lock();
        let score = match self.slot_state(slot) {
            SlotState::Serve => policy.as_ref()?.score(Self::seen(self.item(at))),
            _ => None,
        };
        let hash = self.point_of(slot, at).hash;
        Some(score.map(|score| Scored {
            score,
            chance: hash.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            slot,
            hash,
        }))
    }

    pub(super) fn evict_point(&mut self, whose: &Eviction, p: Point) -> Option<u64> {
        if self.slot_state(p.slot) != SlotState::Serve {
            return None;
        }
        let is = |at| self.point_of(p.slot, at) == p && self.is_of(whose, p.slot, at);
        let (spot, at) = self.table(p.slot).find(p.hash, is)?;
        Some(self.evict(p.slot, spot, at))
    }

    fn evict(&mut self, slot: u16, spot: Spot, at: Ref) -> u64 {
        let bytes = self.item(at).bytes() as u64;
        self.log_delete(slot, at, (class::EVICTED, "evicted"));
        self.take_out_here(slot, spot, at);
        self.shrink(slot, spot.segment as usize);
        bytes
    }

    /// Some items at a random place of a domain.
    pub(super) fn scores(&self, whose: &Eviction, domain: u16, random: u64) -> Vec<Scored> {
        let policy = whose.policy.lock();
        let Some(policy) = &*policy else {
            return Vec::new();
        };
        let mut scores = Vec::new();
        let first = domain * SLOTS_PER_DOMAIN;
        let tables = &self.domain(first).tables;
        if policy.only_expiring() && tables.iter().all(|table| table.expiring == 0) {
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
                if let Some(score) = policy.score(Self::seen(self.item(at)))
                    && self.is_of(whose, slot, at)
                {
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
