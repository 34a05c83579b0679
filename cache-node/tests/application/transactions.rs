//! `MULTI`, `EXEC`, `WATCH` over several connections, step by step beside a real redis-server; and what a cluster's member does with them.

use cache_node::store::SlotState;

use super::cluster::Member;
use super::generate::Random;
use super::redis::Redis;
use super::wire::{Client, EqualReaders, Reply, TestNode};

/// Connections to each server.
const CLIENTS: usize = 3;

/// Steps: the connection's number and its command. Each server answers one before the next is sent.
const SCENARIOS: &[(&str, &[&str])] = &[
    (
        "plain",
        &[
            "0 MULTI",
            "0 SET a 1",
            "0 INCR a",
            "0 GET a",
            "0 EXEC",
            "0 GET a",
        ],
    ),
    ("empty", &["0 MULTI", "0 EXEC", "0 EXEC", "0 DISCARD"]),
    (
        "nested",
        &[
            "0 MULTI",
            "0 MULTI",
            "0 SET a 1",
            "0 WATCH b",
            "0 EXEC",
            "0 GET a",
        ],
    ),
    (
        "discard",
        &[
            "0 SET a 0",
            "0 MULTI",
            "0 SET a 1",
            "0 DISCARD",
            "0 GET a",
            "0 EXEC",
        ],
    ),
    (
        "unknown",
        &[
            "0 MULTI",
            "0 SET a 1",
            "0 NOSUCH x",
            "0 SET b 1",
            "0 EXEC",
            "0 EXISTS a b",
        ],
    ),
    ("arity", &["0 MULTI", "0 GET", "0 EXEC x", "0 EXEC"]),
    (
        "errors inside",
        &[
            "0 SET a x",
            "0 MULTI",
            "0 INCR a",
            "0 LPUSH a 1",
            "0 SET b 1",
            "0 EXEC",
            "0 GET b",
        ],
    ),
    (
        "no rollback",
        &[
            "0 MULTI",
            "0 SET a 1",
            "0 HSET a f v",
            "0 SET c 1",
            "0 EXEC",
            "0 MGET a c",
        ],
    ),
    (
        "watch untouched",
        &["0 WATCH a b", "0 MULTI", "0 SET a 1", "0 EXEC", "0 GET a"],
    ),
    (
        "watch touched",
        &[
            "0 WATCH a b",
            "1 SET b 1",
            "0 MULTI",
            "0 SET a 1",
            "0 EXEC",
            "0 GET a",
            "0 MULTI",
            "0 SET a 2",
            "0 EXEC",
        ],
    ),
    (
        "watch read",
        &[
            "0 SET a 1",
            "0 WATCH a",
            "1 GET a",
            "1 EXISTS a",
            "1 TYPE a",
            "0 MULTI",
            "0 GET a",
            "0 EXEC",
        ],
    ),
    (
        "watch self",
        &["0 WATCH a", "0 SET a 1", "0 MULTI", "0 GET a", "0 EXEC"],
    ),
    (
        "unwatch",
        &[
            "0 WATCH a",
            "1 SET a 1",
            "0 UNWATCH",
            "0 MULTI",
            "0 GET a",
            "0 EXEC",
        ],
    ),
    (
        "unwatch inside",
        &["0 WATCH a", "0 MULTI", "1 SET a 1", "0 UNWATCH", "0 EXEC"],
    ),
    (
        "discard unwatches",
        &[
            "0 WATCH a",
            "0 MULTI",
            "0 DISCARD",
            "1 SET a 1",
            "0 MULTI",
            "0 GET a",
            "0 EXEC",
        ],
    ),
    (
        "exec unwatches",
        &[
            "0 WATCH a",
            "0 MULTI",
            "0 GET a",
            "0 EXEC",
            "1 SET a 1",
            "0 MULTI",
            "0 GET a",
            "0 EXEC",
        ],
    ),
    (
        "aborted unwatches",
        &[
            "0 WATCH a",
            "0 MULTI",
            "0 NOSUCH",
            "0 EXEC",
            "1 SET a 1",
            "0 MULTI",
            "0 GET a",
            "0 EXEC",
        ],
    ),
    (
        "touched and aborted",
        &["0 WATCH a", "1 SET a 1", "0 MULTI", "0 NOSUCH", "0 EXEC"],
    ),
    (
        "watch flush",
        &[
            "0 SET a 1",
            "0 WATCH a",
            "1 FLUSHALL",
            "0 MULTI",
            "0 PING",
            "0 EXEC",
        ],
    ),
    (
        "watch flush of nothing",
        &["0 WATCH a", "1 FLUSHALL", "0 MULTI", "0 PING", "0 EXEC"],
    ),
    (
        "watch delete of nothing",
        &["0 WATCH a", "1 DEL a", "0 MULTI", "0 PING", "0 EXEC"],
    ),
    (
        "watch expiry set",
        &[
            "0 SET a 1",
            "0 WATCH a",
            "1 EXPIRE a 1000",
            "0 MULTI",
            "0 PING",
            "0 EXEC",
        ],
    ),
    (
        "watch expired by command",
        &[
            "0 SET a 1",
            "0 WATCH a",
            "1 EXPIRE a -1",
            "0 MULTI",
            "0 PING",
            "0 EXEC",
        ],
    ),
    (
        "watch rename",
        &[
            "0 SET b 1",
            "0 WATCH a",
            "1 RENAME b a",
            "0 MULTI",
            "0 PING",
            "0 EXEC",
        ],
    ),
    (
        "watch renamed away",
        &[
            "0 SET a 1",
            "0 WATCH a",
            "1 RENAME a b",
            "0 MULTI",
            "0 PING",
            "0 EXEC",
        ],
    ),
    (
        "watch copy",
        &[
            "0 SET b 1",
            "0 WATCH a",
            "1 COPY b a",
            "0 MULTI",
            "0 PING",
            "0 EXEC",
        ],
    ),
    (
        "watch list",
        &[
            "0 RPUSH a 1",
            "0 WATCH a",
            "1 LPOP a",
            "0 MULTI",
            "0 PING",
            "0 EXEC",
        ],
    ),
    (
        "watch set kept",
        &[
            "0 SADD a 1",
            "0 WATCH a",
            "1 SADD a 1",
            "1 SREM a 2",
            "0 MULTI",
            "0 PING",
            "0 EXEC",
        ],
    ),
    (
        "watch hash",
        &[
            "0 HSET a f 1",
            "0 WATCH a",
            "1 HSET a f 1",
            "0 MULTI",
            "0 PING",
            "0 EXEC",
        ],
    ),
    (
        "watch zset kept",
        &[
            "0 ZADD a 1 m",
            "0 WATCH a",
            "1 ZADD a 1 m",
            "0 MULTI",
            "0 PING",
            "0 EXEC",
        ],
    ),
    (
        "watch zset",
        &[
            "0 ZADD a 1 m",
            "0 WATCH a",
            "1 ZINCRBY a 1 m",
            "0 MULTI",
            "0 PING",
            "0 EXEC",
        ],
    ),
    (
        "watch store",
        &[
            "0 SADD b 1",
            "0 WATCH a",
            "1 SUNIONSTORE a b",
            "0 MULTI",
            "0 PING",
            "0 EXEC",
        ],
    ),
    (
        "watch sort",
        &[
            "0 RPUSH b 2 1",
            "0 WATCH a",
            "1 SORT b STORE a",
            "0 MULTI",
            "0 PING",
            "0 EXEC",
        ],
    ),
    (
        "watch transaction",
        &[
            "0 WATCH a",
            "1 MULTI",
            "1 SET a 1",
            "1 EXEC",
            "0 MULTI",
            "0 PING",
            "0 EXEC",
        ],
    ),
    (
        "watch discarded",
        &[
            "0 WATCH a",
            "1 MULTI",
            "1 SET a 1",
            "1 DISCARD",
            "0 MULTI",
            "0 PING",
            "0 EXEC",
        ],
    ),
    (
        "reset",
        &[
            "0 WATCH a",
            "0 MULTI",
            "0 SET a 1",
            "0 RESET",
            "0 EXEC",
            "0 GET a",
        ],
    ),
    (
        "hello inside",
        &[
            "0 MULTI",
            "0 HELLO 3",
            "0 HGETALL h",
            "0 HELLO 2",
            "0 HGETALL h",
            "0 PING",
            "0 EXEC",
            "0 HGETALL h",
        ],
    ),
    (
        "blocking",
        &[
            "0 MULTI",
            "0 BLPOP a 0",
            "0 BLMOVE a b LEFT LEFT 0",
            "0 BRPOPLPUSH a b 0",
            "0 BZPOPMIN a 0",
            "0 BLMPOP 0 1 a LEFT",
            "0 EXEC",
        ],
    ),
    (
        "blocking served",
        &[
            "0 MULTI",
            "0 RPUSH a 1 2",
            "0 BLPOP a 0",
            "0 BLMOVE a b LEFT LEFT 0",
            "0 EXEC",
            "0 LRANGE b 0 -1",
        ],
    ),
    (
        "all keys",
        &[
            "0 MULTI",
            "0 MSET a 1 b 2 c 3",
            "0 DBSIZE",
            "0 KEYS b",
            "0 SORT l BY nosort",
            "0 RANDOMKEY x",
            "0 FLUSHALL",
            "0 EXEC",
        ],
    ),
    (
        "whole",
        &[
            "0 MULTI",
            "0 SET a 1",
            "0 DBSIZE",
            "0 SCAN 0 COUNT 100000",
            "0 RANDOMKEY",
            "0 FLUSHALL",
            "0 DBSIZE",
            "0 RANDOMKEY",
            "0 SET b 2",
            "0 EXEC",
            "0 MGET a b",
        ],
    ),
    (
        "many keys",
        &[
            "0 MULTI",
            "0 MSET a 1 b 2",
            "0 MGET a b c",
            "0 RENAME a c",
            "0 DEL a b c",
            "0 EXEC",
        ],
    ),
    (
        "sort",
        &[
            "0 RPUSH l 2 1 3",
            "0 MSET w1 3 w2 2 w3 1",
            "0 MULTI",
            "0 SORT l BY w* GET w* GET #",
            "0 SORT l STORE m",
            "0 LRANGE m 0 -1",
            "0 EXEC",
        ],
    ),
    ("reply off", &["0 MULTI", "0 SHUTDOWN x", "0 EXEC"]),
    (
        "unblock inside",
        &["0 MULTI", "0 SET a 1", "0 CLIENT UNBLOCK 999999", "0 EXEC"],
    ),
];

