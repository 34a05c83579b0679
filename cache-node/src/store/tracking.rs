//! Keys that clients keep copies of, and are told of when they change: `CLIENT TRACKING`.
//!
//! Which clients have read a key is kept with its domain, under its lock: a change that comes after a read finds the reader. The table is
//! bounded; beyond, a key is forgotten by telling its readers that it has changed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use super::Guard;
use super::domain::observer;
use super::notify;
use super::point::{Point, domain_of};

/// Whom to tell what.
pub trait Listener: Send + Sync + std::fmt::Debug {
    /// A key has changed; None: all have. `prefix`: that which it was told for.
    fn invalidated(&self, key: Option<&[u8]>, prefix: Option<&Arc<[u8]>>);
}

/// A client that tracks keys.
#[derive(Debug)]
pub struct Tracker {
    /// Its id.
    pub client: u64,
    /// Its own changes are not told to it.
    pub noloop: bool,
    /// It has switched tracking off, or is gone.
    ended: AtomicBool,
    listener: Box<dyn Listener>,
}

impl Tracker {
    pub fn new(client: u64, noloop: bool, listener: Box<dyn Listener>) -> Arc<Self> {
        Arc::new(Self {
            client,
            noloop,
            ended: AtomicBool::new(false),
            listener,
        })
    }

    fn tell(&self, key: Option<&[u8]>) {
        self.tell_of(key, None);
    }

    fn tell_of(&self, key: Option<&[u8]>, prefix: Option<&Arc<[u8]>>) {
        let own = self.noloop && notify::client() == self.client;
        if !own && !self.ended.load(Ordering::Relaxed) {
            self.listener.invalidated(key, prefix);
        }
    }
}

/// Readers of the keys of a domain. Lies behind its lock.
#[derive(Debug, Default)]
pub struct Readers(HashMap<Vec<u8>, (u16, Vec<Arc<Tracker>>)>);

/// A prefix, and who wants to know of its keys.
type Prefixed = (Arc<[u8]>, Arc<Tracker>);

/// What all domains share of it.
#[derive(Debug)]
pub struct Tracking {
    /// Keys in the table, and at most.
    keys: AtomicUsize,
    pub keys_max: AtomicU64,
    /// Entries: a key and a reader of it.
    items: AtomicUsize,
    trackers: Mutex<Vec<Arc<Tracker>>>,
    /// Those who want to know of all keys with a prefix, whether they read them or not.
    prefixes: RwLock<Vec<Prefixed>>,
}

/// As in Redis.
const KEYS_MAX: u64 = 1_000_000;

impl Default for Tracking {
    fn default() -> Self {
        Self {
            keys: AtomicUsize::new(0),
            keys_max: AtomicU64::new(KEYS_MAX),
            items: AtomicUsize::new(0),
            trackers: Mutex::default(),
            prefixes: RwLock::default(),
        }
    }
}

impl Tracking {
    /// A client tracks from now on: what it reads, or keys with these prefixes.
    pub fn begin(&self, tracker: &Arc<Tracker>, prefixes: &[Vec<u8>]) {
        self.trackers.lock().push(tracker.clone());
        let mut all = self.prefixes.write();
        all.extend(prefixes.iter().map(|p| (p[..].into(), tracker.clone())));
    }

    /// It does no more. What the table holds of it goes when the keys change.
    pub fn end(&self, tracker: &Tracker) {
        tracker.ended.store(true, Ordering::Relaxed);
        self.trackers.lock().retain(|t| t.client != tracker.client);
        self.prefixes
            .write()
            .retain(|(_, t)| t.client != tracker.client);
    }

    /// Clients that track; keys and entries in the table; prefixes.
    pub fn counts(&self) -> [usize; 4] {
        [
            self.trackers.lock().len(),
            self.keys.load(Ordering::Relaxed),
            self.items.load(Ordering::Relaxed),
            self.prefixes.read().len(),
        ]
    }

    /// Whether somebody tracks by prefixes: then all changes are looked at.
    pub fn has_prefixes(&self) -> bool {
        !self.prefixes.read().is_empty()
    }

    /// Many keys are about to go: those who track by prefixes are told once that all have changed.
    pub(super) fn flushed(&self) {
        let mut told = HashSet::new();
        for (_, tracker) in self.prefixes.read().iter() {
            if told.insert(tracker.client) {
                tracker.tell(None);
            }
        }
    }

