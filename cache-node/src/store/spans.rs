//! Memory for large values: runs of 4 KiB blocks in a reserved range of addresses, reference counted. One of the few `unsafe` rooms.
//!
//! A span holds one value behind a head. Its last owner gives it back, whoever that is: the item, or a connection that still sends it. Its
//! blocks go back to the kernel at once (those of a long one in pieces, by a background thread or by whoever needs them), so what is taken
//! is what the kernel counts; addresses are plenty, so where the holes are does not matter. A value changes only while it has one owner.
//!
//! Invariants:
//! 1. A block belongs to at most one span; the map of free runs is changed under its lock only, and never holds two runs that touch.
//! 2. A run is free only after its memory was given back, so nobody writes to it.
//! 3. Each live span owns one strong count of its `Spans`, so the mapping outlives all values.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use parking_lot::Mutex;

use super::budget::{Budget, OutOfMemory, Room};

/// Bytes of a block: what the kernel takes back at least.
pub const BLOCK: usize = 4096;
/// Addresses reserved where the system lets us.
const RESERVE: usize = 256 << 30;
const RESERVE_MIN: usize = 64 << 20;
/// Blocks made accessible at a time.
const COMMIT: usize = 256;
/// Blocks given back to the kernel at a time: more would keep others waiting, as values are freed under locks.
const AT_ONCE: usize = 128;

/// What precedes a value in its span.
struct Head {
    owners: AtomicUsize,
    len: usize,
    spans: *const Spans,
}

const HEAD: usize = size_of::<Head>();

/// Bytes that a value of this length takes.
pub fn span_bytes(len: usize) -> usize {
    (HEAD + len).next_multiple_of(BLOCK)
}

#[derive(Debug, Default)]
struct Free {
    /// Length by start, in blocks.
    runs: BTreeMap<usize, usize>,
    by_length: BTreeSet<(usize, usize)>,
    /// Blocks beyond were never used.
    next: usize,
    committed: usize,
    /// Long runs that nobody owns and whose memory is not given back yet.
    late: Vec<(usize, usize)>,
}

impl Free {
    fn add(&mut self, mut start: usize, mut length: usize) {
        if let Some((&before, &blocks)) = self.runs.range(..start).next_back()
            && before + blocks == start
        {
            self.remove(before, blocks);
            (start, length) = (before, length + blocks);
        }
        if let Some(&blocks) = self.runs.get(&(start + length)) {
            self.remove(start + length, blocks);
            length += blocks;
        }
        if start + length == self.next {
            self.next = start;
        } else {
            self.runs.insert(start, length);
            self.by_length.insert((length, start));
        }
    }

    fn remove(&mut self, start: usize, length: usize) {
        self.runs.remove(&start);
        self.by_length.remove(&(length, start));
    }

    /// The smallest run that holds so many blocks.
    fn take(&mut self, blocks: usize) -> Option<usize> {
        let &(length, start) = self.by_length.range((blocks, 0)..).next()?;
        self.remove(start, length);
        if length > blocks {
            self.runs.insert(start + blocks, length - blocks);
            self.by_length.insert((length - blocks, start + blocks));
        }
        Some(start)
    }
}

/// The spans of a store.
pub struct Spans {
    base: NonNull<u8>,
    blocks_max: usize,
    free: Mutex<Free>,
    budget: Arc<Budget>,
    bytes: AtomicU64,
}

// SAFETY: blocks are reached only through the values that own them; the rest is locks and atomics.
unsafe impl Send for Spans {}
// SAFETY: as above.
unsafe impl Sync for Spans {}

impl std::fmt::Debug for Spans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spans")
            .field("bytes", &self.bytes())
            .finish()
    }
}

impl Spans {
    pub fn new(budget: Arc<Budget>) -> io::Result<Arc<Self>> {
        let mut reserve = RESERVE;
        let base = loop {
            match reserve_addresses(reserve) {
                Ok(base) => break base,
                Err(error) if reserve <= RESERVE_MIN => return Err(error),
                Err(_) => reserve /= 2,
            }
        };
        Ok(Arc::new(Self {
            base,
            blocks_max: reserve / BLOCK,
            free: Mutex::default(),
            budget,
            bytes: AtomicU64::new(0),
        }))
    }

    /// Bytes of live spans.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A value made of parts, one after the other.
    pub fn value(
        self: &Arc<Self>,
        parts: &[&[u8]],
        room: Room,
    ) -> Result<SharedValue, OutOfMemory> {
        let len = parts.iter().map(|part| part.len()).sum();
        let bytes = span_bytes(len);
        while let Err(full) = self.budget.take_in(bytes, room) {
            if !self.purge() {
                return Err(full);
            }
        }
        let Some(start) = self.take(bytes / BLOCK) else {
            self.budget.give(bytes);
            return Err(OutOfMemory::Node);
        };
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        // SAFETY: the run was free and is ours alone now (invariant 1), accessible, and as long as head and parts together; a block is
        // aligned beyond any need of the head.
        unsafe {
            let at = self.base.add(start * BLOCK);
            at.cast::<Head>().write(Head {
                owners: AtomicUsize::new(1),
                len,
                spans: Arc::into_raw(self.clone()),
            });
            let mut to = at.add(HEAD);
            for part in parts {
                to.copy_from_nonoverlapping(NonNull::from(*part).cast(), part.len());
                to = to.add(part.len());
            }
            Ok(SharedValue { at: at.cast() })
        }
    }