struct Pair {
    redis: Vec<Client>,
    node: Vec<Client>,
}

impl Pair {
    fn new(redis: &Redis, node: &TestNode, protocol: u8) -> Self {
        let connect = |client: &dyn Fn() -> Client| -> Vec<Client> {
            (0..CLIENTS)
                .map(|_| {
                    let mut client = client();
                    assert!(!client.ask(&format!("HELLO {protocol}")).is_error());
                    client
                })
                .collect()
        };
        let mut pair = Self {
            redis: connect(&|| redis.client()),
            node: connect(&|| node.client()),
        };
        assert_eq!(pair.step(0, "FLUSHALL"), pair_of("+OK"));
        pair
    }

    fn step(&mut self, client: usize, command: &str) -> (Reply, Reply) {
        (
            self.redis[client].ask(command),
            self.node[client].ask(command),
        )
    }
}

fn pair_of(line: &str) -> (Reply, Reply) {
    (Reply::Line(line.into()), Reply::Line(line.into()))
}

/// A reply without what may differ: what HELLO tells of the server.
fn plain(reply: Reply) -> Reply {
    match reply {
        Reply::Many(kind, Some(items)) => {
            if items.first().is_some_and(|first| first.text() == "server") {
                return Reply::Many(kind, Some(Vec::new()));
            }
            Reply::Many(kind, Some(items.into_iter().map(plain).collect()))
        }
        reply => reply,
    }
}

