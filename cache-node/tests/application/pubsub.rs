//! Messages, keyspace notifications and invalidations, beside a real redis-server; and what a slow or moved subscriber meets.

use std::collections::VecDeque;

use super::cluster::Member;
use super::redis::Redis;
use super::wire::{Client, Reply, TestNode, wait_for};

/// Connections to each server; one more publishes the end.
const CLIENTS: usize = 3;

/// Steps: `0 command` waits for the reply, `0!2 command` for two replies that are pushed or for none, `0 drain` takes everything up to a message on `end`, to which the
/// connection must have subscribed. What is pushed in between is compared at the drain.
type Scenario = (&'static str, &'static [u8], &'static [&'static str]);

const BOTH: &[u8] = &[2, 3];
const NEW: &[u8] = &[3];
const OLD: &[u8] = &[2];

const SCENARIOS: &[Scenario] = &[
    (
        "channels",
        BOTH,
        &[
            "0!4 SUBSCRIBE end a b a",
            "1 PUBLISH a 1",
            "1 PUBLISH c 1",
            "1 PUBLISH b 2",
            "0 drain",
            "0!2 UNSUBSCRIBE a nothing",
            "1 PUBLISH a 3",
            "1 PUBSUB NUMSUB a b c",
            "0 drain",
        ],
    ),
    (
        "patterns",
        BOTH,
        &[
            "0!1 SUBSCRIBE end",
            "0!2 PSUBSCRIBE a* ?b",
            "1 PUBLISH ac 1",
            "1 PUBLISH a 2",
            "1 PUBLISH xb 3",
            "1 PUBSUB NUMPAT",
            "0!1 PUNSUBSCRIBE a*",
            "0 drain",
            "1 PUBLISH ab 4",
            "0 drain",
        ],
    ),
    (
        "nothing left",
        BOTH,
        &[
            "0!1 UNSUBSCRIBE",
            "0!1 PUNSUBSCRIBE",
            "0!1 SUNSUBSCRIBE",
            "0!1 SUBSCRIBE end",
            "0 drain",
            "0!1 UNSUBSCRIBE",
            "0!1 SUBSCRIBE end",
            "0 drain",
        ],
    ),
    (
        "sharded",
        BOTH,
        &[
            "0!1 SUBSCRIBE end",
            "0!2 SSUBSCRIBE s t",
            "1 SPUBLISH s 1",
            "1 PUBLISH s 2",
            "1 PUBSUB SHARDNUMSUB s t u",
            "1 PUBSUB SHARDCHANNELS t*",
            "0 drain",
            "0!1 SUNSUBSCRIBE t",
            "0!1 SUNSUBSCRIBE",
            "1 SPUBLISH s 3",
            "0 drain",
        ],
    ),
    (
        "without replies",
        BOTH,
        &[
            "0!0 CLIENT REPLY OFF",
            "0!0 SET x 1",
            "0!2 SUBSCRIBE end a",
            "0!1 PSUBSCRIBE b*",
            "0!1 SSUBSCRIBE s",
            "0!0 SUBSCRIBE",
            "0!0 GET x",
            "1 PUBLISH a 1",
            "1 PUBLISH b1 1",
            "1 SPUBLISH s 1",
            "0!1 UNSUBSCRIBE a",
            "0!1 PUNSUBSCRIBE",
            "0!1 SUNSUBSCRIBE",
            "0 drain",
        ],
    ),
    (
        "without a reply",
        BOTH,
        &[
            "0!0 CLIENT REPLY SKIP",
            "0!1 SUBSCRIBE a",
            "0!1 SUBSCRIBE end",
            "1 PUBLISH a 1",
            "0 drain",
        ],
    ),
    (
        "only some",
        OLD,
        &[
            "0!1 SUBSCRIBE end",
            "0!1 GET a",
            "0!1 PING",
            "0!1 PING x",
            "0!1 SET a 1",
            "0!1 MULTI",
            "0 drain",
        ],
    ),
    (
        "ping",
        NEW,
        &[
            "0!1 SUBSCRIBE end",
            "0 PING",
            "0 PING x",
            "0 GET a",
            "0 drain",
        ],
    ),
    (
        "reset",
        BOTH,
        &[
            "0!1 SUBSCRIBE end",
            "0!1 RESET",
            "1 PUBLISH end 1",
            "0!1 SUBSCRIBE end",
            "0 drain",
        ],
    ),
    (
        "in a transaction",
        NEW,
        &[
            "0!1 SUBSCRIBE end",
            "1 MULTI",
            "1 PUBLISH end 0",
            "1 SET a 1",
            "1 EXEC",
            "0 GET a",
            "0 drain",
        ],
    ),
    (
        "wrong",
        BOTH,
        &[
            "1 SUBSCRIBE",
            "1 PUBLISH a",
            "1 PUBSUB",
            "1 PUBSUB NOSUCH",
            "1 PUBSUB NUMSUB",
            "1 PUBSUB CHANNELS a b",
            "1 PUBSUB CHANNELS nosuch*",
        ],
    ),
    (
        "tracking",
        NEW,
        &[
            "0!1 SUBSCRIBE end",
            "0 CLIENT TRACKING ON",
            "0 GET a",
            "0 MGET b c",
            "1 SET a 1",
            "1 SET a 2",
            "1 DEL b",
            "1 MSET b 1 c 1",
            "0 drain",
            "0 GET a",
            "1 EXPIRE a 100",
            "0 drain",
            "0 GET a",
            "0 CLIENT TRACKING OFF",
            "1 SET a 3",
            "0 drain",
        ],
    ),
    (
        "tracking others",
        NEW,
        &[
            "0!1 SUBSCRIBE end",
            "0 CLIENT TRACKING ON NOLOOP",
            "0 HGETALL h",
            "0 LRANGE l 0 -1",
            "0 EXISTS e",
            "0 SET h x",
            "0 DEL h",
            "0 HGETALL h",
            "1 HSET h f v",
            "1 RPUSH l 1",
            "1 FLUSHALL",
            "0 drain",
        ],
    ),
    (
        "tracking all",
        NEW,
        &[
            "0!1 SUBSCRIBE end",
            "0 CLIENT TRACKING ON",
            "0 SET a 1",
            "1 SET a 2",
            "0 drain",
            "0 GET a",
            "1 RENAME a b",
            "0 drain",
        ],
    ),
    (
        "tracking of scripts",
        NEW,
        &[
            "0!1 SUBSCRIBE end",
            "0 CLIENT TRACKING ON",
            "0 EVAL redis.call('set','c',1) 2 a b",
            "1 MSET a 1 b 1 c 1",
            "0 EVAL redis.call('get','c') 2 a b",
            "1 MSET a 2 b 2 c 2",
            "0 drain",
            "0 EVAL_RO redis.call('ping') 1 a",
            "1 SET a 3",
            "0 EVAL_RO redis.call('get','a') 2 a b",
            "1 MSET a 4 b 4",
            "0 drain",
        ],
    ),
    (
        "optin",
        NEW,
        &[
            "0!1 SUBSCRIBE end",
            "0 CLIENT CACHING YES",
            "0 CLIENT TRACKING ON OPTIN",
            "0 GET a",
            "0 CLIENT CACHING NO",
            "0 CLIENT CACHING YES",
            "0 GET b",
            "0 GET c",
            "1 MSET a 1 b 1 c 1",
            "0 drain",
            "0 CLIENT TRACKINGINFO",
        ],
    ),
    (
        "optin transaction",
        NEW,
        &[
            "0!1 SUBSCRIBE end",
            "0 CLIENT TRACKING ON OPTIN",
            "0 CLIENT CACHING YES",
            "0 MULTI",
            "0 GET a",
            "0 GET b",
            "0 EXEC",
            "0 GET c",
            "1 MSET a 1 b 1 c 1",
            "0 drain",
        ],
    ),
    (
        "optout",
        NEW,
        &[
            "0!1 SUBSCRIBE end",
            "0 CLIENT TRACKING ON OPTOUT",
            "0 GET a",
            "0 CLIENT CACHING NO",
            "0 GET b",
            "0 CLIENT CACHING YES",
            "1 SET a 1",
            "1 SET b 1",
            "0 drain",
            "0 CLIENT TRACKINGINFO",
        ],
    ),
    (
        "tracking wrong",
        NEW,
        &[
            "0 CLIENT TRACKING",
            "0 CLIENT TRACKING maybe",
            "0 CLIENT TRACKING ON OPTIN OPTOUT",
            "0 CLIENT TRACKING ON PREFIX a",
            "0 CLIENT TRACKING ON BCAST OPTIN",
            "0 CLIENT TRACKING ON REDIRECT 999999999",
            "0 CLIENT TRACKING ON REDIRECT x",
            "0 CLIENT TRACKING ON BCAST PREFIX ab PREFIX a",
            "0 CLIENT TRACKING ON",
            "0 CLIENT TRACKING ON BCAST",
            "0 CLIENT TRACKINGINFO",
            "0 CLIENT GETREDIR",
            "0 CLIENT TRACKING OFF",
            "0 CLIENT GETREDIR",
            "0 CLIENT TRACKINGINFO",
        ],
    ),
    (
        "broadcast",
        NEW,
        &[
            "0!1 SUBSCRIBE end",
            "0 CLIENT TRACKING ON BCAST PREFIX a PREFIX b",
            "0 CLIENT TRACKINGINFO",
            "1 SET a1 1",
            "0 drain",
            "1 SET c1 1",
            "1 SET b1 1",
            "0 drain",
            "0 CLIENT TRACKING OFF",
            "1 SET a1 1",
            "0 drain",
        ],
    ),
];

