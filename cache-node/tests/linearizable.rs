//! Histories of many threads against one node, with transactions, expiry and eviction going on, have an order in which one thread could have
//! done the same: a search after Wing and Gong, key by key.
//!
//! Each key is a register that may lose its value by itself at any time between writes, as it may be evicted. That makes the check weaker than
//! it could be for keys that are not: those of the second test are never evicted, and are checked without that allowance.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cache_node::config::Config;
use cache_node::node::Node;
use cache_node::server::Server;
use cache_node::store::PolicyKind;
use cache_node::store::effect::write_command;

const THREADS: usize = 4;
const KEYS: usize = 4;
/// Operations of a thread between two points at which all wait for each other: what a search has to order is bounded by it.
const ROUND: usize = 6;
const ROUNDS: usize = 120;

/// What was done to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Read(Option<u64>),
    Write(u64),
    /// Compare and set by WATCH and EXEC: it had this value, and has another.
    Swap(Option<u64>, u64),
    Delete,
}

#[derive(Debug, Clone, Copy)]
struct Call {
    from: u64,
    to: u64,
    done: Done,
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(std::time::Duration::from_secs(60)))
            .unwrap();
        Self(BufReader::new(stream))
    }

    /// The reply's lines in one text.
    fn ask(&mut self, words: &[&str]) -> String {
        let mut bytes = Vec::new();
        let words: Vec<&[u8]> = words.iter().map(|w| w.as_bytes()).collect();
        write_command(&mut bytes, &words);
        self.0.get_mut().write_all(&bytes).unwrap();
        self.reply()
    }

    fn reply(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let line = line.trim_end().to_owned();
        let number: i64 = line[1..].parse().unwrap_or(-1);
        match line.as_bytes()[0] {
            b'$' if number >= 0 => {
                let mut body = vec![0; number as usize + 2];
                self.0.read_exact(&mut body).unwrap();
                String::from_utf8(body[..number as usize].to_vec()).unwrap()
            }
            b'*' if number >= 0 => (0..number)
                .map(|_| self.reply())
                .collect::<Vec<_>>()
                .join(" "),
            b'$' | b'*' => "nil".into(),
            b'-' => panic!("{line}"),
            _ => line,
        }
    }
}

fn value(text: &str) -> Option<u64> {
    (text != "nil").then(|| text.parse().unwrap())
}

/// Whether the calls have an order that respects their times and explains what each saw. `loses`: a value may go by itself.
fn is_linearizable(
    calls: &[Call],
    first: Option<u64>,
    loses: bool,
) -> Option<HashSet<Option<u64>>> {
    assert!(calls.len() <= 64, "the bound of a round");
    let all = if calls.len() == 64 {
        u64::MAX
    } else {
        (1u64 << calls.len()) - 1
    };
    let mut seen = HashSet::new();
    let mut stack = vec![(0u64, first)];
    let mut ends = HashSet::new();
    while let Some((done, state)) = stack.pop() {
        if !seen.insert((done, state)) {
            continue;
        }
        if loses && state.is_some() {
            stack.push((done, None));
        }
        if done == all {
            ends.insert(state);
            continue;
        }
        let left = || (0..calls.len()).filter(|i| done >> i & 1 == 0);
        // Whoever began before the first of the rest ended may be next.
        let first_end = left().map(|i| calls[i].to).min().unwrap_or(u64::MAX);
        for i in left().filter(|&i| calls[i].from < first_end) {
            let after = match calls[i].done {
                Done::Read(saw) if saw == state => state,
                Done::Swap(saw, new) if saw == state => Some(new),
                Done::Write(new) => Some(new),
                Done::Delete => None,
                Done::Read(_) | Done::Swap(..) => continue,
            };
            stack.push((done | 1 << i, after));
        }
    }
    (!ends.is_empty()).then_some(ends)
}

struct Work {
    client: Client,
    clock: Arc<AtomicU64>,
    random: u64,
    /// Values are never written twice.
    next: u64,
    calls: Vec<Vec<Call>>,
}

impl Work {
    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % n
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn one(&mut self, expires: bool) {
        let (i, j) = (
            self.below(KEYS as u64) as usize,
            self.below(KEYS as u64) as usize,
        );
        let (key, other) = (format!("key{i}"), format!("key{j}"));
        self.next += 1;
        let text = self.next.to_string();
        let from = self.tick();
        let kind = self.below(8);
        let done: Vec<(usize, Done)> = match kind {
            0 | 1 => vec![(i, Done::Read(value(&self.client.ask(&["GET", &key]))))],
            2 => {
                self.client.ask(&["SET", &key, &text]);
                vec![(i, Done::Write(self.next))]
            }
            3 if expires => {
                // It is gone a little later, at a moment that nobody is told.
                self.client.ask(&["SET", &key, &text, "PX", "2"]);
                vec![(i, Done::Write(self.next))]
            }
            4 => {
                self.client.ask(&["DEL", &key]);
                vec![(i, Done::Delete)]
            }
            5 | 6 => {
                self.client.ask(&["WATCH", &key]);
                let saw = value(&self.client.ask(&["GET", &key]));
                self.client.ask(&["MULTI"]);
                self.client.ask(&["SET", &key, &text]);
                match self.client.ask(&["EXEC"]).as_str() {
                    "nil" => vec![(i, Done::Read(saw))],
                    _ => vec![(i, Done::Swap(saw, self.next))],
                }
            }
            _ if i != j => {
                // Both in one: the keys are checked one by one, so this is two calls at one time.
                self.client.ask(&["MULTI"]);
                self.client.ask(&["GET", &other]);
                self.client.ask(&["SET", &key, &text]);
                let all = self.client.ask(&["EXEC"]);
                let saw = value(all.split(' ').next().unwrap());
                vec![(j, Done::Read(saw)), (i, Done::Write(self.next))]
            }
            _ => Vec::new(),
        };
        let to = self.tick();
        for (key, done) in done {
            self.calls[key].push(Call { from, to, done });
        }
    }
}

