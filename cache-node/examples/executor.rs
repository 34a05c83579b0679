//! What the store costs without sockets: bytes a key beyond key and value, and the processor time of GETs, SETs and logged SETs on one
//! thread and on two, in batches as a server's thread executes them.
//!
//! `cargo run --release -p cache-node --example executor -- [KEYS]`

use std::sync::Arc;
use std::time::Duration;

use cache_node::limits::COMMANDS_AHEAD;
use cache_node::log::Log;
use cache_node::store::{Point, Store, StoreOptions};

const OPERATIONS: u64 = 2_000_000;
/// Each figure is the middle one of so many, taken in turns.
const ROUNDS: usize = 5;

#[derive(Clone, Copy, PartialEq)]
enum What {
    Get,
    Set,
    LoggedSet,
}

fn key(i: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    let mut n = i;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
    }
    key
}

/// Processor time of this thread, in nanoseconds.
fn thread_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes the time to where it is told.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(done, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Processor time of an operation, in nanoseconds.
fn run(store: &Store, log: &Log, seed: u64, keys: u64, what: What) -> f64 {
    let begin = thread_ns();
    let mut i = seed;
    let mut batch: Vec<(u64, [u8; 16], Point)> = Vec::with_capacity(COMMANDS_AHEAD);
    let mut points = Vec::with_capacity(COMMANDS_AHEAD);
    let mut done = 0;
    while done < OPERATIONS {
        batch.clear();
        points.clear();
        for _ in 0..COMMANDS_AHEAD {
            i = i
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let key = key((i >> 33) % keys);
            let point = store.point(&key);
            batch.push((i, key, point));
            points.push(point);
        }
        store.prefetch(&points);
        while what == What::LoggedSet && !log.has_credit() {
            std::thread::sleep(Duration::from_micros(100));
        }
        for (i, key, p) in &batch {
            let mut guard = store.lock(p.slot);
            if what == What::Get {
                assert!(guard.get(*p, key, 0).is_some());
            } else {
                guard
                    .set(*p, key, &i.to_le_bytes(), None)
                    .expect("there is no limit");
            }
        }
        done += COMMANDS_AHEAD as u64;
    }
    (thread_ns() - begin) as f64 / done as f64
}

/// The mean over so many threads at once, in nanoseconds an operation.
fn together(store: &Store, log: &Log, keys: u64, what: What, threads: u64) -> f64 {
    let times: Vec<f64> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|seed| scope.spawn(move || run(store, log, seed, keys, what)))
            .collect();
        all.into_iter()
            .map(|thread| thread.join().expect("it does not panic"))
            .collect()
    });
    times.iter().sum::<f64>() / threads as f64
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
    let log = Arc::new(Log::new(0));
    let store = Store::new(options, log.clone())?;
    for i in 0..keys {
        let key = key(i);
        let p = store.point(&key);
        store
            .lock(p.slot)
            .set(p, &key, &i.to_le_bytes(), None)
            .expect("there is no limit");
    }
    let stats = store.stats();
    println!(
        "{keys} keys of 16 bytes with values of 8: {:.1} bytes a key beyond key and value (tables {:.1})",
        stats.bytes as f64 / keys as f64 - 24.0,
        stats.table_bytes as f64 / keys as f64
    );
    for (name, what) in [
        ("GET", What::Get),
        ("SET", What::Set),
        ("logged SET", What::LoggedSet),
    ] {
        if what == What::LoggedSet {
            log.activate(&store);
        }
        let contended = store.stats().contended_locks;
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for threads in [1, 2] {
                times[threads - 1].push(together(&store, &log, keys, what, threads as u64));
            }
        }
        let [one, two] = times.map(|mut t| {
            t.sort_by(f64::total_cmp);
            t[ROUNDS / 2]
        });
        let waited = store.stats().contended_locks - contended;
        println!(
            "{name}: {one:.0} ns an operation on one thread, {two:.0} on each of two: {:.2}x; {waited} of {} locks were contended",
            two / one,
            3 * OPERATIONS * ROUNDS as u64
        );
    }
    Ok(())
}
