//! Memory for items and for the buckets of tables: size-class pages in one reserved range of addresses, named by 4-byte references. One of
//! the few `unsafe` rooms.
//!
//! The range is cut into pages of 64 KiB; a page holds chunks of one size class. A reference is `page << 12 | chunk`, so a class needs no
//! power-of-two or 8-byte granularity and a chunk's address is `base + page * 64 KiB + chunk * class size`. An empty page goes back to the
//! kernel. A closed page hands out no chunks: what is in it is being moved elsewhere (see `compact`).
//!
//! Invariants:
//! 1. A page's class is written before its first chunk is handed out and stays while any chunk of it is in use; so whoever holds a live
//!    reference reads a stable class without a lock.
//! 2. A chunk is handed out to one owner at a time: the free list of a page is touched only under its class's lock.
//! 3. Free chunks are linked through their first two bytes; nobody else reads or writes a free chunk.
//! 4. Callers access a chunk only under the lock of the domain whose table holds its reference (or before it is published there).

use std::cell::UnsafeCell;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::budget::{Budget, OutOfMemory, Room};
use super::spans::reserve_addresses;

/// Bytes of a page.
pub const PAGE: usize = 64 * 1024;
const CHUNK_BITS: u32 = 12;
const CHUNKS_MAX: usize = 1 << CHUNK_BITS;
/// The smallest chunk: 4,096 of them fill a page.
pub const CHUNK_MIN: usize = PAGE / CHUNKS_MAX;
/// The largest chunk; items beyond keep their value (and key) in spans.
pub const CHUNK_MAX: usize = PAGE / 4;
const PAGES_LIMIT: usize = 1 << (32 - CHUNK_BITS);
/// Bytes that references reach.
pub const REACH: u64 = (PAGES_LIMIT * PAGE) as u64;
/// Runs of buckets are multiples of this, and aligned to it.
const LINE: usize = 64;
/// Cache lines of the longest run.
pub const RUN_MAX: usize = 64;

/// A reference to a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ref(pub u32);

impl Ref {
    fn new(page: u32, chunk: u16) -> Self {
        Self(page << CHUNK_BITS | u32::from(chunk))
    }
    fn page(self) -> usize {
        (self.0 >> CHUNK_BITS) as usize
    }
    fn chunk(self) -> usize {
        self.0 as usize & (CHUNKS_MAX - 1)
    }
}

/// Chunk sizes of items, ascending: steps of 4 bytes while that wastes less than a page's even division, then `64 KiB / k`.
fn item_sizes() -> Vec<usize> {
    let mut sizes: Vec<usize> = (CHUNK_MIN..=256).step_by(4).collect();
    let mut last = 256;
    for k in (4..PAGE / 256).rev() {
        let size = (PAGE / k) & !3;
        // Steps of at least 1/32 keep the classes few; the slack stays below that.
        if size >= last + last / 32 || k == 4 {
            sizes.push(size);
            last = size;
        }
    }
    sizes
}

/// A page's bookkeeping, guarded by the lock of its class. All zero: a page that is not in use. Chunks and pages are counted from one.
#[derive(Debug, Default)]
struct PageState {
    free_head: u16,
    /// Atomic for those who look how full a page is just when it changes its class.
    used: AtomicU16,
    /// Chunks beyond were never handed out.
    fresh: u16,
    listed: bool,
    /// Neighbours in the class's list of pages with room.
    next: u32,
    prev: u32,
}

/// What a class's lock guards, beside its pages' states.
#[derive(Debug, Default)]
struct Class {
    /// The first page with room, counted from one.
    head: u32,
    pages: u32,
    /// Chunks in use.
    used: u64,
}

#[derive(Debug, Default)]
struct FreePages {
    /// Pages given back, to be used first.
    returned: Vec<u32>,
    /// Pages beyond were never used.
    next: u32,
    /// Pages below are readable and writable.
    committed: u32,
}

/// How full a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageUse {
    pub page: u32,
    pub class: u8,
    pub used: u16,
    pub capacity: u16,
}

/// The pages.
pub struct Pages {
    base: NonNull<u8>,
    pages_max: usize,
    sizes: Vec<usize>,
    /// Classes below are of items, those from here on of runs of 1, 2, 3... cache lines.
    first_run: usize,
    /// Class of an item's size, by `(size + 3) / 4`.
    class_by_size: Vec<u8>,
    class_of_page: Box<[AtomicU8]>,
    /// Pages that are being emptied.
    closed: Box<[AtomicBool]>,
    states: Box<[UnsafeCell<PageState>]>,
    classes: Box<[Mutex<Class>]>,
    free: Mutex<FreePages>,
    budget: Arc<Budget>,
    bytes: AtomicU64,
}

