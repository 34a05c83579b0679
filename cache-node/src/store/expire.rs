//! Removes what has expired: only buckets that are due are looked at, some under each lock.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::Store;
use super::domain::SlotState;
use super::due::{Due, NEVER, due_at, unit_of};
use super::guard::Guard;
use super::notify::class;
use super::point::{DOMAINS, Point, SLOTS_PER_DOMAIN};
use super::prefetch;
use super::segment::Place;
use super::steps::Step;
use super::table::Spot;

/// Buckets that are looked at under one lock, and segments that are passed over.
const BUCKETS: usize = 16;
const SEGMENTS: usize = 2048;

/// What a round has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    pub items: u64,
    /// How long the latest of them had been expired, in milliseconds.
    pub lag_ms: u64,
    /// All domains were looked at.
    pub done: bool,
}

/// Where the round in a domain stands.
#[derive(Debug, Clone, Copy)]
pub struct Sweep {
    /// Slot of the domain, its segment, and the bucket of that: each is looked at once in a round.
    slot: u16,
    segment: usize,
    bucket: usize,
    /// When the next item of what was looked at is due.
    next: Due,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            slot: 0,
            segment: 0,
            bucket: 0,
            next: NEVER,
        }
    }
}

/// When each domain's next item is due, or earlier.
#[derive(Debug)]
pub(super) struct DomainDues(Box<[AtomicU32]>);

impl Default for DomainDues {
    fn default() -> Self {
        Self((0..DOMAINS).map(|_| AtomicU32::new(NEVER)).collect())
    }
}

impl DomainDues {
    /// An item of the domain is due then. Called under its lock.
    pub fn note(&self, domain: usize, due: Due) {
        if due < self.0[domain].load(Ordering::Relaxed) {
            self.0[domain].store(due, Ordering::Relaxed);
        }
    }

    fn is_due(&self, domain: usize, now: Due) -> bool {
        self.0[domain].load(Ordering::Relaxed) <= now
    }

    fn forget(&self, domain: usize) {
        self.0[domain].store(NEVER, Ordering::Relaxed);
    }
}

impl Store {
    /// Whether what has expired is removed before anybody asks for it.
    pub fn set_sweeps(&self, yes: bool) {
        self.sweeps.store(yes, Ordering::Relaxed);
    }

    /// Removes what has expired, until all is looked at or the time is over.
    pub fn expire(&self, now_ms: u64, until: Instant) -> Expired {
        let mut expired = Expired {
            done: true,
            ..Expired::default()
        };
        if !self.expires_locally() || !self.sweeps.load(Ordering::Relaxed) {
            return expired;
        }
        let now = unit_of(now_ms);
        for domain in 0..DOMAINS {
            let mut more = self.dues.is_due(domain, now);
            while more {
                more = self.steps.time(Step::Expiry, || {
                    let mut guard = self.lock_domains(std::iter::once(domain));
                    guard.expire_some(domain, now_ms, &mut expired)
                });
                if more && Instant::now() >= until {
                    expired.done = false;
                    return expired;
                }
            }
        }
        self.counters
            .expire_lag_ms
            .store(expired.lag_ms, Ordering::Relaxed);
        expired
    }
}

