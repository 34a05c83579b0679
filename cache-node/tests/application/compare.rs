//! Replies beside those of a real redis-server 7.0: random commands, both versions of the protocol, pipelined.

use std::collections::{BTreeMap, BTreeSet};

use cache_node::node::now_ms;
use cache_node::store::effect::write_command;

use super::generate::{Random, Words, command};
use super::redis::Redis;
use super::wire::{Client, Reply, TestNode};

/// Seconds that both servers' clocks may be apart when they answer.
const APART_MS: i64 = 5_000;

/// Commands of this test: quick on each push; `CACHE_NODE_COMPARE_COMMANDS` asks for more.
fn commands() -> usize {
    let wanted = std::env::var("CACHE_NODE_COMPARE_COMMANDS").ok();
    wanted.map_or(40_000, |n| {
        n.parse().expect("CACHE_NODE_COMPARE_COMMANDS is a number")
    })
}

#[test]
fn random_commands_are_answered_as_redis_answers_them() {
    compare(&TestNode::start(), commands());
}

/// With strings compressed that are far too short for it to be worth it, so that all commands meet them.
#[test]
fn compressed_strings_are_answered_as_redis_answers_them() {
    for method in ["lz4", "zstd:1"] {
        let node = TestNode::with(|config| {
            config.compression = method.parse().unwrap();
            config.compression_min_size = 1;
        });
        compare(&node, commands() / 2);
        let info = node.client().ask("INFO memory").text();
        let packed: u64 = info
            .lines()
            .find_map(|line| line.strip_prefix("compressed_values:"))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        assert!(packed > 100, "{method}: {packed}");
        assert!(info.contains(&format!("compression:{method}")), "{info}");
    }
}

/// So many random commands in both versions of the protocol.
fn compare(node: &TestNode, commands: usize) {
    let redis = Redis::start();
    for (protocol, seed) in [(2, 0x5EED_0001), (3, 0x5EED_0002)] {
        let mut pair = Pair::new(&redis, node, protocol);
        let mut random = Random(seed);
        let mut done = 0;
        while done < commands / 2 {
            let batch: Vec<Words> = (0..1 + random.below(40))
                .map(|_| command(&mut random, now_ms()))
                .collect();
            pair.compare(&batch, done);
            done += batch.len();
        }
        // What is left is the same, values and expiries.
        let keys: Vec<String> = (0..12).map(|i| format!("k{i}")).collect();
        let last: Vec<Words> = keys
            .iter()
            .flat_map(|key| {
                ["GET", "PEXPIRETIME", "TYPE"].map(|c| vec![c.into(), key.as_bytes().to_vec()])
            })
            .collect();
        pair.compare(&last, done);
        let unlike: String = pair.unlike.into_values().collect();
        assert!(unlike.is_empty(), "{unlike}");
    }
}

pub struct Pair {
    pub redis: Client,
    pub node: Client,
    pub unlike: BTreeMap<String, String>,
}

impl Pair {
    pub fn new(redis: &Redis, node: &TestNode, protocol: u8) -> Self {
        let mut pair = Self {
            redis: redis.client(),
            node: node.client(),
            unlike: BTreeMap::new(),
        };
        for client in [&mut pair.redis, &mut pair.node] {
            assert!(!client.ask("FLUSHALL").is_error());
            assert!(!client.ask(&format!("HELLO {protocol}")).is_error());
        }
        pair
    }

    /// Sends a batch to both and compares the replies one by one.
    pub fn compare(&mut self, batch: &[Words], done: usize) {
        // A reply may be left out (CLIENT REPLY SKIP): a mark after each command tells which is whose.
        let mut bytes = Vec::new();
        for (i, words) in batch.iter().enumerate() {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            write_command(&mut bytes, &words);
            for mark in [0, 1] {
                write_command(&mut bytes, &[b"ECHO", format!("mark{i}.{mark}").as_bytes()]);
            }
        }
        self.redis.send(&bytes);
        self.node.send(&bytes);
        for (i, words) in batch.iter().enumerate() {
            let (redis, node) = (replies(&mut self.redis, i), replies(&mut self.node, i));
            let shown: Vec<_> = words
                .iter()
                .map(|w| String::from_utf8_lossy(&w[..w.len().min(60)]))
                .collect();
            if !same(words, &redis, &node) {
                let name = String::from_utf8_lossy(&words[0]).to_uppercase();
                // The first of each command tells most: what follows may follow from it.
                self.unlike.entry(name).or_insert_with(|| {
                    format!(
                        "command {} {shown:?}\n  redis: {}\n  here:  {}\n",
                        done + i,
                        short(&redis),
                        short(&node)
                    )
                });
            }
        }
    }
}