/// Commands of the second connection, told to the first by `__key*__:*`.
const NOTIFIED: &[&str] = &[
    "SET a 1",
    "SET a 2 EX 100",
    "SETNX n 1",
    "SETEX a 100 v",
    "GETSET a x",
    "MSET a 1 b 2",
    "APPEND a x",
    "SETRANGE a 1 y",
    "INCR i",
    "INCRBY i 5",
    "DECR i",
    "INCRBYFLOAT f 1.5",
    "GETDEL b",
    "DEL a nosuch",
    "SET a 1",
    "EXPIRE a 100",
    "PERSIST a",
    "PEXPIREAT a 1",
    "SET a 1",
    "GETEX a EX 100",
    "GETEX a PERSIST",
    "RENAME a c",
    "COPY c d",
    "RENAMENX d e",
    "SETBIT bit 3 1",
    "BITOP NOT bit2 bit",
    "BITFIELD bit SET u8 0 5",
    "PFADD h1 a b",
    "PFMERGE h2 h1",
    "RPUSH l a b c d e f",
    "LPUSH l z",
    "LPUSHX nosuch a",
    "LINSERT l BEFORE a y",
    "LSET l 0 q",
    "LREM l 1 a",
    "LTRIM l 0 3",
    "LPOP l",
    "RPOP l",
    "LMOVE l m LEFT RIGHT",
    "RPOP l",
    "LMPOP 1 m LEFT",
    "SADD s 1 2 3 4",
    "SADD s 1",
    "SREM s 1",
    "SADD t 1",
    "SPOP t",
    "SINTERSTORE u s s",
    "SUNIONSTORE u nosuch",
    "SDIFFSTORE u s nosuch",
    "HSET h f 1 g 2",
    "HSETNX h f 1",
    "HINCRBY h f 2",
    "HINCRBYFLOAT h f 1.5",
    "HDEL h f",
    "HDEL h g",
    "ZADD z 1 a 2 b 3 c 4 d 5 e",
    "ZADD z 1 a",
    "ZINCRBY z 1 a",
    "ZREM z a",
    "ZPOPMIN z",
    "ZPOPMAX z",
    "ZREMRANGEBYRANK z 0 0",
    "ZADD z 1 a 2 b",
    "ZREMRANGEBYSCORE z 0 1",
    "ZADD z 0 a 0 b",
    "ZREMRANGEBYLEX z [a [a",
    "ZUNIONSTORE y 1 z",
    "ZRANGESTORE x y 0 -1",
    "SORT s STORE sorted",
    "UNLINK sorted s",
];

