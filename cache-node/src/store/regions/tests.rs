//! Regions against a naive model: which key belongs where, what is counted, what is evicted, through changes of the list.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::budget::OutOfMemory;
use super::super::compress::Method;
use super::super::tests::Lcg;
use super::super::{End, Guard, Point};
use super::super::{SLOTS, SlotState, Store, StoreOptions};
use super::*;
use crate::log::Log;

const NOW: u64 = 1_700_000_000_000;

fn store() -> Store {
    let options = StoreOptions {
        max_memory: 0,
        hash_seed: 7,
    };
    let store = Store::new(options, Arc::new(Log::new(1 << 20))).unwrap();
    for slot in 0..SLOTS {
        store.lock(slot).set_slot_state(slot, SlotState::Serve);
    }
    store
}

pub(crate) fn spec(name: &str, prefix: &str) -> RegionSpec {
    RegionSpec {
        compression: Setting::default(),
        name: name.into(),
        prefix: prefix.into(),
        size: 0,
        max_items: 0,
        ttl: Ttl::default(),
        policy: PolicyKind::S3Fifo,
    }
}

pub(crate) fn put_into_force(store: &Store, specs: &[RegionSpec]) {
    store.set_regions(specs, "list");
    // Hours: the time is not what ends it.
    assert!(!store.settle_regions(Instant::now() + Duration::from_secs(36_000)));
}

fn set(store: &Store, key: &str, value: &[u8]) -> Result<(), OutOfMemory> {
    let p = store.point(key.as_bytes());
    store.lock(p.slot).set(p, key.as_bytes(), value, None)
}

fn remove(store: &Store, key: &str) {
    let p = store.point(key.as_bytes());
    store.lock(p.slot).remove(p, key.as_bytes(), NOW);
}

fn holds(store: &Store, key: &str) -> bool {
    let p = store.point(key.as_bytes());
    store.lock(p.slot).get(p, key.as_bytes(), NOW).is_some()
}

fn stats(store: &Store, name: &str) -> RegionStats {
    let mut all = store.region_stats().into_iter();
    all.find(|r| r.name == name).unwrap()
}

#[test]
fn the_longest_prefix_wins() {
    let mut random = Lcg(11);
    let word = |random: &mut Lcg| -> Vec<u8> {
        let length = 1 + random.below(5);
        (0..length)
            .map(|_| b"ab:\xff"[random.below(4) as usize])
            .collect()
    };
    for _ in 0..300 {
        let count = random.below(40);
        let prefixes: std::collections::BTreeSet<Vec<u8>> =
            (0..count).map(|_| word(&mut random)).collect();
        let region = |prefix: &Vec<u8>| {
            let prefix = prefix.clone();
            Arc::new(Region::new(&RegionSpec {
                prefix,
                ..spec("r", "")
            }))
        };
        let regions = Regions::new(prefixes.iter().map(region).collect(), String::new());
        for _ in 0..200 {
            let key = [word(&mut random), word(&mut random)].concat();
            let fits = prefixes.iter().filter(|p| key.starts_with(p));
            let expected = fits.max_by_key(|p| p.len());
            let found = regions.find(&key).map(|r| r.prefix.to_vec());
            assert_eq!(found.as_ref(), expected, "{key:?} in {prefixes:?}");
        }
        assert!(regions.find(b"").is_none());
    }
}

#[test]
fn a_default_expiry_is_spread_by_its_jitter() {
    let ttl = |ms, jitter_percent| Ttl { ms, jitter_percent };
    assert_eq!(ttl(0, 50).expiry(NOW, 1), None);
    assert_eq!(ttl(1_000, 0).expiry(NOW, 1), Some(NOW + 1_000));
    for jitter in [1, 10, 100] {
        let spread = 10 * u64::from(jitter);
        let times: Vec<u64> = (0..10_000)
            .map(|random| ttl(1_000, jitter).expiry(NOW, random).unwrap())
            .collect();
        let (low, high) = (NOW + 1_000 - spread, NOW + 1_000 + spread);
        assert!(times.iter().all(|t| (low..=high).contains(t)), "{jitter}");
        let parts: std::collections::BTreeSet<u64> = times
            .iter()
            .map(|t| (t - low) * 4 / (2 * spread + 1))
            .collect();
        assert_eq!(
            parts.len(),
            4,
            "{jitter}: all quarters of the spread are used"
        );
    }
}

