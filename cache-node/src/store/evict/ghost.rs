//! What was evicted a short while ago, two bytes each: a set of fingerprints that forgets the oldest.
//!
//! An entry is 11 bits of a hash and the 5 bits of the epoch it came in; an epoch lasts for a twelfth of the entries that are remembered. An
//! entry of the thirteen latest epochs is remembered, an older one is wiped by and by, before its epoch's number comes again.

use super::Print;

const WAYS: usize = 8;
const EPOCH_BITS: u32 = 5;
const EPOCH_MASK: u16 = (1 << EPOCH_BITS) - 1;
/// Epochs that are remembered, beside the one that has begun.
const EPOCHS: u16 = 12;
/// Buckets wiped with each entry that comes: all of them in a few epochs.
const WIPED: usize = 2;
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
            epoch: 1,
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

    fn place(&self, print: Print) -> (usize, u16) {
        let hash = u64::from(print.0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let bucket = (hash >> 40) as usize & (self.buckets.len() - 1);
        // Never zero, which is an empty way.
        let tag = ((hash >> 20) as u16 & 0x7FF).max(1);
        (bucket, tag << EPOCH_BITS)
    }

    fn age(&self, entry: u16) -> u16 {
        self.epoch.wrapping_sub(entry) & EPOCH_MASK
    }

    /// Whether it is remembered; then it is forgotten.
    pub fn take(&mut self, print: Print) -> bool {
        let (bucket, tag) = self.place(print);
        let epoch = self.epoch;
        let found = self.buckets[bucket].iter_mut().find(|entry| {
            **entry & !EPOCH_MASK == tag && epoch.wrapping_sub(**entry) & EPOCH_MASK <= EPOCHS
        });
        found.map(|entry| *entry = 0).is_some()
    }

    pub fn add(&mut self, print: Print) {
        self.count += 1;
        if self.count * usize::from(EPOCHS) >= self.capacity {
            self.count = 0;
            self.epoch = (self.epoch + 1) & EPOCH_MASK;
        }
        for _ in 0..WIPED {
            self.wipe_bucket();
        }
        let (bucket, tag) = self.place(print);
        let ages = self.buckets[bucket].map(|entry| match entry {
            0 => u16::MAX,
            entry => self.age(entry),
        });
        let oldest = (0..WAYS).max_by_key(|&i| ages[i]).unwrap_or(0);
        self.buckets[bucket][oldest] = tag | self.epoch;
    }

    fn wipe_bucket(&mut self) {
        let epoch = self.epoch;
        for entry in &mut self.buckets[self.wipe] {
            if epoch.wrapping_sub(*entry) & EPOCH_MASK > EPOCHS {
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
