//! A run of buckets that covers one range of positions, and grows by about a quarter at a time.
//!
//! A bucket is one cache line: 12 entries of (tag, reference) and a header. The bucket of a position is `position * buckets / range`, so
//! buckets are in the order of positions whatever their number. What does not fit in its bucket goes to the next one, marked as foreign;
//! when that is full too the segment is rebuilt larger. Entries that even the largest segment has no place for (equal hashes) go to `extra`.
//!
//! The buckets are a run of cache lines in the store's pages. Invariant: the run is this segment's alone from its making to
//! [`Segment::free`], which whoever drops a segment calls first; so a segment that is not borrowed is all that reaches it.

use std::ptr::NonNull;

use super::due::{Due, Dues};
use super::pages::{Pages, RUN_MAX, Ref};
use super::point::{POS_BITS, POS_END};
use super::prefetch;

/// Entries of a bucket.
pub const ENTRIES: usize = 12;
/// Buckets of the largest segment; beyond, it splits in two.
pub const BUCKETS_MAX: usize = RUN_MAX;
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
        self.equal(tag) & self.used()
    }

    #[cfg(target_arch = "x86_64")]
    fn equal(&self, tag: u8) -> u32 {
        use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_load_si128, _mm_movemask_epi8, _mm_set1_epi8};
        // SAFETY: a bucket begins with its header's 4 bytes and 12 tags, aligned to 64; SSE2 is part of x86-64.
        let equal = unsafe {
            let start = _mm_load_si128(std::ptr::from_ref(self).cast());
            _mm_movemask_epi8(_mm_cmpeq_epi8(start, _mm_set1_epi8(tag as i8)))
        };
        equal as u32 >> 4
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn equal(&self, tag: u8) -> u32 {
        let tags = self.tags.iter().enumerate();
        tags.fold(0, |bits, (i, &t)| bits | u32::from(t == tag) << i)
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

/// What a segment asks of an item: its hash, and when it is due.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub hash: u64,
    pub due: Due,
    pub at: Ref,
}

/// Where an entry is in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Entry { bucket: u16, index: u8 },
    Extra(u32),
}

/// See the module's text.
#[derive(Debug)]
pub struct Segment {
    at: NonNull<Bucket>,
    run: Ref,
    count: u16,
    /// Leading bits of the position that all its entries share.
    depth: u8,
    len: u32,
    /// When the buckets' next items expire; those without a place belong to the last bucket.
    dues: Dues,
    extra: Vec<u32>,
}

// SAFETY: the run that it points to is its own.
unsafe impl Send for Segment {}

/// The next larger number of buckets, or None when the segment should split.
fn larger(buckets: usize) -> Option<usize> {
    (buckets < BUCKETS_MAX).then(|| (buckets + 1).max(buckets * 5 / 4).min(BUCKETS_MAX))
}

/// Buckets for so many entries.
fn buckets_for(entries: usize) -> usize {
    (entries * 10).div_ceil(FILL_TENTHS).clamp(1, BUCKETS_MAX)
}

impl Segment {
    fn empty(pages: &Pages, buckets: usize, depth: u8, phase: bool) -> Self {
        let run = pages.alloc_run(buckets);
        let at: NonNull<Bucket> = pages.chunk(run).0.cast();
        for i in 0..buckets {
            // SAFETY: the run is ours, of so many cache lines, and aligned to them.
            unsafe { at.add(i).write(Bucket::new(phase)) };
        }
        Self {
            at,
            run,
            count: buckets as u16,
            depth,
            len: 0,
            dues: Dues::default(),
            extra: Vec::new(),
        }
    }

    /// Gives its buckets back. Nothing else may be asked of it afterwards.
    pub fn free(&mut self, pages: &Pages) {
        self.count = 0;
        // SAFETY: the run is this segment's alone, and with no bucket left nobody reaches it.
        unsafe { pages.free(self.run) };
    }

    /// Moves its buckets elsewhere if their page is being emptied. Gives the bytes moved.
    pub fn relocate(&mut self, pages: &Pages) -> usize {
        if self.count == 0 || !pages.is_closed(self.run) {
            return 0;
        }
        // SAFETY: the run is this segment's alone, which is borrowed by us.
        match unsafe { pages.relocate(self.run) } {
            Some(run) => {
                self.run = run;
                self.at = pages.chunk(run).0.cast();
                self.bytes()
            }
            None => 0,
        }
    }

    fn buckets(&self) -> &[Bucket] {
        // SAFETY: `empty` wrote so many buckets; they change through `&mut self` only.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), usize::from(self.count)) }
    }

