//! Scripts and transactions are whole wherever they come to: on a replica that reads while they are written, in another shard that takes their
//! slots over, and in a snapshot.
//!
//! Pairs of accounts hold a fixed sum together. Each write takes from one and gives to the other, with more work in between, so whoever sees a
//! part of a write sees another sum.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use cache_node::cluster::state::MovePhase;
use cache_node::control::resp::Reply;
use support::process::{Client, Process};
use support::*;

const ALL: &[(u16, u16)] = &[(0, 16_383)];
const PAIRS: usize = 40;
const SUM: i64 = 2_000;
const TRANSFER: &str = "redis.call('DECRBY', KEYS[1], ARGV[1])
    redis.call('RPUSH', KEYS[3], ARGV[1])
    redis.call('LTRIM', KEYS[3], -20, -1)
    return redis.call('INCRBY', KEYS[2], ARGV[1])";

fn accounts(pair: usize) -> [String; 3] {
    ["a", "b", "log"].map(|name| format!("{{pair:{pair}}}:{name}"))
}

fn ask(client: &mut Client, words: &[&str]) -> std::io::Result<Reply> {
    let words: Vec<&[u8]> = words.iter().map(|w| w.as_bytes()).collect();
    client.ask(&words)
}

/// The sum of a pair; none where this node does not serve it. One without the other is a part of a write.
fn sum(client: &mut Client, pair: usize) -> Option<i64> {
    let [a, b, _] = accounts(pair);
    let values = match ask(client, &["MGET", &a, &b]).unwrap() {
        Reply::Array(values) => values,
        Reply::Error(_) => return None,
        other => panic!("pair {pair}: {other:?}"),
    };
    let number = |value: &Reply| match value {
        Reply::Bulk(digits) => String::from_utf8_lossy(digits).parse::<i64>().unwrap(),
        other => panic!("pair {pair} lacks an account: {other:?} of {values:?}"),
    };
    Some(values.iter().map(number).sum())
}

