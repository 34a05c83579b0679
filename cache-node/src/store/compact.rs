//! Compaction: pages that are mostly empty are emptied by moving what is left in them, and go back to the kernel.
//!
//! A pass looks how full the pages are, closes those that are worth it, and walks all tables once: an entry that points into a closed page
//! gets its item moved to another page of the same class, under the lock of its domain, which is all that reaches the item. So nobody reads
//! an item without its lock to learn whose it is, and one walk empties any number of pages. What was closed and could not be emptied is
//! opened again.
//!
//! Only pages filled to two thirds at most are emptied: for each byte gained at most two are copied, and each byte gained was written once,
//! so over time at most two bytes are copied for each byte written.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::Store;
use super::pages::{PAGE, PageUse, Ref};
use super::point::{SLOTS, SLOTS_PER_DOMAIN, domain_of};
use super::steps::Step;
use super::table::Table;

/// Pages looked at before others get their turn at the classes' locks.
const LOOK: u32 = 256;
/// Entries that a step looks at, and bytes that it moves, under one lock.
const STEP_ENTRIES: usize = 192;
const STEP_BYTES: usize = 64 * 1024;
/// Without need, a pass begins when it gains so much of all pages: one in sixteen.
const WORTH_PART: usize = 16;
/// A pass walks all tables: it gains at least a quarter of their bytes.
const WALK_PART: u64 = 4;

/// The pages to be emptied: of each class the sparsest, as many as find room in the others.
pub fn choose(mut usage: Vec<PageUse>) -> Vec<PageUse> {
    usage.sort_unstable_by_key(|page| (page.class, page.used, page.page));
    let mut room: BTreeMap<u8, usize> = BTreeMap::new();
    for page in &usage {
        *room.entry(page.class).or_default() += usize::from(page.capacity - page.used);
    }
    usage.retain(|page| {
        let (used, capacity) = (usize::from(page.used), usize::from(page.capacity));
        let Some(left) = room.get_mut(&page.class) else {
            return false;
        };
        // Its own room goes away with it, and what it holds takes some of the rest.
        let fits = used * 3 <= capacity * 2 && *left >= capacity;
        if fits {
            *left -= capacity;
        } else {
            *left = 0;
        }
        fits
    });
    usage
}

/// Who waits for room, and whether there is hope.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// A thread compacts when it is called.
    attended: AtomicBool,
    /// Clients wait for what the next pass gains.
    waiting: AtomicBool,
    /// Live bytes of pages when a pass was last looked for in vain; no more is gained before there are fewer. 0: not known.
    in_vain: AtomicU64,
    /// Nothing that may be evicted was found.
    nothing_to_evict: AtomicBool,
}

/// A pass under way.
#[derive(Debug)]
pub struct CompactionPass {
    closed: Vec<PageUse>,
    cursor: Option<(u16, u64)>,
}

impl Store {
    /// Says that a thread answers [`Store::wait_for_need`] from now on, or no more.
    pub fn attend(&self, yes: bool) {
        self.room.attended.store(yes, Ordering::Release);
    }

    /// Whether somebody answers.
    pub(super) fn is_attended(&self) -> bool {
        self.room.attended.load(Ordering::Acquire)
    }

    /// Waits until room is needed, or for so long. Whether it is needed.
    pub fn wait_for_need(&self, timeout: Duration) -> bool {
        self.budget.wait(timeout)
    }

    /// Ends [`Store::wait_for_need`].
    pub fn call_for_room(&self) {
        self.budget.ring();
    }

    /// Asked when memory is full: whether compaction, or what is being freed, may yet gain some. Then it is called, and the caller's client is to be woken when
    /// [`Store::somebody_waits`] says so.
    pub fn room_is_coming(&self) -> bool {
        /// A pass that gains less does not help for long.
        const WORTH: u64 = 4 * PAGE as u64;
        if !self.is_attended() {
            return false;
        }
        let evicts = self.may_evict()
            && self.expires_locally()
            && !self.room.nothing_to_evict.load(Ordering::Acquire);
        let frees = self.garbage.counts().0 > 0;
        let in_vain = self.room.in_vain.load(Ordering::Acquire);
        if !evicts && !frees && in_vain != 0 && self.pages.live_bytes() + WORTH > in_vain {
            return false;
        }
        self.room.waiting.store(true, Ordering::Release);
        self.budget.ring();
        true
    }

    /// Whether not even another page fits.
    pub fn is_full(&self) -> bool {
        let fits = self.budget.take(PAGE).is_ok();
        if fits {
            self.budget.give(PAGE);
        }
        !fits
    }

    /// Whether clients waited for the pass that has ended, or was not begun as it would be in vain.
    pub fn somebody_waits(&self) -> bool {
        self.room.waiting.swap(false, Ordering::AcqRel)
    }

    /// Tells whether something may be evicted.
    pub fn set_nothing_to_evict(&self, nothing: bool) {
        self.room.nothing_to_evict.store(nothing, Ordering::Release);
    }

