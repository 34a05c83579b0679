//! The table of one slot: segments by the leading bits of the position (an extendible hash directory), so that the order of positions
//! survives growth, and a growth step touches one segment.

use super::due::{Due, NEVER};
use super::evict::{PRINT_POS_BITS, Print};
use super::pages::{Pages, Ref};
use super::point::POS_BITS;
use super::segment::{BUCKETS_MAX, ENTRIES, Entry, Place, Segment};

/// The table of a slot. It holds references; who owns the items is told by the caller.
#[derive(Debug, Default)]
pub struct Table {
    segments: Vec<Segment>,
    /// Segment of each prefix of `bits` bits; empty while there is at most one segment.
    directory: Box<[u32]>,
    bits: u8,
    len: u32,
    /// Its items with an expiry; whoever changes them counts.
    pub expiring: u32,
    /// Bytes of its items.
    pub item_bytes: u64,
}

/// Where an entry is.
#[derive(Debug, Clone, Copy)]
pub struct Spot {
    pub segment: u32,
    pub place: Place,
}

impl Table {
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of its segments and directory.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(Segment::bytes).sum::<usize>() + self.frame_bytes()
    }

    fn frame_bytes(&self) -> usize {
        self.segments.capacity() * size_of::<Segment>() + self.directory.len() * 4
    }

    fn segment_index(&self, pos: u64) -> usize {
        if self.bits == 0 {
            0
        } else {
            self.directory[(pos >> (POS_BITS - u32::from(self.bits))) as usize] as usize
        }
    }

    pub fn find(&self, hash: u64, is: impl FnMut(Ref) -> bool) -> Option<(Spot, Ref)> {
        if self.len == 0 {
            return None;
        }
        let segment = self.segment_index(hash >> 16);
        let (place, at) = self.segments[segment].find(hash, is)?;
        let spot = Spot {
            segment: segment as u32,
            place,
        };
        Some((spot, at))
    }

    /// Where the segment of a hash lies, to be fetched.
    pub fn segment_line(&self, hash: u64) -> Option<*const u8> {
        let segment = self.segments.get(self.segment_index(hash >> 16))?;
        Some(std::ptr::from_ref(segment).cast())
    }

    /// Where its segments lie, to be fetched.
    pub fn segments_line(&self) -> Option<*const u8> {
        let first = self.segments.first()?;
        Some(std::ptr::from_ref(first).cast())
    }

    /// Where the bucket of a hash lies, to be fetched.
    pub fn bucket_line(&self, hash: u64) -> Option<*const u8> {
        let segment = self.segments.get(self.segment_index(hash >> 16))?;
        segment.bucket_line(hash)
    }

    /// The first reference in the bucket of a hash that may be its item, by the tag.
    pub fn likely(&self, hash: u64) -> Option<Ref> {
        let segment = self.segments.get(self.segment_index(hash >> 16))?;
        segment.likely(hash)
    }

    /// Lets an entry point to another item, which is due then.
    pub fn replace(&mut self, spot: Spot, at: Ref, due: Due) {
        let segment = &mut self.segments[spot.segment as usize];
        segment.replace(spot.place, at);
        segment.note_due(spot.place, due);
    }

    /// An item is due then, or later than it was.
    pub fn note_due(&mut self, spot: Spot, due: Due) {
        self.segments[spot.segment as usize].note_due(spot.place, due);
    }

    /// Takes an entry out. Gives the change in table bytes.
    #[cfg(test)]
    pub fn remove(
        &mut self,
        pages: &Pages,
        spot: Spot,
        phase: bool,
        entry: &dyn Fn(Ref) -> Entry,
    ) -> isize {
        self.remove_here(spot);
        self.shrink(pages, spot.segment as usize, phase, entry)
    }

    /// Takes an entry out and leaves all others where they are; [`Table::shrink`] is to follow.
    pub fn remove_here(&mut self, spot: Spot) {
        self.segments[spot.segment as usize].remove(spot.place);
        self.len -= 1;
    }

    /// Gives back what a segment holds too much. Gives the change in table bytes.
    pub fn shrink(
        &mut self,
        pages: &Pages,
        segment: usize,
        phase: bool,
        entry: &dyn Fn(Ref) -> Entry,
    ) -> isize {
        if self.len == 0 {
            let bytes = self.bytes() as isize;
            self.free(pages);
            return -bytes;
        }
        let segment = &mut self.segments[segment];
        let buckets = segment.bucket_count();
        if buckets > 2 && segment.len() < buckets * 3 {
            let before = segment.bytes() as isize;
            segment.rebuild(pages, buckets / 2, phase, entry);
            return segment.bytes() as isize - before;
        }
        0
    }

    /// Takes a segment out of a table that is being freed, of which nothing else may be asked any more.
    pub fn pop_segment(&mut self) -> Option<Segment> {
        self.segments.pop()
    }

    /// Gives its memory back. What it referred to is the caller's to free, before.
    pub fn free(&mut self, pages: &Pages) {
        for segment in &mut self.segments {
            segment.free(pages);
        }
        *self = Self {
            item_bytes: self.item_bytes,
            ..Self::default()
        };
    }

    /// Adds an entry that is not there yet if there is place without growth.
    pub fn insert_here(&mut self, entry: Entry) -> bool {
        if self.segments.is_empty() {
            return false;
        }
        let index = self.segment_index(entry.hash >> 16);
        let done = self.segments[index].insert(entry).is_ok();
        self.len += u32::from(done);
        done
    }

    /// Adds an entry that is not there yet. Gives the change in table bytes. A segment may be rebuilt, and then counts as visited in
    /// `phase`: while a snapshot runs, visit it first.
    pub fn insert(
        &mut self,
        pages: &Pages,
        added: Entry,
        phase: bool,
        entry: &dyn Fn(Ref) -> Entry,
    ) -> isize {
        if self.insert_here(added) {
            return 0;
        }
        self.len += 1;
        let pos = added.hash >> 16;
        if self.segments.is_empty() {
            let before = self.bytes() as isize;
            self.segments = Vec::with_capacity(1);
            self.segments
                .push(Segment::build(pages, 0, &[added], phase));
            return self.bytes() as isize - before;
        }
        let index = self.segment_index(pos);
        let segment = &mut self.segments[index];
        let before = segment.bytes() as isize;
        if let Some(buckets) = segment.grown() {
            segment.rebuild(pages, buckets, phase, entry);
            while segment.insert(added).is_err() {
                match segment.grown() {
                    Some(buckets) => segment.rebuild(pages, buckets, phase, entry),
                    None => {
                        segment.push_extra(added);
                        break;
                    }
                }
            }
            return segment.bytes() as isize - before;
        }
        // Splitting a sparse segment would not help: its entries share their hashes.
        if segment.len() < BUCKETS_MAX * 6 || segment.depth() >= 24 {
            segment.push_extra(added);
            return segment.bytes() as isize - before;
        }
        self.split(pages, index, pos, added, phase, entry)
    }

    /// Gives the change in table bytes, without asking all segments: there may be thousands.
    fn split(
        &mut self,
        pages: &Pages,
        index: usize,
        pos: u64,
        added: Entry,
        phase: bool,
        entry: &dyn Fn(Ref) -> Entry,
    ) -> isize {
        let old = &self.segments[index];
        let before = old.bytes() + self.frame_bytes();
        let depth = old.depth() + 1;
        let start = old.start(pos);
        let middle = start + (old.span() >> 1);
        let end = start + old.span();
        old.fetch_items(pages);
        let entries = old.refs().map(entry).chain([added]);
        let (low, high): (Vec<_>, Vec<_>) = entries.partition(|e| e.hash >> 16 < middle);
        self.segments[index].free(pages);
        self.segments[index] = Segment::build(pages, depth, &low, phase);
        self.segments
            .push(Segment::build(pages, depth, &high, phase));
        let halves = [index, self.segments.len() - 1].map(|i| self.segments[i].bytes());
        let new = (self.segments.len() - 1) as u32;
        if depth > self.bits {
            self.double_directory();
        }
        let shift = POS_BITS - u32::from(self.bits);
        let (from, to) = (middle >> shift, end >> shift);
        self.directory[from as usize..to as usize].fill(new);
        (halves.iter().sum::<usize>() + self.frame_bytes()) as isize - before as isize
    }

    fn double_directory(&mut self) {
        self.directory = if self.bits == 0 {
            Box::new([0, 0])
        } else {
            self.directory.iter().flat_map(|&s| [s, s]).collect()
        };
        self.bits += 1;
    }

    /// The references from `pos` to the end of the bucket that holds it, and the position at which the next bucket starts (None at the
    /// table's end). Buckets move when segments grow, so `pos` may lie within one.
    pub fn bucket_at(&self, pos: u64, hash: &dyn Fn(Ref) -> u64) -> (Vec<Ref>, Option<u64>) {
        if self.segments.is_empty() {
            return (Vec::new(), None);
        }
        let segment = &self.segments[self.segment_index(pos)];
        let bucket = segment.bucket_of(pos);
        let next = segment.start(pos) + segment.bucket_start(bucket + 1);
        let next = (next < super::point::POS_END).then_some(next);
        let mut refs = segment.refs_at_home(bucket, hash);
        if segment.start(pos) + segment.bucket_start(bucket) < pos {
            refs.retain(|&at| hash(at) >> 16 >= pos);
        }
        (refs, next)
    }

    /// The references of the bucket that holds `pos`, if this phase's snapshot has not visited it; it counts as visited then.
    pub fn visit_bucket(&mut self, pos: u64, phase: bool, hash: &dyn Fn(Ref) -> u64) -> Vec<Ref> {
        if self.segments.is_empty() {
            return Vec::new();
        }
        let index = self.segment_index(pos);
        let segment = &mut self.segments[index];
        let bucket = segment.bucket_of(pos);
        if segment.is_visited(bucket, phase) {
            return Vec::new();
        }
        segment.set_visited(bucket, phase);
        segment.refs_at_home(bucket, hash)
    }

    /// As [`Table::visit_bucket`] for every bucket of the segment that holds `pos`.
    pub fn visit_segment(&mut self, pos: u64, phase: bool, hash: &dyn Fn(Ref) -> u64) -> Vec<Ref> {
        if self.segments.is_empty() {
            return Vec::new();
        }
        let index = self.segment_index(pos);
        let mut refs = Vec::new();
        for bucket in 0..self.segments[index].bucket_count() {
            if !self.segments[index].is_visited(bucket, phase) {
                self.segments[index].set_visited(bucket, phase);
                refs.extend(self.segments[index].refs_at_home(bucket, hash));
            }
        }
        refs
    }

    /// Moves what lies in pages that are being emptied, from the bucket of `pos` on: items by `relocate`, which gives the bytes moved and the
    /// new reference, and the buckets themselves. Stops after about `entries` entries or `bytes` bytes. Gives the bytes moved and where to
    /// go on, None at the table's end.
    pub fn relocate(
        &mut self,
        pages: &Pages,
        pos: u64,
        mut entries: usize,
        bytes: usize,
        relocate: &dyn Fn(Ref) -> Option<(usize, Ref)>,
    ) -> (usize, Option<u64>) {
        if self.segments.is_empty() {
            return (0, None);
        }
        let index = self.segment_index(pos);
        let segment = &mut self.segments[index];
        let mut moved = segment.relocate(pages);
        let start = segment.start(pos);
        let mut bucket = segment.bucket_of(pos);
        let last = segment.bucket_count();
        while bucket < last && entries > 0 && moved < bytes {
            moved += segment.relocate_bucket(bucket, relocate);
            entries = entries.saturating_sub(ENTRIES);
            bucket += 1;
        }
        let next = start + segment.bucket_start(bucket);
        (moved, (next < super::point::POS_END).then_some(next))
    }

    /// The first segment from `from` on that is due, of `count` at most; when the next of those before it is due; and where it ended.
    pub fn due_segment(&self, from: usize, count: usize, now: Due) -> (Option<usize>, Due, usize) {
        let mut next = NEVER;
        let end = self.segments.len().min(from.saturating_add(count));
        for index in from..end {
            let due = self.segments[index].due();
            if due <= now {
                return (Some(index), next, index);
            }
            next = next.min(due);
        }
        (None, next, end)
    }

    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    pub fn segment_mut(&mut self, index: usize) -> &mut Segment {
        &mut self.segments[index]
    }

    pub fn segment(&self, index: usize) -> &Segment {
        &self.segments[index]
    }

    /// An entry that may be of this fingerprint and of which `is` says yes.
    pub fn find_print(&self, print: Print, is: &dyn Fn(Ref) -> bool) -> Option<(Spot, Ref)> {
        const SHIFT: u32 = POS_BITS - PRINT_POS_BITS;
        if self.len == 0 {
            return None;
        }
        let (mut pos, end) = (print.prefix() << SHIFT, (print.prefix() + 1) << SHIFT);
        while pos < end {
            let index = self.segment_index(pos);
            let segment = &self.segments[index];
            let first = segment.bucket_of(pos);
            let next = segment.start(pos) + segment.span();
            let last = segment.bucket_of(end.min(next) - 1);
            let count = segment.bucket_count();
            // What has no place in its bucket is in the next one, or with the last bucket's.
            let spill = [(last + 1) % count, count - 1];
            let mut places = (first..=last)
                .chain(spill.into_iter().filter(|b| !(first..=last).contains(b)))
                .flat_map(|bucket| segment.tagged(bucket, print.tag()));
            if let Some((place, at)) = places.find(|&(_, at)| is(at)) {
                let segment = index as u32;
                return Some((Spot { segment, place }, at));
            }
            pos = next;
        }
        None
    }

    /// Shows entries from a random place on, while `more` says yes; not beyond so many segments, as thousands may be empty.
    pub fn some_from(&self, random: u64, more: &mut dyn FnMut(Ref) -> bool) {
        const SEGMENTS: usize = 1024;
        if self.len == 0 {
            return;
        }
        let count = self.segments.len();
        let segment = (random % count as u64) as usize;
        let bucket = (random >> 20) as usize;
        for segment in (segment..count).chain(0..segment).take(SEGMENTS) {
            let segment = &self.segments[segment];
            if segment.len() == 0 {
                continue;
            }
            let count = segment.bucket_count();
            let first = bucket % count;
            for bucket in (first..count).chain(0..first) {
                for (_, at) in segment.places(bucket) {
                    if !more(at) {
                        return;
                    }
                }
            }
        }
    }

    /// All references, in no order.
    pub fn refs(&self) -> impl Iterator<Item = Ref> + '_ {
        self.segments.iter().flat_map(Segment::refs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::budget::Budget;
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    fn entry(hash: u64, id: u32) -> Entry {
        Entry {
            hash,
            due: NEVER,
            at: Ref(id),
        }
    }

    fn pages() -> Pages {
        Pages::new(64 << 20, Arc::new(Budget::new(0))).unwrap()
    }

    struct Lcg(u64);
    impl Lcg {
        fn next(&mut self) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            self.0 ^ self.0 >> 29
        }
    }

    /// Against a map: whatever is added and removed, each entry is found, and a walk sees each once, in the order of positions.
    #[test]
    fn holds_what_a_map_holds_and_walks_in_order() {
        for seed in 0..24u64 {
            let mut random = Lcg(seed);
            let pages = pages();
            let mut table = Table::default();
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut hashes: Vec<u64> = Vec::new();
            let mut bytes = 0;
            let size = [5, 40, 700, 12_000][seed as usize % 4];
            for step in 0..size * 3 {
                let add = model.len() < size && (!random.next().is_multiple_of(3) || step < size);
                if add {
                    // Every fourth seed: many equal hashes.
                    let hash = if seed % 8 == 7 {
                        (random.next() % 7) << 20
                    } else {
                        random.next()
                    };
                    let id = hashes.len() as u32;
                    hashes.push(hash);
                    bytes += table.insert(&pages, entry(hash, id), false, &|r| {
                        entry(hashes[r.0 as usize], r.0)
                    });
                    model.insert(id, hash);
                } else if let Some(&id) = model
                    .keys()
                    .nth(random.next() as usize % model.len().max(1))
                {
                    let hash = model.remove(&id).unwrap();
                    let (spot, at) = table.find(hash, |r| r.0 == id).expect("is there");
                    assert_eq!(at.0, id);
                    bytes +=
                        table.remove(&pages, spot, false, &|r| entry(hashes[r.0 as usize], r.0));
                }
                assert_eq!((table.len(), table.bytes()), (model.len(), bytes as usize));
            }
            for (&id, &hash) in &model {
                assert!(table.find(hash, |r| r.0 == id).is_some());
            }
            let hash = |r: Ref| hashes[r.0 as usize];
            let mut seen = BTreeSet::new();
            let mut pos = Some(0);
            while let Some(at) = pos {
                let (refs, next) = table.bucket_at(at, &hash);
                for r in refs {
                    let p = hash(r) >> 16;
                    assert!(p >= at && next.is_none_or(|n| p < n), "out of order");
                    assert!(seen.insert(r.0), "seen twice");
                }
                pos = next;
            }
            assert_eq!(seen, model.keys().copied().collect());
        }
    }

    /// A walk that is interrupted by growth and shrinkage sees each entry that stays exactly once.
    #[test]
    fn a_walk_survives_growth() {
        for seed in 100..112u64 {
            let mut random = Lcg(seed);
            let mut hashes: Vec<u64> = (0..3_000).map(|_| random.next()).collect();
            let pages = pages();
            let mut table = Table::default();
            for (id, &hash) in hashes.iter().enumerate() {
                table.insert(&pages, entry(hash, id as u32), false, &|r| {
                    entry(hashes[r.0 as usize], r.0)
                });
            }
            let mut seen = BTreeMap::new();
            let mut pos = Some(0);
            let mut added: Vec<u32> = Vec::new();
            while let Some(at) = pos {
                let (refs, next) = table.bucket_at(at, &|r| hashes[r.0 as usize]);
                for r in refs {
                    *seen.entry(r.0).or_insert(0) += 1;
                }
                pos = next;
                if seed % 2 == 0 || added.len() < 2_000 {
                    for _ in 0..random.next() % 40 {
                        hashes.push(random.next());
                        let id = hashes.len() as u32 - 1;
                        table.insert(&pages, entry(hashes[id as usize], id), false, &|r| {
                            entry(hashes[r.0 as usize], r.0)
                        });
                        added.push(id);
                    }
                } else if let Some(id) = added.pop() {
                    let (spot, _) = table.find(hashes[id as usize], |r| r.0 == id).unwrap();
                    table.remove(&pages, spot, false, &|r| entry(hashes[r.0 as usize], r.0));
                }
            }
            for id in 0..3_000 {
                assert_eq!(seen.get(&id), Some(&1), "seed {seed}, entry {id}");
            }
        }
    }
}
