//! When the next item of a bucket, of a segment and of a domain expires, so that whoever removes expired items scans a few bytes a bucket and
//! touches only items of buckets that are due.
//!
//! A time is counted in units of 256 ms and rounded up: when its unit has come, all of its items have expired. A segment keeps two bytes a
//! bucket, counted from an origin of its own, and allocates them with its first item that has an expiry. They are lower bounds: an expiry
//! that moves into the future is noticed when the bucket is looked at.

/// A unit of time, in Unix milliseconds from [`BASE_MS`] on; `u32::MAX` is never.
pub type Due = u32;
pub const NEVER: Due = u32::MAX;

/// 2020-01-01.
const BASE_MS: u64 = 1_577_836_800_000;
const UNIT_MS_BITS: u32 = 8;
/// No item of the bucket has an expiry.
const NONE: u16 = u16::MAX;
/// Later than what two bytes reach from the origin: to be looked at again then.
const FAR: u16 = u16::MAX - 1;

/// The unit by whose beginning a time has passed.
pub fn due_at(expires_at: Option<u64>) -> Due {
    let Some(ms) = expires_at else { return NEVER };
    let units = ms.saturating_sub(BASE_MS).div_ceil(1 << UNIT_MS_BITS);
    units.min(u64::from(NEVER) - 1) as Due
}

/// The unit that has begun: what is due by then has expired.
pub fn unit_of(now_ms: u64) -> Due {
    (now_ms.saturating_sub(BASE_MS) >> UNIT_MS_BITS).min(u64::from(NEVER) - 1) as Due
}

/// The due times of a segment's buckets.
#[derive(Debug)]
pub struct Dues {
    /// One a bucket.
    codes: Option<Box<[u16]>>,
    origin: Due,
    min: Due,
}

impl Default for Dues {
    fn default() -> Self {
        Self {
            codes: None,
            origin: 0,
            min: NEVER,
        }
    }
}

impl Dues {
    /// The earliest of all buckets.
    pub fn min(&self) -> Due {
        self.min
    }

    pub fn bytes(&self) -> usize {
        self.codes.as_ref().map_or(0, |codes| size_of_val(&**codes))
    }

    /// Where it lies, to be fetched.
    pub fn lines(&self) -> impl Iterator<Item = *const u8> {
        let codes = self.codes.iter().flat_map(|codes| codes.iter());
        codes
            .step_by(32)
            .map(|code| std::ptr::from_ref(code).cast())
    }

    /// A bucket, of so many, has got an item that is due then.
    pub fn note(&mut self, bucket: usize, buckets: usize, due: Due) {
        if due == NEVER {
            return;
        }
        let before = self.of(bucket);
        if due < before {
            self.set(bucket, buckets, due);
        }
    }

    /// What a bucket's items say, all of them.
    pub fn set(&mut self, bucket: usize, buckets: usize, due: Due) {
        if self.codes.is_none() {
            if due == NEVER {
                return;
            }
            self.codes = Some(vec![NONE; buckets].into_boxed_slice());
            self.origin = due;
        }
        let was_min = self.of(bucket) == self.min;
        if due != NEVER && (due < self.origin || due - self.origin >= u32::from(FAR)) {
            self.move_origin(bucket, due);
        }
        let code = self.code(due);
        if let Some(codes) = &mut self.codes {
            codes[bucket] = code;
        }
        if due <= self.min {
            self.min = due;
        } else if was_min {
            self.min = self.find_min();
        }
    }

    fn code(&self, due: Due) -> u16 {
        match due {
            NEVER => NONE,
            due => due.saturating_sub(self.origin).min(u32::from(FAR)) as u16,
        }
    }

    /// A lower bound of what a bucket's items say.
    fn of(&self, bucket: usize) -> Due {
        match &self.codes {
            Some(codes) => self.decode(codes[bucket]),
            None => NEVER,
        }
    }

    fn decode(&self, code: u16) -> Due {
        match code {
            NONE => NEVER,
            code => self.origin + u32::from(code),
        }
    }

