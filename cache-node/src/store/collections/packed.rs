//! Small collections: entries one after the other in one run of bytes, searched from the front.
//!
//! ```text
//! tag u8       0: entries, 2, 4 or 8: integers of so many bytes
//! count u16    entries, or integers
//! entries      length (one byte; 254: then u16, 255: then u32), bytes
//! integers     ascending, little-endian
//! ```

use std::ops::Range;

const HEAD: usize = 3;
const ENTRIES: u8 = 0;
/// Entries at most, whatever is configured: the head counts in 16 bits, and each change rewrites all.
pub const COUNT_MAX: usize = 8 * 1024;
/// Bytes at most, whatever is configured.
pub const BYTES_MAX: usize = 64 * 1024;

/// An empty run of entries.
pub fn empty() -> Vec<u8> {
    vec![ENTRIES, 0, 0]
}

/// Entries, or integers.
pub fn count(run: &[u8]) -> usize {
    match run {
        [_, low, high, ..] => usize::from(u16::from_le_bytes([*low, *high])),
        _ => 0,
    }
}

fn set_count(run: &mut [u8], count: usize) {
    run[1..HEAD].copy_from_slice(&(count as u16).to_le_bytes());
}

/// Bytes that an entry takes.
pub fn entry_bytes(length: usize) -> usize {
    length
        + match length {
            0..254 => 1,
            254..=0xFFFF => 3,
            _ => 5,
        }
}

fn write_entry(to: &mut Vec<u8>, entry: &[u8]) {
    match entry.len() {
        length @ 0..254 => to.push(length as u8),
        length @ 254..=0xFFFF => {
            to.push(254);
            to.extend_from_slice(&(length as u16).to_le_bytes());
        }
        length => {
            to.push(255);
            to.extend_from_slice(&(length as u32).to_le_bytes());
        }
    }
    to.extend_from_slice(entry);
}

/// The entries with where they lie, heads included.
#[derive(Debug, Clone)]
pub struct Entries<'r> {
    run: &'r [u8],
    at: usize,
}

pub fn entries(run: &[u8]) -> Entries<'_> {
    Entries { run, at: HEAD }
}

impl<'r> Iterator for Entries<'r> {
    type Item = (Range<usize>, &'r [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (start, run) = (self.at, self.run);
        let (head, length) = match *run.get(start)? {
            254 => (
                3,
                usize::from(u16::from_le_bytes([run[start + 1], run[start + 2]])),
            ),
            255 => {
                let length = [
                    run[start + 1],
                    run[start + 2],
                    run[start + 3],
                    run[start + 4],
                ];
                (5, u32::from_le_bytes(length) as usize)
            }
            short => (1, usize::from(short)),
        };
        self.at = start + head + length;
        Some((start..self.at, &run[start + head..self.at]))
    }
}

/// The entries' bytes in order.
pub fn values(run: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    entries(run).map(|(_, entry)| entry)
}

pub fn get(run: &[u8], index: usize) -> Option<&[u8]> {
    values(run).nth(index)
}

/// Where the entry at `index` begins; the end of the run for one beyond the last.
fn offset(run: &[u8], index: usize) -> usize {
    entries(run)
        .nth(index)
        .map_or(run.len(), |(range, _)| range.start)
}

pub fn push(run: &mut Vec<u8>, entry: &[u8]) {
    write_entry(run, entry);
    let count = count(run) + 1;
    set_count(run, count);
}

pub fn insert(run: &mut Vec<u8>, index: usize, entry: &[u8]) {
    let at = offset(run, index);
    let mut written = Vec::with_capacity(entry_bytes(entry.len()));
    write_entry(&mut written, entry);
    run.splice(at..at, written);
    let count = count(run) + 1;
    set_count(run, count);
}

/// Puts another entry in the place of the one that lies at `range`.
pub fn replace(run: &mut Vec<u8>, range: Range<usize>, entry: &[u8]) {
    let mut written = Vec::with_capacity(entry_bytes(entry.len()));
    write_entry(&mut written, entry);
    run.splice(range, written);
}

/// Removes `entries` entries that lie at `range`.
pub fn cut(run: &mut Vec<u8>, range: Range<usize>, entries: usize) {
    run.drain(range);
    let count = count(run) - entries;
    set_count(run, count);
}

/// Removes the entries from `from` to before `to`.
pub fn remove_range(run: &mut Vec<u8>, from: usize, to: usize) {
    let range = offset(run, from)..offset(run, to);
    cut(run, range, to - from);
}

/// Whether the run is of integers.
pub fn is_ints(run: &[u8]) -> bool {
    run.first().is_some_and(|&tag| tag != ENTRIES)
}

fn width_of(value: i64) -> usize {
    if i16::try_from(value).is_ok() {
        2
    } else if i32::try_from(value).is_ok() {
        4
    } else {
        8
    }
}

