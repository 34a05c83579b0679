//! A run of buckets that covers one range of positions, and grows by about a quarter at a time.
//!
//! A bucket is one cache line: 12 entries of (tag, reference) and a header. The bucket of a position is `position * buckets / range`, so
//! buckets are in the order of positions whatever their number. What does not fit in its bucket goes to the next one, marked as foreign;
//! when that is full too the segment is rebuilt larger. Entries that even the largest segment has no place for (equal hashes) go to `extra`.

use super::pages::Ref;
use super::point::{POS_BITS, POS_END};

/// Entries of a bucket.
pub const ENTRIES: usize = 12;
/// Buckets of the largest segment; beyond, it splits in two.
pub const BUCKETS_MAX: usize = 64;
/// Entries a bucket should hold after a rebuild, on average, times ten.
const FILL_TENTHS: usize = 84;
const ENTRY_MASK: u32 = (1 << ENTRIES) - 1;
const FOREIGN_SHIFT: u32 = 12;
const SPILLED: u32 = 1 << 24;
const PHASE: u32 = 1 << 25;

/// header: used:12 | foreign:12 | spilled:1 | snapshot phase:1
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Bucket {
    header: u32,
    tags: [u8; ENTRIES],
    refs: [u32; ENTRIES],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    fn new(phase: bool) -> Self {
        Self {
            header: if phase { PHASE } else { 0 },
            tags: [0; ENTRIES],
            refs: [0; ENTRIES],
        }
    }

    fn used(&self) -> u32 {
        self.header & ENTRY_MASK
    }

    fn foreign(&self) -> u32 {
        self.header >> FOREIGN_SHIFT & ENTRY_MASK
    }

    /// Entries (as bits) with this tag.
    fn matches(&self, tag: u8) -> u32 {
        let mut bits = 0;
        for (i, &t) in self.tags.iter().enumerate() {
            bits |= u32::from(t == tag) << i;
        }
        bits & self.used()
    }

    fn put(&mut self, tag: u8, at: Ref, foreign: bool) -> bool {
        let free = !self.used() & ENTRY_MASK;
        if free == 0 {
            return false;
        }
        let i = free.trailing_zeros();
        self.tags[i as usize] = tag;
        self.refs[i as usize] = at.0;
        self.header |= 1 << i;
        if foreign {
            self.header |= 1 << (i + FOREIGN_SHIFT);
        }
        true
    }
}

/// Where an entry is in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Entry { bucket: u16, index: u8 },
    Extra(u32),
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Segment {
    buckets: Vec<Bucket>,
    extra: Vec<u32>,
    len: u32,
    /// Leading bits of the position that all its entries share.
    depth: u8,
}

/// The next larger number of buckets, or None when the segment should split.
fn larger(buckets: usize) -> Option<usize> {
    (buckets < BUCKETS_MAX).then(|| (buckets + 1).max(buckets * 5 / 4).min(BUCKETS_MAX))
}

/// Buckets for so many entries.
fn buckets_for(entries: usize) -> usize {
    (entries * 10).div_ceil(FILL_TENTHS).clamp(1, BUCKETS_MAX)
}

impl Segment {
    /// A segment of so many leading bits, with room for `entries`; its buckets count as visited in `phase`.
    pub fn build(depth: u8, entries: &[(u64, Ref)], phase: bool) -> Self {
        let mut buckets = buckets_for(entries.len());
        loop {
            let mut segment = Self {
                buckets: vec![Bucket::new(phase); buckets],
                extra: Vec::new(),
                len: 0,
                depth,
            };
            let all = entries
                .iter()
                .all(|&(hash, at)| segment.insert(hash, at).is_ok());
            if all {
                return segment;
            }
            match larger(buckets) {
                Some(more) => buckets = more,
                None => return Self::build_with_extra(depth, entries, phase),
            }
        }
    }

    fn build_with_extra(depth: u8, entries: &[(u64, Ref)], phase: bool) -> Self {
        let mut segment = Self {
            buckets: vec![Bucket::new(phase); BUCKETS_MAX],
            extra: Vec::new(),
            len: 0,
            depth,
        };
        for &(hash, at) in entries {
            if segment.insert(hash, at).is_err() {
                segment.push_extra(at);
            }
        }
        segment
    }