// SAFETY: chunks are reached only as invariant 4 says; page states only under their class's lock; the rest is atomics and locks.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages")
            .field("bytes", &self.bytes())
            .finish()
    }
}

impl Pages {
    /// Reserves addresses for up to `reserve` bytes (0: as many as references reach, 64 GiB). No memory is used until pages are.
    pub fn new(reserve: u64, budget: Arc<Budget>) -> io::Result<Self> {
        let pages_max = if reserve == 0 {
            PAGES_LIMIT
        } else {
            (reserve as usize).div_ceil(PAGE).clamp(16, PAGES_LIMIT)
        };
        let base = reserve_addresses(pages_max * PAGE)?;
        let mut sizes = item_sizes();
        let first_run = sizes.len();
        let mut class_by_size = vec![0u8; CHUNK_MAX / 4 + 1];
        for (quads, class) in class_by_size.iter_mut().enumerate() {
            *class = sizes.partition_point(|&size| size < quads * 4) as u8;
        }
        sizes.extend((1..=RUN_MAX).map(|lines| lines * LINE));
        // SAFETY: all zero is a value of each of these types; the kernel gives their memory when it is touched.
        let (class_of_page, closed, states) = unsafe {
            (
                Box::new_zeroed_slice(pages_max).assume_init(),
                Box::new_zeroed_slice(pages_max).assume_init(),
                Box::new_zeroed_slice(pages_max).assume_init(),
            )
        };
        Ok(Self {
            base,
            pages_max,
            first_run,
            class_by_size,
            class_of_page,
            closed,
            states,
            classes: sizes.iter().map(|_| Mutex::default()).collect(),
            sizes,
            free: Mutex::default(),
            budget,
            bytes: AtomicU64::new(0),
        })
    }

    /// Bytes of pages in use.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of chunks in use.
    pub fn live_bytes(&self) -> u64 {
        let live = |(class, size): (&Mutex<Class>, &usize)| class.lock().used * *size as u64;
        self.classes.iter().zip(&self.sizes).map(live).sum()
    }

    /// A chunk of at least `size` bytes (at most [`CHUNK_MAX`]), not initialised.
    pub fn alloc(&self, size: usize, room: Room) -> Result<Ref, OutOfMemory> {
        debug_assert!(size <= CHUNK_MAX);
        self.alloc_in(self.class(size), room)
    }