#[test]
fn scenarios_go_as_with_redis() {
    let redis = Redis::start();
    let node = TestNode::start();
    let mut unlike = Vec::new();
    for protocol in [2, 3] {
        for (name, steps) in SCENARIOS {
            let mut pair = Pair::new(&redis, &node, protocol);
            for step in *steps {
                let (client, command) = step.split_once(' ').unwrap();
                let (redis, node) = pair.step(client.parse().unwrap(), command);
                let (redis, node) = (plain(redis), plain(node));
                if redis != node {
                    unlike.push(format!(
                        "RESP{protocol} {name}, {step}\n  redis: {redis:?}\n  here:  {node:?}"
                    ));
                    break;
                }
            }
        }
    }
    assert!(unlike.is_empty(), "{}", unlike.join("\n"));
}

/// `K`: a key. What is read has one order, and no clock is in the replies.
const TEMPLATES: &[&str] = &[
    "SET K 1",
    "SET K x EX 1000",
    "GET K",
    "INCR K",
    "APPEND K yz",
    "DEL K",
    "DEL K K",
    "EXPIRE K 1000",
    "EXPIRE K 0",
    "PERSIST K",
    "MSET K 1 K 2",
    "MGET K K K",
    "MSETNX K 1 K 2",
    "RENAME K K",
    "RENAMENX K K",
    "COPY K K",
    "COPY K K REPLACE",
    "EXISTS K K",
    "TYPE K",
    "RPUSH K a b",
    "LPOP K",
    "LRANGE K 0 -1",
    "LMOVE K K LEFT RIGHT",
    "BLPOP K 0",
    "BLMPOP 0 2 K K LEFT",
    "SADD K 1 2 3",
    "SREM K 2",
    "SCARD K",
    "SINTERSTORE K K K",
    "SMOVE K K 1",
    "HSET K f 1 g 2",
    "HINCRBY K f 2",
    "HDEL K f",
    "HGET K g",
    "ZADD K 1 m 2 n",
    "ZINCRBY K 2 m",
    "ZRANGE K 0 -1 WITHSCORES",
    "ZUNIONSTORE K 2 K K",
    "BZPOPMIN K 0",
    "SETBIT K 5 1",
    "BITCOUNT K",
    "PFADD K a b",
    "PFCOUNT K K",
    "GETDEL K",
    "SETRANGE K 2 abc",
    "SORT K ALPHA",
    "SORT K ALPHA STORE K",
    "DBSIZE",
    "FLUSHALL",
    "PING",
    "ECHO K",
    "NOSUCH K",
    "GET",
    "SET K 1 XX GET",
    "INCRBY K notanumber",
    "GETEX K PERSIST",
    "STRLEN K",
    "DUMP nokey",
    "UNLINK K",
];