    fn take(&self, blocks: usize) -> Option<usize> {
        let mut free = self.free.lock();
        if let Some(start) = free.take(blocks) {
            return Some(start);
        }
        let end = free.next + blocks;
        if end > self.blocks_max {
            return None;
        }
        if end > free.committed {
            let upto = end.next_multiple_of(COMMIT).min(self.blocks_max);
            // SAFETY: the range lies in our reservation and holds nothing yet.
            let done = unsafe {
                libc::mprotect(
                    self.base.add(free.committed * BLOCK).as_ptr().cast(),
                    (upto - free.committed) * BLOCK,
                    libc::PROT_READ | libc::PROT_WRITE,
                )
            };
            if done != 0 {
                return None;
            }
            free.committed = upto;
        }
        free.next = end;
        Some(end - blocks)
    }

    /// # Safety
    /// The span's last owner calls this once.
    unsafe fn give(&self, at: NonNull<u8>, bytes: usize) {
        // SAFETY: spans lie in the range that begins at `base`.
        let start = unsafe { at.offset_from_unsigned(self.base) } / BLOCK;
        if bytes > AT_ONCE * BLOCK {
            self.free.lock().late.push((start, bytes / BLOCK));
        } else {
            self.release(start, bytes / BLOCK);
        }
    }

    /// Gives a piece of what long values left behind back to the kernel. False: there is nothing left.
    pub fn purge(&self) -> bool {
        let piece = {
            let mut free = self.free.lock();
            let Some((start, blocks)) = free.late.pop() else {
                return false;
            };
            if blocks > AT_ONCE {
                free.late.push((start + AT_ONCE, blocks - AT_ONCE));
            }
            (start, blocks.min(AT_ONCE))
        };
        self.release(piece.0, piece.1);
        true
    }

    /// The run belongs to nobody but the caller.
    fn release(&self, start: usize, blocks: usize) {
        // SAFETY: the run is in our range and nobody reaches it; the kernel hands out zeroes when it is touched again.
        unsafe {
            let at = self.base.add(start * BLOCK);
            libc::madvise(at.as_ptr().cast(), blocks * BLOCK, libc::MADV_DONTNEED);
        }
        self.free.lock().add(start, blocks);
        let bytes = blocks * BLOCK;
        self.bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
        self.budget.give(bytes);
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no value is left (invariant 3).
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.blocks_max * BLOCK);
        }
    }
}

/// Addresses for so many bytes, not accessible yet. Pages stay small: a huge one would not be given back in parts.
pub fn reserve_addresses(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new private mapping at an address of the kernel's choice touches no memory of ours.
    unsafe {
        let base = libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        );
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // A kernel without huge pages refuses the advice, which is as good.
        libc::madvise(base, bytes, libc::MADV_NOHUGEPAGE);
        NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)
    }
}

/// An owner of a large value.
pub struct SharedValue {
    at: NonNull<Head>,
}

// SAFETY: a value does not change while it has several owners; its count is atomic.
unsafe impl Send for SharedValue {}
// SAFETY: as above.
unsafe impl Sync for SharedValue {}

impl SharedValue {
    /// Gives up this owner without giving the value back.
    pub fn into_address(self) -> u64 {
        let address = self.at.as_ptr().expose_provenance() as u64;
        std::mem::forget(self);
        address
    }

    /// # Safety
    /// `address` came from [`SharedValue::into_address`] and is made an owner once.
    pub unsafe fn from_address(address: u64) -> Self {
        let at = std::ptr::with_exposed_provenance_mut(address as usize);
        Self {
            // SAFETY: it was the address of a live span.
            at: unsafe { NonNull::new_unchecked(at) },
        }
    }

    /// Whether this is the only owner. It stays so while nobody clones this one.
    fn is_sole(&self) -> bool {
        // Acquire: what other owners read was read before they gave the value up.
        self.head().owners.load(Ordering::Acquire) == 1
    }

    /// Overwrites a part, and what goes beyond the end within the value's last block, zeroes up to there. False: others own the value too, or
    /// it lacks the memory, and nothing was changed.
    ///
    /// # Safety
    /// Nobody else clones or reads this owner meanwhile.
    pub unsafe fn overwrite(&self, offset: usize, bytes: &[u8]) -> bool {
        let len = self.head().len;
        let new = len.max(offset + bytes.len());
        if !self.is_sole() || span_bytes(new) != span_bytes(len) {
            return false;
        }
        // SAFETY: the span is ours alone and holds `new` bytes behind its head; no reference into it is alive.
        unsafe {
            let value = self.at.add(1).cast::<u8>();
            value.add(len).write_bytes(0, new - len);
            let from = NonNull::from(bytes).cast::<u8>();
            value
                .add(offset)
                .copy_from_nonoverlapping(from, bytes.len());
            (*self.at.as_ptr()).len = new;
        }
        true
    }