/// Replies up to the last mark of a command, the first mark included when it was answered.
fn replies(client: &mut Client, i: usize) -> Vec<Reply> {
    let last = Reply::Bulk(Some(format!("mark{i}.1").into_bytes()));
    let mut replies = Vec::new();
    loop {
        match client.reply() {
            Some(reply) if reply == last => return replies,
            Some(reply) => replies.push(reply),
            None => panic!("the connection ended; up to then: {}", short(&replies)),
        }
    }
}

fn short(replies: &[Reply]) -> String {
    let text = format!("{:?}", replies.iter().map(Reply::text).collect::<Vec<_>>());
    text.chars().take(600).collect()
}

/// Whether replies say the same: exactly, but for orders that are not promised, and clocks.
fn same(words: &[Vec<u8>], redis: &[Reply], node: &[Reply]) -> bool {
    if redis.len() != node.len() {
        return false;
    }
    let name = String::from_utf8_lossy(&words[0]).to_uppercase();
    // A cursor has a meaning to the server that gave it: only a whole iteration in one call compares.
    let cursor = if name == "SCAN" { 1 } else { 2 };
    let whole = words.get(cursor).is_some_and(|cursor| cursor == b"0")
        && words.iter().any(|word| word == b"100000");
    redis.iter().zip(node).all(|(r, n)| match name.as_str() {
        "KEYS" => sorted(r) == sorted(n),
        // Members are in no promised order.
        "SMEMBERS" | "SINTER" | "SUNION" | "SDIFF" | "HKEYS" | "HVALS" | "SPOP" => {
            sorted(r) == sorted(n)
        }
        "HGETALL" if matches!((r, n), (Reply::Many(..), Reply::Many(..))) => pairs(r) == pairs(n),
        "HSCAN" | "SSCAN" | "ZSCAN" if matches!((r, n), (Reply::Many(..), Reply::Many(..))) => {
            let (r, n) = (r.items(), n.items());
            !whole || (r[0] == n[0] && sorted(&r[1]) == sorted(&n[1]))
        }
        // A string that was changed in place is `raw` to Redis, whatever it holds; its small integers are shared.
        "OBJECT" if matches!(r.text().as_str(), "raw" | "embstr" | ":2147483647") => {
            matches!(n.text().as_str(), "raw" | "embstr" | "int" | ":1")
        }
        // A set has no order of its own.
        "SORT" | "SORT_RO" if words.iter().any(|word| word == b"nosort") && !n.is_error() => {
            random_shape(r) == random_shape(n)
        }
        // Takes WITHSCORE since 7.2.
        "ZRANK" | "ZREVRANK" if words.len() == 4 => r.is_error() || r == n,
        // Of what is chosen at random only the shape is the same.
        "HRANDFIELD" | "SRANDMEMBER" | "ZRANDMEMBER" => random_shape(r) == random_shape(n),
        "SCAN" if matches!((r, n), (Reply::Many(..), Reply::Many(..))) => {
            let (r, n) = (r.items(), n.items());
            !whole || (r[0] == n[0] && sorted(&r[1]) == sorted(&n[1]))
        }
        "CONFIG" if matches!((r, n), (Reply::Many(..), Reply::Many(..))) => pairs(r) == pairs(n),
        // Version and id differ.
        "HELLO" if matches!((r, n), (Reply::Many(..), Reply::Many(..))) => {
            r.items().len() == n.items().len()
        }
        // Lines about clients: ids, addresses, ages and buffers differ.
        "CLIENT" if r.text().starts_with("id=") || n.text().starts_with("id=") => true,
        "TTL" => close(r, n, APART_MS / 1000),
        "PTTL" => close(r, n, APART_MS),
        "EXPIRETIME" => close(r, n, APART_MS / 1000),
        "PEXPIRETIME" => close(r, n, APART_MS),
        _ => r == n,
    })
}