/// Whether a command waits outside of a transaction.
fn blocks(command: &str) -> bool {
    command.starts_with('B') && !command.starts_with("BITCOUNT")
}

fn random_step(random: &mut Random) -> String {
    match random.below(24) {
        0 | 1 => "MULTI".into(),
        2..=4 => "EXEC".into(),
        5 => "DISCARD".into(),
        6 => "UNWATCH".into(),
        7 | 8 => {
            let keys: Vec<String> = (0..1 + random.below(2))
                .map(|_| format!("k{}", random.below(5)))
                .collect();
            format!("WATCH {}", keys.join(" "))
        }
        _ => {
            let words = random.pick(TEMPLATES).split(' ').map(|word| match word {
                "K" => format!("k{}", random.below(5)),
                word => word.to_owned(),
            });
            // The borrow of `random` ends with the words.
            words.collect::<Vec<_>>().join(" ")
        }
    }
}

#[test]
fn random_transactions_go_as_with_redis() {
    let redis = Redis::start();
    let node = TestNode::start();
    for (protocol, seed) in [(2, 0x7A_0001), (3, 0x7A_0002)] {
        let mut pair = Pair::new(&redis, &node, protocol);
        let mut random = Random(seed);
        let (mut executed, mut refused) = (0, 0);
        let mut last: Vec<String> = Vec::new();
        let mut inside = [false; CLIENTS];
        for _ in 0..6_000 {
            let (client, mut command) = (random.below(CLIENTS), random_step(&mut random));
            match command.as_str() {
                "MULTI" => inside[client] = true,
                "EXEC" | "DISCARD" => inside[client] = false,
                other if blocks(other) && !inside[client] => command = "PING".into(),
                _ => {}
            }
            last.push(format!("{client} {command}"));
            let (redis, node) = pair.step(client, &command);
            let from = last.len().saturating_sub(30);
            assert_eq!(
                node,
                redis,
                "RESP{protocol}, the last of {:#?}",
                &last[from..]
            );
            if command == "EXEC" {
                match &node {
                    Reply::Many(_, Some(items)) if items.len() > 1 => executed += 1,
                    Reply::Many(_, None) => refused += 1,
                    Reply::Line(line) if line == "_" => refused += 1,
                    _ => {}
                }
            }
        }
        assert!(executed > 50 && refused > 10, "{executed} {refused}");
    }
}

