//! What a paced client notices of shifts of value size: it asks a thousand times a second while another one writes at a steady rate.
//!
//! It reports and asserts nothing: how long a request takes is also the machine's doing.
//! `cargo test --release -p cache-node --test memory latency -- --ignored --nocapture`

use std::collections::VecDeque;
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
/// Bytes of a key and what it costs beside its value.
const OVERHEAD: usize = 40;
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
                // The pace is what is measured at: a load of so many a second, whatever the replies take.
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

/// Keys of one phase, of which the first so many are deleted.
struct Written {
    kind: String,
    count: u64,
    deleted: u64,
    size: usize,
}

/// The next key to be deleted, of the oldest phase that has some, and its bytes.
fn oldest(written: &mut VecDeque<Written>) -> (Vec<u8>, usize) {
    while written.len() > 1 && written[0].deleted == written[0].count {
        written.pop_front();
    }
    // In an order that has nothing to do with where they lie, once none are added.
    let stride = if written.len() > 1 { 1_000_003 } else { 1 };
    let first = &mut written[0];
    let i = first.deleted * stride % first.count;
    first.deleted += 1;
    (key(&first.kind, i), first.size + OVERHEAD)
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
    let mut written = VecDeque::from([Written {
        kind: "first".to_owned(),
        count: filled,
        deleted: 0,
        size: 64,
    }]);
    for (number, (name, size, ttl)) in PHASES.into_iter().enumerate() {
        probe.phase.store(number, Ordering::Relaxed);
        let value = vec![b'v'; size];
        written.push_back(Written {
            kind: format!("phase{number}"),
            count: 0,
            deleted: 0,
            size,
        });
        let (begin, mut batches, mut owed) = (Instant::now(), 0u32, 0);
        while begin.elapsed() < PHASE {
            for _ in 0..BATCH {
                owed += size + OVERHEAD;
                // As many bytes go as come; what has expired goes by itself.
                while policy.is_none() && ttl.is_none() && owed > 0 {
                    let (key, bytes) = oldest(&mut written);
                    client.send(&[b"DEL", &key]);
                    owed = owed.saturating_sub(bytes);
                }
                let now = written.back_mut().unwrap();
                let key = key(&now.kind, now.count);
                match ttl {
                    Some(ms) => client.send(&[b"SET", &key, &value, b"PX", ms.as_bytes()]),
                    None => client.send(&[b"SET", &key, &value]),
                }
                now.count += 1;
            }
            client.flush();
            batches += 1;
            // As many bytes a second in each phase, so that phases can be compared.
            std::thread::sleep((BATCH_INTERVAL * batches).saturating_sub(begin.elapsed()));
        }
        let outcome = client.take();
        println!(
            "{policy:?}, {name}: {} written, {} refused",
            written.back().unwrap().count,
            outcome.refused
        );
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