/// How many were chosen, each a pair or not; an error as it is.
fn random_shape(reply: &Reply) -> String {
    match reply {
        Reply::Many(kind, Some(items)) => {
            let shapes: String = items
                .iter()
                .map(|item| match item {
                    Reply::Many(kind, _) => char::from(*kind),
                    _ => '$',
                })
                .collect();
            format!("{}{shapes}", char::from(*kind))
        }
        Reply::Bulk(Some(_)) => "$".into(),
        other => other.text(),
    }
}

fn sorted(reply: &Reply) -> Reply {
    let mut reply = reply.clone();
    if let Reply::Many(_, Some(items)) = &mut reply {
        items.sort();
    }
    reply
}

fn pairs(reply: &Reply) -> BTreeSet<(Reply, Reply)> {
    reply
        .items()
        .chunks(2)
        .map(|p| (p[0].clone(), p[1].clone()))
        .collect()
}

fn close(redis: &Reply, node: &Reply, apart: i64) -> bool {
    let number = |r: &Reply| -> Option<i64> { r.text().strip_prefix(':')?.parse().ok() };
    match (number(redis), number(node)) {
        (Some(r), Some(n)) if r >= 0 && n >= 0 => (r - n).abs() <= apart,
        _ => redis == node,
    }
}

/// What is no command ends the connection, with the same last words.
#[test]
fn broken_streams_end_as_with_redis() {
    let redis = Redis::start();
    let node = TestNode::start();
    let table: [&[u8]; 16] = [
        b"*x\r\n",
        b"*\r\n",
        b"*1\r\n+PING\r\n",
        b"*1\r\n\r\n\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$600000000\r\n",
        b"*2\r\n$4\r\nECHO\r\n!3\r\nabc\r\n",
        b"PING\r\n*1\r\n:1\r\n",
        b"ECHO \"a\r\n",
        b"ECHO \"a\"b\r\n",
        b"SET \"key with \\x41\" 'it\\'s'\r\nGET \"key with A\"\r\nQUIT\r\n",
        b"\r\n\r\n  \r\nPING hello\nQUIT\r\n",
        b"*0\r\n*-1\r\nPING\r\nQUIT\r\nPING\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"nosuch a b\r\nget\r\nQUIT\r\n",
    ];
    for stream in table {
        let [redis, node] = [redis.client(), node.client()].map(|mut client| {
            client.send(stream);
            String::from_utf8_lossy(&client.rest()).into_owned()
        });
        assert_eq!(node, redis, "{}", String::from_utf8_lossy(stream));
    }
}

/// The table tells of each command what Redis tells: arity, flags, keys.
#[test]
fn commands_are_described_as_redis_describes_them() {
    /// Where this server is newer than 7.0, or differs on purpose.
    const UNLIKE: &[&str] = &[
        // New in 7.2, or another tip of the same thing.
        "quit",
        "client|setinfo",
        "client|no-touch",
        "waitaof",
        // Takes WITHSCORE since 7.2.
        "zrank",
        "zrevrank",
        // Their flags changed between 7.0 and 7.2.
        "reset",
    ];
    let redis = Redis::start();
    let node = TestNode::start();
    let (mut redis, mut node) = (redis.client(), node.client());
    let (mut compared, mut unlike) = (0, Vec::new());
    for entry in &cache_node::command::table::TABLE.entries {
        let name = entry.full_name.as_str();
        if UNLIKE.contains(&name) {
            continue;
        }
        let describe = |client: &mut Client| {
            let reply = client.ask(&format!("COMMAND INFO {name}"));
            let items = reply.items()[0].items().to_vec();
            // Name, arity, flags, first, last, step.
            let flags: BTreeSet<String> = items[2]
                .items()
                .iter()
                .map(Reply::text)
                .filter(|f| {
                    !matches!(
                        f.as_str(),
                        "+movablekeys" | "+no_async_loading" | "+may_replicate"
                    )
                })
                .collect();
            let rest: Vec<String> = [0, 1, 3, 4, 5].map(|i| items[i].text()).to_vec();
            (rest, flags)
        };
        let (here, there) = (describe(&mut node), describe(&mut redis));
        if here != there {
            unlike.push(format!("{name}: here {here:?}, redis {there:?}"));
        }
        compared += 1;
    }
    assert!(unlike.is_empty(), "{}", unlike.join("\n"));
    assert!(compared > 80, "{compared}");
}
