//! Which item goes when room is needed: policies behind one trait.
//!
//! A policy of queues holds four bytes an item, its fingerprint; how hot an item is stands in two bits of the item itself, so that a read
//! takes no lock beyond its slot's. A sampled policy holds nothing: it looks at some items and takes the one with the lowest score, which
//! comes of a clock in the item.

mod fifo;
mod ghost;
mod queues;
mod s3fifo;
mod sampled;
mod sieve;
mod tinylfu;

use super::point::Point;
pub use sampled::{counted, reads_of};

/// Where an item is, roughly: slot:14 | tag:8 | upper bits of the position:10. Of two items with one fingerprint either may be meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Print(pub u32);

/// Bits of the position in a fingerprint.
pub const PRINT_POS_BITS: u32 = 10;

impl Print {
    pub fn of(p: Point) -> Self {
        Self(u32::from(p.slot) << 18 | u32::from(p.tag()) << PRINT_POS_BITS | (p.hash >> 54) as u32)
    }

    pub fn slot(self) -> u16 {
        (self.0 >> 18) as u16
    }

    pub fn tag(self) -> u8 {
        (self.0 >> PRINT_POS_BITS) as u8
    }

    /// The upper bits of the position.
    pub fn prefix(self) -> u64 {
        u64::from(self.0 & ((1 << PRINT_POS_BITS) - 1))
    }
}

/// What a read leaves in the item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mark {
    Nothing = 0,
    /// Its heat rises.
    Heat = 1,
    /// Its clock is set to the present.
    Time = 2,
    /// Its clock counts.
    Count = 3,
}

/// What a policy sees of an item.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    pub heat: u8,
    pub clock: u32,
    pub expires_at: Option<u64>,
}

/// Fingerprints that are drawn at once.
pub const DRAWN: usize = 16;

/// Where the next candidate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candidate {
    /// From a queue; to be judged with the tag.
    Queued(Print, Queue),
    /// The lowest score of some items at random places.
    Sample,
    /// The lowest score of these, as many as are said, drawn from a queue of all: they are out of it.
    Drawn([Print; DRAWN], u8),
    /// There is none.
    Nothing,
}

/// Names a policy's queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    Small,
    Main,
}

/// What becomes of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Evict,
    /// It stays, with this heat.
    Keep(u8),
}

/// A way to choose. One instance for what shares a budget.
pub trait Policy: Send {
    fn mark(&self) -> Mark;

    /// An item came in.
    fn inserted(&mut self, print: Print);

    /// The next candidate. One from a queue is out of it.
    fn next(&mut self) -> Candidate;

    /// Decides on a queued candidate that is still there.
    fn judge(&mut self, print: Print, from: Queue, seen: Seen) -> Verdict;

    /// A queued candidate may not go now: it comes again after all others.
    fn put_back(&mut self, print: Print);

    /// The lowest goes; None: this one may not.
    fn score(&self, seen: Seen) -> Option<u64>;

    /// Whether only items with an expiry go.
    fn only_expiring(&self) -> bool {
        false
    }

    /// The present, for clocks of items: how many came in.
    fn now(&self) -> u32 {
        0
    }

    /// Time goes on: clocks of items that are set from now on are later ones.
    fn tick(&mut self) {}

    /// Fingerprints in its queues.
    fn entries(&self) -> usize;

    /// Bytes it holds.
    fn bytes(&self) -> usize;
}

/// Every policy, by the name that is set and shown. Those of Redis's names that evict by the same rule are mapped; the rest are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum PolicyKind {
    #[default]
    NoEviction,
    S3Fifo,
    Sieve,
    Fifo,
    WTinyLfu,
    AllKeysLru,
    AllKeysLfu,
    AllKeysRandom,
    VolatileLru,
    VolatileLfu,
    VolatileRandom,
    VolatileTtl,
}

impl PolicyKind {
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::NoEviction, "noeviction"),
        (Self::S3Fifo, "s3-fifo"),
        (Self::Sieve, "sieve"),
        (Self::Fifo, "fifo"),
        (Self::WTinyLfu, "w-tinylfu"),
        (Self::AllKeysLru, "allkeys-lru"),
        (Self::AllKeysLfu, "allkeys-lfu"),
        (Self::AllKeysRandom, "allkeys-random"),
        (Self::VolatileLru, "volatile-lru"),
        (Self::VolatileLfu, "volatile-lfu"),
        (Self::VolatileRandom, "volatile-random"),
        (Self::VolatileTtl, "volatile-ttl"),
    ];

    /// By its name, or a short one.
    pub fn named(name: &str) -> Option<Self> {
        let name = match name.to_ascii_lowercase().as_str() {
            "none" => "noeviction".into(),
            "lru" => "allkeys-lru".into(),
            "lfu" => "allkeys-lfu".into(),
            "random" => "allkeys-random".into(),
            "ttl" => "volatile-ttl".into(),
            name => name.to_owned(),
        };
        let found = Self::ALL.iter().find(|(_, n)| *n == name);
        found.map(|(kind, _)| *kind)
    }

    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    pub fn from_index(index: u8) -> Self {
        let found = Self::ALL.iter().find(|(kind, _)| *kind as u8 == index);
        found.map_or(Self::NoEviction, |(kind, _)| *kind)
    }

    /// An instance; None: nothing is evicted. `pooled`: its items are few among others, so that those it looks at come from a queue of its
    /// own and not from random places.
    pub fn policy(self, pooled: bool) -> Option<Box<dyn Policy>> {
        use sampled::{Rule, Sampled};
        let sampled =
            |rule, volatile| Some(Box::new(Sampled::new(rule, volatile, pooled)) as Box<_>);
        match self {
            Self::NoEviction => None,
            Self::S3Fifo => Some(Box::new(s3fifo::S3Fifo::default())),
            Self::Sieve => Some(Box::new(sieve::Sieve::default())),
            Self::Fifo => Some(Box::new(queues::FirstIn::default())),
            Self::WTinyLfu => Some(Box::new(tinylfu::WTinyLfu::default())),
            Self::AllKeysLru => sampled(Rule::Recency, false),
            Self::AllKeysLfu => sampled(Rule::Frequency, false),
            Self::AllKeysRandom => sampled(Rule::Random, false),
            Self::VolatileLru => sampled(Rule::Recency, true),
            Self::VolatileLfu => sampled(Rule::Frequency, true),
            Self::VolatileRandom => sampled(Rule::Random, true),
            Self::VolatileTtl => sampled(Rule::Expiry, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_has_one_name_and_is_found_by_it() {
        for (i, (kind, name)) in PolicyKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, i);
            assert_eq!(PolicyKind::named(name), Some(*kind));
            assert_eq!(
                (kind.name(), PolicyKind::from_index(i as u8)),
                (*name, *kind)
            );
            assert_eq!(kind.policy(false).is_none(), i == 0);
        }
        assert_eq!(PolicyKind::named("LRU"), Some(PolicyKind::AllKeysLru));
        assert_eq!(PolicyKind::named("allkeys"), None);
    }

    #[test]
    fn a_fingerprint_holds_slot_tag_and_place() {
        let p = Point {
            slot: 16_383,
            hash: 0xABCD_0000_0000_00EF,
        };
        let print = Print::of(p);
        assert_eq!(
            (print.slot(), print.tag(), print.prefix()),
            (16_383, 0xEF, 0xABCD >> 6)
        );
    }
}
