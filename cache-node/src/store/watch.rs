//! Keys that clients have read and want to know of whether they change before their transaction: `WATCH`.
//!
//! A client has one mark for all its keys. Whoever changes one sets it, under the key's lock; whoever executes the transaction looks at it
//! under the locks of all of them, so no change slips in between.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::domain::observer;
use super::point::{Point, domain_of};
use super::{Guard, SlotState, Store};

/// Who watches the keys of a domain. Lies behind its lock.
#[derive(Debug, Default)]
pub struct Watchers {
    by_key: HashMap<Vec<u8>, (Point, Vec<Arc<AtomicBool>>)>,
}

impl Watchers {
    pub(super) fn touch(&self, key: &[u8]) {
        if let Some((_, marks)) = self.by_key.get(key) {
            set(marks);
        }
    }

    /// Touches the keys of a slot that are there.
    pub(super) fn touch_slot(&self, slot: u16, is_there: impl Fn(Point, &[u8]) -> bool) {
        for (key, (p, marks)) in &self.by_key {
            if p.slot == slot && is_there(*p, key) {
                set(marks);
            }
        }
    }

    fn add(&mut self, p: Point, key: &[u8], mark: &Arc<AtomicBool>) {
        let watched = self.by_key.entry(key.to_vec());
        watched
            .or_insert_with(|| (p, Vec::new()))
            .1
            .push(mark.clone());
    }

    fn remove(&mut self, key: &[u8], mark: &Arc<AtomicBool>) {
        let Some((_, marks)) = self.by_key.get_mut(key) else {
            return;
        };
        marks.retain(|m| !Arc::ptr_eq(m, mark));
        if marks.is_empty() {
            self.by_key.remove(key);
        }
    }
}

fn set(marks: &[Arc<AtomicBool>]) {
    for mark in marks {
        mark.store(true, Ordering::Relaxed);
    }
}

/// A key that a client watches.
#[derive(Debug)]
struct Watched {
    p: Point,
    was_there: bool,
}

/// The keys that a client watches; dropped, it watches none.
pub struct Watches {
    store: Arc<Store>,
    touched: Arc<AtomicBool>,
    keys: BTreeMap<Vec<u8>, Watched>,
}

impl std::fmt::Debug for Watches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watches({} keys)", self.keys.len())
    }
}

impl Watches {
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            touched: Arc::default(),
            keys: BTreeMap::new(),
        }
    }

    /// How many keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Slots of the keys.
    pub fn slots(&self) -> impl Iterator<Item = u16> + '_ {
        self.keys.values().map(|watched| watched.p.slot)
    }

    /// Watches a key too. Called under its lock.
    pub fn add(&mut self, guard: &mut Guard<'_>, p: Point, key: &[u8], now_ms: u64) {
        if self.keys.contains_key(key) {
            return;
        }
        let was_there = guard.get(p, key, now_ms).is_some();
        guard.watchers(p.slot, |watchers| watchers.add(p, key, &self.touched));
        self.keys.insert(key.to_vec(), Watched { p, was_there });
    }

    /// Whether a key was changed, or is this node's no more. Called under the locks of all.
    pub fn are_touched(&self, guard: &Guard<'_>, now_ms: u64) -> bool {
        let gone = |(key, w): (&Vec<u8>, &Watched)| {
            let state = guard.slot_state(w.p.slot);
            matches!(state, SlotState::None | SlotState::Importing)
                // It has expired, and nobody has met it yet.
                || w.was_there && guard.peek(w.p, key, now_ms).is_none()
        };
        self.touched.load(Ordering::Relaxed) || self.keys.iter().any(gone)
    }

    /// Watches nothing any more. Called under the locks of all.
    pub fn clear(&mut self, guard: &mut Guard<'_>) {
        for (key, watched) in std::mem::take(&mut self.keys) {
            let remove = |watchers: &mut Watchers| watchers.remove(&key, &self.touched);
            guard.watchers(watched.p.slot, remove);
        }
        self.touched.store(false, Ordering::Relaxed);
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let store = self.store.clone();
        let slots: Vec<u16> = self.slots().collect();
        self.clear(&mut store.lock_slots(&slots));
    }
}