    /// The number of buckets a rebuild should aim for when one more entry found no place; None: split.
    pub fn grown(&self) -> Option<usize> {
        larger(self.buckets.len())
    }

    /// A copy with at least `buckets` buckets. `hash` gives an entry's hash.
    pub fn rebuild(&self, buckets: usize, phase: bool, hash: &dyn Fn(Ref) -> u64) -> Self {
        let entries: Vec<(u64, Ref)> = self.refs().map(|at| (hash(at), at)).collect();
        let mut buckets = buckets;
        loop {
            let mut segment = Self {
                buckets: vec![Bucket::new(phase); buckets],
                extra: Vec::new(),
                len: 0,
                depth: self.depth,
            };
            if entries
                .iter()
                .all(|&(hash, at)| segment.insert(hash, at).is_ok())
            {
                return segment;
            }
            match larger(buckets) {
                Some(more) => buckets = more,
                None => return Self::build_with_extra(self.depth, &entries, phase),
            }
        }
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn depth(&self) -> u8 {
        self.depth
    }

    pub fn bucket_count(&self) -> usize {
        self.buckets.len()
    }

    /// Bytes of its buckets.
    pub fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>() + self.extra.capacity() * 4
    }

    /// The bucket of a position.
    pub fn bucket_of(&self, pos: u64) -> usize {
        let within = (pos << self.depth) & (POS_END - 1);
        ((u128::from(within) * self.buckets.len() as u128) >> POS_BITS) as usize
    }

    /// The first position of this segment, given any position in it.
    pub fn start(&self, pos: u64) -> u64 {
        pos & !(self.span() - 1)
    }

    /// Positions it covers.
    pub fn span(&self) -> u64 {
        POS_END >> self.depth
    }

    /// The offset in the segment at which bucket `bucket` starts (`bucket_count` gives the span).
    pub fn bucket_start(&self, bucket: usize) -> u64 {
        (u128::from(self.span()) * bucket as u128).div_ceil(self.buckets.len() as u128) as u64
    }

    /// Finds the entry whose tag matches and of which `is` says yes.
    pub fn find(&self, hash: u64, mut is: impl FnMut(Ref) -> bool) -> Option<(Place, Ref)> {
        if self.buckets.is_empty() {
            return None;
        }
        let tag = hash as u8;
        let home = self.bucket_of(hash >> 16);
        let bucket = &self.buckets[home];
        let own = bucket.matches(tag) & !bucket.foreign();
        if let Some(found) = Self::pick(bucket, home, own, &mut is) {
            return Some(found);
        }
        if bucket.header & SPILLED != 0 {
            let next = self.next(home);
            let bucket = &self.buckets[next];
            let spilled = bucket.matches(tag) & bucket.foreign();
            if let Some(found) = Self::pick(bucket, next, spilled, &mut is) {
                return Some(found);
            }
        }
        let extra = self.extra.iter().position(|&at| is(Ref(at)))?;
        Some((Place::Extra(extra as u32), Ref(self.extra[extra])))
    }

    /// Where the bucket of a hash lies, to be fetched.
    pub fn bucket_line(&self, hash: u64) -> Option<*const u8> {
        let bucket = self.buckets.get(self.bucket_of(hash >> 16))?;
        Some(std::ptr::from_ref(bucket).cast())
    }

    /// The first reference in the bucket of a hash whose tag matches.
    pub fn likely(&self, hash: u64) -> Option<Ref> {
        let bucket = self.buckets.get(self.bucket_of(hash >> 16))?;
        let bits = bucket.matches(hash as u8);
        (bits != 0).then(|| Ref(bucket.refs[bits.trailing_zeros() as usize]))
    }

