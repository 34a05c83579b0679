//! Fetches what commands are about to touch into the processor's caches, for many keys together: each waits for memory in the shadow of
//! the others. Nothing is changed, and whoever is in the way of a lock is left alone.

use super::Store;
use super::domain::Domain;
use super::due::Due;
use super::pages::Pages;
use super::point::{Point, SLOTS_PER_DOMAIN, domain_of};
use super::table::Table;

/// Bytes of a cache line.
const LINE: usize = 64;
/// Bytes of an item that are fetched: of a larger one the processor fetches the rest ahead by itself.
const ITEM: usize = 2 * LINE;

impl Store {
    /// Fetches the tables, then the buckets, then the items of these keys.
    pub fn prefetch(&self, points: &[Point]) {
        for p in points {
            let domain = &self.domains[domain_of(p.slot)];
            line(std::ptr::from_ref(domain).cast());
            // Only an address: what is there is read under the lock, below.
            let table = domain
                .0
                .data_ptr()
                .cast::<u8>()
                .wrapping_add(std::mem::offset_of!(Domain, tables))
                .wrapping_add(size_of::<Table>() * usize::from(p.slot % SLOTS_PER_DOMAIN));
            line(table);
        }
        self.each_table(points, |table, p| table.segment_line(p.hash));
        self.each_table(points, |table, p| table.bucket_line(p.hash));
        self.each_table(points, |table, p| {
            let at = table.likely(p.hash)?;
            let item: *const u8 = self.pages.chunk(at).0.as_ptr();
            line(item.wrapping_add(ITEM - LINE));
            Some(item)
        });
    }

    fn each_table(&self, points: &[Point], address: impl Fn(&Table, &Point) -> Option<*const u8>) {
        for p in points {
            if let Some(domain) = self.domains[domain_of(p.slot)].0.try_lock()
                && let Some(at) = address(&domain.tables[usize::from(p.slot % SLOTS_PER_DOMAIN)], p)
            {
                line(at);
            }
        }
    }
}

/// Buckets, and segments beside, that are looked for ahead.
const BUCKETS: usize = 16;
const SEGMENTS: usize = 512;

/// Fetches what the removal of expired items is about to touch in a domain, from a slot of it, a segment and a bucket on: segments, when their
/// buckets are due, the buckets that are, their items; each for all of them before the next.
pub(super) fn due(pages: &Pages, domain: &Domain, from: (u16, usize, usize), now: Due) {
    let (first, mut segment, mut bucket) = from;
    let tables = domain.tables.iter().enumerate().skip(usize::from(first));
    for (_, table) in tables.clone() {
        if let Some(at) = table.segments_line() {
            line(at);
        }
    }
    let mut segments = [(0, 0); BUCKETS];
    let (mut found, mut left) = (0, SEGMENTS);
    for (slot, table) in tables {
        while found < BUCKETS && left > 0 {
            let (due, _, end) = table.due_segment(segment, left, now);
            left -= (end.saturating_sub(segment) + 1).min(left);
            let Some(due) = due else { break };
            for at in table.segment(due).due_lines() {
                line(at);
            }
            segments[found] = (slot, due);
            (found, segment) = (found + 1, due + 1);
        }
        segment = 0;
    }
    let mut buckets = [(0, 0, 0); BUCKETS];
    let mut count = 0;
    for &(slot, index) in &segments[..found] {
        let segment = domain.tables[slot].segment(index);
        while count < BUCKETS
            && let Some(due) = segment.due_bucket(bucket, now)
        {
            if let Some(at) = segment.line_of(due) {
                line(at);
            }
            buckets[count] = (slot, index, due);
            (count, bucket) = (count + 1, due + 1);
        }
        bucket = 0;
    }
    for &(slot, index, bucket) in &buckets[..count] {
        for (_, at) in domain.tables[slot].segment(index).places(bucket) {
            line(pages.chunk(at).0.as_ptr());
        }
    }
}

/// Fetches a cache line. Any address will do: one that cannot be read is passed over.
pub(super) fn line(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch touches nothing that a program can see.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