struct Pair {
    redis: Vec<Talk>,
    node: Vec<Talk>,
}

/// A connection, and what was pushed to it.
struct Talk {
    client: Client,
    pushed: VecDeque<Reply>,
}

impl Talk {
    fn ask(&mut self, command: &str) -> Reply {
        let words: Vec<&str> = command.split_whitespace().collect();
        self.send(&words);
        loop {
            match self.client.reply().expect("a reply") {
                push @ Reply::Many(b'>', _) => self.pushed.push_back(push),
                reply => return reply,
            }
        }
    }

    fn send(&mut self, words: &[&str]) {
        let mut bytes = Vec::new();
        let words: Vec<&[u8]> = words.iter().map(|w| w.as_bytes()).collect();
        cache_node::store::effect::write_command(&mut bytes, &words);
        self.client.send(&bytes);
    }

    /// Takes what comes until there were so many replies: messages are none.
    fn expect(&mut self, mut replies: usize) {
        while replies > 0 {
            let reply = self.client.reply().expect("a reply");
            let first = match &reply {
                Reply::Many(_, Some(items)) => items[0].text(),
                _ => String::new(),
            };
            replies -= usize::from(!first.ends_with("message") && first != "invalidate");
            self.pushed.push_back(reply);
        }
    }

    /// Everything up to the message of the end.
    fn drain(&mut self) -> Vec<Reply> {
        let is_end = |reply: &Reply| match reply {
            Reply::Many(_, Some(items)) => items.len() == 3 && items[2].text() == "the end",
            _ => false,
        };
        let mut all: Vec<Reply> = self.pushed.drain(..).collect();
        while !all.last().is_some_and(is_end) {
            all.push(self.client.reply().expect("the end"));
        }
        all
    }
}