fn int_at(run: &[u8], index: usize) -> i64 {
    let width = usize::from(run[0]);
    let bytes = &run[HEAD + index * width..][..width];
    let mut word = [if bytes[width - 1] & 0x80 == 0 {
        0
    } else {
        0xFF
    }; 8];
    word[..width].copy_from_slice(bytes);
    i64::from_le_bytes(word)
}

/// The integers, ascending.
pub fn ints(run: &[u8]) -> impl Iterator<Item = i64> + Clone + '_ {
    (0..count(run)).map(|i| int_at(run, i))
}

pub fn int(run: &[u8], index: usize) -> i64 {
    int_at(run, index)
}

/// Where an integer is, or where it belongs.
pub fn find_int(run: &[u8], value: i64) -> Result<usize, usize> {
    let (mut low, mut high) = (0, count(run));
    while low < high {
        let middle = low.midpoint(high);
        match int_at(run, middle).cmp(&value) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => return Ok(middle),
        }
    }
    Err(low)
}

/// Adds an integer; an empty run of entries becomes one of integers. Whether it is new.
pub fn insert_int(run: &mut Vec<u8>, value: i64) -> bool {
    let width = width_of(value);
    if count(run) == 0 {
        *run = vec![width as u8, 0, 0];
    }
    if width > usize::from(run[0]) {
        let all: Vec<i64> = ints(run).collect();
        run.truncate(HEAD);
        run[0] = width as u8;
        for value in all {
            run.extend_from_slice(&value.to_le_bytes()[..width]);
        }
    }
    let Err(at) = find_int(run, value) else {
        return false;
    };
    let width = usize::from(run[0]);
    let offset = HEAD + at * width;
    run.splice(offset..offset, value.to_le_bytes()[..width].iter().copied());
    let count = count(run) + 1;
    set_count(run, count);
    true
}

pub fn remove_int(run: &mut Vec<u8>, value: i64) -> bool {
    let Ok(at) = find_int(run, value) else {
        return false;
    };
    let width = usize::from(run[0]);
    let offset = HEAD + at * width;
    cut(run, offset..offset + width, 1);
    true
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::Lcg;
    use super::*;

    #[test]
    fn entries_of_every_length_come_back() {
        let mut run = empty();
        let mut model: Vec<Vec<u8>> = Vec::new();
        let lengths = [0, 1, 63, 253, 254, 255, 256, 65_535, 65_536, 100_000];
        for (i, length) in lengths.into_iter().enumerate() {
            let entry = vec![i as u8; length];
            assert_eq!(
                {
                    let before = run.len();
                    push(&mut run, &entry);
                    run.len() - before
                },
                entry_bytes(length)
            );
            model.push(entry);
        }
        let mut random = Lcg(1);
        for _ in 0..2_000 {
            let at = random.below(model.len() as u64 + 1) as usize;
            let entry = vec![random.below(256) as u8; random.below(300) as usize];
            match random.below(3) {
                0 => {
                    insert(&mut run, at, &entry);
                    model.insert(at, entry);
                }
                1 if at < model.len() => {
                    let range = entries(&run).nth(at).unwrap().0;
                    replace(&mut run, range, &entry);
                    model[at] = entry;
                }
                _ => {
                    let to = (at + random.below(3) as usize).min(model.len());
                    remove_range(&mut run, at, to);
                    model.drain(at..to);
                }
            }
            assert_eq!(count(&run), model.len());
        }
        assert!(values(&run).eq(model.iter().map(Vec::as_slice)));
        assert_eq!(get(&run, 1), model.get(1).map(Vec::as_slice));
    }

    #[test]
    fn integers_are_kept_in_order_in_the_width_they_need() {
        let mut random = Lcg(2);
        let mut run = empty();
        let mut model = std::collections::BTreeSet::new();
        for (bits, width) in [(15, 2), (31, 4), (63, 8)] {
            for _ in 0..300 {
                let value = ((random.below(1 << 31) << 32 | random.below(1 << 31)) >> (63 - bits))
                    as i64
                    * if random.below(2) == 0 { 1 } else { -1 };
                match random.below(3) {
                    0 => {
                        let some = model.iter().next().copied().unwrap_or(value);
                        assert_eq!(remove_int(&mut run, some), model.remove(&some));
                    }
                    _ => assert_eq!(insert_int(&mut run, value), model.insert(value)),
                }
                assert_eq!(find_int(&run, value).is_ok(), model.contains(&value));
            }
            assert_eq!(usize::from(run[0]), width);
            assert!(ints(&run).eq(model.iter().copied()));
        }
        for value in [i64::MIN, i64::MAX, 0, -1] {
            insert_int(&mut run, value);
            assert!(find_int(&run, value).is_ok());
        }
    }
}
