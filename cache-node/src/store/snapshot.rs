//! A snapshot of one instant, without a fork: each bucket is emitted once, by the walk or by the first write to it, whichever comes first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};

use super::domain::observer;
use super::point::{SLOTS, SLOTS_PER_DOMAIN};
use super::{ItemRef, Store};

/// Takes the items of a snapshot. Called under locks: keep it short, never block.
pub trait SnapshotSink: Send + Sync {
    fn item(&self, slot: u16, item: ItemRef<'_>);
}

/// The snapshot under way, if any.
#[derive(Default)]
pub(super) struct Current {
    sink: RwLock<Option<Arc<dyn SnapshotSink>>>,
    /// One at a time.
    busy: AtomicBool,
    /// Set while some buckets are of the old phase because a snapshot was given up.
    unclean: Mutex<bool>,
}

impl Store {
    pub(super) fn snapshot_sink(&self) -> Option<Arc<dyn SnapshotSink>> {
        self.snapshot.sink.read().clone()
    }

    /// Begins a snapshot of this instant. None: one is under way. `at_instant` runs while all domains are locked.
    pub fn begin_snapshot(
        self: &Arc<Self>,
        sink: Arc<dyn SnapshotSink>,
        at_instant: impl FnOnce(),
    ) -> Option<SnapshotWalk> {
        if self.snapshot.busy.swap(true, Ordering::AcqRel) {
            return None;
        }
        if *self.snapshot.unclean.lock() {
            self.finish_walk((0, 0));
            self.set_observer(observer::SNAPSHOT, false);
        }
        let mut guard = self.lock_all();
        *self.snapshot.sink.write() = Some(sink);
        *self.snapshot.unclean.lock() = true;
        guard.each_domain(|domain| {
            domain.phase = !domain.phase;
            domain.observers |= observer::SNAPSHOT;
        });
        at_instant();
        drop(guard);
        Some(SnapshotWalk {
            store: self.clone(),
            cursor: Some((0, 0)),
        })
    }

    /// Visits what is left without a sink, so that all buckets are of one phase again.
    fn finish_walk(&self, from: (u16, u64)) {
        let mut cursor = Some(from);
        while let Some(at) = cursor {
            cursor = self.snapshot_step(at, 256);
        }
    }

    /// Visits up to `buckets` buckets from a cursor on. Gives where to go on.
    fn snapshot_step(&self, (slot, pos): (u16, u64), buckets: usize) -> Option<(u16, u64)> {
        let mut guard = self.lock(slot);
        // Empty slots cost nothing: go on to the end of the domain under one lock.
        let end = (slot / SLOTS_PER_DOMAIN + 1) * SLOTS_PER_DOMAIN;
        let (mut slot, mut pos) = (slot, pos);
        loop {
            let empty = guard.slot_len(slot) == 0;
            if let Some(next) = guard.snapshot_walk(slot, pos, buckets) {
                return Some((slot, next));
            }
            (slot, pos) = (slot + 1, 0);
            if slot == SLOTS {
                return None;
            }
            if slot == end || !empty {
                return Some((slot, pos));
            }
        }
    }
}

/// A snapshot's walk over the store. Dropped before its end, the snapshot is given up.
pub struct SnapshotWalk {
    store: Arc<Store>,
    cursor: Option<(u16, u64)>,
}

impl SnapshotWalk {
    /// Visits up to `buckets` more buckets under one lock. False: all was visited.
    pub fn step(&mut self, buckets: usize) -> bool {
        if let Some(at) = self.cursor {
            self.cursor = self.store.snapshot_step(at, buckets);
        }
        self.cursor.is_some()
    }
}

impl Drop for SnapshotWalk {
    fn drop(&mut self) {
        *self.store.snapshot.sink.write() = None;
        if self.cursor.is_none() {
            self.store.set_observer(observer::SNAPSHOT, false);
            *self.store.snapshot.unclean.lock() = false;
        }
        // Given up: writes go on marking buckets as visited, and the next snapshot first visits the rest.
        self.store.snapshot.busy.store(false, Ordering::Release);
    }
}