impl Pair {
    fn new(redis: &Redis, node: &TestNode, protocol: u8) -> Self {
        let connect = |client: &dyn Fn() -> Client| -> Vec<Talk> {
            (0..=CLIENTS)
                .map(|_| {
                    let mut talk = Talk {
                        client: client(),
                        pushed: VecDeque::new(),
                    };
                    talk.ask(&format!("HELLO {protocol}"));
                    talk
                })
                .collect()
        };
        let mut pair = Self {
            redis: connect(&|| redis.client()),
            node: connect(&|| node.client()),
        };
        for talk in [&mut pair.redis[0], &mut pair.node[0]] {
            talk.ask("FLUSHALL");
        }
        pair
    }

    /// Gives what differs.
    fn step(&mut self, step: &str) -> Option<String> {
        let (who, command) = step.split_once(' ').unwrap();
        let (who, replies) = match who.split_once('!') {
            Some((who, replies)) => (who, Some(replies.parse().unwrap())),
            None => (who, None),
        };
        let who: usize = who.parse().unwrap();
        let [redis, node] = [&mut self.redis, &mut self.node].map(|talks| {
            if command == "drain" {
                // What was sent is answered before the end is published: subscriptions are in force.
                wait_for_subscription(&mut talks[CLIENTS]);
                talks[CLIENTS].send(&["PUBLISH", "end", "the end"]);
                talks[CLIENTS].client.reply();
                talks[who].drain()
            } else if let Some(replies) = replies {
                talks[who].send(&command.split_whitespace().collect::<Vec<_>>());
                talks[who].expect(replies);
                Vec::new()
            } else {
                vec![talks[who].ask(command)]
            }
        });
        (redis != node).then(|| format!("{step}\n  redis: {redis:?}\n  here:  {node:?}"))
    }
}

/// Until the server has heard that somebody waits for the end.
fn wait_for_subscription(talk: &mut Talk) {
    wait_for("a subscription to the end", || {
        let reply = talk.ask("PUBSUB NUMSUB end");
        reply.items()[1].text() != ":0"
    });
}

#[test]
fn what_is_pushed_is_what_redis_pushes() {
    let redis = Redis::start();
    let node = TestNode::start();
    let mut unlike = Vec::new();
    for (name, protocols, steps) in SCENARIOS {
        for &protocol in *protocols {
            let mut pair = Pair::new(&redis, &node, protocol);
            for step in *steps {
                if let Some(difference) = pair.step(step) {
                    unlike.push(format!("RESP{protocol} {name}: {difference}"));
                    break;
                }
            }
        }
    }
    assert!(unlike.is_empty(), "{}", unlike.join("\n"));
}

/// On one thread, as then nobody takes a message before its command is over.
#[test]
fn changed_keys_of_a_prefix_are_told_together() {
    const STEPS: [&str; 14] = [
        "0!1 SUBSCRIBE end",
        "0 CLIENT TRACKING ON BCAST PREFIX a PREFIX b",
        "1 MSET a2 1 a1 1 c 1 b1 1",
        "0 drain",
        "1 MULTI",
        "1 INCR a2",
        "1 INCR b1",
        "1 DEL a2 a1",
        "1 EXEC",
        "0 drain",
        "0 CLIENT TRACKING ON BCAST PREFIX d",
        "1 MSET a3 1 d 1",
        "1 FLUSHALL",
        "0 drain",
    ];
    let redis = Redis::start();
    let node = TestNode::with(|config| config.threads = Some(1));
    let mut pair = Pair::new(&redis, &node, 3);
    let unlike: Vec<String> = STEPS.iter().filter_map(|step| pair.step(step)).collect();
    assert!(unlike.is_empty(), "{}", unlike.join("\n"));
}

