//! What was evicted a short while ago, two bytes each: a set of fingerprints that forgets the oldest.
//!
//! An entry is a number that says a hash and the epoch it came in. An entry of the epoch that has begun and of the seven before is remembered,
//! an older one is wiped by and by, before its epoch's number comes again. In the middle of an epoch that is as many entries as are to be
//! remembered. The fewer epochs, the more hashes, and the rarer is something new taken for what was evicted: once in a thousand times or so.

use super::Print;

const WAYS: usize = 8;
/// Numbers of epochs.
const EPOCHS: u16 = 9;
/// Epochs that are remembered, beside the one that has begun.
const REMEMBERED: u16 = EPOCHS - 2;
/// Hashes that are told apart: an entry is one more than hash * epochs + epoch, zero is an empty way.
const HASHES: u64 = (u16::MAX / EPOCHS) as u64;
/// Buckets wiped with each entry that comes: all of them in less than an epoch.
const WIPED: usize = 3;
const BUCKETS_MIN: usize = 16;

/// See the module's text.
#[derive(Debug)]
pub struct Ghost {
    buckets: Vec<[u16; WAYS]>,
    /// Entries to be remembered.
    capacity: usize,
    epoch: u16,
    /// Entries of this epoch.
    count: usize,
    wipe: usize,
}

impl Default for Ghost {
    fn default() -> Self {
        Self {
            buckets: vec![[0; WAYS]; BUCKETS_MIN],
            capacity: BUCKETS_MIN * WAYS / 2,
            epoch: 0,
            count: 0,
            wipe: 0,
        }
    }
}

impl Ghost {
    pub fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<[u16; WAYS]>()
    }

    /// Remembers so many entries from now on. What it holds is forgotten when that takes another table: the sizes are powers of two, far
    /// apart.
    pub fn resize(&mut self, capacity: usize) {
        self.capacity = capacity.max(1);
        let buckets = (capacity + capacity / 4).div_ceil(WAYS);
        let buckets = buckets.next_power_of_two().max(BUCKETS_MIN);
        if buckets > self.buckets.len() || buckets * 4 < self.buckets.len() {
            *self = Self {
                buckets: vec![[0; WAYS]; buckets],
                capacity: self.capacity,
                ..Self::default()
            };
        }
    }

    /// Its bucket, and its entry but for the epoch.
    fn place(&self, print: Print) -> (usize, u16) {
        let hash = u64::from(print.0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let bucket = (hash >> 40) as usize & (self.buckets.len() - 1);
        let tag = ((hash >> 8 & 0xFFFF_FFFF) * HASHES) >> 32;
        (bucket, tag as u16 * EPOCHS + 1)
    }

    /// Epochs since an entry came.
    fn age(entry: u16, epoch: u16) -> u16 {
        (epoch + EPOCHS - (entry - 1) % EPOCHS) % EPOCHS
    }

    /// Whether it is remembered; then it is forgotten, and another one is remembered for longer.
    pub fn take(&mut self, print: Print) -> bool {
        let (bucket, first) = self.place(print);
        let epoch = self.epoch;
        let found = self.buckets[bucket].iter_mut().find(|entry| {
            (first..first + EPOCHS).contains(entry) && Self::age(**entry, epoch) <= REMEMBERED
        });
        let taken = found.map(|entry| *entry = 0).is_some();
        self.count = self.count.saturating_sub(usize::from(taken));
        taken
    }

    pub fn add(&mut self, print: Print) {
        self.count += 1;
        if self.count * usize::from(2 * REMEMBERED + 1) >= self.capacity * 2 {
            self.count = 0;
            self.epoch = (self.epoch + 1) % EPOCHS;
        }
        for _ in 0..WIPED {
            self.wipe_bucket();
        }
        let (bucket, first) = self.place(print);
        let ages = self.buckets[bucket].map(|entry| match entry {
            0 => u16::MAX,
            entry => Self::age(entry, self.epoch),
        });
        let oldest = (0..WAYS).max_by_key(|&i| ages[i]).unwrap_or(0);
        self.buckets[bucket][oldest] = first + self.epoch;
    }

    fn wipe_bucket(&mut self) {
        let epoch = self.epoch;
        for entry in &mut self.buckets[self.wipe] {
            if *entry != 0 && Self::age(*entry, epoch) > REMEMBERED {
                *entry = 0;
            }
        }
        self.wipe = (self.wipe + 1) & (self.buckets.len() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_latest_and_forgets_the_oldest() {
        let mut ghost = Ghost::default();
        ghost.resize(10_000);
        for i in 0..200_000u32 {
            ghost.add(Print(i * 7));
        }
        let known = |ghost: &mut Ghost, from: u32, upto: u32| {
            (from..upto).filter(|i| ghost.take(Print(i * 7))).count()
        };
        let latest = known(&mut ghost, 191_000, 200_000);
        assert!(latest > 8_900, "{latest} of the latest 9,000");
        assert!(known(&mut ghost, 191_000, 200_000) < 100, "taken once");
        let old = known(&mut ghost, 0, 188_000);
        assert!(old < 188_000 / 100, "{old} of those that are long gone");
        assert!(ghost.bytes() <= 10_000 * 4);
    }
}
