//! Miss ratios of the eviction policies beside plain simulations of what they mean.
//!
//! A table of all policies, each with its simulation's figure in brackets, on synthetic Zipf and the traces of `tests/traces`, or of a folder of
//! traces as the simulators of caffeine and moka have them:
//! `CACHE_NODE_TRACES=folder cargo test --release -p cache-node --test miss_ratio -- --ignored --nocapture`

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cache_node::log::Log;
use cache_node::store::{PolicyKind, SLOTS, SlotState, Store, StoreOptions};

/// A plain simulation: whether a request for a key is a hit; a miss brings the key in.
trait Simulation {
    fn request(&mut self, key: u64) -> bool;
}

/// Evicts what was inserted first.
struct Fifo {
    size: usize,
    queue: VecDeque<u64>,
    held: HashSet<u64>,
}

impl Simulation for Fifo {
    fn request(&mut self, key: u64) -> bool {
        if self.held.contains(&key) {
            return true;
        }
        if self.held.len() == self.size {
            let oldest = self.queue.pop_front().unwrap();
            self.held.remove(&oldest);
        }
        self.queue.push_back(key);
        self.held.insert(key);
        false
    }
}

/// SIEVE as its paper writes it: one list, a bit for each, and a hand. The list is a slice of time stamps here.
struct Sieve {
    size: usize,
    /// Key by time of insertion: the list, oldest first.
    list: BTreeMap<u64, u64>,
    /// Time of insertion, and whether it was visited.
    held: HashMap<u64, (u64, bool)>,
    hand: u64,
    now: u64,
}

impl Simulation for Sieve {
    fn request(&mut self, key: u64) -> bool {
        if let Some((_, visited)) = self.held.get_mut(&key) {
            *visited = true;
            return true;
        }
        if self.held.len() == self.size {
            loop {
                let next = self.list.range(self.hand..).next();
                let (&time, &candidate) = next.or_else(|| self.list.iter().next()).unwrap();
                self.hand = time + 1;
                let (_, visited) = self.held.get_mut(&candidate).unwrap();
                if !std::mem::take(visited) {
                    self.list.remove(&time);
                    self.held.remove(&candidate);
                    break;
                }
            }
        }
        self.now += 1;
        self.list.insert(self.now, key);
        self.held.insert(key, (self.now, false));
        false
    }
}

/// S3-FIFO as its paper's algorithm 1 writes it; what comes back is forgotten among the ghosts, as in its authors' simulator.
struct S3Fifo {
    size: usize,
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    /// Keys and when they came, of which those that were forgotten since are not in `ghosts`.
    ghost: VecDeque<(u64, u64)>,
    ghosts: HashMap<u64, u64>,
    reads: HashMap<u64, u8>,
    evicted: u64,
}

impl S3Fifo {
    fn remember(&mut self, key: u64) {
        self.evicted += 1;
        self.ghost.push_back((key, self.evicted));
        self.ghosts.insert(key, self.evicted);
        while self.ghosts.len() > self.size * 9 / 10 {
            let (old, came) = self.ghost.pop_front().unwrap();
            if self.ghosts.get(&old) == Some(&came) {
                self.ghosts.remove(&old);
            }
        }
    }

    fn evict(&mut self) {
        loop {
            if self.small.len() * 10 >= self.size || self.main.is_empty() {
                let key = self.small.pop_front().unwrap();
                if self.reads[&key] > 1 {
                    self.reads.insert(key, 0);
                    self.main.push_back(key);
                } else {
                    self.reads.remove(&key);
                    self.remember(key);
                    return;
                }
            } else {
                let key = self.main.pop_front().unwrap();
                let reads = self.reads.get_mut(&key).unwrap();
                if *reads > 0 {
                    *reads -= 1;
                    self.main.push_back(key);
                } else {
                    self.reads.remove(&key);
                    return;
                }
            }
        }
    }
}

impl Simulation for S3Fifo {
    fn request(&mut self, key: u64) -> bool {
        if let Some(reads) = self.reads.get_mut(&key) {
            *reads = (*reads + 1).min(3);
            return true;
        }
        if self.reads.len() == self.size {
            self.evict();
        }
        self.reads.insert(key, 0);
        if self.ghosts.remove(&key).is_some() {
            self.main.push_back(key);
        } else {
            self.small.push_back(key);
        }
        false
    }
}

/// Evicts what was asked for least recently.
struct Lru {
    size: usize,
    /// Key by time of the last request.
    order: BTreeMap<u64, u64>,
    held: HashMap<u64, u64>,
    now: u64,
}

impl Lru {
    fn new(size: usize) -> Self {
        Self {
            size,
            order: BTreeMap::new(),
            held: HashMap::new(),
            now: 0,
        }
    }
}

impl Simulation for Lru {
    fn request(&mut self, key: u64) -> bool {
        self.now += 1;
        let before = self.held.insert(key, self.now);
        if let Some(time) = before {
            self.order.remove(&time);
        } else if self.order.len() == self.size {
            let (_, oldest) = self.order.pop_first().unwrap();
            self.held.remove(&oldest);
        }
        self.order.insert(self.now, key);
        before.is_some()
    }
}