    fn pick(
        bucket: &Bucket,
        number: usize,
        mut bits: u32,
        is: &mut impl FnMut(Ref) -> bool,
    ) -> Option<(Place, Ref)> {
        while bits != 0 {
            let i = bits.trailing_zeros();
            let at = Ref(bucket.refs[i as usize]);
            if is(at) {
                let place = Place::Entry {
                    bucket: number as u16,
                    index: i as u8,
                };
                return Some((place, at));
            }
            bits &= bits - 1;
        }
        None
    }

    fn next(&self, bucket: usize) -> usize {
        if bucket + 1 == self.buckets.len() {
            0
        } else {
            bucket + 1
        }
    }

    /// Adds an entry. Err: there is no place, and nothing was changed.
    pub fn insert(&mut self, hash: u64, at: Ref) -> Result<(), ()> {
        if self.buckets.is_empty() {
            return Err(());
        }
        let tag = hash as u8;
        let home = self.bucket_of(hash >> 16);
        if !self.buckets[home].put(tag, at, false) {
            let next = self.next(home);
            if next == home || !self.buckets[next].put(tag, at, true) {
                return Err(());
            }
            self.buckets[home].header |= SPILLED;
        }
        self.len += 1;
        Ok(())
    }

    /// Adds an entry that no bucket has place for.
    pub fn push_extra(&mut self, at: Ref) {
        self.extra.push(at.0);
        self.len += 1;
    }

    /// Lets an entry point elsewhere.
    pub fn replace(&mut self, place: Place, at: Ref) {
        match place {
            Place::Entry { bucket, index } => {
                self.buckets[usize::from(bucket)].refs[usize::from(index)] = at.0;
            }
            Place::Extra(i) => self.extra[i as usize] = at.0,
        }
    }

    pub fn remove(&mut self, place: Place) {
        self.len -= 1;
        match place {
            Place::Entry { bucket, index } => {
                let number = usize::from(bucket);
                let foreign = 1u32 << (u32::from(index) + FOREIGN_SHIFT);
                let was_foreign = self.buckets[number].header & foreign != 0;
                self.buckets[number].header &= !(1 << index | foreign);
                if was_foreign && self.buckets[number].foreign() == 0 {
                    let count = self.buckets.len();
                    self.buckets[(number + count - 1) % count].header &= !SPILLED;
                }
            }
            Place::Extra(i) => {
                self.extra.swap_remove(i as usize);
            }
        }
    }

    /// All references, in no order.
    pub fn refs(&self) -> impl Iterator<Item = Ref> + '_ {
        self.buckets
            .iter()
            .flat_map(|b| {
                (0..ENTRIES)
                    .filter(|i| b.used() >> i & 1 != 0)
                    .map(|i| Ref(b.refs[i]))
            })
            .chain(self.extra.iter().map(|&at| Ref(at)))
    }

    /// The references whose home is `bucket`. `hash` gives an entry's hash (asked only for `extra`).
    pub fn refs_at_home(&self, bucket: usize, hash: &dyn Fn(Ref) -> u64) -> Vec<Ref> {
        let own = &self.buckets[bucket];
        let mut refs = Vec::with_capacity(ENTRIES);
        let mut bits = own.used() & !own.foreign();
        while bits != 0 {
            refs.push(Ref(own.refs[bits.trailing_zeros() as usize]));
            bits &= bits - 1;
        }
        if own.header & SPILLED != 0 {
            let next = &self.buckets[self.next(bucket)];
            let mut bits = next.foreign() & next.used();
            while bits != 0 {
                refs.push(Ref(next.refs[bits.trailing_zeros() as usize]));
                bits &= bits - 1;
            }
        }
        let extra = self.extra.iter().map(|&at| Ref(at));
        refs.extend(extra.filter(|&at| self.bucket_of(hash(at) >> 16) == bucket));
        refs
    }

    /// Whether the bucket was visited by the snapshot of this phase.
    pub fn is_visited(&self, bucket: usize, phase: bool) -> bool {
        (self.buckets[bucket].header & PHASE != 0) == phase
    }

    pub fn set_visited(&mut self, bucket: usize, phase: bool) {
        let header = &mut self.buckets[bucket].header;
        *header = *header & !PHASE | if phase { PHASE } else { 0 };
    }
}