    fn buckets_mut(&mut self) -> &mut [Bucket] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), usize::from(self.count)) }
    }

    /// A segment of so many leading bits, with room for `entries`; its buckets count as visited in `phase`.
    pub fn build(pages: &Pages, depth: u8, entries: &[Entry], phase: bool) -> Self {
        Self::with(pages, buckets_for(entries.len()), depth, entries, phase)
    }

    /// A segment of at least so many buckets.
    fn with(pages: &Pages, mut buckets: usize, depth: u8, entries: &[Entry], phase: bool) -> Self {
        loop {
            let mut segment = Self::empty(pages, buckets, depth, phase);
            let more = larger(buckets);
            for &entry in entries {
                if segment.insert(entry).is_ok() {
                    continue;
                }
                if more.is_some() {
                    break;
                }
                segment.push_extra(entry);
            }
            match more {
                Some(more) if segment.len() < entries.len() => {
                    segment.free(pages);
                    buckets = more;
                }
                _ => return segment,
            }
        }
    }

    /// The number of buckets a rebuild should aim for when one more entry found no place; None: split.
    pub fn grown(&self) -> Option<usize> {
        larger(self.bucket_count())
    }

    /// Becomes one with at least `buckets` buckets. `entry` tells of an item.
    pub fn rebuild(
        &mut self,
        pages: &Pages,
        buckets: usize,
        phase: bool,
        entry: &dyn Fn(Ref) -> Entry,
    ) {
        self.fetch_items(pages);
        let entries: Vec<Entry> = self.refs().map(entry).collect();
        let rebuilt = Self::with(pages, buckets, self.depth, &entries, phase);
        self.free(pages);
        *self = rebuilt;
    }

    /// Fetches all its items: whoever asks each for its hash waits for memory once and not for each.
    pub fn fetch_items(&self, pages: &Pages) {
        for at in self.refs() {
            prefetch::line(pages.chunk(at).0.as_ptr());
        }
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn depth(&self) -> u8 {
        self.depth
    }

    pub fn bucket_count(&self) -> usize {
        usize::from(self.count)
    }

    /// Bytes of its buckets.
    pub fn bytes(&self) -> usize {
        usize::from(self.count) * size_of::<Bucket>()
            + self.dues.bytes()
            + self.extra.capacity() * 4
    }

    /// The bucket of a position.
    pub fn bucket_of(&self, pos: u64) -> usize {
        let within = (pos << self.depth) & (POS_END - 1);
        ((u128::from(within) * self.bucket_count() as u128) >> POS_BITS) as usize
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
        (u128::from(self.span()) * bucket as u128).div_ceil(self.bucket_count() as u128) as u64
    }

    /// Finds the entry whose tag matches and of which `is` says yes.
    pub fn find(&self, hash: u64, mut is: impl FnMut(Ref) -> bool) -> Option<(Place, Ref)> {
        if self.count == 0 {
            return None;
        }
        let tag = hash as u8;
        let home = self.bucket_of(hash >> 16);
        let bucket = &self.buckets()[home];
        let own = bucket.matches(tag) & !bucket.foreign();
        if let Some(found) = Self::pick(bucket, home, own, &mut is) {
            return Some(found);
        }
        if bucket.header & SPILLED != 0 {
            let next = self.next(home);
            let bucket = &self.buckets()[next];
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
        let bucket = self.buckets().get(self.bucket_of(hash >> 16))?;
        Some(std::ptr::from_ref(bucket).cast())
    }

    /// Where a bucket lies, to be fetched.
    pub fn line_of(&self, bucket: usize) -> Option<*const u8> {
        Some(std::ptr::from_ref(self.buckets().get(bucket)?).cast())
    }

    /// Where it says when its buckets are due, to be fetched.
    pub fn due_lines(&self) -> impl Iterator<Item = *const u8> {
        self.dues.lines()
    }

    /// The first reference in the bucket of a hash whose tag matches.
    pub fn likely(&self, hash: u64) -> Option<Ref> {
        let bucket = self.buckets().get(self.bucket_of(hash >> 16))?;
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
        if bucket + 1 == self.bucket_count() {
            0
        } else {
            bucket + 1
        }
    }

    /// Adds an entry. Err: there is no place, and nothing was changed.
    pub fn insert(&mut self, entry: Entry) -> Result<(), ()> {
        if self.count == 0 {
            return Err(());
        }
        let tag = entry.hash as u8;
        let mut bucket = self.bucket_of(entry.hash >> 16);
        if !self.buckets_mut()[bucket].put(tag, entry.at, false) {
            let home = bucket;
            bucket = self.next(home);
            if bucket == home || !self.buckets_mut()[bucket].put(tag, entry.at, true) {
                return Err(());
            }
            self.buckets_mut()[home].header |= SPILLED;
        }
        self.dues.note(bucket, self.bucket_count(), entry.due);
        self.len += 1;
        Ok(())
    }

    /// Adds an entry that no bucket has place for.
    pub fn push_extra(&mut self, entry: Entry) {
        self.extra.push(entry.at.0);
        let buckets = self.bucket_count();
        self.dues.note(buckets - 1, buckets, entry.due);
        self.len += 1;
    }

    /// An entry is due then, or later than it was.
    pub fn note_due(&mut self, place: Place, due: Due) {
        let bucket = match place {
            Place::Entry { bucket, .. } => usize::from(bucket),
            Place::Extra(_) => self.bucket_count() - 1,
        };
        self.dues.note(bucket, self.bucket_count(), due);
    }

    /// When its next item is due, or earlier.
    pub fn due(&self) -> Due {
        self.dues.min()
    }

    /// The first bucket from `from` on that is due.
    pub fn due_bucket(&self, from: usize, now: Due) -> Option<usize> {
        self.dues
            .next(from, now)
            .filter(|&b| b < self.bucket_count())
    }

    /// Says when a bucket's next item is due.
    pub fn set_due(&mut self, bucket: usize, due: Due) {
        self.dues.set(bucket, self.bucket_count(), due);
    }

    /// The entries that lie in a bucket, wherever their home is; with the last bucket those without a place.
    pub fn places(&self, bucket: usize) -> impl Iterator<Item = (Place, Ref)> + '_ {
        let own = &self.buckets()[bucket];
        let used = (0..ENTRIES).filter(|i| own.used() >> i & 1 != 0);
        let here = used.map(move |i| {
            let place = Place::Entry {
                bucket: bucket as u16,
                index: i as u8,
            };
            (place, Ref(own.refs[i]))
        });
        let last = bucket + 1 == self.bucket_count();
        let extra = self.extra.iter().enumerate().filter(move |_| last);
        // Latest first: taking one out puts the last in its place.
        here.chain(
            extra
                .rev()
                .map(|(i, &at)| (Place::Extra(i as u32), Ref(at))),
        )
    }

    /// As [`Segment::places`], of those with a tag.
    pub fn tagged(&self, bucket: usize, tag: u8) -> impl Iterator<Item = (Place, Ref)> + '_ {
        let matches = self.buckets()[bucket].matches(tag);
        self.places(bucket).filter(move |(place, _)| match place {
            Place::Entry { index, .. } => matches >> index & 1 != 0,
            Place::Extra(_) => true,
        })
    }

    /// Lets an entry point elsewhere.
    pub fn replace(&mut self, place: Place, at: Ref) {
        match place {
            Place::Entry { bucket, index } => {
                self.buckets_mut()[usize::from(bucket)].refs[usize::from(index)] = at.0;
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
                let was_foreign = self.buckets()[number].header & foreign != 0;
                self.buckets_mut()[number].header &= !(1 << index | foreign);
                if was_foreign && self.buckets()[number].foreign() == 0 {
                    let count = self.bucket_count();
                    self.buckets_mut()[(number + count - 1) % count].header &= !SPILLED;
                }
            }
            Place::Extra(i) => {
                self.extra.swap_remove(i as usize);
            }
        }
    }

    /// Moves the items of one bucket, and with the last bucket those without a place, as [`super::table::Table::relocate`] says.
    pub fn relocate_bucket(
        &mut self,
        number: usize,
        relocate: &dyn Fn(Ref) -> Option<(usize, Ref)>,
    ) -> usize {
        let mut moved = 0;
        let mut each = |at: &mut u32| {
            if let Some((bytes, new)) = relocate(Ref(*at)) {
                *at = new.0;
                moved += bytes;
            }
        };
        let last = number + 1 == self.bucket_count();
        let bucket = &mut self.buckets_mut()[number];
        let mut bits = bucket.used();
        while bits != 0 {
            each(&mut bucket.refs[bits.trailing_zeros() as usize]);
            bits &= bits - 1;
        }
        if last {
            self.extra.iter_mut().for_each(each);
        }
        moved
    }

    /// All references, in no order.
    pub fn refs(&self) -> impl Iterator<Item = Ref> + '_ {
        self.buckets()
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
        let own = &self.buckets()[bucket];
        let mut refs = Vec::with_capacity(ENTRIES);
        let mut bits = own.used() & !own.foreign();
        while bits != 0 {
            refs.push(Ref(own.refs[bits.trailing_zeros() as usize]));
            bits &= bits - 1;
        }
        if own.header & SPILLED != 0 {
            let next = &self.buckets()[self.next(bucket)];
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
        (self.buckets()[bucket].header & PHASE != 0) == phase
    }

    pub fn set_visited(&mut self, bucket: usize, phase: bool) {
        let header = &mut self.buckets_mut()[bucket].header;
        *header = *header & !PHASE | if phase { PHASE } else { 0 };
    }
}
