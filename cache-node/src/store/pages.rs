//! Memory for items: size-class pages in one reserved range of addresses, named by 4-byte references. One of the few `unsafe` rooms.
//!
//! The range is cut into pages of 64 KiB; a page holds chunks of one size class. A reference is `page << 12 | chunk`, so a class needs no
//! power-of-two or 8-byte granularity and a chunk's address is `base + page * 64 KiB + chunk * class size`.
//!
//! Invariants:
//! 1. A page's class is written before its first chunk is handed out and stays while any chunk of it is in use; so whoever holds a live
//!    reference reads a stable class without a lock.
//! 2. A chunk is handed out to one owner at a time: the free list of a page is touched only under its class's lock.
//! 3. Free chunks are linked through their first two bytes; nobody else reads or writes a free chunk.
//! 4. Callers access a chunk only under the lock of the domain whose table holds its reference (or before it is published there).

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;

/// Bytes of a page.
pub const PAGE: usize = 64 * 1024;
const CHUNK_BITS: u32 = 12;
const CHUNKS_MAX: usize = 1 << CHUNK_BITS;
/// The smallest chunk: 4,096 of them fill a page.
pub const CHUNK_MIN: usize = PAGE / CHUNKS_MAX;
/// The largest chunk; items beyond keep their value (and key) on the heap.
pub const CHUNK_MAX: usize = PAGE / 4;
const PAGES_LIMIT: usize = 1 << (32 - CHUNK_BITS);
/// Bytes that references reach.
pub const REACH: u64 = (PAGES_LIMIT * PAGE) as u64;
const NO_CHUNK: u16 = u16::MAX;
const NO_PAGE: u32 = u32::MAX;

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

/// No memory within the limit. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("OOM command not allowed when used memory > 'maxmemory'.")]
pub struct OutOfMemory;

/// What the store holds against its limit, in bytes.
#[derive(Debug, Default)]
pub struct Budget {
    used: AtomicU64,
    limit: AtomicU64,
}