struct Random(u64);

impl Random {
    /// 53 bits.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

const SEED: u64 = 88_172_645_463_325_252;

/// Of some drawn by chance evicts the one that was asked for least recently, or the fewest times.
///
/// Not the lowest of all: the least frequent is mostly what came in last, so that nothing new finds a place beside what once was popular; and
/// where keys come round and round the least recent is what comes next.
struct Sampled {
    size: usize,
    frequency: bool,
    random: Random,
    keys: Vec<u64>,
    /// Place in `keys`, requests (of one kind: always zero), time of the last.
    held: HashMap<u64, (usize, u64, u64)>,
    now: u64,
}

impl Sampled {
    const DRAWN: usize = 20;

    fn evict(&mut self) {
        let drawn = (0..Self::DRAWN).map(|_| self.random.below(self.keys.len()));
        let lowest = drawn.min_by_key(|&place| {
            let (_, requests, last) = self.held[&self.keys[place]];
            (requests, last)
        });
        let place = lowest.unwrap();
        self.held.remove(&self.keys.swap_remove(place));
        if let Some(moved) = self.keys.get(place) {
            self.held.get_mut(moved).unwrap().0 = place;
        }
    }
}

impl Simulation for Sampled {
    fn request(&mut self, key: u64) -> bool {
        self.now += 1;
        if let Some((_, requests, last)) = self.held.get_mut(&key) {
            *requests += u64::from(self.frequency);
            *last = self.now;
            return true;
        }
        if self.keys.len() == self.size {
            self.evict();
        }
        let place = (self.keys.len(), u64::from(self.frequency), self.now);
        self.held.insert(key, place);
        self.keys.push(key);
        false
    }
}

/// In the order of columns.
const COMPARED: [PolicyKind; 7] = [
    PolicyKind::S3Fifo,
    PolicyKind::Sieve,
    PolicyKind::Fifo,
    PolicyKind::WTinyLfu,
    PolicyKind::AllKeysLru,
    PolicyKind::AllKeysLfu,
    PolicyKind::AllKeysRandom,
];

fn simulation(kind: PolicyKind, size: usize) -> Option<Box<dyn Simulation>> {
    Some(match kind {
        PolicyKind::Fifo => Box::new(Fifo {
            size,
            queue: VecDeque::new(),
            held: HashSet::new(),
        }),
        PolicyKind::Sieve => Box::new(Sieve {
            size,
            list: Default::default(),
            held: HashMap::new(),
            hand: 0,
            now: 0,
        }),
        PolicyKind::S3Fifo => Box::new(S3Fifo {
            size,
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghost: VecDeque::new(),
            ghosts: HashMap::new(),
            reads: HashMap::new(),
            evicted: 0,
        }),
        PolicyKind::AllKeysLru | PolicyKind::AllKeysLfu => Box::new(Sampled {
            size,
            frequency: kind == PolicyKind::AllKeysLfu,
            random: Random(SEED),
            keys: Vec::new(),
            held: HashMap::new(),
            now: 0,
        }),
        _ => return None,
    })
}

/// The miss ratio of the store under a policy, in percent.
fn measured(kind: PolicyKind, size: usize, requests: &[u64]) -> f64 {
    let options = StoreOptions {
        max_memory: 0,
        hash_seed: 11,
    };
    let store = Store::new(options, Arc::new(Log::new(0))).unwrap();
    for slot in 0..SLOTS {
        store.lock(slot).set_slot_state(slot, SlotState::Serve);
    }
    store.set_policy(kind);
    let (mut held, mut misses) = (0, 0);
    for key in requests {
        let key = key.to_le_bytes();
        let p = store.point(&key);
        if store.lock(p.slot).get(p, &key, 0).is_some() {
            continue;
        }
        misses += 1;
        if held == size {
            store.evict_one().expect("there is something to evict");
        } else {
            held += 1;
        }
        store.lock(p.slot).set(p, &key, b"value", None).unwrap();
    }
    assert_eq!(store.stats().keys, held as u64);
    misses as f64 * 100.0 / requests.len() as f64
}

/// The miss ratio of a simulation, in percent.
fn simulated(simulation: &mut dyn Simulation, requests: &[u64]) -> f64 {
    let misses = requests.iter().filter(|&&key| !simulation.request(key));
    misses.count() as f64 * 100.0 / requests.len() as f64
}

/// How far below its simulation a policy may miss, and how far above, in points.
fn tolerance(kind: PolicyKind, size: usize) -> (f64, f64) {
    /// Fewer items than are in most of the places where a sampled policy looks: it looks at the same ones again and again.
    const FEW: usize = 300;
    match kind {
        PolicyKind::Fifo | PolicyKind::Sieve => (0.2, 0.2),
        // Its ghosts are hashes: now and then something new is taken for one and stays, which where keys come round helps.
        PolicyKind::S3Fifo => (0.5, 0.2),
        _ if size < FEW => (f64::INFINITY, f64::INFINITY),
        _ => (1.0, 1.0),
    }
}

/// Compares all policies on a trace, prints a row of a table for each size; gives what was too far from its simulation.
fn compare(name: &str, requests: &[u64]) -> Vec<String> {
    let universe = requests.iter().collect::<HashSet<_>>().len();
    let mut wrong = Vec::new();
    for part in [100, 10] {
        let size = universe / part;
        if size < 100 {
            continue;
        }
        let mut row = format!("| {name} | {size} ({} %)", 100 / part);
        let lru = simulated(&mut Lru::new(size), requests);
        for (kind, policy) in PolicyKind::ALL {
            if !COMPARED.contains(&kind) {
                continue;
            }
            let ours = measured(kind, size, requests);
            let Some(mut simulation) = simulation(kind, size) else {
                row += &format!(" | {ours:.2}");
                continue;
            };
            let theirs = simulated(&mut *simulation, requests);
            row += &format!(" | {ours:.2} ({theirs:.2})");
            let (below, above) = tolerance(kind, size);
            let least = theirs - below;
            let mut most = theirs + above;
            if kind == PolicyKind::AllKeysLru {
                // No worse than without sampling, either.
                most = most.min(lru + above);
            }
            if !(least..=most).contains(&ours) {
                wrong.push(format!(
                    "{name}, {size} keys, {policy}: {ours:.2} %, to be {least:.2} to {most:.2}"
                ));
            }
            if kind == PolicyKind::S3Fifo {
                row += &format!(" | {:+.1} %", (ours / lru - 1.0) * 100.0);
            }
        }
        println!("{row} | {lru:.2} |");
    }
    wrong
}

/// Keys whose popularity falls with their rank, and which are shifted by and by: popularity changes.
fn zipf(universe: usize, count: usize, exponent: f64) -> Vec<u64> {
    let mut sums = Vec::with_capacity(universe);
    let mut sum = 0.0;
    for rank in 1..=universe {
        sum += (rank as f64).powf(-exponent);
        sums.push(sum);
    }
    let mut random = Random(SEED);
    (0..count)
        .map(|i| {
            let at = random.next() as f64 / (1u64 << 53) as f64 * sum;
            let rank = sums.partition_point(|&s| s < at) as u64;
            // Once in a while a key that never comes again.
            match random.below(10) == 0 {
                true => 1 << 40 | i as u64,
                false => (rank + i as u64 / 4_000) % universe as u64,
            }
        })
        .collect()
}

fn unpacked(path: &Path) -> Vec<u8> {
    if path.extension().is_some_and(|e| e == "zst") {
        return zstd::decode_all(File::open(path).unwrap()).unwrap();
    }
    let output = Command::new("xz").arg("-dc").arg(path).output();
    let output = output.unwrap_or_else(|e| panic!("xz is needed: {e}"));
    assert!(output.status.success(), "{}", path.display());
    output.stdout
}

/// The keys that a trace asks for, as its name says how to read it; None: not a trace.
fn requests(path: &Path) -> Option<Vec<u64>> {
    const MOST: usize = 2_000_000;
    let name = path.file_name()?.to_str()?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let keys: Vec<u64> = if name.ends_with(".lis.zst") {
        let lines = text(unpacked(path));
        let lines = lines.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let start: u64 = words.next()?.parse().ok()?;
            let count: u64 = words.next()?.parse().ok()?;
            Some(start..start + count)
        });
        lines.flatten().take(MOST).collect()
    } else if name.starts_with("adaptsize") {
        let lines = text(unpacked(path));
        let ids = lines.lines().filter_map(|l| l.split_whitespace().nth(1));
        ids.filter_map(|id| id.parse().ok()).take(MOST).collect()
    } else if name.contains(".trace.") {
        let width = if name.starts_with("scarab") { 8 } else { 4 };
        let bytes = unpacked(path);
        let key = |bytes: &[u8]| bytes.iter().fold(0, |key, &b| key << 8 | u64::from(b));
        bytes.chunks_exact(width).map(key).take(MOST).collect()
    } else {
        return None;
    };
    Some(keys)
}

/// The traces that are part of this repository.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces")
}

#[test]
fn policies_miss_as_their_simulations_do() {
    let path = folder().join("web12.trace.zst");
    let wrong = compare("web12", &requests(&path).unwrap());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
#[ignore = "takes minutes"]
fn policies_miss_as_their_simulations_do_on_all_traces() {
    let mut wrong = compare("zipf 0.9", &zipf(20_000, 150_000, 0.9));
    let folder = std::env::var("CACHE_NODE_TRACES").map_or_else(|_| folder(), PathBuf::from);
    let files = std::fs::read_dir(&folder).unwrap();
    let mut files: Vec<_> = files.map(|f| f.unwrap().path()).collect();
    files.sort();
    for path in files {
        if let Some(requests) = requests(&path) {
            let name = path.file_name().unwrap().to_string_lossy();
            wrong.extend(compare(name.split('.').next().unwrap(), &requests));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