/// Others never see a part of a transaction, on however many threads, and no increment is lost between `WATCH` and `EXEC`.
#[test]
fn transactions_are_one_to_all_threads() {
    const ROUNDS: usize = 400;
    let node = TestNode::with(|config| config.threads = Some(4));
    let address = node.address;
    let readers = EqualReaders::start(address, 2, "MGET x y z");
    let writers: Vec<_> = (0..3)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                let mut done = 0;
                while done < ROUNDS {
                    client.ask("MULTI");
                    for key in ["x", "y", "z"] {
                        client.ask(&format!("INCR {key}"));
                    }
                    let all = client.ask("EXEC");
                    assert!(all.items().iter().all(|v| *v == all.items()[0]), "{all:?}");
                    client.ask("WATCH counter");
                    let before: u64 = client.ask("GET counter").text().parse().unwrap_or(0);
                    client.ask("MULTI");
                    client.ask(&format!("SET counter {}", before + 1));
                    done += usize::from(client.ask("EXEC") != Reply::Many(b'*', None));
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|w| w.join().unwrap());
    readers.stop();
    let mut client = node.client();
    assert_eq!(client.ask("GET counter").text(), (3 * ROUNDS).to_string());
}

/// `bar` is in slot 5061, `foo` in 12182.
#[test]
fn a_member_answers_for_the_slots_of_a_transaction() {
    const CROSS: &str = "-CROSSSLOT Keys in request don't hash to the same slot";
    const ABORT: &str = "-EXECABORT Transaction discarded because of previous errors.";
    let member = Member::start();
    member.push(1);
    let mut client = member.node.client();
    let mut ask = |steps: &[(&str, &str)]| {
        for (command, reply) in steps {
            assert_eq!(client.ask(command).text(), *reply, "{command}");
        }
    };
    ask(&[
        ("MULTI", "+OK"),
        ("GET foo", "-MOVED 12182 o-0.test:7001"),
        ("SET bar 1", "+QUEUED"),
        ("EXEC", ABORT),
        ("MULTI", "+OK"),
        ("MSET bar 1 foo 1", CROSS),
        ("EXEC", ABORT),
        // Each is ours, but not of one slot.
        ("MULTI", "+OK"),
        ("SET bar 1", "+QUEUED"),
        ("SET {user1000}.following 1", "+QUEUED"),
        ("EXEC", CROSS),
        ("EXEC", "-ERR EXEC without MULTI"),
        ("EXISTS bar", ":0"),
        ("WATCH bar foo", CROSS),
        ("WATCH bar", "+OK"),
        ("WATCH {user1000}.following", "+OK"),
        ("MULTI", "+OK"),
        ("SET bar 1", "+QUEUED"),
        ("INFO keyspace", "+QUEUED"),
        ("DBSIZE", "+QUEUED"),
    ]);
    let all = client.ask("EXEC");
    assert_eq!(
        (all.items()[0].text(), all.items()[2].text()),
        ("+OK".into(), ":1".into())
    );
    // The slot leaves between the queue and the end.
    client.ask("MULTI");
    assert_eq!(client.ask("SET bar 2").text(), "+QUEUED");
    member.push_up_to(2, 5_000);
    assert_eq!(client.ask("EXEC").text(), "-MOVED 5061 o-0.test:7001");
    // A watched key's slot leaves.
    member.push_up_to(3, 8_191);
    client.ask("WATCH bar");
    member.push_up_to(4, 5_000);
    client.ask("MULTI");
    client.ask("SET {user1000}.following 1");
    assert_eq!(client.ask("EXEC"), Reply::Many(b'*', None));
}