#[test]
fn keyspace_notifications_are_those_of_redis() {
    let redis = Redis::start();
    let node = TestNode::start();
    let mut pair = Pair::new(&redis, &node, 3);
    let mut unlike = Vec::new();
    for step in [
        "1 CONFIG SET notify-keyspace-events KEAm",
        "1 CONFIG GET notify-keyspace-events",
        "1 CONFIG SET notify-keyspace-events KElxn",
        "1 CONFIG GET notify-keyspace-events",
        "1 CONFIG SET notify-keyspace-events KEAm",
        "1 CONFIG SET notify-keyspace-events KEA",
        "1 CONFIG SET notify-keyspace-events q",
        "0!1 PSUBSCRIBE __key*__:*",
        "0!1 SUBSCRIBE end",
        "0 drain",
    ] {
        unlike.extend(pair.step(step));
    }
    for command in NOTIFIED {
        for step in [&format!("1 {command}"), "0 drain"] {
            unlike.extend(pair.step(step).map(|d| format!("after {command}: {d}")));
        }
    }
    // Of those that only read.
    for step in [
        "1 CONFIG SET notify-keyspace-events KEm",
        "1 GET nosuch",
        "1 MGET nosuch e",
        "1 EXISTS nosuch2",
        "1 HGET nosuch f",
        "1 SET e 1",
        "0 drain",
    ] {
        unlike.extend(pair.step(step));
    }
    // Newer than 7.0: keys that were not there before.
    let new = [
        "CONFIG SET notify-keyspace-events En",
        "SET brandnew 1",
        "SET brandnew 2",
    ];
    for command in new {
        pair.node[1].ask(command);
    }
    pair.node[CLIENTS].send(&["PUBLISH", "end", "the end"]);
    pair.node[CLIENTS].client.reply();
    let told: Vec<String> = pair.node[0]
        .drain()
        .iter()
        .map(|p| p.items()[2].text())
        .collect();
    assert_eq!(told, ["__keyevent@0__:new", "the end"]);
    for talks in [&mut pair.redis, &mut pair.node] {
        talks[1].ask("DEL brandnew");
    }
    // Off again: nothing more is told.
    for step in [
        "1 CONFIG SET notify-keyspace-events Kx",
        "1 SET a 1",
        "0 drain",
        "1 PSETEX a 1 1",
    ] {
        unlike.extend(pair.step(step));
    }
    std::thread::sleep(std::time::Duration::from_millis(5));
    for step in [
        "1 GET a",
        "0 drain",
        "1 MULTI",
        "1 SET a 1",
        "1 EXEC",
        "0 drain",
    ] {
        unlike.extend(pair.step(step));
    }
    assert!(unlike.is_empty(), "{}", unlike.join("\n"));
}

#[test]
fn invalidations_are_redirected() {
    let redis = Redis::start();
    let node = TestNode::start();
    for protocol in [2, 3] {
        let mut pair = Pair::new(&redis, &node, protocol);
        let mut said = Vec::new();
        for talks in [&mut pair.redis, &mut pair.node] {
            let id = talks[0].ask("CLIENT ID").text();
            talks[0].send(&["SUBSCRIBE", "end", "__redis__:invalidate"]);
            wait_for_subscription(&mut talks[CLIENTS]);
            let mut said_here =
                vec![talks[1].ask(&format!("CLIENT TRACKING ON REDIRECT {}", &id[1..]))];
            said_here.push(talks[1].ask("GET a"));
            said_here.push(talks[2].ask("SET a 1"));
            said_here.push(talks[1].ask("GET b"));
            said_here.push(talks[2].ask("FLUSHALL"));
            talks[CLIENTS].send(&["PUBLISH", "end", "the end"]);
            talks[CLIENTS].client.reply();
            said_here.extend(talks[0].drain());
            said.push(said_here);
        }
        assert_eq!(said[1], said[0], "RESP{protocol}");
    }
}