    pub(super) fn changed(&self, key: &[u8]) {
        for (prefix, tracker) in self.prefixes.read().iter() {
            if key.starts_with(&prefix[..]) {
                tracker.tell_of(Some(key), Some(prefix));
            }
        }
    }
}

impl Guard<'_> {
    /// A client has read a key, or is about to.
    pub fn track(&mut self, p: Point, key: &[u8], tracker: &Arc<Tracker>) {
        let tracking = &self.store().tracking;
        let domain = self.domain_mut(p.slot);
        domain.observers |= observer::TRACKED;
        let readers = &mut domain.readers.get_or_insert_default().0;
        if let Some((_, of_key)) = readers.get_mut(key) {
            let before = of_key.len();
            of_key.retain(|t| !t.ended.load(Ordering::Relaxed));
            tracking
                .items
                .fetch_sub(before - of_key.len(), Ordering::Relaxed);
            if of_key.iter().all(|t| t.client != tracker.client) {
                of_key.push(tracker.clone());
                tracking.items.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        let max = tracking.keys_max.load(Ordering::Relaxed);
        if max > 0 && tracking.keys.load(Ordering::Relaxed) as u64 >= max {
            // One of the same domain makes room; a domain that has none adds one beyond.
            let other = readers.keys().next().cloned();
            if let Some(other) = other {
                self.forget_unchanged(p.slot, &other);
            }
        }
        let readers = &mut self.domain_mut(p.slot).readers.get_or_insert_default().0;
        readers.insert(key.to_vec(), (p.slot, vec![tracker.clone()]));
        self.domain_mut(p.slot).observers |= observer::TRACKED;
        tracking.keys.fetch_add(1, Ordering::Relaxed);
        tracking.items.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells the readers of a key that it has changed, and forgets them.
    pub(super) fn forget_key(&mut self, slot: u16, key: &[u8]) {
        let tracking = &self.store().tracking;
        let domain = self.domain_mut(slot);
        let Some(readers) = &mut domain.readers else {
            return;
        };
        let Some((_, of_key)) = readers.0.remove(key) else {
            return;
        };
        if readers.0.is_empty() {
            domain.readers = None;
            domain.observers &= !observer::TRACKED;
        }
        tracking.keys.fetch_sub(1, Ordering::Relaxed);
        tracking.items.fetch_sub(of_key.len(), Ordering::Relaxed);
        of_key.iter().for_each(|tracker| tracker.tell(Some(key)));
    }

    /// As [`Guard::forget_key`], for a key that makes room: also a client that is not told of its own changes is told.
    fn forget_unchanged(&mut self, slot: u16, key: &[u8]) {
        let client = notify::client();
        notify::set_client(0);
        self.forget_key(slot, key);
        notify::set_client(client);
    }

    /// Forgets keys beyond the most that are tracked. All domains must be locked.
    pub fn forget_beyond(&mut self) {
        let tracking = &self.store().tracking;
        let max = tracking.keys_max.load(Ordering::Relaxed) as usize;
        let count = tracking.keys.load(Ordering::Relaxed);
        let beyond = if max == 0 {
            0
        } else {
            count.saturating_sub(max)
        };
        let mut keys: Vec<(u16, Vec<u8>)> = Vec::with_capacity(beyond);
        self.each_domain(|domain| {
            let all = domain.readers.iter().flat_map(|readers| &readers.0);
            let some = all.take(beyond - keys.len());
            keys.extend(some.map(|(key, (slot, _))| (*slot, key.clone())));
        });
        for (slot, key) in keys {
            self.forget_unchanged(slot, &key);
        }
    }

    /// All keys are about to go: all clients are told at once, and nothing is tracked any more.
    pub(super) fn forget_readers(&mut self) {
        self.each_domain(|domain| {
            domain.readers = None;
            domain.observers &= !observer::TRACKED;
        });
        let tracking = &self.store().tracking;
        tracking.keys.store(0, Ordering::Relaxed);
        tracking.items.store(0, Ordering::Relaxed);
        for tracker in tracking.trackers.lock().iter() {
            tracker.tell(None);
        }
    }

    /// As [`Guard::forget_key`], for all keys of a slot.
    pub(super) fn forget_slot(&mut self, slot: u16) {
        let Some(readers) = &self.domain(slot).readers else {
            return;
        };
        let keys = readers.0.iter().filter(|(_, (s, _))| *s == slot);
        let keys: Vec<Vec<u8>> = keys.map(|(key, _)| key.clone()).collect();
        debug_assert!(domain_of(slot) < super::point::DOMAINS);
        keys.iter().for_each(|key| self.forget_key(slot, key));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::store;
    use super::*;

    #[derive(Debug, Default, Clone)]
    struct Heard(Arc<Mutex<Vec<String>>>);
    impl Listener for Heard {
        fn invalidated(&self, key: Option<&[u8]>, _: Option<&Arc<[u8]>>) {
            let key = key.map_or("all".into(), |k| String::from_utf8_lossy(k).into_owned());
            self.0.lock().push(key);
        }
    }

    impl Heard {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock())
        }
    }

    #[test]
    fn a_reader_is_told_once_of_each_change() {
        let store = store(0);
        let heard = Heard::default();
        let tracker = Tracker::new(7, true, Box::new(heard.clone()));
        store.tracking.begin(&tracker, &[]);
        let (a, b) = (store.point(b"{x}a"), store.point(b"{x}b"));
        let mut guard = store.lock(a.slot);
        guard.track(a, b"{x}a", &tracker);
        guard.track(a, b"{x}a", &tracker);
        guard.track(b, b"{x}b", &tracker);
        assert_eq!(store.tracking.counts(), [1, 2, 2, 0]);
        guard.set(a, b"{x}a", b"1", Some(9)).unwrap();
        guard.set(a, b"{x}a", b"2", Some(9)).unwrap();
        assert_eq!(heard.take(), ["{x}a"]);
        // It expires.
        guard.track(a, b"{x}a", &tracker);
        assert!(guard.get(a, b"{x}a", 10).is_none());
        assert_eq!(heard.take(), ["{x}a"]);
        // The slot goes.
        guard.set(b, b"{x}b", b"1", None).unwrap();
        heard.take();
        guard.track(b, b"{x}b", &tracker);
        guard.clear_slot(b.slot);
        assert_eq!(heard.take(), ["{x}b"]);
        assert_eq!(store.tracking.counts(), [1, 0, 0, 0]);
        assert_eq!(guard.domain(a.slot).observers, 0);
        // Its own changes are not told.
        guard.track(a, b"{x}a", &tracker);
        notify::set_client(7);
        guard.set(a, b"{x}a", b"1", None).unwrap();
        notify::set_client(0);
        assert!(heard.take().is_empty());
        // A full table forgets by telling.
        store.tracking.keys_max.store(1, Ordering::Relaxed);
        guard.track(a, b"{x}a", &tracker);
        guard.track(b, b"{x}b", &tracker);
        assert_eq!((heard.take().len(), store.tracking.counts()[1]), (1, 1));
        // Also to a client that is not told of its own changes.
        notify::set_client(7);
        guard.track(a, b"{x}a", &tracker);
        assert_eq!(heard.take(), ["{x}b"]);
        store.tracking.keys_max.store(0, Ordering::Relaxed);
        guard.track(b, b"{x}b", &tracker);
        drop(guard);
        let mut guard = store.lock_all();
        guard.forget_beyond();
        assert_eq!((heard.take().len(), store.tracking.counts()[1]), (0, 2));
        store.tracking.keys_max.store(1, Ordering::Relaxed);
        guard.forget_beyond();
        assert_eq!((heard.take().len(), store.tracking.counts()[1]), (1, 1));
        notify::set_client(0);
        drop(guard);
        let mut guard = store.lock(a.slot);
        store.tracking.end(&tracker);
        guard.set(a, b"{x}a", b"1", None).unwrap();
        guard.set(b, b"{x}b", b"1", None).unwrap();
        assert!(heard.take().is_empty());
        drop(guard);
        let mut guard = store.lock_all();
        let tracker = Tracker::new(8, false, Box::new(heard.clone()));
        store.tracking.begin(&tracker, &[b"{x}".to_vec()]);
        guard.observe_all(observer::PREFIXES, store.tracking.has_prefixes());
        guard.set(a, b"{x}a", b"1", None).unwrap();
        guard
            .set(store.point(b"other"), b"other", b"1", None)
            .unwrap();
        guard.clear_all();
        assert_eq!(heard.take(), ["{x}a", "all"]);
    }
}