impl Guard<'_> {
    /// Goes on with a domain. Whether there is more to do in it.
    fn expire_some(&mut self, domain: usize, now_ms: u64, expired: &mut Expired) -> bool {
        let now = unit_of(now_ms);
        let mut sweep = std::mem::take(self.sweep(domain));
        if (sweep.slot, sweep.segment, sweep.bucket) == (0, 0, 0) {
            // What is inserted from now on is noted again; what is there is looked at.
            self.store().dues.forget(domain);
        }
        let from = (sweep.slot, sweep.segment, sweep.bucket);
        let first = domain as u16 * SLOTS_PER_DOMAIN;
        prefetch::due(&self.store().pages, self.domain(first), from, now);
        let (mut buckets, mut segments) = (BUCKETS, SEGMENTS);
        while sweep.slot < SLOTS_PER_DOMAIN {
            let slot = domain as u16 * SLOTS_PER_DOMAIN + sweep.slot;
            let looks = self.slot_state(slot) != SlotState::Importing;
            // What is being imported expires where it is still owned.
            let at = if looks { now } else { 0 };
            let table = self.table(slot);
            let (found, next, end) = table.due_segment(sweep.segment, segments, at);
            sweep.next = sweep.next.min(next);
            segments -= end.saturating_sub(sweep.segment).min(segments);
            if end > sweep.segment {
                (sweep.segment, sweep.bucket) = (end, 0);
            }
            if let Some(segment) = found {
                if looks {
                    let from = sweep.bucket;
                    let next =
                        self.expire_segment((slot, segment), from, now_ms, &mut buckets, expired);
                    if let Some(bucket) = next {
                        sweep.bucket = bucket;
                        return self.pause_sweep(domain, sweep);
                    }
                }
                sweep.bucket = 0;
                if segment < self.table(slot).segment_count() {
                    sweep.next = sweep.next.min(self.table(slot).segment(segment).due());
                    sweep.segment = segment + 1;
                }
            }
            if sweep.segment >= self.table(slot).segment_count() {
                (sweep.slot, sweep.segment, sweep.bucket) = (sweep.slot + 1, 0, 0);
            } else if segments == 0 {
                return self.pause_sweep(domain, sweep);
            }
        }
        self.store().dues.note(domain, sweep.next);
        false
    }

    /// The domain stays due until the round has come to its end.
    fn pause_sweep(&mut self, domain: usize, sweep: Sweep) -> bool {
        *self.sweep(domain) = sweep;
        self.store().dues.note(domain, 0);
        true
    }

    /// Looks at the due buckets of a segment. Gives where to go on, when `buckets` are used up.
    fn expire_segment(
        &mut self,
        (slot, segment): (u16, usize),
        mut from: usize,
        now_ms: u64,
        buckets: &mut usize,
        expired: &mut Expired,
    ) -> Option<usize> {
        let now = unit_of(now_ms);
        while let Some(bucket) = self.table(slot).segment(segment).due_bucket(from, now) {
            if *buckets == 0 {
                return Some(bucket);
            }
            *buckets -= 1;
            self.expire_bucket((slot, segment), bucket, now_ms, expired);
            from = bucket + 1;
        }
        // Buckets stay where they are until all were looked at.
        self.shrink(slot, segment);
        None
    }

    fn expire_bucket(
        &mut self,
        (slot, segment): (u16, usize),
        bucket: usize,
        now_ms: u64,
        expired: &mut Expired,
    ) {
        let mut next = NEVER;
        let mut gone: Vec<(Place, super::Ref)> = Vec::new();
        for (place, at) in self.table(slot).segment(segment).places(bucket) {
            let expires_at = self.item(at).expires_at();
            match expires_at {
                Some(time) if time <= now_ms => {
                    expired.lag_ms = expired.lag_ms.max(now_ms - time);
                    gone.push((place, at));
                }
                time => next = next.min(due_at(time)),
            }
        }
        for &(place, at) in &gone {
            let spot = Spot {
                segment: segment as u32,
                place,
            };
            self.log_delete(slot, at, (class::EXPIRED, "expired"));
            self.take_out_here(slot, spot, at);
            self.store().counters.expired();
            expired.items += 1;
        }
        self.table_mut(slot)
            .segment_mut(segment)
            .set_due(bucket, next);
    }

    /// Logs that an item goes, if somebody listens.
    pub(super) fn log_delete(&mut self, slot: u16, at: super::Ref, event: (u32, &'static str)) {
        let p = Point { slot, hash: 0 };
        if self.is_observed(p) {
            let key = self.item(at).key().to_vec();
            let p = self.store().point(&key);
            self.log_as(p, &[b"DEL", &key], Some(event));
        }
    }
}