/// Random writes while lists of regions come and go, settled in slices: what is counted is what a model counts by the list in force.
#[test]
fn counts_follow_the_list_while_it_changes() {
    let store = store();
    let mut random = Lcg(3);
    let mut model: BTreeMap<String, usize> = BTreeMap::new();
    let prefixes = ["a", "a:", "a:b", "b:", "c", "{t}"];
    for round in 0..40u64 {
        let list: Vec<RegionSpec> = prefixes
            .iter()
            .filter(|_| random.below(2) == 0)
            .map(|p| spec(&p.replace([':', '{', '}'], "-"), p))
            .collect();
        store.set_regions(&list, &round.to_string());
        loop {
            for _ in 0..50 {
                let key = match random.below(5) {
                    0 => format!("{{t}}{}", random.below(3_000)),
                    1 => format!("d:{}", random.below(300)),
                    n => format!("{}{}", prefixes[n as usize], random.below(300)),
                };
                if random.below(3) == 0 {
                    remove(&store, &key);
                    model.remove(&key);
                } else {
                    let length = random.below(100) as usize;
                    set(&store, &key, &vec![1; length]).unwrap();
                    model.insert(key, length);
                }
            }
            // A slice: some steps of the walk, whatever time they take.
            if !store.settle_regions(Instant::now()) {
                break;
            }
        }
        assert_eq!(store.regions_hash(), round.to_string());
        for region in store.region_stats() {
            let belongs = |key: &str| {
                let fits = list
                    .iter()
                    .filter(|s| key.as_bytes().starts_with(&s.prefix));
                fits.max_by_key(|s| s.prefix.len())
                    .is_some_and(|s| s.name == region.name)
            };
            let keys = model.keys().filter(|key| belongs(key)).count();
            assert_eq!(region.keys as usize, keys, "round {round}: {}", region.name);
            let own: usize = model
                .iter()
                .filter(|(k, _)| belongs(k))
                .map(|(k, v)| k.len() + v)
                .sum();
            let bytes = region.bytes as usize;
            assert!(
                bytes >= own && bytes <= own + 16 * keys,
                "{bytes} for {own} in {keys} keys"
            );
        }
    }
    put_into_force(&store, &[spec("all", "d")]);
    let mut guard = store.lock_all();
    guard.clear_all();
    drop(guard);
    // They count until they are freed.
    store.free_garbage();
    let all = stats(&store, "all");
    assert_eq!((all.keys, all.bytes), (0, 0));
}

/// Each policy keeps its region within its size and its items, and takes nothing from others.
#[test]
fn a_region_that_is_full_evicts_its_own() {
    for (kind, name) in PolicyKind::ALL {
        let volatile = name.starts_with("volatile");
        if kind == PolicyKind::NoEviction {
            continue;
        }
        let store = store();
        let full = RegionSpec {
            size: 50_000,
            policy: kind,
            ..spec("full", "f:")
        };
        let few = RegionSpec {
            max_items: 100,
            policy: kind,
            ..spec("few", "g:")
        };
        put_into_force(&store, &[full, few]);
        for i in 0..5_000u64 {
            for prefix in ["f:", "g:", "h:"] {
                let key = format!("{prefix}{i}").into_bytes();
                let p = store.point(&key);
                let mut guard = store.lock(p.slot);
                let result = guard.set(p, &key, &[7; 40], Some(NOW + 1_000_000 + i));
                drop(guard);
                result.unwrap_or_else(|e| panic!("{name} {e} at {i}"));
            }
            store.evict_from_regions(Instant::now() + Duration::from_secs(36_000));
        }
        let (full, few) = (stats(&store, "full"), stats(&store, "few"));
        assert!(
            full.bytes <= 50_000 && full.bytes > 49_000,
            "{name} {full:?}"
        );
        assert_eq!(few.keys, 100, "{name} {few:?}");
        assert_eq!(full.keys + full.evicted.items, 5_000, "{name}");
        assert_eq!(few.keys + few.evicted.items, 5_000, "{name}");
        let left = (0..5_000)
            .filter(|i| holds(&store, &format!("h:{i}")))
            .count();
        assert_eq!(left, 5_000, "{name}: keys of no region stay");
        if !volatile {
            continue;
        }
        // What does not expire stays, and who writes it is refused when the region is full of it.
        let mut refused = false;
        for i in 0..2_000 {
            refused |= set(&store, &format!("f:stay{i}"), &[7; 40]).is_err();
            store.evict_from_regions(Instant::now() + Duration::from_secs(36_000));
        }
        assert!(refused, "{name}");
    }
}

#[test]
fn reads_keep_an_item_of_a_sampled_region() {
    for kind in [
        PolicyKind::AllKeysLru,
        PolicyKind::AllKeysLfu,
        PolicyKind::S3Fifo,
    ] {
        let store = store();
        let region = RegionSpec {
            max_items: 500,
            policy: kind,
            ..spec("r", "r:")
        };
        put_into_force(&store, &[region]);
        for i in 0..10_000 {
            set(&store, &format!("r:{i}"), b"v").unwrap();
            // A few that are asked for all the time.
            for hot in 0..20 {
                holds(&store, &format!("r:{hot}"));
            }
            store.evict_from_regions(Instant::now() + Duration::from_secs(36_000));
        }
        let hot = (0..20).filter(|i| holds(&store, &format!("r:{i}"))).count();
        assert_eq!((hot, stats(&store, "r").keys), (20, 500), "{kind:?}");
    }
}

