//! What commands on collections of every kind share: iterating, choosing at random, bounds.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use super::errors::{NOT_INTEGER, SYNTAX};
use super::scan::cursor;
use super::{Stop, glob};
use crate::limits::OUTPUT_MAX;
use crate::protocol::number::parse_i64;
use crate::protocol::{Args, Reply};
use crate::store::collections::View;

/// The collection of a key that is not there.
pub const EMPTY: View<'static> = View::Packed(&[]);

thread_local! {
    static RANDOM: Cell<u64> = Cell::new(RandomState::new().hash_one(0) | 1);
}

/// Some 64 bits.
pub fn random() -> u64 {
    RANDOM.with(|state| {
        // xorshift64*
        let mut x = state.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    })
}

/// A number below `n`.
pub fn below(n: usize) -> usize {
    ((u128::from(random()) * n as u128) >> 64) as usize
}

/// An index of one of `n`; None: there is none.
pub fn one_of(n: usize) -> Option<usize> {
    (n > 0).then(|| below(n))
}

/// How many distinct indices of `n`, in random order.
pub fn some_of(n: usize, count: usize) -> Vec<usize> {
    if count * 3 > n {
        let mut all: Vec<usize> = (0..n).collect();
        for i in 0..count.min(n) {
            all.swap(i, i + below(n - i));
        }
        all.truncate(count);
        return all;
    }
    let mut seen = std::collections::HashSet::with_capacity(count);
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        let i = below(n);
        if seen.insert(i) {
            chosen.push(i);
        }
    }
    chosen
}

/// The count of `SRANDMEMBER` and its kind, with its option.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Negative: with repetitions.
    count: i64,
    pub with_more: bool,
}

impl Sample {
    /// Reads `[count [option]]` from the second argument on.
    pub fn read(args: Args<'_>, option: &str) -> Result<Option<Self>, Stop> {
        let Some(count) = args.get(2) else {
            return Ok(None);
        };
        let count = in_range(count, -i64::MAX, i64::MAX)?;
        let with_more = match (args.get(3), args.len()) {
            (None, _) => false,
            (Some(word), 4) if word.eq_ignore_ascii_case(option.as_bytes()) => true,
            _ => return Err(SYNTAX.into()),
        };
        if with_more && !(-i64::MAX / 2..=i64::MAX / 2).contains(&count) {
            return Err("ERR value is out of range".into());
        }
        Ok(Some(Self { count, with_more }))
    }

    /// The indices of what is chosen among `n`.
    pub fn choose(self, n: usize) -> Chosen {
        match usize::try_from(self.count) {
            _ if n == 0 => Chosen::Each(Vec::new().into_iter()),
            Ok(count) if count >= n => Chosen::All(0..n),
            Ok(count) => Chosen::Each(some_of(n, count).into_iter()),
            Err(_) => Chosen::Repeated {
                n,
                left: self.count.unsigned_abs() as usize,
            },
        }
    }
}

/// Chosen indices.
#[derive(Debug)]
pub enum Chosen {
    All(std::ops::Range<usize>),
    Each(std::vec::IntoIter<usize>),
    Repeated { n: usize, left: usize },
}

