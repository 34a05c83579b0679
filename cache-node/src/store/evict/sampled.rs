//! Policies that look at some items and take the one that matters least: by time since its last read, by reads, by expiry, or by chance.

use super::fifo::Fifo;
use super::{Candidate, DRAWN, Mark, Policy, Print, Queue, Seen, Verdict};

/// What makes an item matter less than another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    Recency,
    Frequency,
    Random,
    Expiry,
}

#[derive(Debug)]
pub struct Sampled {
    rule: Rule,
    /// Only what has an expiry goes.
    volatile: bool,
    /// Items that came in.
    now: u32,
    random: u64,
    /// Items, of which some are looked at.
    pool: Option<Fifo>,
}

impl Sampled {
    pub fn new(rule: Rule, volatile: bool, pooled: bool) -> Self {
        Self {
            rule,
            volatile,
            now: 0,
            random: 0,
            pool: pooled.then(Fifo::default),
        }
    }
}

/// A clock that counts reads: reads:12 | time of the last, in units of 16:20.
pub fn counted(clock: u32, now: u32) -> u32 {
    let reads = (clock >> 20) + 1;
    reads.min(0xFFF) << 20 | now >> 4 & 0xF_FFFF
}

/// The reads in such a clock.
pub fn reads_of(clock: u32) -> u32 {
    clock >> 20
}

impl Policy for Sampled {
    fn mark(&self) -> Mark {
        match self.rule {
            Rule::Recency => Mark::Time,
            Rule::Frequency => Mark::Count,
            Rule::Random | Rule::Expiry => Mark::Nothing,
        }
    }

    fn inserted(&mut self, print: Print) {
        self.now = self.now.wrapping_add(1);
        self.random = (self.random ^ u64::from(print.0)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.put_back(print);
    }

    fn next(&mut self) -> Candidate {
        let Some(pool) = &mut self.pool else {
            return Candidate::Sample;
        };
        let mut drawn = [Print::default(); DRAWN];
        let mut count = 0;
        while count < DRAWN
            && let Some(print) = pool.pop_any(self.random >> 20)
        {
            drawn[count] = print;
            count += 1;
            self.random = (self.random ^ 0xA5).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        match count {
            0 => Candidate::Nothing,
            count => Candidate::Drawn(drawn, count as u8),
        }
    }

    fn judge(&mut self, _: Print, _: Queue, _: Seen) -> Verdict {
        Verdict::Evict
    }

    fn put_back(&mut self, print: Print) {
        if let Some(pool) = &mut self.pool {
            pool.push(print);
        }
    }

    fn score(&self, seen: Seen) -> Option<u64> {
        if self.volatile && seen.expires_at.is_none() {
            return None;
        }
        Some(match self.rule {
            Rule::Recency => u64::MAX - u64::from(self.now.wrapping_sub(seen.clock)),
            Rule::Frequency => {
                let idle = (self.now >> 4).wrapping_sub(seen.clock) & 0xF_FFFF;
                u64::from(seen.clock >> 20) << 20 | u64::from(0xF_FFFF - idle)
            }
            Rule::Random => 0,
            Rule::Expiry => seen.expires_at.unwrap_or(u64::MAX),
        })
    }

    fn only_expiring(&self) -> bool {
        self.volatile
    }

    fn now(&self) -> u32 {
        self.now
    }

    fn tick(&mut self) {
        self.now = self.now.wrapping_add(1);
    }

    fn entries(&self) -> usize {
        self.pool.as_ref().map_or(0, Fifo::len)
    }

    fn bytes(&self) -> usize {
        self.pool.as_ref().map_or(0, Fifo::bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_score_is_what_the_rule_says() {
        let seen = |clock, expires_at| Seen {
            heat: 0,
            clock,
            expires_at,
        };
        let mut lru = Sampled::new(Rule::Recency, false, false);
        lru.now = 5;
        // The clock goes round.
        let scores = [u32::MAX - 3, 1, 5].map(|clock| lru.score(seen(clock, None)).unwrap());
        assert!(scores.is_sorted());
        let mut lfu = Sampled::new(Rule::Frequency, false, false);
        lfu.now = 1_000;
        let once = counted(0, 100);
        let again = counted(once, 200);
        let later = counted(0, 900);
        let scores = [once, later, again].map(|clock| lfu.score(seen(clock, None)).unwrap());
        assert!(scores.is_sorted(), "{scores:?}");
        let ttl = Sampled::new(Rule::Expiry, true, false);
        assert_eq!(ttl.score(seen(0, None)), None);
        assert!(ttl.score(seen(0, Some(5))) < ttl.score(seen(0, Some(6))));
    }
}
