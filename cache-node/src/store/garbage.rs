//! What flushes and deletes leave behind: taken out under a lock in a few steps whatever its size, freed without one. A background thread
//! frees it, or a flush that waits for that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use parking_lot::Mutex;

use super::Store;
use super::collections::Object;
use super::item::{self, ItemRef};
use super::pages::Ref;
use super::regions::DomainRegions;
use super::table::Table;

/// The table of a slot that was cleared.
pub(super) struct Cleared {
    pub slot: u16,
    pub table: Table,
    /// The regions that count its items until they are freed.
    pub regions: Option<DomainRegions>,
}

enum Left {
    Tables(Vec<Cleared>),
    Object(Box<Object>),
}

/// See the module's text.
pub(super) struct Garbage {
    sender: mpsc::Sender<Left>,
    /// What whoever frees has in hand.
    waiting: Mutex<Waiting>,
    /// Items that were left and are not freed yet; and since the start.
    pending: AtomicU64,
    freed: AtomicU64,
}

struct Waiting {
    receiver: mpsc::Receiver<Left>,
    tables: Vec<Cleared>,
}

impl Default for Garbage {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel();
        Self {
            sender,
            waiting: Mutex::new(Waiting {
                receiver,
                tables: Vec::new(),
            }),
            pending: AtomicU64::new(0),
            freed: AtomicU64::new(0),
        }
    }
}

impl Garbage {
    /// Items that wait to be freed, and those that were since the start.
    pub fn counts(&self) -> (u64, u64) {
        (
            self.pending.load(Ordering::Relaxed),
            self.freed.load(Ordering::Relaxed),
        )
    }

    fn leave(&self, items: usize, left: Left) {
        self.pending.fetch_add(items as u64, Ordering::Relaxed);
        // The receiver lives as long as the sender.
        let _ = self.sender.send(left);
    }

    fn done(&self, items: usize) {
        self.pending.fetch_sub(items as u64, Ordering::Relaxed);
        self.freed.fetch_add(items as u64, Ordering::Relaxed);
    }
}

impl Store {
    pub(super) fn leave_tables(&self, tables: Vec<Cleared>) {
        let items = tables.iter().map(|c| c.table.len()).sum();
        self.garbage.leave(items, Left::Tables(tables));
        self.call_for_room();
    }

    /// Frees an item. What takes long is left to whoever frees garbage.
    pub(super) fn free_item(&self, at: Ref) {
        // SAFETY: callers hold the only reference: it was just taken out of its table, under that table's lock.
        unsafe {
            let object = ItemRef::new(&self.pages, at).object();
            if object.is_some_and(Object::is_long_to_drop)
                && let Some(object) = item::take_object(&self.pages, at)
            {
                self.garbage.leave(1, Left::Object(object));
            }
        }
        self.free_whole(at);
    }

    fn free_whole(&self, at: Ref) {
        // SAFETY: callers hold the only reference.
        unsafe {
            item::drop_body(&self.pages, at);
            self.pages.free(at);
        }
    }

    /// Frees all that was left behind.
    pub fn free_garbage(&self) {
        let mut waiting = self.garbage.waiting.lock();
        while self.free_some(&mut waiting, None) {}
        drop(waiting);
        self.call_for_room();
    }

    /// Whether something waits to be freed.
    pub fn is_freeing(&self) -> bool {
        self.garbage.counts().0 > 0
    }

    /// As [`Store::free_garbage`], until the time is over. Whether there is more to do; None while another thread frees.
    pub fn free_garbage_until(&self, until: Instant) -> Option<bool> {
        let mut waiting = self.garbage.waiting.try_lock()?;
        Some(self.free_some(&mut waiting, Some(until)))
    }

    fn free_some(&self, waiting: &mut Waiting, until: Option<Instant>) -> bool {
        let is_over = || until.is_some_and(|until| Instant::now() >= until);
        loop {
            while let Some(mut cleared) = waiting.tables.pop() {
                while self.free_segment(&mut cleared) {
                    if is_over() {
                        waiting.tables.push(cleared);
                        return true;
                    }
                }
            }
            match waiting.receiver.try_recv() {
                Ok(Left::Tables(tables)) => waiting.tables = tables,
                Ok(Left::Object(object)) => {
                    drop(object);
                    self.garbage.done(1);
                }
                Err(_) => break,
            }
            if is_over() {
                return true;
            }
        }
        while self.spans.purge() {
            if is_over() {
                return true;
            }
        }
        false
    }

