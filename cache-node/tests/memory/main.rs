//! What the kernel counts stays within the limit, whatever comes: real processes under shifts of value size, a storm of expirations and many
//! connections.
//!
//! The long form takes minutes: `cargo test --release -p cache-node --test memory -- --ignored --nocapture`.

mod latency;
mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use process::{Client, PIPELINE, Process};

const MIB: u64 = 1 << 20;

/// Remembers the highest resident memory of all samples.
struct Sampler {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Sampler {
    fn start(process: Arc<Process>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let most = Arc::new(AtomicU64::new(0));
        let (until, highest) = (stop.clone(), most.clone());
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                highest.fetch_max(process.resident(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { stop, most, thread }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.most.load(Ordering::Relaxed)
    }
}

fn key(kind: &str, i: u64) -> Vec<u8> {
    format!("{kind}:{i:012}").into_bytes()
}

/// Sets new keys of one size until `bytes` of values are written, or memory is full; gives how many were set.
fn fill(client: &mut Client, kind: &str, size: usize, bytes: u64) -> u64 {
    let value = vec![b'v'; size];
    let mut i = 0;
    while i * (size as u64) < bytes {
        for _ in 0..PIPELINE {
            client.send(&[b"SET", &key(kind, i), &value]);
            i += 1;
        }
        if client.take().refused > 0 {
            break;
        }
    }
    i
}

/// Deletes all keys of a kind but every `keep`th, in an order that has nothing to do with where they lie.
fn thin_out(client: &mut Client, kind: &str, count: u64, keep: u64) {
    const STRIDE: u64 = 1_000_003;
    for i in 0..count {
        let i = i * STRIDE % count;
        if !i.is_multiple_of(keep) {
            client.send(&[b"DEL", &key(kind, i)]);
        }
    }
    client.take();
}

/// 64 B → 4 KiB → 100 B, expirations, connections.
///
/// `beside`: of the process's own memory at its start, what does not count.
fn storm(limit: u64, policy: Option<&str>, beside: fn(u64) -> u64) {
    let begin = Instant::now();
    let files = rlimit::increase_nofile_limit(8_192).unwrap();
    assert!(
        files >= 4_096,
        "ulimit -n is {files}: 2,000 connections need more"
    );
    let process = Arc::new(Process::start(limit, policy));
    let at_start = process.resident();
    let sampler = Sampler::start(process.clone());
    let mut client = Client::connect(&process);
    let evicts = policy.is_some();
    let twice = if evicts { 2 * limit } else { u64::MAX };
    let say = |what: &str, client: &mut Client| {
        println!(
            "{limit} {policy:?} {:5.1} s {what}: used {} MiB, resident {} MiB",
            begin.elapsed().as_secs_f64(),
            client.info("used_memory") / MIB,
            process.resident() / MIB
        );
    };

    let small = fill(&mut client, "small", 64, twice.min(limit));
    say("64 B", &mut client);
    if !evicts {
        assert!(small * 92 > limit * 9 / 10, "{small} keys are too few");
        thin_out(&mut client, "small", small, 5);
        say("a fifth is left", &mut client);
    }
    let large = fill(&mut client, "large", 4096, twice);
    say("4 KiB", &mut client);
    if !evicts {
        let wanted = limit / 10 * 6 / 4200;
        assert!(
            large > wanted,
            "{large} of {wanted} values of 4 KiB found room"
        );
        thin_out(&mut client, "large", large, 10);
        say("a tenth is left", &mut client);
    }
    fill(&mut client, "third", 100, twice.min(limit / 2));
    say("100 B", &mut client);

    if !evicts {
        thin_out(&mut client, "third", limit / 200, 4);
    }
    for i in 0..limit / 1024 {
        let after = (i % 2_000 + 1).to_string();
        client.send(&[
            b"SET",
            &key("brief", i),
            &[b'v'; 200],
            b"PX",
            after.as_bytes(),
        ]);
    }
    client.take();
    let others: Vec<Client> = (0..2_000).map(|_| Client::connect(&process)).collect();
    for (i, mut other) in others.into_iter().enumerate() {
        for j in 0..20 {
            other.send(&[b"SET", &key("other", (i * 20 + j) as u64), &[b'v'; 1000]]);
        }
        other.take();
    }
    say("expirations and 2,000 connections", &mut client);
    let written = client.info("total_net_input_bytes");
    let moved = client.info("compaction_moved_bytes");
    assert!(moved <= 2 * written, "{moved} moved, {written} written");
    let most = sampler.end();
    println!(
        "{limit} {policy:?}: at most {:.3} of the limit, {moved} bytes moved, {written} written",
        most as f64 / limit as f64
    );
    assert!(
        most - beside(at_start) <= limit + limit / 20,
        "{most} bytes resident, {at_start} at the start, the limit is {limit}"
    );
}

/// The short form, with a limit that the process's own memory is a large part of.
#[test]
fn resident_memory_stays_within_the_limit() {
    storm(64 * MIB, None, |at_start| at_start);
}

#[test]
fn resident_memory_stays_within_the_limit_while_items_are_evicted() {
    storm(64 * MIB, Some("s3-fifo"), |at_start| at_start);
}

#[test]
#[ignore = "minutes"]
fn all_resident_memory_stays_within_the_limit() {
    for limit in [256 * MIB, 2048 * MIB] {
        storm(limit, None, |_| 0);
        storm(limit, Some("s3-fifo"), |_| 0);
        storm(limit, Some("allkeys-lru"), |_| 0);
    }
}
