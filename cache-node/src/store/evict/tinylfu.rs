//! W-TinyLFU (TOS 2017): new items pass a window, a hundredth of all; from there an item takes the place of the main queue's next only if a
//! sketch says that it was asked for more often. The main queue spares what was read since it last came by.

use super::fifo::Fifo;
use super::{Candidate, Mark, Policy, Print, Queue, Seen, Verdict};

/// The window's part of all items: one in a hundred.
const WINDOW_PART: usize = 100;
const ROWS: usize = 4;
const COUNTERS_MIN: usize = 1024;
const COUNT_MAX: u8 = 15;
/// Counts are halved after so many entries for each counter of a row.
const AGING: usize = 10;
/// Counters of each row that are halved at a time.
const AGED: usize = 64;

/// How often a fingerprint came, roughly: a count-min sketch that halves all counts from time to time.
#[derive(Debug)]
struct Sketch {
    rows: [Vec<u8>; ROWS],
    added: usize,
    /// Counters below are halved; all of them, most of the time.
    aged: usize,
}

impl Default for Sketch {
    fn default() -> Self {
        Self::of(COUNTERS_MIN)
    }
}

impl Sketch {
    fn of(counters: usize) -> Self {
        Self {
            rows: std::array::from_fn(|_| vec![0; counters]),
            added: 0,
            aged: counters,
        }
    }

    /// Has a counter for each of so many items. The counts begin anew when that takes other tables.
    fn resize(&mut self, items: usize) {
        let counters = items.next_power_of_two().max(COUNTERS_MIN);
        if counters > self.rows[0].len() || counters * 4 < self.rows[0].len() {
            *self = Self::of(counters);
        }
    }

    fn places(&self, print: Print) -> [usize; ROWS] {
        const SEEDS: [u64; ROWS] = [
            0x9E37_79B9_7F4A_7C15,
            0xC2B2_AE3D_27D4_EB4F,
            0x1656_67B1_9E37_79F9,
            0x27D4_EB2F_1656_67C5,
        ];
        let mask = self.rows[0].len() - 1;
        SEEDS.map(|seed| (u64::from(print.0) + 1).wrapping_mul(seed) as usize >> 24 & mask)
    }

    fn add(&mut self, print: Print, times: u8) {
        let least = self.count(print);
        let count = (least + times).min(COUNT_MAX);
        for (row, place) in self.places(print).into_iter().enumerate() {
            let counter = &mut self.rows[row][place];
            *counter = (*counter).max(count);
        }
        self.added += usize::from(times);
        if self.added >= self.rows[0].len() * AGING {
            self.added /= 2;
            self.aged = 0;
        }
        let end = self.rows[0].len().min(self.aged + AGED);
        for row in &mut self.rows {
            row[self.aged..end].iter_mut().for_each(|c| *c /= 2);
        }
        self.aged = end;
    }

    fn count(&self, print: Print) -> u8 {
        let places = self.places(print).into_iter().enumerate();
        let counts = places.map(|(row, place)| self.rows[row][place]);
        counts.min().unwrap_or(0)
    }
}

#[derive(Debug, Default)]
pub struct WTinyLfu {
    window: Fifo,
    main: Fifo,
    sketch: Sketch,
    /// What left the window and wants a place.
    challenger: Option<Print>,
    /// A challenger that found none: the next to go.
    loser: Option<Print>,
}

impl Policy for WTinyLfu {
    fn mark(&self) -> Mark {
        Mark::Heat
    }

    fn inserted(&mut self, print: Print) {
        self.sketch.resize(self.window.len() + self.main.len());
        self.sketch.add(print, 1);
        self.window.push(print);
    }

    fn next(&mut self) -> Candidate {
        if let Some(loser) = self.loser.take() {
            return Candidate::Queued(loser, Queue::Small);
        }
        let all = self.window.len() + self.main.len();
        if self.challenger.is_none() && self.window.len() * WINDOW_PART > all {
            self.challenger = self.window.pop();
        }
        match self.main.pop() {
            Some(print) => Candidate::Queued(print, Queue::Main),
            // There is nobody to be challenged.
            None => match self.challenger.take().or_else(|| self.window.pop()) {
                Some(print) => Candidate::Queued(print, Queue::Small),
                None => Candidate::Nothing,
            },
        }
    }

    fn judge(&mut self, print: Print, from: Queue, seen: Seen) -> Verdict {
        if seen.heat > 0 {
            self.sketch.add(print, seen.heat);
            self.main.push(print);
            return Verdict::Keep(0);
        }
        if from == Queue::Small {
            return Verdict::Evict;
        }
        match self.challenger.take() {
            Some(new) if self.sketch.count(new) > self.sketch.count(print) => {
                self.main.push(new);
                Verdict::Evict
            }
            Some(new) => {
                self.main.push(print);
                self.loser = Some(new);
                Verdict::Keep(0)
            }
            None => Verdict::Evict,
        }
    }

    fn put_back(&mut self, print: Print) {
        self.main.push(print);
        // Who was to take its place goes, or who would be next to: else nothing might.
        let loser = self.loser.take().or_else(|| self.challenger.take());
        self.loser = loser.or_else(|| self.window.pop());
    }

    fn score(&self, _: Seen) -> Option<u64> {
        None
    }

    fn entries(&self) -> usize {
        self.window.len() + self.main.len()
    }

    fn bytes(&self) -> usize {
        let rows: usize = self.sketch.rows.iter().map(Vec::len).sum();
        self.window.bytes() + self.main.bytes() + rows
    }
}