    /// Whether there is so much room in pages that a pass may be worth while.
    fn is_fragmented(&self, needed: bool) -> bool {
        let bytes = self.pages.bytes();
        let room = bytes.saturating_sub(self.pages.live_bytes());
        let part = if needed {
            bytes / 64
        } else {
            bytes / WORTH_PART as u64
        };
        room > part.max(self.stats().table_bytes / WALK_PART)
    }

    /// Begins a pass if one is worth while. `needed`: the budget is short, so little is worth it too.
    pub fn begin_compaction(&self, needed: bool) -> Option<CompactionPass> {
        let live = self.pages.live_bytes();
        let pass = self.is_fragmented(needed).then(|| self.close_pages(needed));
        let pass = pass.flatten();
        let in_vain = if pass.is_none() { live.max(1) } else { 0 };
        if needed {
            self.room.in_vain.store(in_vain, Ordering::Release);
        }
        pass
    }

    /// Closes what is worth emptying. None: nothing is.
    fn close_pages(&self, needed: bool) -> Option<CompactionPass> {
        let mut usage = Vec::new();
        let mut from = 0;
        while let Some(part) = self.pages.usage(from, LOOK) {
            usage.extend(part);
            from += LOOK;
        }
        let pages = usage.len();
        let mut closed = choose(usage);
        let gain = closed.len();
        let enough = if needed { 1 } else { pages / WORTH_PART };
        if gain == 0
            || gain < enough
            || ((gain * PAGE) as u64) < self.stats().table_bytes / WALK_PART
        {
            return None;
        }
        closed.retain(|page| self.pages.close(page.page, page.class));
        Some(CompactionPass {
            closed,
            cursor: Some((0, 0)),
        })
    }

    fn compaction_step(&self, (slot, pos): (u16, u64)) -> Option<(u16, u64)> {
        let mut domain = self.domains[domain_of(slot)].0.lock();
        let end = (slot / SLOTS_PER_DOMAIN + 1) * SLOTS_PER_DOMAIN;
        let (mut slot, mut pos) = (slot, pos);
        let mut entries = STEP_ENTRIES;
        while slot < end {
            let table = &mut domain.tables[usize::from(slot % SLOTS_PER_DOMAIN)];
            let before = entries.min(table.len());
            if let Some(next) = self.relocate_in(table, pos, entries) {
                return Some((slot, next));
            }
            (slot, pos) = (slot + 1, 0);
            entries -= before;
            if entries == 0 {
                break;
            }
        }
        (slot < SLOTS).then_some((slot, pos))
    }

    fn relocate_in(&self, table: &mut Table, pos: u64, entries: usize) -> Option<u64> {
        let relocate = |at: Ref| {
            if !self.pages.is_closed(at) {
                return None;
            }
            // SAFETY: the item's domain is locked, and the entry of its table, the one reference to it, is set to the new place.
            let to = unsafe { self.pages.relocate(at) }?;
            Some((self.pages.chunk(to).1, to))
        };
        let (moved, next) = table.relocate(&self.pages, pos, entries, STEP_BYTES, &relocate);
        self.counters.moved(moved);
        next
    }
}

impl CompactionPass {
    /// Pages that the pass empties.
    pub fn pages(&self) -> usize {
        self.closed.len()
    }

    /// Goes on for a while under one lock. False: the walk is done; [`CompactionPass::finish`] it.
    pub fn step(&mut self, store: &Store) -> bool {
        if let Some(at) = self.cursor {
            self.cursor = store
                .steps
                .time(Step::Compaction, || store.compaction_step(at));
        }
        self.cursor.is_some()
    }

    /// Opens what could not be emptied.
    pub fn finish(self, store: &Store) {
        for page in &self.closed {
            store.pages.open(page.page, page.class);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(page: u32, class: u8, used: u16) -> PageUse {
        PageUse {
            page,
            class,
            used,
            capacity: 30,
        }
    }

    #[test]
    fn the_sparsest_pages_that_find_room_are_chosen() {
        type Case = (&'static [(u8, u16)], &'static [u32]);
        let table: [Case; 8] = [
            (&[], &[]),
            (&[(1, 1)], &[]),
            (&[(1, 5), (1, 25)], &[0]),
            (&[(1, 6), (1, 25)], &[]),
            (&[(1, 20), (1, 20), (1, 20)], &[0]),
            (&[(1, 21), (1, 21), (1, 21), (1, 21)], &[]),
            (&[(1, 1), (1, 1), (1, 1), (2, 1)], &[0, 1]),
            (&[(1, 1), (2, 1), (1, 30), (2, 2)], &[1]),
        ];
        for (usage, expected) in table {
            let pages = usage.iter().enumerate();
            let pages = pages.map(|(i, &(class, used))| page(i as u32, class, used));
            let chosen: Vec<u32> = choose(pages.collect()).iter().map(|p| p.page).collect();
            assert_eq!(chosen, expected, "{usage:?}");
        }
    }
}
