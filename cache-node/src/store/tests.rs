//! The store against a plain map, its accounting, and snapshots of one instant.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::compress::Method;
use super::*;

mod threads;

const NOW: u64 = 1_000_000;

pub(crate) fn store(max_memory: u64) -> Arc<Store> {
    let options = StoreOptions {
        max_memory,
        hash_seed: 42,
    };
    Arc::new(Store::new(options, Arc::new(Log::new(1 << 20))).unwrap())
}

pub(crate) struct Lcg(pub u64);
impl Lcg {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

thread_local! {
    static WORK: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Counts steps of this thread: items looked at under a lock, nodes of big collections freed.
pub(crate) fn work(steps: usize) {
    WORK.set(WORK.get() + steps);
}

/// The steps that something takes.
pub(crate) fn work_of<T>(f: impl FnOnce() -> T) -> (usize, T) {
    let before = WORK.get();
    let done = f();
    (WORK.get() - before, done)
}

type Model = BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>;

fn value(random: &mut Lcg) -> Vec<u8> {
    let len = match random.below(40) {
        0 => 20_000,
        1 => 15_871,
        2..5 => random.below(3_000),
        _ => random.below(40),
    };
    vec![random.below(256) as u8; len as usize]
}

/// One random write, to the store and to the model.
fn step(store: &Store, model: &mut Model, random: &mut Lcg, keys: u64) {
    step_as("", store, model, random, keys);
}

/// As [`step`], on keys of somebody's own.
fn step_as(who: &str, store: &Store, model: &mut Model, random: &mut Lcg, keys: u64) {
    let key = match random.below(20) {
        0 => format!("{}{who}{}", "long".repeat(100), random.below(keys)),
        1..8 => format!("{{one}}{who}{}", random.below(keys)),
        _ => format!("key:{who}{}", random.below(keys)),
    }
    .into_bytes();
    let p = store.point(&key);
    if key.len().is_multiple_of(2) {
        store.expand(p, &key).unwrap();
    }
    let choice = random.below(10);
    let bytes = value(random);
    let given = store.pack(&key, &bytes);
    let mut guard = store.lock(p.slot);
    match choice {
        0..4 => {
            let value = bytes.clone();
            let expires = (random.below(3) == 0).then(|| NOW + 1 + random.below(5));
            guard.set_given(p, &key, &given, expires).unwrap();
            let found = guard.get(p, &key, NOW).unwrap();
            assert_eq!(found.is_compressed(), given.packed.is_some());
            assert_eq!(found.value_len(), value.len());
            model.insert(key, (value, expires));
        }
        4 => {
            let suffix = &bytes;
            guard.append(p, &key, suffix, NOW).unwrap();
            model.entry(key).or_default().0.extend(suffix);
        }
        5 => {
            let offset = random.below(200) as usize;
            guard.set_range(p, &key, offset, &bytes, NOW).unwrap();
            let old = &mut model.entry(key).or_default().0;
            old.resize(old.len().max(offset + bytes.len()), 0);
            old[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        6 => {
            let expires = (random.below(2) == 0).then(|| NOW + 1 + random.below(5));
            let found = guard.set_expiry(p, &key, expires, NOW).unwrap();
            assert_eq!(found, model.contains_key(&key));
            if let Some(entry) = model.get_mut(&key) {
                entry.1 = expires;
            }
        }
        _ => assert_eq!(guard.remove(p, &key, NOW), model.remove(&key).is_some()),
    }
}

#[test]
fn parts_of_a_value_change_in_place_while_nobody_else_holds_it() {
    let store = store(0);
    let key = b"bits";
    let p = store.point(key);
    for length in [100, 10_000, 40_000] {
        let mut guard = store.lock(p.slot);
        guard.set(p, key, &vec![1; length], None).unwrap();
        let place = |guard: &mut Guard<'_>| guard.get(p, key, NOW).unwrap().stored().as_ptr();
        let before = place(&mut guard);
        assert_eq!(guard.set_range(p, key, length - 3, b"abc", NOW), Ok(length));
        assert_eq!(place(&mut guard), before, "{length}");
        let held = guard.get(p, key, NOW).unwrap().stored();
        if let ValueRef::Shared(held) = held {
            assert_eq!(guard.set_range(p, key, 0, b"xyz", NOW), Ok(length));
            assert_ne!(place(&mut guard), before);
            assert_eq!(
                &held[..4],
                &[1; 4],
                "what a connection sends stays as it was"
            );
            let before = place(&mut guard);
            assert_eq!(guard.append(p, key, b"more", NOW), Ok(length + 4));
            assert_eq!(place(&mut guard), before);
        }
        let item = guard.get(p, key, NOW).unwrap();
        let (value, bytes) = (item.value().to_vec(), item.bytes() as u64);
        assert!(value[length - 3..].starts_with(b"abc"));
        assert_eq!(guard.slot_bytes(p.slot), bytes);
    }
}

fn contents(store: &Store, now_ms: u64) -> Model {
    let mut all = Model::new();
    for slot in 0..SLOTS {
        let mut guard = store.lock(slot);
        let mut pos = Some(0);
        while let Some(at) = pos {
            pos = guard.walk(slot, at, 7, now_ms, &mut |item| {
                let old = all.insert(
                    item.key().to_vec(),
                    (item.value().to_vec(), item.expires_at()),
                );
                assert!(old.is_none(), "walked twice");
            });
        }
    }
    all
}

#[test]
fn holds_what_a_map_holds_and_gives_everything_back() {
    for seed in 0..8 {
        let store = store(0);
        store.compression.set_method(match seed {
            0..6 => Method::None,
            6 => Method::Lz4,
            _ => Method::Zstd { level: 1 },
        });
        let mut random = Lcg(seed);
        let mut model = Model::new();
        for _ in 0..30_000 {
            step(&store, &mut model, &mut random, 1 << (4 + 2 * (seed % 6)));
        }
        assert_eq!(store.compression.is_used(), seed >= 6);
        assert_eq!(contents(&store, NOW), model);
        for (key, (value, expires)) in &model {
            let p = store.point(key);
            let mut guard = store.lock(p.slot);
            let item = guard.get(p, key, NOW).unwrap();
            assert_eq!(
                (&*item.value().bytes(), item.expires_at()),
                (&value[..], *expires)
            );
        }
        assert_eq!(store.stats().keys, model.len() as u64);
        let expiring = model.values().filter(|(_, e)| e.is_some()).count() as u64;
        assert_eq!(store.stats().expires, expiring);

        let later = NOW + 3;
        let until = Instant::now() + Duration::from_secs(60);
        let expired = store.expire(later, until);
        assert!(expired.done && expired.lag_ms <= later - NOW);
        assert_eq!(contents(&store, 0).len(), contents(&store, later).len());
        model.retain(|_, (_, expires)| expires.is_none_or(|at| at > later));
        assert_eq!(contents(&store, later), model);
        let item_bytes: u64 = (0..SLOTS)
            .map(|slot| store.lock(slot).slot_bytes(slot))
            .sum();
        assert!(store.stats().bytes >= item_bytes);

        store.lock_all().clear_all();
        store.free_garbage();
        assert_eq!(store.live_page_bytes(), 0);
        let stats = store.stats();
        assert_eq!((stats.keys, stats.expires, stats.table_bytes), (0, 0, 0));
        assert_eq!(
            stats.bytes, stats.page_bytes,
            "only pages kept for the next item are left"
        );
    }
}

#[test]
fn a_full_store_refuses_and_loses_nothing() {
    let store = store(4 << 20);
    let mut held = 0;
    loop {
        let key = format!("k{held}").into_bytes();
        let p = store.point(&key);
        if store.lock(p.slot).set(p, &key, &[7; 100], None).is_err() {
            break;
        }
        held += 1;
    }
    assert!(held > 20_000, "{held}");
    assert_eq!(contents(&store, NOW).len(), held);
    let p = store.point(b"k0");
    let mut guard = store.lock(p.slot);
    assert!(guard.set(p, b"k0", &[1; 10_000], None).is_err());
    assert_eq!(
        &*guard.get(p, b"k0", NOW).unwrap().value().bytes(),
        &[7; 100]
    );
    assert!(guard.append(p, b"k0", &[1; 1 << 23], NOW).is_err());
    assert_eq!(
        &*guard.get(p, b"k0", NOW).unwrap().value().bytes(),
        &[7; 100]
    );
    assert!(guard.remove(p, b"k0", NOW), "what frees memory still works");
    assert!(guard.set(p, b"k0", &[9; 100], None).is_ok());
}

#[test]
fn an_expired_key_is_absent_and_on_a_replica_only_hidden() {
    let store = store(0);
    let p = store.point(b"k");
    let mut guard = store.lock(p.slot);
    guard.set(p, b"k", b"v", Some(NOW + 1)).unwrap();
    assert!(guard.get(p, b"k", NOW).is_some());
    store.set_expire_locally(false);
    assert!(guard.get(p, b"k", NOW + 1).is_none());
    assert_eq!(guard.slot_len(p.slot), 1);
    store.set_expire_locally(true);
    assert!(guard.get(p, b"k", NOW + 1).is_none());
    assert_eq!(guard.slot_len(p.slot), 0);
}

#[derive(Default)]
struct Collected(Mutex<Model>);

impl SnapshotSink for Collected {
    fn item(&self, slot: u16, item: ItemRef<'_>) {
        assert_eq!(slot, slot_of(item.key()));
        let old = self.0.lock().insert(
            item.key().to_vec(),
            (item.value().to_vec(), item.expires_at()),
        );
        assert!(old.is_none(), "emitted twice");
    }
}

#[test]
fn a_snapshot_holds_one_instant_whatever_is_written_meanwhile() {
    for seed in 0..8 {
        let store = store(0);
        let mut random = Lcg(seed);
        let mut model = Model::new();
        for _ in 0..8_000 {
            step(&store, &mut model, &mut random, 3_000);
        }
        for round in 0..3 {
            let sink = Arc::new(Collected::default());
            let mut walk = store.begin_snapshot(sink.clone(), || {}).unwrap();
            assert!(
                store.begin_snapshot(sink.clone(), || {}).is_none(),
                "one at a time"
            );
            let instant = model.clone();
            let mut steps = 0;
            while walk.step(3) {
                for _ in 0..random.below(4) {
                    step(&store, &mut model, &mut random, 3_000);
                }
                if random.below(2_000) == 0 {
                    let slot = slot_of(b"one");
                    store.lock(slot).clear_slot(slot);
                    model.retain(|key, _| slot_of(key) != slot);
                }
                steps += 1;
                if round == 1 && steps == 500 {
                    break; // given up
                }
            }
            if round != 1 {
                assert_eq!(*sink.0.lock(), instant, "seed {seed}, round {round}");
            }
            drop(walk);
            assert_eq!(contents(&store, NOW), model);
        }
    }
}

/// Deleting most of what is there leaves sparse pages; compaction gives them back while writes go on, and nothing is lost or mixed up.
#[test]
fn compaction_gives_pages_back_while_writes_go_on() {
    for seed in 0..6 {
        let store = store(0);
        let mut random = Lcg(seed);
        let mut model = Model::new();
        let keys = 40_000 << (seed % 2);
        for _ in 0..100_000 {
            step(&store, &mut model, &mut random, keys);
        }
        let doomed: Vec<Vec<u8>> = model.keys().cloned().collect();
        for key in doomed {
            if random.below(8) > 0 {
                let p = store.point(&key);
                assert!(store.lock(p.slot).remove(p, &key, NOW));
                model.remove(&key);
            }
        }
        let before = store.stats();
        let live = store.live_page_bytes();
        let mut pass = store.begin_compaction(true).expect("most is empty");
        let gain = (pass.pages() * pages::PAGE) as u64;
        assert!(gain > before.page_bytes / 4, "{gain} of {before:?}");
        let mut steps = 0;
        while pass.step(&store) {
            steps += 1;
            if seed >= 2 {
                for _ in 0..random.below(4) {
                    step(&store, &mut model, &mut random, keys);
                }
            }
        }
        pass.finish(&store);
        assert!(steps > DOMAINS / 2, "{steps}");
        let after = store.stats();
        assert!(after.moved_bytes <= 2 * gain, "{} moved", after.moved_bytes);
        if seed < 2 {
            assert_eq!(after.page_bytes, before.page_bytes - gain);
            assert_eq!(store.live_page_bytes(), live);
        }
        assert_eq!(contents(&store, NOW), model);
        for _ in 0..20_000 {
            step(&store, &mut model, &mut random, keys);
        }
        assert_eq!(contents(&store, NOW), model);
        assert_eq!(store.stats().keys, model.len() as u64);
    }
}

/// A snapshot's instant holds whatever compaction moves meanwhile.
#[test]
fn compaction_does_not_disturb_a_snapshot() {
    let store = store(0);
    let mut random = Lcg(3);
    let mut model = Model::new();
    for _ in 0..30_000 {
        step(&store, &mut model, &mut random, 20_000);
    }
    model.retain(|key, _| {
        let p = store.point(key);
        random.below(4) == 0 || !store.lock(p.slot).remove(p, key, NOW)
    });
    let sink = Arc::new(Collected::default());
    let mut walk = store.begin_snapshot(sink.clone(), || {}).unwrap();
    let instant = model.clone();
    let mut pass = store.begin_compaction(true).expect("most is empty");
    let mut more = true;
    while walk.step(3) {
        more = more && pass.step(&store);
        step(&store, &mut model, &mut random, 20_000);
    }
    while pass.step(&store) {}
    pass.finish(&store);
    assert!(*sink.0.lock() == instant);
    assert_eq!(contents(&store, NOW), model);
}

/// 2026 in Unix milliseconds: expiries take five bytes.
const LATER: u64 = 1_790_000_000_000;

/// Whatever the lifetimes and however they change: what has expired for a unit of time is gone, and nothing else is.
#[test]
fn what_has_expired_is_removed_and_nothing_else() {
    const UNIT: u64 = 256;
    for seed in 0..6 {
        let store = store(0);
        let mut random = Lcg(seed);
        let mut model: BTreeMap<Vec<u8>, Option<u64>> = BTreeMap::new();
        let mut now = LATER;
        let keys = [300, 3_000, 30_000][seed as usize % 3];
        for _ in 0..40 {
            for _ in 0..500 {
                let n = random.below(keys);
                let tag = if n.is_multiple_of(3) { "{one}" } else { "" };
                let key = format!("{tag}key:{n}").into_bytes();
                let p = store.point(&key);
                let reach = [500, 20_000, 10_000_000, 1 << 42][random.below(4) as usize];
                let expires_at = (random.below(4) > 0).then(|| now + 1 + random.below(reach));
                let mut guard = store.lock(p.slot);
                match random.below(3) {
                    0 if model.contains_key(&key) => {
                        let found = guard.set_expiry(p, &key, expires_at, now).unwrap();
                        if found {
                            model.insert(key, expires_at);
                        }
                    }
                    1 => {
                        guard.remove(p, &key, now);
                        model.remove(&key);
                    }
                    _ => {
                        let value = vec![7; random.below(50) as usize];
                        guard.set(p, &key, &value, expires_at).unwrap();
                        model.insert(key, expires_at);
                    }
                }
            }
            now += [100, 3_000, 200_000, 40_000_000][random.below(4) as usize];
            let expired = store.expire(now, Instant::now() + Duration::from_secs(60));
            assert!(expired.done);
            let held: BTreeMap<_, _> = contents(&store, 0)
                .into_iter()
                .map(|(key, (_, expires_at))| (key, expires_at))
                .collect();
            for (key, expires_at) in &held {
                assert!(
                    expires_at.is_none_or(|at| at + UNIT > now),
                    "seed {seed}: stayed"
                );
                assert_eq!(model.get(key), Some(expires_at));
            }
            model.retain(|key, at| at.is_none_or(|at| at > now) || held.contains_key(key));
            assert_eq!(held.len(), model.len(), "seed {seed}: removed too early");
        }
        let again = store.expire(now, Instant::now() + Duration::from_secs(60));
        assert_eq!(again.items, 0);
    }
}

#[test]
fn setting_a_key_again_with_an_expiry_leaves_nothing_behind() {
    let store = store(0);
    store.set_policy(PolicyKind::S3Fifo);
    let p = store.point(b"key");
    let mut bytes = 0;
    for i in 0..200_000u64 {
        let expires_at = Some(LATER + 1_000_000 + i * 7 % 100_000);
        store
            .lock(p.slot)
            .set(p, b"key", b"value", expires_at)
            .unwrap();
        if i == 0 {
            bytes = store.stats().bytes;
        }
    }
    store.tidy_queues();
    let stats = store.stats();
    assert_eq!((stats.bytes, stats.keys, stats.expires), (bytes, 1, 1));
    assert!(stats.policy_bytes < 64 << 10, "{stats:?}");
}

/// Each policy evicts until nothing is left, and logs nothing but what it evicts; slots that are not served are spared.
#[test]
fn every_policy_evicts_all_that_it_may() {
    for (kind, name) in PolicyKind::ALL {
        let store = store(0);
        store.set_policy(kind);
        for slot in 0..SLOTS {
            store.lock(slot).set_slot_state(slot, SlotState::Serve);
        }
        let paused = slot_of(b"{paused}");
        store
            .lock(paused)
            .set_slot_state(paused, SlotState::WritePaused);
        for i in 0..3_000u64 {
            let tag = if i.is_multiple_of(10) { "{paused}" } else { "" };
            let key = format!("{tag}key:{i}").into_bytes();
            let p = store.point(&key);
            let expires_at = i.is_multiple_of(2).then_some(LATER + i);
            store
                .lock(p.slot)
                .set(p, &key, &[1; 30], expires_at)
                .unwrap();
            if i.is_multiple_of(3) {
                store.lock(p.slot).get(p, &key, NOW);
            }
        }
        let bytes = store.stats().bytes;
        let evicted = store.evict(u64::MAX);
        let left = contents(&store, NOW);
        let may = |key: &[u8], expires: bool| {
            !key.starts_with(b"{") && (expires || !name.starts_with("volatile"))
        };
        let wrongly_left = left
            .iter()
            .filter(|(key, (_, at))| may(key, at.is_some()))
            .count();
        match kind {
            PolicyKind::NoEviction => assert_eq!((evicted.items, left.len()), (0, 3_000)),
            _ => {
                assert_eq!(wrongly_left, 0, "{name}");
                assert_eq!(evicted.items as usize + left.len(), 3_000, "{name}");
                assert!(left.len() >= 300, "{name}: what is not served stays");
                assert!(evicted.bytes > 0 && store.stats().bytes <= bytes);
            }
        }
    }
}

/// However many items are hot, there is one to evict: else clients would be told that memory is full.
#[test]
fn items_that_are_all_hot_are_evicted_too() {
    for kind in [PolicyKind::S3Fifo, PolicyKind::Sieve, PolicyKind::WTinyLfu] {
        let store = store(0);
        store.set_policy(kind);
        for slot in 0..SLOTS {
            store.lock(slot).set_slot_state(slot, SlotState::Serve);
        }
        for i in 0..6_000u64 {
            let key = i.to_le_bytes();
            let p = store.point(&key);
            let mut guard = store.lock(p.slot);
            guard.set(p, &key, &[1; 30], None).unwrap();
            for _ in 0..3 {
                guard.get(p, &key, NOW);
            }
        }
        for _ in 0..10 {
            assert!(store.evict_one().is_some(), "{kind:?}");
        }
        assert_eq!(store.stats().keys, 5_990);
    }
}

#[test]
fn a_replica_evicts_nothing() {
    let store = store(0);
    store.set_policy(PolicyKind::Fifo);
    let p = store.point(b"key");
    store.lock(p.slot).set_slot_state(p.slot, SlotState::Serve);
    store.lock(p.slot).set(p, b"key", b"value", None).unwrap();
    store.set_expire_locally(false);
    assert_eq!(store.evict_one(), None);
    store.set_expire_locally(true);
    assert!(store.evict_one().is_some());
    assert_eq!(store.stats().keys, 0);
}
