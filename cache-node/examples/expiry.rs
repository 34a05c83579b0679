//! What it costs to remove what expires: keys with lifetimes spread over some seconds, removed ten times a second.
//!
//! `cargo run --release -p cache-node --example expiry -- [KEYS] [SECONDS]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use cache_node::log::Log;
use cache_node::metrics::process::cpu_seconds;
use cache_node::node::now_ms;
use cache_node::store::{Store, StoreOptions};

fn main() -> std::io::Result<()> {
    let number = |n: usize, default: u64| {
        let given = std::env::args().nth(n).and_then(|text| text.parse().ok());
        given.unwrap_or(default)
    };
    let (keys, seconds) = (number(1, 1_000_000), number(2, 10));
    let options = StoreOptions {
        max_memory: 0,
        hash_seed: 1,
    };
    let store = Store::new(options, Arc::new(Log::new(0)))?;
    let start = now_ms() + 3_000;
    for i in 0..keys {
        let key = format!("key:{i:012}");
        let p = store.point(key.as_bytes());
        let after = i.wrapping_mul(2_654_435_761) % (seconds * 1000);
        store
            .lock(p.slot)
            .set(p, key.as_bytes(), b"12345678", Some(start + after))
            .expect("no limit");
    }
    let stats = store.stats();
    println!(
        "{keys} keys with expiry: {:.1} bytes a key beyond key and value (16 + 8)",
        stats.bytes as f64 / keys as f64 - 24.0
    );
    std::thread::sleep(Duration::from_millis(start.saturating_sub(now_ms())));
    let begin = cpu_seconds();
    let (mut removed, mut lag_ms) = (0, 0);
    while now_ms() < start + seconds * 1000 + 500 {
        let expired = store.expire(now_ms(), Instant::now() + Duration::from_secs(1));
        removed += expired.items;
        lag_ms = lag_ms.max(expired.lag_ms);
        std::thread::sleep(Duration::from_millis(100));
    }
    let end = cpu_seconds();
    let used = end.0 + end.1 - begin.0 - begin.1;
    println!(
        "{removed} removed, {} a second, at most {lag_ms} ms late, {:.1} % of a core",
        removed / seconds,
        used * 100.0 / seconds as f64
    );
    Ok(())
}
