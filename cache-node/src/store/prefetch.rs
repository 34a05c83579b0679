//! Fetches what commands are about to touch into the processor's caches, for many keys together: each waits for memory in the shadow of
//! the others. Nothing is changed, and whoever is in the way of a lock is left alone.

use super::Store;
use super::domain::Domain;
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

/// Fetches a cache line. Any address will do: one that cannot be read is passed over.
fn line(at: *const u8) {
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
