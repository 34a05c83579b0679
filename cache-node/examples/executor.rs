//! What the store costs without sockets: bytes a key beyond key and value, and nanoseconds a GET and a SET on one thread and on two.
//!
//! `cargo run --release -p cache-node --example executor -- [KEYS]`

use std::sync::Arc;
use std::time::Instant;

use cache_node::log::Log;
use cache_node::store::{Store, StoreOptions};

fn key(i: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    let mut n = i;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
    }
    key
}

fn run(store: &Store, from: u64, keys: u64, operations: u64, set: bool) {
    let mut i = from;
    for _ in 0..operations {
        i = (i
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407)
            >> 1)
            % keys;
        let key = key(i);
        let p = store.point(&key);
        let mut guard = store.lock(p.slot);
        if set {
            guard
                .set(p, &key, &i.to_le_bytes(), None)
                .expect("no limit");
        } else {
            assert!(guard.get(p, &key, 0).is_some());
        }
    }
}

fn main() -> std::io::Result<()> {
    let keys: u64 = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(1_000_000);
    let options = StoreOptions {
        max_memory: 0,
        hash_seed: 1,
    };
    let store = Arc::new(Store::new(options, Arc::new(Log::new(0)))?);
    for i in 0..keys {
        let key = key(i);
        let p = store.point(&key);
        store
            .lock(p.slot)
            .set(p, &key, &i.to_le_bytes(), None)
            .expect("no limit");
    }
    let stats = store.stats();
    println!(
        "{keys} keys of 16 bytes with values of 8: {:.1} bytes a key beyond key and value (tables {:.1})",
        stats.bytes as f64 / keys as f64 - 24.0,
        stats.table_bytes as f64 / keys as f64
    );
    let operations = 4_000_000;
    for (name, set) in [("GET", false), ("SET", true)] {
        for threads in [1, 2] {
            let begin = Instant::now();
            std::thread::scope(|scope| {
                for t in 0..threads {
                    let store = &store;
                    scope.spawn(move || run(store, t, keys, operations, set));
                }
            });
            let each = begin.elapsed().as_nanos() as f64 / operations as f64;
            println!("{name}, {threads} thread(s): {each:.0} ns an operation of one thread");
        }
    }
    Ok(())
}
