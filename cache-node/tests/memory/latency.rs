//! What a paced client notices of shifts of value size: it asks a thousand times a second while another one writes at a steady rate.
//!
//! It reports and asserts nothing: how long a request takes is also the machine's doing.
//! `cargo test --release -p cache-node --test memory latency -- --ignored --nocapture`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::process::{Client, Process};
use super::{MIB, key};

const LIMIT: u64 = 256 * MIB;
const INTERVAL: Duration = Duration::from_millis(1);
/// What the writer sends at once, and how often.
const BATCH: usize = 16;
const BATCH_INTERVAL: Duration = Duration::from_millis(2);
const PHASE: Duration = Duration::from_secs(15);

/// What is written in a phase: name, bytes of a value, milliseconds to live.
type Phase = (&'static str, usize, Option<&'static str>);
const PHASES: [Phase; 5] = [
    ("64 B", 64, None),
    ("64 B -> 4 KiB", 4096, None),
    ("4 KiB -> 100 B", 100, None),
    ("100 B -> 1 KiB that expire", 1024, Some("700")),
    ("1 KiB that expire -> 64 B", 64, None),
];

/// Asks for keys of its own, one after the other, and notes how long each takes, by phase.
struct Probe {
    stop: Arc<AtomicBool>,
    phase: Arc<AtomicUsize>,
    thread: JoinHandle<[Vec<Duration>; PHASES.len()]>,
}

impl Probe {
    fn start(process: &Process) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let phase = Arc::new(AtomicUsize::new(0));
        let (until, at) = (stop.clone(), phase.clone());
        let mut client = Client::connect(process);
        let thread = std::thread::spawn(move || {
            let mut took: [Vec<Duration>; PHASES.len()] = Default::default();
            let mut i = 0;
            while !until.load(Ordering::Relaxed) {
                let phase = at.load(Ordering::Relaxed);
                let begin = Instant::now();
                client.send(&[b"SET", &key("probe", i % 100), b"value"]);
                client.take();
                let one = begin.elapsed();
                // Those that were to be asked meanwhile waited too.
                let mut waited = Some(one);
                while let Some(time) = waited {
                    took[phase].push(time);
                    waited = time.checked_sub(INTERVAL);
                }
                std::thread::sleep(INTERVAL.saturating_sub(one));
                i += 1;
            }
            took
        });
        Self {
            stop,
            phase,
            thread,
        }
    }
}

fn report(policy: Option<&str>, took: &mut [Vec<Duration>]) {
    let mut before = None;
    for ((name, ..), times) in PHASES.iter().zip(took) {
        times.sort_unstable();
        let at = |part: usize| times[times.len() * part / 1000].as_secs_f64() * 1e6;
        let before = *before.get_or_insert(at(990));
        println!(
            "{policy:?}, {name}: {} requests, median {:.0} us, p99 {:.0} us ({:.2} of the first), p99.9 {:.0} us",
            times.len(),
            at(500),
            at(990),
            at(990) / before,
            at(999)
        );
    }
}

fn through_shifts(policy: Option<&str>) {
    let process = Process::start(LIMIT, policy);
    let mut client = Client::connect(&process);
    // Full of values of the first size; under `noeviction` with some room, as the writer deletes what it replaces.
    let filled = LIMIT / if policy.is_some() { 80 } else { 125 };
    for i in 0..filled {
        client.send(&[b"SET", &key("first", i), &[b'v'; 64]]);
    }
    client.take();
    let probe = Probe::start(&process);
    let mut written = std::collections::VecDeque::from([("first".to_owned(), filled, 0u64, 64)]);
    for (number, (_, size, ttl)) in PHASES.into_iter().enumerate() {
        probe.phase.store(number, Ordering::Relaxed);
        let (kind, value) = (format!("phase{number}"), vec![b'v'; size]);
        let (begin, mut batches, mut count, mut owed) = (Instant::now(), 0u32, 0, 0);
        while begin.elapsed() < PHASE {
            for _ in 0..BATCH {
                owed += size + 40;
                // As many bytes go as come; what has expired goes by itself.
                while policy.is_none() && ttl.is_none() && owed > 0 {
                    let Some((kind, keys, deleted, bytes)) = written.front_mut() else {
                        break;
                    };
                    client.send(&[b"DEL", &key(kind, *deleted * 1_000_003 % *keys)]);
                    *deleted += 1;
                    owed = owed.saturating_sub(*bytes + 40);
                    if *deleted == *keys {
                        written.pop_front();
                    }
                }
                let key = key(&kind, count);
                match ttl {
                    Some(ms) => client.send(&[b"SET", &key, &value, b"PX", ms.as_bytes()]),
                    None => client.send(&[b"SET", &key, &value]),
                }
                count += 1;
            }
            client.flush();
            batches += 1;
            std::thread::sleep((BATCH_INTERVAL * batches).saturating_sub(begin.elapsed()));
        }
        let outcome = client.take();
        println!(
            "{policy:?}, {}: {count} written, {} refused",
            PHASES[number].0, outcome.refused
        );
        written.push_back((kind, count, 0, size));
    }
    probe.stop.store(true, Ordering::Relaxed);
    report(policy, &mut probe.thread.join().unwrap());
}

#[test]
#[ignore = "minutes; reports what the machine makes of it"]
fn latency_through_shifts_of_value_size() {
    through_shifts(None);
    through_shifts(Some("s3-fifo"));
}