    fn find_min(&self) -> Due {
        let least = self.codes.as_ref().and_then(|c| c.iter().min().copied());
        self.decode(least.unwrap_or(NONE))
    }

    /// The earliest time becomes the origin. `bucket` is to be `due`.
    fn move_origin(&mut self, bucket: usize, due: Due) {
        let Some(mut codes) = self.codes.take() else {
            return;
        };
        let others = codes.iter().enumerate().filter(|&(i, _)| i != bucket);
        let least = others.map(|(_, &code)| self.decode(code)).min();
        let origin = due.min(least.unwrap_or(NEVER));
        for code in &mut codes {
            let time = self.decode(*code);
            *code = match time {
                NEVER => NONE,
                time => time.saturating_sub(origin).min(u32::from(FAR)) as u16,
            };
        }
        self.origin = origin;
        codes[bucket] = self.code(due);
        self.codes = Some(codes);
        self.min = origin;
    }

    /// Buckets that are due, from `from` on: the first, if any.
    pub fn next(&self, from: usize, now: Due) -> Option<usize> {
        if self.min > now {
            return None;
        }
        let codes = self.codes.as_ref()?;
        let upto = now.saturating_sub(self.origin).min(u32::from(FAR)) as u16;
        let found = codes.get(from..)?.iter().position(|&code| code <= upto);
        found.map(|i| from + i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::segment::BUCKETS_MAX;
    use crate::store::tests::Lcg;

    #[test]
    fn a_unit_that_has_come_holds_expired_times_only() {
        assert_eq!((due_at(None), due_at(Some(5)), unit_of(5)), (NEVER, 0, 0));
        assert_eq!(due_at(Some(u64::MAX)), NEVER - 1);
        for ms in BASE_MS..BASE_MS + 2_000 {
            let due = due_at(Some(ms));
            assert!(unit_of(ms + 255) >= due, "found at most 255 ms late");
            assert!(
                ms == BASE_MS || unit_of(ms - 1) < due,
                "not before it expires"
            );
        }
    }

    /// Against plain times: nothing is due later than it says, and close times are exact.
    #[test]
    fn buckets_are_due_when_their_items_are() {
        for seed in 0..40 {
            let mut random = Lcg(seed);
            let mut dues = Dues::default();
            let mut plain = [NEVER; BUCKETS_MAX];
            let mut now = 1_000_000;
            for _ in 0..2_000 {
                let bucket = random.below(64) as usize;
                let reach = [10, 1_000, 60_000, 1_000_000][random.below(4) as usize];
                let due = now + random.below(reach) as u32;
                match random.below(4) {
                    0 => {
                        dues.set(bucket, BUCKETS_MAX, NEVER);
                        plain[bucket] = NEVER;
                    }
                    1 => {
                        dues.set(bucket, BUCKETS_MAX, due);
                        plain[bucket] = due;
                    }
                    _ => {
                        dues.note(bucket, BUCKETS_MAX, due);
                        plain[bucket] = plain[bucket].min(due);
                    }
                }
                now += random.below(100) as u32;
                let min = plain.iter().min().copied().unwrap();
                assert!(dues.min() <= min);
                for (bucket, &time) in plain.iter().enumerate() {
                    assert!(
                        dues.of(bucket) <= time && (dues.of(bucket) == NEVER) == (time == NEVER)
                    );
                    assert!(dues.min() <= dues.of(bucket));
                }
                let mut from = 0;
                let mut found = Vec::new();
                while let Some(bucket) = dues.next(from, now) {
                    found.push(bucket);
                    from = bucket + 1;
                    if from == BUCKETS_MAX {
                        break;
                    }
                }
                for (bucket, &time) in plain.iter().enumerate() {
                    assert!(time > now || found.contains(&bucket), "missed");
                }
                // Whoever looks says how it is.
                for bucket in found {
                    dues.set(bucket, BUCKETS_MAX, plain[bucket]);
                }
                assert!(dues.min() <= plain.iter().min().copied().unwrap());
            }
        }
    }
}
