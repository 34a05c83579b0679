//! When a key was last asked for, and how often, as far as the policy in force keeps that in items: an LRU's clock says how many items had
//! come in by then, and a history of that count says when.

use std::collections::VecDeque;

use super::evict::{Mark, counted, reads_of};
use super::eviction::Eviction;
use super::guard::Guard;
use super::item;
use super::point::Point;

/// Samples that are kept; of older ones ever fewer, so that what is long ago is known by the same part of its age.
const SAMPLES_MAX: usize = 1024;
/// Between samples at least.
const SAMPLE_MS: u64 = 1_000;
/// How long the count stands still at most, see [`Eviction::tick`]: also how fast it is taken to have risen before the first sample.
const TICK_MS: u64 = 100;

/// What is known of a key's use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// The policy keeps nothing of the kind.
    NotKept,
    /// It does, but the key was written before it was in force.
    NotYet,
    /// So many milliseconds ago it was asked for last.
    IdleMs(u64),
    /// How often it was asked for.
    Reads(u32),
}

/// When the policy's count was what.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<(u32, u64)>);

impl History {
    /// The count is so high now.
    fn note(&mut self, count: u32, now_ms: u64) {
        let due = |&(_, ms): &(u32, u64)| now_ms >= ms + SAMPLE_MS;
        if !self.0.back().is_none_or(due) {
            return;
        }
        self.0.push_back((count, now_ms));
        if self.0.len() > SAMPLES_MAX {
            // The older half loses every second of its samples, but not the first.
            let mut i = 0;
            self.0.retain(|_| {
                i += 1;
                i > SAMPLES_MAX / 2 || i % 2 == 1
            });
        }
    }

    /// When the count was `clock`; counts go round, so they are compared by how far they are from the present one.
    fn time_of(&self, clock: u32, now: (u32, u64)) -> u64 {
        let age = |count: u32| now.0.wrapping_sub(count);
        let mut later = now;
        for &sample in self.0.iter().rev() {
            if age(sample.0) >= age(clock) {
                let (span, into) = (later.0.wrapping_sub(sample.0), clock.wrapping_sub(sample.0));
                let ms = later.1.saturating_sub(sample.1);
                return sample.1 + ms * u64::from(into) / u64::from(span).max(1);
            }
            later = sample;
        }
        let before = u64::from(later.0.wrapping_sub(clock));
        later.1.saturating_sub(before * TICK_MS)
    }

    /// The count of a moment.
    fn count_at(&self, ms: u64, now: (u32, u64)) -> u32 {
        let mut later = now;
        for &sample in self.0.iter().rev() {
            if sample.1 <= ms {
                let (span, into) = (later.1.saturating_sub(sample.1), ms - sample.1);
                let counts = u64::from(later.0.wrapping_sub(sample.0));
                let risen = counts * into.min(span) / span.max(1);
                return sample.0.wrapping_add(risen as u32);
            }
            later = sample;
        }
        // Rather a tick too idle than too little.
        let before = later.1.saturating_sub(ms).div_ceil(TICK_MS);
        // What is older than counts reach is as old as they reach.
        let before = before.min(u64::from(u32::MAX / 2));
        later.0.wrapping_sub(before as u32)
    }
}

impl Eviction {
    /// Lets the clock go on while nothing comes in, and notes when it was what. Called by a background thread, every [`TICK_MS`].
    pub fn tick(&self, now_ms: u64) {
        if self.mark() != Mark::Time {
            return;
        }
        if let Some(count) = self.advance() {
            self.history.lock().note(count, now_ms);
        }
    }

    fn usage(&self, clock: Option<u32>, now_ms: u64) -> Usage {
        match (self.mark(), clock) {
            (Mark::Nothing | Mark::Heat, _) => Usage::NotKept,
            (Mark::Time | Mark::Count, None) => Usage::NotYet,
            (Mark::Time, Some(clock)) => {
                let then = self.history.lock().time_of(clock, (self.now(), now_ms));
                Usage::IdleMs(now_ms.saturating_sub(then))
            }
            (Mark::Count, Some(clock)) => Usage::Reads(reads_of(clock)),
        }
    }

    /// The clock of a key with such a use; None: the policy keeps another or none.
    fn clock_of(&self, usage: Usage, now_ms: u64) -> Option<u32> {
        match (self.mark(), usage) {
            (Mark::Time, Usage::IdleMs(ms)) => {
                let then = now_ms.saturating_sub(ms);
                Some(self.history.lock().count_at(then, (self.now(), now_ms)))
            }
            (Mark::Count, Usage::Reads(0)) => Some(0),
            (Mark::Count, Usage::Reads(reads)) => Some(counted((reads - 1) << 20, self.now())),
            _ => None,
        }
    }
}

impl Guard<'_> {
    /// What is known of the use of a key, which is not used by this; None: there is no such key.
    pub fn usage(&self, p: Point, key: &[u8], now_ms: u64) -> Option<Usage> {
        let item = self.peek(p, key, now_ms)?;
        Some(self.eviction_of(p, key).usage(item.clock(), now_ms))
    }

    /// Sets the use of a key, where the policy in force keeps it.
    pub fn set_usage(&mut self, p: Point, key: &[u8], usage: Usage, now_ms: u64) {
        let Some(clock) = self.eviction_of(p, key).clock_of(usage, now_ms) else {
            return;
        };
        if let Some(at) = self.place_of(p, key) {
            // SAFETY: the item is live and locked, and nobody holds an ItemRef to it.
            unsafe { item::set_clock(self.pages(), at, clock) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A count that rises by chance, once past its end: what is told of any moment is right but for a small part of its age.
    #[test]
    fn what_was_when_is_known_by_a_part_of_its_age() {
        for start in [0u32, u32::MAX - 50_000] {
            let mut history = History::default();
            let (mut count, mut ms) = (start, 1_000_000);
            let mut truth = Vec::new();
            for second in 0..20_000u64 {
                history.note(count, ms);
                truth.push((count, ms));
                count = count.wrapping_add(10 + (second * second % 37) as u32);
                ms += SAMPLE_MS;
            }
            assert!(history.0.len() <= SAMPLES_MAX);
            let now = (count, ms);
            for &(clock, then) in &truth {
                let (told, age) = (history.time_of(clock, now), ms - then);
                assert!(told.abs_diff(then) <= age / 50 + 2_000, "{told} for {then}");
                let back = history.time_of(history.count_at(then, now), now);
                assert!(back.abs_diff(then) <= age / 50 + 2_000, "{back} for {then}");
            }
        }
    }

    #[test]
    fn before_the_first_sample_the_count_is_taken_to_have_ticked() {
        let mut history = History::default();
        history.note(500, 10_000_000);
        let now = (500, 10_000_000);
        for idle_ms in [0, 100, 5_000, 1_000_000, 9_999_900] {
            let clock = history.count_at(10_000_000 - idle_ms, now);
            assert_eq!(history.time_of(clock, now), 10_000_000 - idle_ms);
        }
    }
}