    /// Frees a segment of a cleared table with its items. False: there is none left.
    fn free_segment(&self, cleared: &mut Cleared) -> bool {
        let Some(mut segment) = cleared.table.pop_segment() else {
            self.table_bytes_changed(-(cleared.table.bytes() as isize));
            return false;
        };
        let mut items = 0;
        for at in segment.refs() {
            if let Some(regions) = &cleared.regions {
                // SAFETY: the items of a cleared table are reached by whoever frees them alone.
                let item = unsafe { ItemRef::new(&self.pages, at) };
                regions.forget(cleared.slot, item, self.seed);
            }
            self.free_whole(at);
            items += 1;
        }
        self.table_bytes_changed(-(segment.bytes() as isize));
        segment.free(&self.pages);
        self.garbage.done(items);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::collections::View;
    use super::super::tests::{store, work_of};
    use super::super::{End, Guard, Kind, Point, PolicyKind, SlotState, Store};

    const NOW: u64 = 1_000_000;
    /// Steps that taking a key out may take, whatever it holds.
    const FEW: usize = 60;

    fn number(i: u64) -> Vec<u8> {
        format!("member:{i:010}").into_bytes()
    }

    /// A collection of so many members, in pieces as clients send them.
    fn fill(store: &Store, key: &[u8], kind: Kind, members: u64) -> Point {
        let p = store.point(key);
        for from in (0..members).step_by(1_000) {
            let some: Vec<Vec<u8>> = (from..members.min(from + 1_000)).map(number).collect();
            let mut guard = store.lock(p.slot);
            match kind {
                Kind::Hash => {
                    let pairs: Vec<(&[u8], &[u8])> =
                        some.iter().map(|m| (&m[..], &b"value"[..])).collect();
                    guard.hash_set(p, key, &pairs, NOW).map(drop)
                }
                Kind::Set => guard.set_add(p, key, &some, NOW).map(drop),
                Kind::ZSet => {
                    let some: Vec<&[u8]> = some.iter().map(Vec::as_slice).collect();
                    let score = |i: usize, _| Some((from + i as u64) as f64);
                    guard.zset_update(p, key, &some, NOW, score).map(drop)
                }
                _ => guard.list_push(p, key, End::Back, &some, NOW).map(drop),
            }
            .unwrap();
        }
        let mut guard = store.lock(p.slot);
        let item = guard.get(p, key, NOW).unwrap();
        assert!(matches!(item.view(), View::Big(object) if object.len() as u64 == members));
        p
    }

    type Way = fn(&Store, Point, &[u8]);

    fn with(store: &Store, p: Point, f: impl FnOnce(&mut Guard<'_>)) {
        f(&mut store.lock(p.slot));
    }

    /// Each way in which a key goes.
    const WAYS: [(&str, Way); 8] = [
        ("deleted", |store, p, key| {
            with(store, p, |g| assert!(g.remove(p, key, NOW)))
        }),
        ("met when expired", |store, p, key| {
            with(store, p, |g| {
                assert!(g.set_expiry(p, key, Some(NOW + 1), NOW).unwrap());
                assert!(g.get(p, key, NOW + 1).is_none());
            });
        }),
        ("found to be expired", |store, p, key| {
            with(store, p, |g| {
                assert!(g.set_expiry(p, key, Some(NOW + 1), NOW).unwrap());
            });
            let until = Instant::now() + Duration::from_secs(60);
            store.expire(NOW + 2_000, until);
        }),
        ("evicted", |store, p, _| {
            with(store, p, |g| g.set_slot_state(p.slot, SlotState::Serve));
            store.set_policy(PolicyKind::AllKeysRandom);
            assert!(store.evict_one().is_some());
        }),
        ("set", |store, p, key| {
            with(store, p, |g| g.set(p, key, b"string", None).unwrap())
        }),
        ("renamed over", |store, p, key| {
            with(store, p, |g| {
                let other = Point {
                    slot: p.slot,
                    ..store.point(b"other")
                };
                g.set(other, b"other", b"string", None).unwrap();
                let done = g.transfer((other, b"other"), (p, key), true, NOW);
                assert!(done.unwrap());
            });
        }),
        ("flushed with its slot", |store, p, _| {
            with(store, p, |g| g.clear_slot(p.slot))
        }),
        ("flushed", |store, _, _| store.lock_all().clear_all()),
    ];

    /// The memory goes later, and all of it.
    #[test]
    fn a_key_goes_in_a_few_steps_whatever_it_holds() {
        let kinds = [Kind::Hash, Kind::Set, Kind::ZSet, Kind::List];
        for (i, (what, way)) in WAYS.into_iter().enumerate() {
            for (j, kind) in kinds.into_iter().enumerate() {
                // One kind by one way each is a large one.
                let members = if i % kinds.len() == j { 100_000 } else { 8_000 };
                let store = store(0);
                let p = fill(&store, b"big", kind, members);
                let held = store.budget.used();
                let (steps, ()) = work_of(|| way(&store, p, b"big"));
                assert!(steps <= FEW, "{what}, {kind:?}: {steps} steps");
                let left = (store.stats().freeing, store.stats().freed);
                assert_eq!(left, (1, 0), "{what}, {kind:?}");
                assert!(store.budget.used() + 65_536 > held);
                let (nodes, ()) = work_of(|| store.free_garbage());
                assert!(nodes as u64 > members / 300, "{what}, {kind:?}: {nodes}");
                assert_eq!((store.stats().freeing, store.stats().freed), (0, 1));
                store.lock_all().clear_all();
                store.free_garbage();
                // Pages are kept for the next that comes.
                let kept = store.budget.used() - store.pages.bytes();
                assert_eq!(kept, 0, "{what}, {kind:?}");
            }
        }
    }

    #[test]
    fn a_million_members_go_in_a_few_steps() {
        let store = store(0);
        let p = fill(&store, b"big", Kind::List, 1_000_000);
        let (steps, gone) = work_of(|| store.lock(p.slot).remove(p, b"big", NOW));
        assert!(gone && steps <= FEW, "{steps}");
        assert!(work_of(|| store.free_garbage()).0 > 4_000);
    }

    /// Keys with and without an expiry, of regions and none: all are gone at once, and none is looked at under the locks.
    #[test]
    fn a_flush_takes_as_long_whatever_is_there() {
        let store = store(0);
        let spec = super::super::regions::tests::spec("some", "{one}");
        super::super::regions::tests::put_into_force(&store, &[spec]);
        for i in 0..20_000u64 {
            let key = match i % 2 {
                0 => format!("{{one}}{i}"),
                _ => i.to_string(),
            };
            let p = store.point(key.as_bytes());
            let expires = (i % 3 == 0).then_some(NOW + 1);
            let mut guard = store.lock(p.slot);
            guard.set(p, key.as_bytes(), b"value", expires).unwrap();
        }
        let before = store.stats();
        assert_eq!((before.keys, before.expires), (20_000, 6_667));
        let (steps, ()) = work_of(|| store.lock_all().clear_all());
        assert_eq!(steps, 0);
        let after = store.stats();
        assert_eq!((after.keys, after.expires), (0, 0));
        assert_eq!(
            (after.freeing, after.page_bytes),
            (20_000, before.page_bytes)
        );
        // It is freed in pieces, others in between.
        let mut pieces = 0;
        while store.free_garbage_until(Instant::now()) == Some(true) {
            pieces += 1;
        }
        assert!(pieces > 10_000 / 1_000, "{pieces}");
        let end = store.stats();
        assert_eq!((end.freeing, end.freed), (0, 20_000));
        assert_eq!(end.table_bytes, 0);
        let region = &store.region_stats()[0];
        assert_eq!((region.keys, region.bytes), (0, 0));
    }
}