/// Some calls of some threads, checked; then the same again from what may be there now.
fn check(address: SocketAddr, loses: bool, seed: u64) {
    let clock = Arc::new(AtomicU64::new(0));
    let mut workers: Vec<Work> = (0..THREADS as u64)
        .map(|t| Work {
            client: Client::connect(address),
            clock: clock.clone(),
            random: seed + t * 7919,
            next: (t + 1) << 32,
            calls: Vec::new(),
        })
        .collect();
    let mut may_be: Vec<HashSet<Option<u64>>> = vec![HashSet::from([None]); KEYS];
    let mut swaps = 0;
    for round in 0..ROUNDS {
        std::thread::scope(|scope| {
            for work in &mut workers {
                work.calls = vec![Vec::new(); KEYS];
                scope.spawn(|| (0..ROUND).for_each(|_| work.one(loses)));
            }
        });
        for (key, may_be) in may_be.iter_mut().enumerate() {
            let calls: Vec<Call> = workers.iter().flat_map(|w| w.calls[key].clone()).collect();
            swaps += calls
                .iter()
                .filter(|c| matches!(c.done, Done::Swap(..)))
                .count();
            let ends: HashSet<Option<u64>> = may_be
                .iter()
                .filter_map(|&first| is_linearizable(&calls, first, loses))
                .flatten()
                .collect();
            assert!(
                !ends.is_empty(),
                "seed {seed}, round {round}, key {key}, from {may_be:?}: {calls:#?}"
            );
            *may_be = ends;
        }
    }
    assert!(swaps > ROUNDS, "{swaps}");
}

fn start(change: impl FnOnce(&mut Config)) -> (Arc<Node>, Server) {
    let mut config = Config::plain();
    config.port = 0;
    config.threads = Some(4);
    change(&mut config);
    let node = Arc::new(Node::new(config).unwrap());
    let server = Server::start(&node).unwrap();
    (node, server)
}

#[test]
fn histories_with_transactions_are_linearizable() {
    let (_node, server) = start(|_| {});
    for seed in [1, 2, 3] {
        let address = server.address();
        let mut client = Client::connect(address);
        client.ask(&["FLUSHALL"]);
        check(address, false, seed * 0x9E37_79B9);
    }
    server.drain();
}

#[test]
fn histories_with_expiry_and_eviction_are_linearizable() {
    let (node, server) = start(|config| {
        config.max_memory = 64 << 20;
        config.max_memory_policy = PolicyKind::named("allkeys-random").unwrap();
    });
    /// Also when a check has failed.
    struct Stops<'a>(&'a AtomicBool);
    impl Drop for Stops<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                node.store.evict_one();
                let soon = std::time::Instant::now() + std::time::Duration::from_millis(1);
                node.store.expire(cache_node::node::now_ms(), soon);
                std::thread::yield_now();
            }
        });
        for seed in [4, 5] {
            Client::connect(server.address()).ask(&["FLUSHALL"]);
            check(server.address(), true, seed * 0x9E37_79B9);
        }
    });
    assert!(node.store.stats().evicted + node.store.stats().expired > 0);
    server.drain();
}

/// The search finds what is wrong, too.
#[test]
fn what_cannot_have_happened_is_refused() {
    let call = |from, to, done| Call { from, to, done };
    let good = [
        call(0, 5, Done::Write(1)),
        call(1, 2, Done::Read(None)),
        call(3, 4, Done::Read(Some(1))),
        call(6, 9, Done::Swap(Some(1), 2)),
        call(7, 8, Done::Read(Some(2))),
    ];
    assert_eq!(
        is_linearizable(&good, None, false),
        Some(HashSet::from([Some(2)]))
    );
    for bad in [
        &[call(0, 1, Done::Write(1)), call(2, 3, Done::Read(None))][..],
        &[
            call(0, 9, Done::Write(1)),
            call(1, 2, Done::Read(Some(1))),
            call(3, 4, Done::Read(None)),
        ],
        &[
            call(0, 1, Done::Write(1)),
            call(2, 9, Done::Swap(Some(1), 2)),
            call(2, 9, Done::Swap(Some(1), 3)),
        ],
    ] {
        assert_eq!(is_linearizable(bad, None, false), None, "{bad:?}");
    }
    let lost = [call(0, 1, Done::Write(1)), call(2, 3, Done::Read(None))];
    assert!(is_linearizable(&lost, None, true).is_some());
}