#[test]
fn a_paused_slot_holds_the_whole_transaction_back() {
    let member = Member::start();
    member.push(1);
    let store = &member.node.node.store;
    let slot = cache_node::store::slot_of(b"bar");
    let set = |state| {
        store.lock(slot).set_slot_state(slot, state);
        member.node.node.wakers.wake_all();
    };
    let (mut client, mut other) = (member.node.client(), member.node.client());
    client.ask("WATCH {bar}w");
    set(SlotState::WritePaused);
    client.send(b"MULTI\r\nGET bar\r\nSET bar 1\r\nEXEC\r\nGET bar\r\n");
    for expected in ["+OK", "+QUEUED", "+QUEUED"] {
        assert_eq!(client.reply().unwrap().text(), expected);
    }
    super::wire::wait_for("the transaction waits", || {
        other.ask("CLIENT LIST").text().contains("flags=b")
    });
    assert_eq!(other.ask("GET bar"), Reply::Bulk(None));
    set(SlotState::Serve);
    let all = client.reply().unwrap();
    assert_eq!(all.items().len(), 2);
    assert_eq!(all.items()[1].text(), "+OK");
    assert_eq!(client.reply().unwrap().text(), "1");
    // What reads only does not wait.
    set(SlotState::WritePaused);
    client.ask("MULTI");
    client.ask("GET bar");
    assert_eq!(client.ask("EXEC").items()[0].text(), "1");
    // A flush is about the paused slot too.
    client.send(b"MULTI\r\nFLUSHALL\r\nEXEC\r\n");
    assert_eq!(client.reply().unwrap().text(), "+OK");
    assert_eq!(client.reply().unwrap().text(), "+QUEUED");
    super::wire::wait_for("the flush waits", || {
        other.ask("CLIENT LIST").text().contains("flags=b")
    });
    set(SlotState::Serve);
    assert_eq!(client.reply().unwrap().items()[0].text(), "+OK");
}

#[test]
fn who_waits_is_served_after_the_whole_transaction() {
    let node = TestNode::start();
    let (mut waiter, mut client) = (node.client(), node.client());
    waiter.send(b"BLPOP l 0\r\n");
    super::wire::wait_for("the client waits", || node.node.blocked.count() == 1);
    client.ask("MULTI");
    client.ask("RPUSH l a");
    client.ask("DEL l");
    client.ask("RPUSH l b");
    client.ask("EXEC");
    assert_eq!(waiter.reply().unwrap().items()[1].text(), "b");
}

#[test]
fn full_memory_refuses_what_would_take_more_of_it() {
    let node = TestNode::with(|config| config.max_memory = 8 << 20);
    let mut client = node.client();
    client.ask("MULTI");
    client.ask("SET a 1");
    let value = "x".repeat(4096);
    let mut i = 0;
    let mut filler = node.client();
    while !filler.ask(&format!("SET f{i} {value}")).is_error() {
        i += 1;
    }
    assert!(client.ask("SET b 1").text().starts_with("-OOM"));
    assert!(client.ask("EXEC").text().starts_with("-EXECABORT"));
    client.ask("MULTI");
    client.ask("DEL f0");
    client.ask("GET f1");
    assert_eq!(client.ask("EXEC").items()[0].text(), ":1");
    assert_eq!(filler.ask("EXISTS a b").text(), ":0");
}