#[test]
fn evicted_and_expired_keys_are_told_to_who_has_read_them() {
    let node = TestNode::start();
    let mut talk = Talk {
        client: node.client(),
        pushed: VecDeque::new(),
    };
    talk.ask("HELLO 3");
    talk.ask("CLIENT TRACKING ON");
    talk.ask("SET a 1");
    talk.ask("SET b 1 PX 1");
    talk.ask("GET a");
    talk.ask("GET b");
    talk.pushed.clear();
    node.node
        .store
        .set_policy(cache_node::store::PolicyKind::named("allkeys-random").unwrap());
    node.node.store.tidy_queues();
    wait_for("a key is told to be gone", || {
        node.node.store.evict_one();
        talk.ask("PING");
        talk.pushed.iter().any(|p| format!("{p:?}").contains("97"))
    });
}

/// Who does not read its messages is closed, others are not.
#[test]
fn a_subscriber_that_does_not_read_is_closed() {
    let node = TestNode::start();
    let mut talk = node.client();
    assert_eq!(
        talk.ask("CONFIG SET client-output-buffer-limit nosuch")
            .text()
            .as_bytes()[0],
        b'-'
    );
    assert_eq!(
        talk.ask_words(&[
            b"CONFIG",
            b"SET",
            b"client-output-buffer-limit",
            b"pubsub 1mb 0 0"
        ])
        .text(),
        "+OK"
    );
    let limits = talk.ask("CONFIG GET client-output-buffer-limit");
    assert!(
        limits.items()[1].text().ends_with("pubsub 1048576 0 0"),
        "{limits:?}"
    );
    let mut slow = node.client();
    slow.send(b"SUBSCRIBE c\r\n");
    slow.reply();
    let message = vec![b'x'; 100_000];
    wait_for("the slow one is closed", || {
        talk.ask_words(&[b"PUBLISH", b"c", &message]).text() == ":0"
    });
    assert_eq!(node.node.clients.len(), 1);
}

#[test]
fn messages_from_all_threads_arrive_in_the_order_of_each_sender() {
    const MESSAGES: usize = 2_000;
    let node = TestNode::with(|config| config.threads = Some(3));
    let mut subscribers: Vec<Client> = (0..6)
        .map(|_| {
            let mut client = node.client();
            client.ask("SUBSCRIBE c");
            client
        })
        .collect();
    let address = node.address;
    let senders: Vec<_> = (0..3)
        .map(|sender| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                for i in 0..MESSAGES {
                    assert_eq!(client.ask(&format!("PUBLISH c {sender}:{i}")).text(), ":6");
                }
            })
        })
        .collect();
    for client in &mut subscribers {
        let mut next = [0; 3];
        for _ in 0..3 * MESSAGES {
            let message = client.reply().unwrap().items()[2].text();
            let (sender, i) = message.split_once(':').unwrap();
            let next = &mut next[sender.parse::<usize>().unwrap()];
            assert_eq!(i.parse::<usize>().unwrap(), *next);
            *next += 1;
        }
    }
    senders.into_iter().for_each(|s| s.join().unwrap());
}

/// `bar` is in slot 5061.
#[test]
fn a_sharded_channel_follows_its_slot() {
    let member = Member::start();
    member.push(1);
    let mut client = member.node.client();
    assert_eq!(
        client.ask("SSUBSCRIBE foo").text(),
        "-MOVED 12182 o-0.test:7001"
    );
    assert_eq!(
        client.ask("SPUBLISH foo x").text(),
        "-MOVED 12182 o-0.test:7001"
    );
    assert!(
        client
            .ask("SSUBSCRIBE bar {user1000}.following")
            .text()
            .starts_with("-CROSSSLOT")
    );
    client.ask("SSUBSCRIBE bar");
    let mut other = member.node.client();
    assert_eq!(other.ask("SPUBLISH bar x").text(), ":1");
    assert_eq!(client.reply().unwrap().items()[2].text(), "x");
    member.push_up_to(2, 5_000);
    let left = client.reply().unwrap();
    let left: Vec<String> = left.items().iter().map(Reply::text).collect();
    assert_eq!(left, ["sunsubscribe", "bar", ":0"]);
    assert_eq!(client.ask("GET {user1000}.following"), Reply::Bulk(None));
    assert_eq!(
        other.ask("PUBSUB SHARDCHANNELS"),
        Reply::Many(b'*', Some(Vec::new()))
    );
}