/// Writes until it is stopped: scripts and transactions in turns, to whichever node takes them.
struct Transfers {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Transfers {
    fn start(nodes: &[&Process]) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (until, count) = (stop.clone(), done.clone());
        let mut clients: Vec<Client> = nodes.iter().map(|node| node.app().unwrap()).collect();
        let thread = std::thread::spawn(move || {
            for i in 0.. {
                if until.load(Ordering::Relaxed) {
                    return;
                }
                for client in &mut clients {
                    if transfer(client, i % PAIRS, i % 7 + 1, i % 2 == 0) {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        Self { stop, done, thread }
    }

    /// Waits until so many more are acknowledged.
    fn go_on(&self, more: u64) {
        let before = self.done.load(Ordering::Relaxed);
        wait_until("writes go on", || {
            self.done.load(Ordering::Relaxed) > before + more
        });
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// Whether the node took it.
fn transfer(client: &mut Client, pair: usize, amount: usize, by_script: bool) -> bool {
    let ([a, b, log], amount) = (accounts(pair), amount.to_string());
    if by_script {
        let reply = ask(client, &["EVAL", TRANSFER, "3", &a, &b, &log, &amount]);
        return matches!(reply.unwrap(), Reply::Integer(_));
    }
    ask(client, &["MULTI"]).unwrap();
    for words in [
        &["DECRBY", &a, &amount][..],
        &["LPUSH", &log, &amount],
        &["INCRBY", &b, &amount],
    ] {
        ask(client, words).unwrap();
    }
    matches!(ask(client, &["EXEC"]).unwrap(), Reply::Array(_))
}

fn fill(node: &Process) {
    let mut client = node.app().unwrap();
    for pair in 0..PAIRS {
        let [a, b, _] = accounts(pair);
        let half = (SUM / 2).to_string();
        let reply = ask(&mut client, &["MSET", &a, &half, &b, &half]).unwrap();
        assert_eq!(reply, Reply::ok());
    }
}

#[test]
fn a_replica_shows_no_part_of_a_write() {
    let (a, b) = (Process::start("m-0-0"), Process::start("m-0-1"));
    let topology = Topology::new(1).shard("0", ALL, &[&a, &b]).bootstrap();
    a.push(&topology);
    fill(&a);
    let transfers = Transfers::start(&[&a]);
    // The copy is made while they are written.
    transfers.go_on(200);
    b.push(&topology);
    let mut reader = b.app().unwrap();
    ask(&mut reader, &["READONLY"]).unwrap();
    let (mut pairs, mut seen) = ((0..PAIRS).cycle(), 0);
    for round in 1..=3 {
        wait_until("the replica answers", || {
            let pair = pairs.next().unwrap();
            if let Some(sum) = sum(&mut reader, pair) {
                assert_eq!(sum, SUM, "pair {pair}");
                seen += 1;
            }
            seen >= round * 400
        });
        transfers.go_on(200);
    }
    transfers.stop();
    // In the end it holds the same, logs included.
    let mut writer = a.app().unwrap();
    for pair in 0..PAIRS {
        let [first, _, log] = accounts(pair);
        for words in [&["GET", &first][..], &["LRANGE", &log, "0", "-1"]] {
            let there = ask(&mut writer, words).unwrap();
            wait_until("the replica has the last write", || {
                ask(&mut reader, words).unwrap() == there
            });
        }
    }
}

#[test]
fn another_shard_takes_no_part_of_a_write_over() {
    let (a, b) = (Process::start("m-0-0"), Process::start("m-1-0"));
    let split = |epoch, at: u16| {
        Topology::new(epoch)
            .shard("0", &[(at, 16_383)], &[&a])
            .shard("1", &[(0, at - 1)], &[&b])
    };
    for node in [&a, &b] {
        node.push(&split(1, 1).bootstrap());
    }
    fill(&a);
    let transfers = Transfers::start(&[&a, &b]);
    transfers.go_on(200);
    for node in [&b, &a] {
        node.push(&split(2, 1).moving("mv", (1, 9_000), "0", "1"));
    }
    wait_until("the slots are copied", || {
        let state = a.state();
        state.moves.iter().any(|m| m.state == MovePhase::Streaming)
    });
    transfers.go_on(200);
    a.node(&["MOVE", "SEAL", "mv", "60000"]).unwrap();
    for node in [&b, &a] {
        node.push(&split(3, 9_001));
    }
    transfers.go_on(400);
    transfers.stop();
    let mut clients = [a.app().unwrap(), b.app().unwrap()];
    let mut moved = 0;
    for pair in 0..PAIRS {
        let sums = clients.each_mut().map(|client| sum(client, pair));
        assert!(
            matches!(sums, [Some(SUM), None] | [None, Some(SUM)]),
            "pair {pair}: {sums:?}"
        );
        moved += usize::from(sums[1].is_some());
    }
    assert!(moved > 5 && moved < PAIRS, "{moved} pairs moved");
}

#[test]
fn a_snapshot_holds_no_part_of_a_write() {
    let node = Process::start("m-0-0");
    node.push(&Topology::new(1).shard("0", ALL, &[&node]).bootstrap());
    fill(&node);
    let transfers = Transfers::start(&[&node]);
    transfers.go_on(200);
    let mut control = node.control().unwrap();
    let Reply::Bulk(begun) = ask(&mut control, &["CACHE.NODE", "SNAPSHOT", "BEGIN"]).unwrap()
    else {
        panic!("no snapshot")
    };
    let begun: serde_json::Value = serde_json::from_slice(&begun).unwrap();
    let id = begun["id"].as_str().unwrap().to_owned();
    // Of the instant at which it began, however much is written before it is read.
    transfers.go_on(400);
    let mut file = Vec::new();
    let read = ["CACHE.NODE", "SNAPSHOT", "READ", &id];
    while let Reply::Bulk(chunk) = ask(&mut control, &read).unwrap() {
        file.extend(chunk);
    }
    transfers.go_on(10);
    transfers.stop();
    let loaded = redis::load(&file);
    for pair in 0..PAIRS {
        let [a, b, log] = accounts(pair);
        let number = |key| {
            let found = loaded.ask(&["GET", key]);
            found.as_str().unwrap().parse::<i64>().unwrap()
        };
        assert_eq!(number(&a) + number(&b), SUM, "pair {pair}");
        let noted = loaded.ask(&["LLEN", &log]).as_i64().unwrap();
        assert!(noted > 0, "pair {pair}");
    }
}