impl Guard<'_> {
    fn watchers(&mut self, slot: u16, f: impl FnOnce(&mut Watchers)) {
        let wanted = domain_of(slot);
        let domain = self.domain_mut(slot);
        let mut watchers = domain.watchers.take().unwrap_or_default();
        f(&mut watchers);
        if watchers.by_key.is_empty() {
            domain.observers &= !observer::WATCHED;
        } else {
            debug_assert!(
                watchers
                    .by_key
                    .values()
                    .all(|(p, _)| domain_of(p.slot) == wanted)
            );
            domain.observers |= observer::WATCHED;
            domain.watchers = Some(watchers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::store;
    use super::*;

    #[test]
    fn every_kind_of_change_touches_and_reading_does_not() {
        type Change = fn(&mut Guard<'_>, Point);
        let table: [(&str, Change, bool); 9] = [
            (
                "read",
                |g, p| {
                    g.get(p, b"k", 5);
                },
                false,
            ),
            ("set", |g, p| g.set(p, b"k", b"2", None).unwrap(), true),
            (
                "append",
                |g, p| {
                    g.append(p, b"k", b"2", 5).unwrap();
                },
                true,
            ),
            (
                "remove",
                |g, p| {
                    g.remove(p, b"k", 5);
                },
                true,
            ),
            (
                "expiry",
                |g, p| {
                    g.set_expiry(p, b"k", Some(100), 5).unwrap();
                },
                true,
            ),
            (
                "expired",
                |g, p| {
                    g.get(p, b"k", 50);
                },
                true,
            ),
            ("cleared", |g, p| g.clear_slot(p.slot), true),
            (
                "replayed",
                |g, p| {
                    g.replay();
                    g.set(p, b"k", b"3", None).unwrap();
                },
                true,
            ),
            (
                "other",
                |g, p| g.set(p, b"{k}2", b"3", None).unwrap(),
                false,
            ),
        ];
        for (what, change, touches) in table {
            let store = store(0);
            let p = store.point(b"k");
            store.lock(p.slot).set_slot_state(p.slot, SlotState::Serve);
            let mut guard = store.lock(p.slot);
            guard.set(p, b"k", b"1", Some(40)).unwrap();
            let mut watches = Watches::new(store.clone());
            watches.add(&mut guard, p, b"k", 5);
            watches.add(&mut guard, p, b"k", 5);
            assert_eq!(watches.len(), 1);
            assert!(!watches.are_touched(&guard, 5));
            change(&mut guard, p);
            assert_eq!(watches.are_touched(&guard, 5), touches, "{what}");
            drop(guard);
            drop(watches);
            let domain = store.domains[domain_of(p.slot)].0.lock();
            assert!(domain.watchers.is_none() && domain.observers == 0, "{what}");
        }
    }

    #[test]
    fn a_key_that_was_not_there_is_touched_when_it_comes() {
        let store = store(0);
        let p = store.point(b"k");
        let mut guard = store.lock(p.slot);
        guard.set_slot_state(p.slot, SlotState::Serve);
        let mut watches = Watches::new(store.clone());
        watches.add(&mut guard, p, b"k", 5);
        guard.clear_slot(p.slot);
        assert!(!watches.are_touched(&guard, 5));
        // Expired, and nobody has met it.
        guard.set(p, b"k", b"1", Some(40)).unwrap();
        assert!(watches.are_touched(&guard, 5));
        watches.clear(&mut guard);
        watches.add(&mut guard, p, b"k", 5);
        assert!(!watches.are_touched(&guard, 39) && watches.are_touched(&guard, 40));
        guard.set_slot_state(p.slot, SlotState::None);
        assert!(watches.are_touched(&guard, 5));
        drop(guard);
    }
}
