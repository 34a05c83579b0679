//! How long the store's own work holds a lock when all keys are in one slot, as with one hash tag: growth, expiry, eviction, compaction.
//!
//! Steps are counted in processor time, as `INFO steps` shows them; a step beyond 200 us is too long.
//! `cargo run --release -p cache-node --example one_slot -- [KEYS]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use cache_node::log::Log;
use cache_node::node::now_ms;
use cache_node::store::{PolicyKind, STEP_BOUNDS_US, STEPS, SlotState, Step, Store, StoreOptions};

fn key(i: u64) -> Vec<u8> {
    format!("{{tag}}:{i:012}").into_bytes()
}

fn report(store: &Store, what: &str) {
    println!("{what}: {} keys", store.stats().keys);
    for (step, name) in STEPS {
        let counts = store.steps(step);
        let steps: u64 = counts.counts.iter().sum();
        if steps > 0 {
            let bound = STEP_BOUNDS_US.partition_point(|&bound| bound <= 200);
            let beyond: u64 = counts.counts[bound..].iter().sum();
            println!(
                "  {name}: {steps} steps, {:.1} us on average, {} us at most, {beyond} beyond 200 us; by bound {:?}",
                counts.total_us as f64 / steps as f64,
                counts.max_us,
                counts.counts
            );
        }
    }
}

/// Compacts until nothing is gained.
fn compact(store: &Store) {
    while let Some(mut pass) = store.begin_compaction(true) {
        while pass.step(store) {}
        pass.finish(store);
    }
}

fn main() -> std::io::Result<()> {
    let given = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let keys: u64 = given.unwrap_or(10_000_000);
    let options = StoreOptions {
        max_memory: 0,
        hash_seed: 1,
    };
    let store = Store::new(options, Arc::new(Log::new(0)))?;
    let slot = store.point(&key(0)).slot;
    store.lock(slot).set_slot_state(slot, SlotState::Serve);
    store.set_policy(PolicyKind::S3Fifo);
    // Half of the keys expire, all within ten seconds, once all are there.
    let expires_at = now_ms() + 600_000;
    let mut slowest = 100;
    for i in 0..keys {
        let key = key(i);
        let p = store.point(&key);
        let expires_at = i.is_multiple_of(2).then_some(expires_at + i % 10_000);
        let set = store.lock(slot).set(p, &key, b"12345678", expires_at);
        set.expect("there is no limit");
        let longest = store.steps(Step::Growth).max_us;
        if longest > slowest {
            slowest = longest;
            println!("key {i}: the longest growth takes {slowest} us");
        }
    }
    report(&store, "filled");

    for second in 0..=11 {
        store.expire(
            expires_at + second * 1000,
            Instant::now() + Duration::from_secs(60),
        );
    }
    report(&store, "half has expired");

    compact(&store);
    report(&store, "compacted");

    // A sampled policy looks for items in all domains, of which one has any.
    let policies = [
        (PolicyKind::S3Fifo, keys / 10),
        (PolicyKind::AllKeysLru, keys / 500),
        (PolicyKind::Sieve, keys / 10),
    ];
    for (kind, count) in policies {
        store.set_policy(kind);
        store.tidy_queues();
        for i in 0..count {
            let evicted = store.evict_one();
            assert!(evicted.is_some(), "{i} were evicted of {count}");
        }
        report(&store, kind.name());
    }

    for i in 0..keys {
        let key = key(i);
        let p = store.point(&key);
        store.lock(slot).remove(p, &key, 0);
    }
    store.free_garbage();
    report(&store, "deleted");
    println!("{} bytes of tables are left", store.stats().table_bytes);
    Ok(())
}