    /// A run of cache lines, not initialised, whatever the limit: growth of a table must not fail half way. Where the system has no memory
    /// left at all this ends the process, as any small allocation does.
    pub fn alloc_run(&self, lines: usize) -> Ref {
        match self.alloc_in(self.first_run + lines - 1, Room::Any) {
            Ok(run) => run,
            Err(_) => std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; PAGE]>()),
        }
    }

    /// Moves what a chunk holds to another one of its class, whatever the limit. None: no addresses are left.
    ///
    /// # Safety
    /// `at` is a live chunk, nobody reaches it meanwhile, and its owner goes by the new reference from now on.
    pub unsafe fn relocate(&self, at: Ref) -> Option<Ref> {
        let class = self.class_of(at);
        let to = self.alloc_in(class, Room::Any).ok()?;
        // SAFETY: both are chunks of this class, the new one is ours alone and the old one by the caller's word.
        unsafe {
            let from = self.address(at.page(), at.chunk(), class);
            self.address(to.page(), to.chunk(), class)
                .copy_from_nonoverlapping(from, self.sizes[class]);
            self.free(at);
        }
        Some(to)
    }

    fn alloc_in(&self, class: usize, room: Room) -> Result<Ref, OutOfMemory> {
        let mut list = self.classes[class].lock();
        if list.head == 0 {
            list.head = self.new_page(class, room)? + 1;
            list.pages += 1;
        }
        list.used += 1;
        let page = list.head - 1;
        let capacity = self.capacity(class);
        // SAFETY: the page is in this class's list and we hold the class's lock.
        let state = unsafe { &mut *self.states[page as usize].get() };
        let chunk = if state.free_head != 0 {
            let chunk = state.free_head - 1;
            let at = self.address(page as usize, usize::from(chunk), class);
            // SAFETY: the chunk is free, so its first two bytes are the link (invariant 3); `at` lies in a committed page.
            state.free_head = unsafe { at.cast::<u16>().read_unaligned() };
            chunk
        } else {
            state.fresh += 1;
            state.fresh - 1
        };
        let used = state.used.load(Ordering::Relaxed) + 1;
        state.used.store(used, Ordering::Relaxed);
        if used == capacity {
            self.unlist(&mut list, page);
        }
        Ok(Ref::new(page, chunk))
    }

    /// Gives a chunk back.
    ///
    /// # Safety
    /// `at` came from this `Pages`, is given back once, and nobody reaches it any more.
    pub unsafe fn free(&self, at: Ref) {
        let page = at.page() as u32;
        let class = self.class_of(at);
        let mut list = self.classes[class].lock();
        list.used -= 1;
        let link = self.address(at.page(), at.chunk(), class);
        let closed = self.is_closed(at);
        // SAFETY: the page belongs to this class, whose lock we hold; the chunk is ours to write by this function's contract.
        let (empty, only) = unsafe {
            let state = &mut *self.states[page as usize].get();
            link.cast::<u16>().write_unaligned(state.free_head);
            state.free_head = at.chunk() as u16 + 1;
            let used = state.used.load(Ordering::Relaxed) - 1;
            state.used.store(used, Ordering::Relaxed);
            if !state.listed && !closed {
                self.list(&mut list, page);
            }
            (
                used == 0,
                list.head == page + 1 && state.next == 0 && state.listed,
            )
        };
        // Keep the last page of a class: a key that comes and goes must not move memory.
        if empty && !only {
            self.retire(&mut list, page);
        }
    }

    /// Takes an empty page out of its class.
    fn retire(&self, list: &mut Class, page: u32) {
        self.unlist(list, page);
        list.pages -= 1;
        self.closed[page as usize].store(false, Ordering::Relaxed);
        // SAFETY: the page is empty and its class's lock is held.
        unsafe { *self.states[page as usize].get() = PageState::default() };
        self.return_page(page);
    }

    /// How full the pages from `from` on are, `count` of them at most. None: there are no pages from there on.
    pub fn usage(&self, from: u32, count: u32) -> Option<Vec<PageUse>> {
        let end = self.free.lock().next;
        let pages = from..end.min(from.saturating_add(count));
        (!pages.is_empty()).then(|| pages.filter_map(|page| self.usage_of(page)).collect())
    }

    fn usage_of(&self, page: u32) -> Option<PageUse> {
        let class = self.class_of_page[page as usize].load(Ordering::Relaxed);
        let _list = self.classes[usize::from(class)].lock();
        // Given back and taken by another class meanwhile: not worth a second look.
        let same = self.class_of_page[page as usize].load(Ordering::Relaxed) == class;
        let used = self.used(page);
        (same && used > 0).then(|| PageUse {
            page,
            class,
            used,
            capacity: self.capacity(usize::from(class)),
        })
    }

    fn used(&self, page: u32) -> u16 {
        // SAFETY: only this field is read, which is atomic.
        unsafe {
            (*self.states[page as usize].get())
                .used
                .load(Ordering::Relaxed)
        }
    }

    /// Closes a page: it hands out nothing more until it is empty or opened again. False: it is not of that class any more.
    pub fn close(&self, page: u32, class: u8) -> bool {
        let mut list = self.classes[usize::from(class)].lock();
        let same = self.class_of_page[page as usize].load(Ordering::Relaxed) == class;
        if !same || self.used(page) == 0 {
            return false;
        }
        self.unlist(&mut list, page);
        self.closed[page as usize].store(true, Ordering::Relaxed);
        true
    }

    /// Opens a closed page again, if it was not emptied.
    pub fn open(&self, page: u32, class: u8) {
        let mut list = self.classes[usize::from(class)].lock();
        // An emptied page is not closed, whatever became of it.
        let was_closed = self.closed[page as usize].swap(false, Ordering::Relaxed);
        if was_closed && self.used(page) < self.capacity(usize::from(class)) {
            self.list(&mut list, page);
        }
    }

    /// Whether the page of a chunk is being emptied.
    pub fn is_closed(&self, at: Ref) -> bool {
        self.closed[at.page()].load(Ordering::Relaxed)
    }

    /// The address of a chunk and the size of its class.
    pub fn chunk(&self, at: Ref) -> (NonNull<u8>, usize) {
        let class = self.class_of(at);
        (
            self.address(at.page(), at.chunk(), class),
            self.sizes[class],
        )
    }

    fn class(&self, size: usize) -> usize {
        usize::from(self.class_by_size[size.div_ceil(4)])
    }

    fn class_of(&self, at: Ref) -> usize {
        usize::from(self.class_of_page[at.page()].load(Ordering::Relaxed))
    }

    fn capacity(&self, class: usize) -> u16 {
        (PAGE / self.sizes[class]) as u16
    }

    fn address(&self, page: usize, chunk: usize, class: usize) -> NonNull<u8> {
        debug_assert!(page < self.pages_max);
        // SAFETY: page < pages_max and chunk * size < PAGE, so the result lies in the reserved range.
        unsafe { self.base.add(page * PAGE + chunk * self.sizes[class]) }
    }

    fn new_page(&self, class: usize, room: Room) -> Result<u32, OutOfMemory> {
        self.budget.take_in(PAGE, room)?;
        let page = match self.next_page(room == Room::Any) {
            Some(page) => page,
            None => {
                self.budget.give(PAGE);
                return Err(OutOfMemory::Node);
            }
        };
        self.class_of_page[page as usize].store(class as u8, Ordering::Relaxed);
        self.bytes.fetch_add(PAGE as u64, Ordering::Relaxed);
        // SAFETY: the page is in no list, so nobody else reaches its state.
        unsafe { (*self.states[page as usize].get()).listed = true };
        Ok(page)
    }

    /// `last`: the addresses that are kept for tables may be taken.
    fn next_page(&self, last: bool) -> Option<u32> {
        const COMMIT: u32 = 16;
        let mut free = self.free.lock();
        if let Some(page) = free.returned.pop() {
            return Some(page);
        }
        let kept = if last { 0 } else { self.pages_max / 4 };
        if free.next as usize >= self.pages_max - kept {
            return None;
        }
        if free.next == free.committed {
            let pages = COMMIT.min(self.pages_max as u32 - free.committed);
            // SAFETY: the range lies in our reservation and holds nothing yet.
            let done = unsafe {
                libc::mprotect(
                    self.base
                        .add(free.committed as usize * PAGE)
                        .as_ptr()
                        .cast(),
                    pages as usize * PAGE,
                    libc::PROT_READ | libc::PROT_WRITE,
                )
            };
            if done != 0 {
                return None;
            }
            free.committed += pages;
        }
        free.next += 1;
        Some(free.next - 1)
    }

    fn return_page(&self, page: u32) {
        // SAFETY: the page holds no chunk in use; the kernel may take its memory, and hands out zeroes when it is touched again.
        unsafe {
            libc::madvise(
                self.base.add(page as usize * PAGE).as_ptr().cast(),
                PAGE,
                libc::MADV_DONTNEED,
            );
        }
        self.budget.give(PAGE);
        self.bytes.fetch_sub(PAGE as u64, Ordering::Relaxed);
        self.free.lock().returned.push(page);
    }

    fn list(&self, list: &mut Class, page: u32) {
        // SAFETY: called under the class's lock; all pages of its list belong to the class.
        unsafe {
            let state = &mut *self.states[page as usize].get();
            state.listed = true;
            state.prev = 0;
            state.next = list.head;
            if list.head != 0 {
                (*self.states[list.head as usize - 1].get()).prev = page + 1;
            }
        }
        list.head = page + 1;
    }

    /// Takes a page out of its class's list, if it is there.
    fn unlist(&self, list: &mut Class, page: u32) {
        // SAFETY: as in `list`.
        unsafe {
            let (prev, next) = {
                let state = &mut *self.states[page as usize].get();
                if !std::mem::take(&mut state.listed) {
                    return;
                }
                (
                    std::mem::take(&mut state.prev),
                    std::mem::take(&mut state.next),
                )
            };
            match prev {
                0 => list.head = next,
                _ => (*self.states[prev as usize - 1].get()).next = next,
            }
            if next != 0 {
                (*self.states[next as usize - 1].get()).prev = prev;
            }
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody reaches a chunk after the store is gone.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.pages_max * PAGE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn pages(limit: u64) -> Pages {
        Pages::new(64 << 20, Arc::new(Budget::new(limit))).unwrap()
    }

    #[test]
    fn every_size_gets_the_smallest_class_that_holds_it() {
        let p = pages(0);
        for size in 1..=CHUNK_MAX {
            let class = p.class(size);
            assert!(p.sizes[class] >= size);
            assert!(class < p.first_run);
            assert!(class == 0 || p.sizes[class - 1] < size.next_multiple_of(4));
            let slack = p.sizes[class] - size;
            // Beyond 2 KiB a page's even division sets the steps.
            let most = if size <= 2_048 { size / 16 } else { size / 3 };
            assert!(slack <= most.max(15), "{size}: slack {slack}");
        }
        assert!(p.sizes.len() < 256, "a class is one byte");
    }

    #[test]
    fn chunks_in_use_never_overlap_and_pages_come_back() {
        let p = pages(0);
        let mut live: BTreeMap<u32, (usize, u8)> = BTreeMap::new();
        let mut random = 7u64;
        for step in 0..60_000u64 {
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let size = 16 + (random >> 33) as usize % 700;
            if live.len() < 2_000 || random & 1 == 0 && step < 50_000 {
                let at = p.alloc(size, Room::Limit).unwrap();
                let (address, class) = p.chunk(at);
                assert!(class >= size);
                let fill = step as u8;
                // SAFETY: the chunk was just handed out to us alone.
                unsafe { address.write_bytes(fill, class) };
                assert!(
                    live.insert(at.0, (class, fill)).is_none(),
                    "handed out twice"
                );
            } else {
                let key = *live
                    .keys()
                    .nth((random >> 40) as usize % live.len())
                    .unwrap();
                let (class, fill) = live.remove(&key).unwrap();
                let (address, _) = p.chunk(Ref(key));
                // SAFETY: the chunk is ours until it is freed below.
                let bytes = unsafe { std::slice::from_raw_parts(address.as_ptr(), class) };
                assert!(
                    bytes.iter().all(|&b| b == fill),
                    "somebody wrote into a live chunk"
                );
                // SAFETY: ours, once.
                unsafe { p.free(Ref(key)) };
            }
        }
        for key in live.keys() {
            // SAFETY: ours, once.
            unsafe { p.free(Ref(*key)) };
        }
        let kept = p.classes.iter().filter(|c| c.lock().head != 0).count() as u64;
        assert_eq!(p.bytes(), kept * PAGE as u64, "only one page a class stays");
        assert_eq!((p.budget.used(), p.live_bytes()), (p.bytes(), 0));
    }

    /// A closed page hands out nothing, goes back when its last chunk is moved, and is as before when it is opened again.
    #[test]
    fn a_closed_page_is_emptied_by_moving_its_chunks() {
        let p = pages(0);
        let mut held: Vec<Ref> = (0..300)
            .map(|_| p.alloc(1000, Room::Limit).unwrap())
            .collect();
        let before = p.bytes();
        let first = p.usage(0, 1).unwrap()[0];
        assert_eq!((first.page, first.used), (0, first.capacity));
        assert!(p.close(0, first.class) && !p.close(0, first.class + 1));
        p.open(0, first.class);
        assert!(p.close(0, first.class));
        for (i, at) in held.iter_mut().enumerate() {
            // SAFETY: the chunks are ours alone.
            unsafe { p.chunk(*at).0.write_bytes(i as u8, 1000) };
            if p.is_closed(*at) {
                // SAFETY: as above.
                *at = unsafe { p.relocate(*at) }.unwrap();
                assert!(!p.is_closed(*at));
            }
        }
        assert_eq!(p.usage(0, 1), Some(vec![]), "the page was given back");
        assert_eq!(p.bytes(), before, "one page for another, as all were full");
        for (i, at) in held.iter().enumerate() {
            // SAFETY: the chunk is ours.
            let bytes = unsafe { std::slice::from_raw_parts(p.chunk(*at).0.as_ptr(), 1000) };
            assert!(bytes.iter().all(|&b| b == i as u8));
        }
        let again: Vec<Ref> = (0..100)
            .map(|_| p.alloc(1000, Room::Limit).unwrap())
            .collect();
        assert!(again.iter().all(|at| !held.contains(at)));
    }

    #[test]
    fn a_full_budget_refuses_and_changes_nothing() {
        let p = pages(3 * PAGE as u64);
        let mut held = Vec::new();
        while let Ok(at) = p.alloc(CHUNK_MAX, Room::Limit) {
            held.push(at);
        }
        assert_eq!(held.len(), 12);
        assert_eq!(p.budget.used(), 3 * PAGE as u64);
        // SAFETY: ours, once.
        unsafe { p.free(held.pop().unwrap()) };
        assert!(p.alloc(CHUNK_MAX, Room::Limit).is_ok());
    }
}