#[test]
fn a_region_that_evicts_nothing_refuses_and_loses_nothing() {
    let store = store();
    let region = RegionSpec {
        size: 10_000,
        max_items: 50,
        policy: PolicyKind::NoEviction,
        ..spec("r", "r:")
    };
    put_into_force(&store, std::slice::from_ref(&region));
    let mut kept = 0;
    for i in 0..100 {
        match set(&store, &format!("r:{i}"), &[1; 20]) {
            Ok(()) => kept += 1,
            Err(error) => assert_eq!(error, OutOfMemory::Region { waits: false }),
        }
    }
    assert_eq!((kept, stats(&store, "r").keys), (50, 50));
    // In the place of what is there: as long as the bytes do.
    assert!(set(&store, "r:0", &[2; 20]).is_ok());
    assert!(set(&store, "r:0", &[2; 9_000]).is_err());
    assert!(set(&store, "other", &[2; 9_000]).is_ok());
    // Another size, live.
    store.set_regions(
        &[RegionSpec {
            size: 0,
            max_items: 0,
            ..region
        }],
        "wider",
    );
    assert!(set(&store, "r:0", &[2; 9_000]).is_ok() && set(&store, "r:77", b"v").is_ok());
}

#[test]
fn a_node_holds_its_part_of_a_regions_size() {
    let store = store();
    put_into_force(
        &store,
        &[RegionSpec {
            size: 16_384_000,
            ..spec("r", "r:")
        }],
    );
    assert_eq!(stats(&store, "r").limit, 16_384_000);
    for slot in 0..SLOTS / 4 {
        store.lock(slot).set_slot_state(slot, SlotState::None);
    }
    assert_eq!(stats(&store, "r").limit, 16_384_000 / 4 * 3);
    // What is on its way here needs its room already.
    store.lock(5).set_slot_state(5, SlotState::Importing);
    assert_eq!(stats(&store, "r").limit, 16_384_000 / 4 * 3 + 1_000);
}

/// For the whole node's limit keys of no region go first, then those of the fullest region.
#[test]
fn for_the_nodes_limit_the_fullest_region_gives_last() {
    let store = store();
    store.set_policy(PolicyKind::Fifo);
    let sized = |name: &str, prefix: &str, size| RegionSpec {
        size,
        policy: PolicyKind::Fifo,
        ..spec(name, prefix)
    };
    put_into_force(
        &store,
        &[sized("a", "a:", 100_000), sized("b", "b:", 50_000)],
    );
    for i in 0..100 {
        for prefix in ["a:", "b:", "none:"] {
            set(&store, &format!("{prefix}{i}"), &[1; 100]).unwrap();
        }
    }
    for _ in 0..100 {
        assert!(store.evict_one().is_some());
    }
    assert_eq!(
        (stats(&store, "a").keys, stats(&store, "b").keys),
        (100, 100)
    );
    for _ in 0..50 {
        assert!(store.evict_one().is_some());
    }
    // b was twice as full: both are as full as each other by now.
    assert_eq!(
        (stats(&store, "a").keys, stats(&store, "b").keys),
        (100, 50)
    );
    while store.evict_one().is_some() {}
    assert_eq!(store.stats().keys, 0);
}

#[test]
fn another_policy_finds_what_is_there() {
    let store = store();
    let region = RegionSpec {
        policy: PolicyKind::NoEviction,
        ..spec("r", "r:")
    };
    put_into_force(&store, std::slice::from_ref(&region));
    for i in 0..1_000 {
        set(&store, &format!("r:{i}"), b"v").unwrap();
    }
    let limited = RegionSpec {
        policy: PolicyKind::Sieve,
        max_items: 10,
        ..region
    };
    put_into_force(&store, &[limited]);
    store.tidy_queues();
    store.evict_from_regions(Instant::now() + Duration::from_secs(36_000));
    assert_eq!(stats(&store, "r").keys, 10);
}