    fn head(&self) -> &Head {
        // SAFETY: the span lives while it has an owner, and its head is written.
        unsafe { self.at.as_ref() }
    }
}

impl std::ops::Deref for SharedValue {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: as in `head`; the value follows its head.
        unsafe { std::slice::from_raw_parts(self.at.add(1).cast().as_ptr(), self.head().len) }
    }
}

impl AsRef<[u8]> for SharedValue {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<SharedValue> for bytes::Bytes {
    fn from(value: SharedValue) -> Self {
        Self::from_owner(value)
    }
}

impl std::fmt::Debug for SharedValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedValue({} bytes)", self.len())
    }
}

impl Clone for SharedValue {
    fn clone(&self) -> Self {
        self.head().owners.fetch_add(1, Ordering::Relaxed);
        Self { at: self.at }
    }
}

impl Drop for SharedValue {
    fn drop(&mut self) {
        let head = self.head();
        if head.owners.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // Whatever the other owners read was read before this.
        fence(Ordering::Acquire);
        let bytes = span_bytes(head.len);
        // SAFETY: the last owner; the span's own count of `Spans` goes with it.
        unsafe {
            let spans = Arc::from_raw(head.spans);
            spans.give(self.at.cast(), bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::Lcg;

    #[test]
    fn values_keep_their_bytes_and_their_memory_comes_back() {
        let budget = Arc::new(Budget::new(0));
        let spans = Spans::new(budget.clone()).unwrap();
        let mut random = Lcg(5);
        let mut live: Vec<(SharedValue, u8)> = Vec::new();
        for step in 0..4_000u32 {
            if random.below(2) == 0 || live.len() < 20 {
                let part = vec![
                    step as u8;
                    random.below(1_500_000) as usize / (1 + random.below(30)) as usize
                ];
                let value = spans.value(
                    &[&part[..part.len() / 3], &part[part.len() / 3..]],
                    Room::Limit,
                );
                live.push((value.unwrap(), step as u8));
            } else {
                let i = random.below(live.len() as u64) as usize;
                let (value, fill) = live.swap_remove(i);
                let other = value.clone();
                drop(value);
                assert!(other.iter().all(|&b| b == fill), "somebody wrote into it");
            }
            while spans.purge() {}
            let free = spans.free.lock();
            let mut end = 0;
            for (&start, &length) in &free.runs {
                assert!(start > end || end == 0, "runs that touch are one");
                assert!(free.by_length.contains(&(length, start)));
                end = start + length;
            }
            assert!(free.runs.is_empty() || end < free.next);
            assert_eq!(free.runs.len(), free.by_length.len());
        }
        let bytes: usize = live.iter().map(|(v, _)| span_bytes(v.len())).sum();
        assert_eq!((budget.used(), spans.bytes()), (bytes as u64, bytes as u64));
        live.clear();
        while spans.purge() {}
        assert_eq!((budget.used(), spans.free.lock().next), (0, 0));
    }

    #[test]
    fn a_value_changes_in_place_only_while_it_has_one_owner() {
        let spans = Spans::new(Arc::new(Budget::new(0))).unwrap();
        let value = spans.value(&[&[7; 20_000]], Room::Limit).unwrap();
        let room = span_bytes(20_000) - HEAD;
        // SAFETY: nobody else has the value, or only reads its own owner.
        unsafe {
            assert!(value.overwrite(5, b"abc"));
            assert_eq!((&value[4..9], value.len()), (&b"\x07abc\x07"[..], 20_000));
            let other = value.clone();
            assert!(!value.overwrite(5, b"xyz"));
            drop(other);
            assert!(value.overwrite(20_002, b"end"));
            assert_eq!(
                (&value[19_999..], value.len()),
                (&b"\x07\0\0end"[..], 20_005)
            );
            assert!(value.overwrite(room - 1, b"!") && value.len() == room);
            assert!(!value.overwrite(room, b"!") && value.len() == room);
        }
    }

    #[test]
    fn a_full_budget_refuses_and_a_value_outlives_its_spans() {
        let spans = Spans::new(Arc::new(Budget::new(100_000))).unwrap();
        let value = spans.value(&[&[7; 50_000]], Room::Limit).unwrap();
        assert_eq!(
            spans.value(&[&[8; 50_000]], Room::Limit).unwrap_err(),
            OutOfMemory::Node
        );
        drop(spans);
        assert!(value.iter().all(|&b| b == 7) && value.len() == 50_000);
    }
}