impl Iterator for Chosen {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        match self {
            Self::All(range) => range.next(),
            Self::Each(list) => list.next(),
            Self::Repeated { n, left } => {
                *left = left.checked_sub(1)?;
                Some(below(*n))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match self {
            Self::All(range) => range.len(),
            Self::Each(list) => list.len(),
            Self::Repeated { left, .. } => *left,
        };
        (left, Some(left))
    }
}

impl ExactSizeIterator for Chosen {}

/// An error once a reply is larger than any client is sent.
pub fn bounded(reply: &Reply<'_>) -> Result<(), Stop> {
    match reply.out.pending() > OUTPUT_MAX {
        true => Err("ERR the reply is beyond what a client is sent: ask for fewer".into()),
        false => Ok(()),
    }
}

/// A number in a range, with Redis's words when it is not.
pub fn in_range(text: &[u8], min: i64, max: i64) -> Result<i64, Stop> {
    let number = parse_i64(text).ok_or(NOT_INTEGER)?;
    match (min..=max).contains(&number) {
        true => Ok(number),
        false => {
            Err(format!("ERR value is out of range, value must between {min} and {max}").into())
        }
    }
}

/// A count that is not negative.
pub fn positive(text: &[u8]) -> Result<usize, Stop> {
    const RANGE: &str = "ERR value is out of range, must be positive";
    let count = parse_i64(text).and_then(|n| usize::try_from(n).ok());
    Ok(count.ok_or(RANGE)?)
}

/// The keys behind the argument at `at`, which says how many they are.
pub fn counted_keys(args: Args<'_>, at: usize) -> Result<Vec<&[u8]>, Stop> {
    let count = parse_i64(args.at(at)).and_then(|n| usize::try_from(n).ok());
    let count = count
        .filter(|&n| n > 0)
        .ok_or("ERR numkeys should be greater than 0")?;
    if count > args.len() - at - 1 {
        return Err("ERR Number of keys can't be greater than number of args".into());
    }
    Ok((at + 1..=at + count).map(|i| args.at(i)).collect())
}

/// The arguments of `HSCAN` and its kind.
#[derive(Debug, Clone, Copy)]
pub struct Scan<'a> {
    pub cursor: u64,
    pub count: usize,
    pattern: Option<&'a [u8]>,
}

impl Scan<'_> {
    pub fn wants(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|p| glob::matches(p, name, false))
    }
}

/// The cursor, which is looked at before the key.
pub fn scan_cursor(args: Args<'_>) -> Result<u64, Stop> {
    Ok(cursor(args.at(2)).ok_or("ERR invalid cursor")?)
}

/// The options, which are looked at when the key is there.
pub fn scan(args: Args<'_>) -> Result<Scan<'_>, Stop> {
    let mut scan = Scan {
        cursor: scan_cursor(args)?,
        count: 10,
        pattern: None,
    };
    let mut i = 3;
    while let Some(word) = args.get(i) {
        let value = args.get(i + 1).ok_or(SYNTAX)?;
        if word.eq_ignore_ascii_case(b"COUNT") {
            let wanted = parse_i64(value).ok_or(NOT_INTEGER)?;
            let count = usize::try_from(wanted).ok().filter(|&n| n > 0);
            scan.count = count.ok_or(SYNTAX)?;
        } else if word.eq_ignore_ascii_case(b"MATCH") {
            scan.pattern = (value != b"*").then_some(value);
        } else {
            return Err(SYNTAX.into());
        }
        i += 2;
    }
    Ok(scan)
}

pub fn reply_scan<T: AsRef<[u8]>>(reply: &mut Reply<'_>, next: u64, found: &[T]) {
    reply.array(2);
    reply.text(itoa::Buffer::new().format(next));
    reply.array(found.len());
    found.iter().for_each(|item| reply.bulk(item.as_ref()));
}

/// The elements from `start` to `end`, both inclusive, negative ones counted from the end; as a range of indices.
pub fn slice(length: usize, start: i64, end: i64) -> Option<(usize, usize)> {
    let length = length as i64;
    let from_end = |i: i64| if i < 0 { length.saturating_add(i) } else { i };
    let (start, end) = (from_end(start).max(0), from_end(end).min(length - 1));
    (start <= end && start < length).then(|| (start as usize, end as usize + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_clipped_as_in_redis() {
        let table = [
            ((5, 0, -1), Some((0, 5))),
            ((5, 1, 2), Some((1, 3))),
            ((5, -2, 100), Some((3, 5))),
            ((5, 3, 2), None),
            ((5, 5, 9), None),
            ((5, -100, -6), None),
            ((0, 0, -1), None),
            ((5, i64::MIN, i64::MAX), Some((0, 5))),
        ];
        for ((length, start, end), expected) in table {
            assert_eq!(
                slice(length, start, end),
                expected,
                "{length} {start} {end}"
            );
        }
    }

    #[test]
    fn choices_are_distinct_and_all_come() {
        for (n, count) in [(10, 9), (10, 2), (1_000, 5), (3, 3)] {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..20_000 / count {
                let mut chosen = some_of(n, count);
                assert!(chosen.iter().all(|&i| i < n));
                seen.extend(chosen.iter().copied());
                chosen.sort_unstable();
                chosen.dedup();
                assert_eq!(chosen.len(), count);
            }
            assert!(seen.len() > n * 9 / 10, "{} of {n}", seen.len());
        }
    }
}