#[test]
fn a_key_that_is_written_anew_gets_the_default_expiry() {
    let store = store();
    store.set_default_ttl(Ttl {
        ms: 5_000,
        jitter_percent: 0,
    });
    let region = RegionSpec {
        ttl: Ttl {
            ms: 9_000,
            jitter_percent: 0,
        },
        ..spec("r", "r:")
    };
    put_into_force(&store, &[region, spec("plain", "p:")]);
    let expiry = |key: &str| {
        let p = store.point(key.as_bytes());
        let mut guard = store.lock(p.slot);
        guard.get(p, key.as_bytes(), NOW).unwrap().expires_at()
    };
    let with = |key: &str, f: &dyn Fn(&mut Guard<'_>, Point, &[u8])| {
        let p = store.point(key.as_bytes());
        f(&mut store.lock(p.slot), p, key.as_bytes());
    };
    for (key, ttl) in [("r:a", Some(9_000)), ("x", Some(5_000)), ("p:a", None)] {
        let expected = ttl.map(|ttl| NOW + ttl);
        with(key, &|g, p, k| g.set_new(p, k, b"v", NOW).unwrap());
        assert_eq!(expiry(key), expected);
        let list = format!("{key}:list");
        with(&list, &|g, p, k| {
            g.list_push(p, k, End::Back, &[b"e"], NOW).unwrap();
        });
        assert_eq!(expiry(&list), expected);
        let big = format!("{key}:big");
        let fields: Vec<String> = (0..2_000).map(|i| format!("field-{i}")).collect();
        with(&big, &|g, p, k| {
            g.set_add(p, k, &fields, NOW).unwrap();
        });
        assert_eq!(expiry(&big), expected);
    }
    // Changes of what is there keep its expiry, and PERSIST holds.
    with("r:a", &|g, p, k| {
        g.set_expiry(p, k, None, NOW).unwrap();
    });
    with("r:a", &|g, p, k| {
        g.append(p, k, b"more", NOW).unwrap();
    });
    with("r:a", &|g, p, k| {
        g.set_range(p, k, 1, b"z", NOW).unwrap();
    });
    assert_eq!(expiry("r:a"), None);
    // A replica, and a move's destination, do as they are told.
    for replays in [true, false] {
        with("r:told", &|g, p, k| {
            match replays {
                true => g.replay(),
                false => g.import(),
            }
            g.set_new(p, k, b"v", NOW).unwrap();
        });
        assert_eq!(expiry("r:told"), None);
    }
}

#[test]
fn the_longest_prefix_says_how_a_value_is_packed() {
    let store = store();
    let packed = |key: &str, size: usize| {
        let value = vec![b'x'; size];
        store.pack(key.as_bytes(), &value).packed.is_some()
    };
    let with = |name: &str, prefix: &str, method, min_size| RegionSpec {
        compression: Setting { method, min_size },
        ..spec(name, prefix)
    };
    let zstd = Method::Zstd { level: 1 };
    store.compression.set(Setting {
        method: Method::Lz4,
        min_size: 1_000,
    });
    assert!(packed("a:1", 1_000) && !packed("a:1", 999));
    let list = [
        with("a", "a:", zstd, 100),
        with("plain", "a:plain:", Method::None, 100),
        with("big", "big:", zstd, 5_000),
    ];
    // Settings hold at once, before the items are counted anew.
    store.set_regions(&list, "list");
    for (key, size, expected) in [
        ("a:1", 100, true),
        ("a:1", 99, false),
        ("a:plain:1", 10_000, false),
        ("big:1", 4_999, false),
        ("big:1", 5_000, true),
        ("other", 999, false),
        ("other", 1_000, true),
    ] {
        assert_eq!(packed(key, size), expected, "{key} of {size}");
    }
    // None packs: the key is not looked up.
    store.compression.set_method(Method::None);
    store.set_regions(&[with("a", "a:", Method::None, 1)], "none");
    assert!(!packed("a:1", 10_000) && !packed("other", 10_000));
    store.set_regions(&[], "empty");
    store.compression.set_method(Method::Lz4);
    assert!(packed("a:1", 1_000));
}

#[test]
fn writers_of_a_flushed_region_wait_until_it_is_freed() {
    let store = store();
    let region = RegionSpec {
        size: 10_000,
        policy: PolicyKind::NoEviction,
        ..spec("r", "r:")
    };
    put_into_force(&store, std::slice::from_ref(&region));
    store.attend(true);
    for key in ["r:1", "r:2"] {
        assert_eq!(set(&store, key, &[1; 4_000]), Ok(()));
    }
    // Nothing will make room.
    assert_eq!(
        set(&store, "r:3", &[1; 4_000]),
        Err(OutOfMemory::Region { waits: false })
    );
    store.lock_all().clear_all();
    assert_eq!(
        set(&store, "r:3", &[1; 4_000]),
        Err(OutOfMemory::Region { waits: true })
    );
    assert!(store.regions_waited_for());
    store.free_garbage();
    assert_eq!(set(&store, "r:3", &[1; 4_000]), Ok(()));
}