impl Budget {
    /// `limit` 0: none.
    pub fn new(limit: u64) -> Self {
        Self {
            used: AtomicU64::new(0),
            limit: AtomicU64::new(limit),
        }
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Takes `bytes` if they fit.
    pub fn take(&self, bytes: usize) -> Result<(), OutOfMemory> {
        let bytes = bytes as u64;
        let limit = self.limit();
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if limit != 0 && used > limit {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(OutOfMemory);
        }
        Ok(())
    }

    /// Takes `bytes` whether they fit or not: for growth that must not fail half way.
    pub fn take_anyway(&self, bytes: usize) {
        self.used.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

/// Chunk sizes, ascending: steps of 4 bytes while that wastes less than a page's even division, then `64 KiB / k`.
fn class_sizes() -> Vec<usize> {
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

/// A page's bookkeeping, guarded by the lock of its class.
#[derive(Debug, Clone, Copy)]
struct PageState {
    free_head: u16,
    used: u16,
    /// Chunks beyond were never handed out.
    fresh: u16,
    /// Neighbours in the class's list of pages with room.
    next: u32,
    prev: u32,
    listed: bool,
}

const PAGE_EMPTY: PageState = PageState {
    free_head: NO_CHUNK,
    used: 0,
    fresh: 0,
    next: NO_PAGE,
    prev: NO_PAGE,
    listed: false,
};

#[derive(Debug)]
struct FreePages {
    /// Pages given back, to be used first.
    returned: Vec<u32>,
    /// Pages beyond were never used.
    next: u32,
    /// Pages below are readable and writable.
    committed: u32,
}

/// The pages.
pub struct Pages {
    base: NonNull<u8>,
    pages_max: usize,
    sizes: Vec<usize>,
    /// Class of a size, by `(size + 3) / 4`.
    class_by_size: Vec<u8>,
    class_of_page: Box<[AtomicU8]>,
    states: Box<[std::cell::UnsafeCell<PageState>]>,
    /// Head of each class's list of pages with room.
    classes: Box<[Mutex<u32>]>,
    free: Mutex<FreePages>,
    budget: std::sync::Arc<Budget>,
    items_bytes: AtomicU64,
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
    pub fn new(reserve: u64, budget: std::sync::Arc<Budget>) -> io::Result<Self> {
        let wanted = if reserve == 0 {
            PAGES_LIMIT
        } else {
            (reserve as usize).div_ceil(PAGE).clamp(16, PAGES_LIMIT)
        };
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                wanted * PAGE,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let sizes = class_sizes();
        let mut class_by_size = vec![0u8; CHUNK_MAX / 4 + 1];
        for (quads, class) in class_by_size.iter_mut().enumerate() {
            *class = sizes.partition_point(|&size| size < quads * 4) as u8;
        }
        Ok(Self {
            base: NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)?,
            pages_max: wanted,
            class_by_size,
            class_of_page: (0..wanted).map(|_| AtomicU8::new(0)).collect(),
            states: (0..wanted)
                .map(|_| std::cell::UnsafeCell::new(PAGE_EMPTY))
                .collect(),
            classes: sizes.iter().map(|_| Mutex::new(NO_PAGE)).collect(),
            sizes,
            free: Mutex::new(FreePages {
                returned: Vec::new(),
                next: 0,
                committed: 0,
            }),
            budget,
            items_bytes: AtomicU64::new(0),
        })
    }

    /// Bytes of pages in use.
    pub fn bytes(&self) -> u64 {
        self.items_bytes.load(Ordering::Relaxed)
    }

    /// A chunk of at least `size` bytes (at most [`CHUNK_MAX`]), not initialised.
    pub fn alloc(&self, size: usize) -> Result<Ref, OutOfMemory> {
        debug_assert!(size <= CHUNK_MAX);
        let class = self.class(size);
        let mut head = self.classes[class].lock();
        if *head == NO_PAGE {
            *head = self.new_page(class)?;
        }
        let page = *head;
        let capacity = (PAGE / self.sizes[class]) as u16;
        // SAFETY: the page is in this class's list and we hold the class's lock.
        let state = unsafe { &mut *self.states[page as usize].get() };
        let chunk = if state.free_head != NO_CHUNK {
            let chunk = state.free_head;
            let at = self.address(page as usize, usize::from(chunk), class);
            // SAFETY: the chunk is free, so its first two bytes are the link (invariant 3); `at` lies in a committed page.
            state.free_head = unsafe { at.cast::<u16>().read_unaligned() };
            chunk
        } else {
            state.fresh += 1;
            state.fresh - 1
        };
        state.used += 1;
        if state.used == capacity {
            self.unlist(&mut head, page);
        }
        Ok(Ref::new(page, chunk))
    }

    /// Gives a chunk back.
    ///
    /// # Safety
    /// `at` came from [`Pages::alloc`], is given back once, and nobody reaches it any more.
    pub unsafe fn free(&self, at: Ref) {
        let page = at.page() as u32;
        let class = usize::from(self.class_of_page[at.page()].load(Ordering::Relaxed));
        let mut head = self.classes[class].lock();
        let link = self.address(at.page(), at.chunk(), class);
        // SAFETY: the page belongs to this class, whose lock we hold; the chunk is ours to write by this function's contract.
        unsafe {
            let state = &mut *self.states[page as usize].get();
            link.cast::<u16>().write_unaligned(state.free_head);
            state.free_head = at.chunk() as u16;
            state.used -= 1;
            if !state.listed {
                self.list(&mut head, page);
            }
            if state.used == 0 && !(*head == page && state.next == NO_PAGE) {
                // Keep the last page of a class: a key that comes and goes must not move memory.
                self.unlist(&mut head, page);
                *state = PAGE_EMPTY;
                self.return_page(page);
            }
        }
    }

    /// The address of a chunk and the size of its class.
    pub fn chunk(&self, at: Ref) -> (NonNull<u8>, usize) {
        let class = usize::from(self.class_of_page[at.page()].load(Ordering::Relaxed));
        (
            self.address(at.page(), at.chunk(), class),
            self.sizes[class],
        )
    }

    fn class(&self, size: usize) -> usize {
        usize::from(self.class_by_size[size.div_ceil(4)])
    }

    fn address(&self, page: usize, chunk: usize, class: usize) -> NonNull<u8> {
        debug_assert!(page < self.pages_max);
        // SAFETY: page < pages_max and chunk * size < PAGE, so the result lies in the reserved range.
        unsafe { self.base.add(page * PAGE + chunk * self.sizes[class]) }
    }

    fn new_page(&self, class: usize) -> Result<u32, OutOfMemory> {
        self.budget.take(PAGE)?;
        let page = match self.next_page() {
            Some(page) => page,
            None => {
                self.budget.give(PAGE);
                return Err(OutOfMemory);
            }
        };
        self.class_of_page[page as usize].store(class as u8, Ordering::Relaxed);
        self.items_bytes.fetch_add(PAGE as u64, Ordering::Relaxed);
        // SAFETY: the page is in no list, so nobody else reaches its state.
        unsafe {
            *self.states[page as usize].get() = PageState {
                listed: true,
                ..PAGE_EMPTY
            };
        }
        Ok(page)
    }

    fn next_page(&self) -> Option<u32> {
        const COMMIT: u32 = 16;
        let mut free = self.free.lock();
        if let Some(page) = free.returned.pop() {
            return Some(page);
        }
        if free.next as usize >= self.pages_max {
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
        self.items_bytes.fetch_sub(PAGE as u64, Ordering::Relaxed);
        self.free.lock().returned.push(page);
    }

    fn list(&self, head: &mut u32, page: u32) {
        // SAFETY: called under the class's lock; all pages of its list belong to the class.
        unsafe {
            let state = &mut *self.states[page as usize].get();
            state.listed = true;
            state.prev = NO_PAGE;
            state.next = *head;
            if *head != NO_PAGE {
                (*self.states[*head as usize].get()).prev = page;
            }
        }
        *head = page;
    }

    fn unlist(&self, head: &mut u32, page: u32) {
        // SAFETY: as in `list`.
        unsafe {
            let (prev, next) = {
                let state = &mut *self.states[page as usize].get();
                state.listed = false;
                (
                    std::mem::replace(&mut state.prev, NO_PAGE),
                    std::mem::replace(&mut state.next, NO_PAGE),
                )
            };
            match prev {
                NO_PAGE => *head = next,
                _ => (*self.states[prev as usize].get()).next = next,
            }
            if next != NO_PAGE {
                (*self.states[next as usize].get()).prev = prev;
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
    use std::sync::Arc;

    fn pages(limit: u64) -> Pages {
        Pages::new(64 << 20, Arc::new(Budget::new(limit))).unwrap()
    }

    #[test]
    fn every_size_gets_the_smallest_class_that_holds_it() {
        let p = pages(0);
        for size in 1..=CHUNK_MAX {
            let class = p.class(size);
            assert!(p.sizes[class] >= size);
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
                let at = p.alloc(size).unwrap();
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
        let kept = p.classes.iter().filter(|c| *c.lock() != NO_PAGE).count() as u64;
        assert_eq!(p.bytes(), kept * PAGE as u64, "only one page a class stays");
        assert_eq!(p.budget.used(), p.bytes());
    }

    #[test]
    fn a_full_budget_refuses_and_changes_nothing() {
        let p = pages(3 * PAGE as u64);
        let mut held = Vec::new();
        while let Ok(at) = p.alloc(CHUNK_MAX) {
            held.push(at);
        }
        assert_eq!(held.len(), 12);
        assert_eq!(p.budget.used(), 3 * PAGE as u64);
        // SAFETY: ours, once.
        unsafe { p.free(held.pop().unwrap()) };
        assert!(p.alloc(CHUNK_MAX).is_ok());
    }
}
