//! Walks over a slot's items, and what a running snapshot is given.

use super::super::domain::observer;
use super::super::item::ItemRef;
use super::super::point::{Point, SLOTS_PER_DOMAIN, hash_of};
use super::Guard;

impl Guard<'_> {
    /// The write hook: a running snapshot gets what is about to change. `rebuilds`: the segment may be rebuilt.
    pub(super) fn before_change(&mut self, p: Point, rebuilds: bool) {
        if self.domain(p.slot).observers & observer::SNAPSHOT != 0 {
            self.emit(p.slot, p.pos(), rebuilds);
        }
    }

    pub(super) fn emit(&mut self, slot: u16, pos: u64, whole_segment: bool) {
        let store = self.store;
        let domain = self.domain_mut(slot);
        let phase = domain.phase;
        let table = &mut domain.tables[usize::from(slot % SLOTS_PER_DOMAIN)];
        // SAFETY: as in `insert`.
        let hash = |at| unsafe { hash_of(ItemRef::new(&store.pages, at).key(), store.seed) };
        let refs = if whole_segment {
            table.visit_segment(pos, phase, &hash)
        } else {
            table.visit_bucket(pos, phase, &hash)
        };
        if let Some(sink) = store.snapshot_sink() {
            for at in refs {
                sink.item(slot, self.item(at));
            }
        }
    }

    pub(super) fn emit_slot(&mut self, slot: u16) {
        if self.domain(slot).observers & observer::SNAPSHOT == 0 {
            return;
        }
        let mut pos = Some(0);
        while let Some(at) = pos {
            self.emit(slot, at, false);
            pos = self.table(slot).bucket_at(at, &|r| self.hash(r)).1;
        }
    }

    /// Visits whole buckets of a slot from a position on, until `max_items` items were seen; expired ones are left out. Gives where to go
    /// on, None at the slot's end. Every key that stays is seen exactly once by a walk, growth in between notwithstanding.
    pub fn walk(
        &mut self,
        slot: u16,
        from_pos: u64,
        max_items: usize,
        now_ms: u64,
        each: &mut dyn FnMut(ItemRef<'_>),
    ) -> Option<u64> {
        let mut pos = from_pos;
        let mut seen = 0;
        if self.table(slot).is_empty() {
            return None;
        }
        loop {
            let (refs, next) = self.table(slot).bucket_at(pos, &|r| self.hash(r));
            for at in refs {
                let item = self.item(at);
                if !item.is_expired(now_ms) {
                    each(item);
                    seen += 1;
                }
            }
            match next {
                Some(next) if seen < max_items => pos = next,
                next => return next,
            }
        }
    }

    /// The snapshot's walk: as [`Guard::walk`], but each bucket only once a snapshot, and to its sink.
    pub(in crate::store) fn snapshot_walk(
        &mut self,
        slot: u16,
        from_pos: u64,
        max_buckets: usize,
    ) -> Option<u64> {
        if self.table(slot).is_empty() {
            return None;
        }
        let mut pos = from_pos;
        for _ in 0..max_buckets {
            self.emit(slot, pos, false);
            pos = self.table(slot).bucket_at(pos, &|r| self.hash(r)).1?;
        }
        Some(pos)
    }
}
