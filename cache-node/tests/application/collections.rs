//! Collections beside those of a real redis-server 7.0: random commands on few keys of every type, packed and big, in both versions of
//! the protocol.

use cache_node::node::now_ms;

use super::compare::Pair;
use super::generate::{Random, Words, command_of};
use super::redis::Redis;
use super::wire::TestNode;

/// See `generate.rs`: H, S, L, Z, Y are keys of a type, E is an element, Q a score, R and X bounds, N a small number.
const HASHES: &[&str] = &[
    "HSET H E E",
    "HSET H E V E E E I",
    "HSET H E I",
    "HSET H E F E E",
    "HSETNX H E E",
    "HMSET H E E E E",
    "HMSET H E E E",
    "HGET H E",
    "HMGET H E E E",
    "HDEL H E",
    "HDEL H E E E E",
    "HLEN H",
    "HSTRLEN H E",
    "HEXISTS H E",
    "HKEYS H",
    "HVALS H",
    "HGETALL H",
    "HINCRBY H E I",
    "HINCRBY H m1 I",
    "HINCRBYFLOAT H E F",
    "HINCRBYFLOAT H m2 F",
    "HSCAN H 0 COUNT 100000",
    "HSCAN H 0 COUNT 100000 MATCH P",
    "HSCAN H 0 {COUNT MATCH NOVALUES}",
    "HSCAN H abc",
    "HRANDFIELD H",
    "HRANDFIELD H N",
    "HRANDFIELD H N WITHVALUES",
    "HRANDFIELD H 1000 {WITHVALUES}",
    "HRANDFIELD H I {WITHVALUES}",
];

const SETS: &[&str] = &[
    "SADD S E",
    "SADD S E E E",
    "SADD S I N N",
    "SREM S E",
    "SREM S E E N",
    "SMOVE S S E",
    "SMOVE S S N",
    "SISMEMBER S E",
    "SMISMEMBER S E N E",
    "SCARD S",
    "SMEMBERS S",
    "SPOP S 100000",
    "SPOP S 0",
    "SPOP S -1",
    "SPOP nosuch",
    "SPOP nosuch 2",
    "SRANDMEMBER S",
    "SRANDMEMBER S N",
    "SRANDMEMBER S 1000",
    "SRANDMEMBER S x",
    "SRANDMEMBER S N E",
    "SINTER S S",
    "SINTER S S S",
    "SINTERSTORE S S S",
    "SINTERCARD 2 S S",
    "SINTERCARD 2 S S LIMIT N",
    "SINTERCARD N S S",
    "SINTERCARD 1 S {LIMIT 1 EXTRA}",
    "SUNION S S",
    "SUNION S nosuch S",
    "SUNIONSTORE S S S",
    "SUNIONSTORE S nosuch",
    "SDIFF S S",
    "SDIFF S S S",
    "SDIFFSTORE S S S",
    "SDIFFSTORE Y S S",
    "SSCAN S 0 COUNT 100000",
    "SSCAN S 0 COUNT 100000 MATCH P",
    "SSCAN S 0 COUNT 0",
    "COMMAND GETKEYS SINTERCARD 2 S S",
];

const LISTS: &[&str] = &[
    "RPUSH L E",
    "RPUSH L E E E",
    "LPUSH L E",
    "LPUSH L E E E",
    "RPUSHX L E",
    "LPUSHX L E E",
    "LINSERT L BEFORE E E",
    "LINSERT L AFTER E E",
    "LINSERT L OVER E E",
    "RPOP L",
    "LPOP L",
    "LPOP L N",
    "RPOP L N",
    "LPOP L I",
    "LPOP nosuch",
    "LPOP nosuch 1",
    "LMPOP 2 L L LEFT",
    "LMPOP 1 L RIGHT COUNT N",
    "LMPOP N L L LEFT",
    "LMPOP 1 L MIDDLE",
    "LMPOP 1 L LEFT {COUNT 1 COUNT 2}",
    "LMPOP 1 nosuch LEFT",
    "LLEN L",
    "LINDEX L N",
    "LINDEX L x",
    "LSET L N E",
    "LSET L x E",
    "LSET nosuch x E",
    "LRANGE L N N",
    "LRANGE L 0 -1",
    "LRANGE L x 1",
    "LTRIM L N N",
    "LTRIM L 0 -2",
    "LTRIM L x N",
    "LPOS L E",
    "LPOS L E RANK N",
    "LPOS L E COUNT N",
    "LPOS L E RANK N COUNT N MAXLEN N",
    "LPOS L E {RANK 1 COUNT 0 MAXLEN}",
    "LREM L N E",
    "LREM L 0 E",
    "LREM L x E",
    "RPOPLPUSH L L",
    "LMOVE L L LEFT LEFT",
    "LMOVE L L LEFT RIGHT",
    "LMOVE L L RIGHT LEFT",
    "LMOVE L L RIGHT RIGHT",
    "LMOVE L L UP RIGHT",
    "COMMAND GETKEYS LMPOP 2 L L LEFT",
];

const ZSETS: &[&str] = &[
    "ZADD Z Q E",
    "ZADD Z Q E Q E Q E",
    "ZADD Z {NX XX GT LT CH INCR} Q E",
    "ZADD Z {XX GT CH} Q E Q E",
    "ZADD Z Q E Q",
    "ZADD Z INCR Q E Q E",
    "ZINCRBY Z Q E",
    "ZREM Z E E",
    "ZCARD Z",
    "ZSCORE Z E",
    "ZMSCORE Z E E",
    "ZRANK Z E",
    "ZREVRANK Z E",
    "ZSCAN Z 0 COUNT 100000",
    "ZSCAN Z 0 COUNT 100000 MATCH P",
    "ZPOPMIN Z",
    "ZPOPMAX Z N",
    "ZPOPMIN Z I",
    "ZMPOP 2 Z Z MIN",
    "ZMPOP 1 Z MAX COUNT N",
    "ZMPOP N Z MIDDLE",
    "ZRANDMEMBER Z",
    "ZRANDMEMBER Z N {WITHSCORES}",
    "ZRANDMEMBER Z 1000 {WITHSCORES}",
    "ZRANGE Z N N",
    "ZRANGE Z 0 -1 WITHSCORES",
    "ZRANGE Z N N {REV WITHSCORES}",
    "ZRANGE Z R R BYSCORE {REV WITHSCORES}",
    "ZRANGE Z R R BYSCORE LIMIT N N",
    "ZRANGE lex X X BYLEX {REV}",
    "ZRANGE Z N N {BYSCORE LIMIT 0 1}",
    "ZRANGE lex X X {BYSCORE BYLEX LIMIT 0 1}",
    "ZRANGESTORE Z Z N N",
    "ZRANGESTORE Z Z R R BYSCORE {REV}",
    "ZRANGESTORE Z lex X X BYLEX LIMIT N N",
    "ZREVRANGE Z N N {WITHSCORES}",
    "ZRANGEBYSCORE Z R R {WITHSCORES}",
    "ZRANGEBYSCORE Z R R LIMIT N N",
    "ZREVRANGEBYSCORE Z R R {WITHSCORES}",
    "ZRANGEBYLEX lex X X",
    "ZREVRANGEBYLEX lex X X LIMIT N N",
    "ZCOUNT Z R R",
    "ZLEXCOUNT lex X X",
    "ZADD lex 0 E 0 E 0 E",
    "ZADD lex 0 E",
    "ZREMRANGEBYSCORE Z R R",
    "ZREMRANGEBYRANK Z N N",
    "ZREMRANGEBYLEX lex X (m1",
    "ZUNIONSTORE Z 2 Z Z",
    "ZUNIONSTORE Z 2 Z S WEIGHTS Q Q {AGGREGATE MAX}",
    "ZINTERSTORE Z 2 Z Z AGGREGATE MIN",
    "ZINTERSTORE Z N Z Z",
    "ZDIFFSTORE Z 2 Z Z",
    "ZUNION 2 Z Z {WITHSCORES}",
    "ZUNION 3 Z Z S {WEIGHTS 1 2 3 AGGREGATE SUM WITHSCORES}",
    "ZINTER 2 Z Z {WITHSCORES}",
    "ZINTERCARD 2 Z Z {LIMIT 2}",
    "ZINTERCARD 1 Z LIMIT N",
    "ZDIFF 2 Z Z {WITHSCORES}",
    "ZDIFF 2 Z Z WEIGHTS 1 2",
    "SADD S E E",
    "COMMAND GETKEYS ZUNIONSTORE Z 2 Z Z",
];

const BITMAPS: &[&str] = &[
    "SET Y E",
    "DEL Y",
    "APPEND Y E",
    "SETBIT Y 7 1",
    "SETBIT Y O 1",
    "SETBIT Y 100 0",
    "SETBIT Y 3 N",
    "SETBIT Y x 1",
    "SETBIT Y 4294967296 1",
    "GETBIT Y O",
    "GETBIT Y 13",
    "BITCOUNT Y",
    "BITCOUNT Y N N",
    "BITCOUNT Y N N {BIT BYTE}",
    "BITCOUNT Y N",
    "BITCOUNT Y x N BIT",
    "BITPOS Y 1",
    "BITPOS Y 0 N",
    "BITPOS Y 1 N N",
    "BITPOS Y 0 N N {BIT BYTE}",
    "BITPOS Y N",
    "BITOP AND Y Y Y",
    "BITOP OR Y Y nosuch",
    "BITOP XOR Y Y Y Y",
    "BITOP NOT Y Y",
    "BITOP NOT Y Y Y",
    "BITOP NAND Y Y",
    "BITFIELD Y GET u4 0 SET i8 5 N GET i8 5",
    "BITFIELD Y OVERFLOW SAT INCRBY u2 #3 N OVERFLOW FAIL INCRBY u2 100 N",
    "BITFIELD Y OVERFLOW FAIL SET u3 2 N OVERFLOW WRAP INCRBY i5 #2 I",
    "BITFIELD Y INCRBY i64 3 I GET u63 1",
    "BITFIELD Y SET i64 0 I SET u63 64 I",
    "BITFIELD Y GET u64 0",
    "BITFIELD Y GET x 0",
    "BITFIELD Y",
    "BITFIELD Y {GET SET}",
    "BITFIELD Y OVERFLOW MAYBE",
    "BITFIELD_RO Y GET u8 0 GET i3 #7",
    "BITFIELD_RO Y SET u8 0 1",
    "GET Y",
    "STRLEN Y",
];

const SORTING: &[&str] = &[
    "RPUSH L N N N I",
    "RPUSH L E",
    "SADD S N N N",
    "SADD S E",
    "ZADD Z Q N Q N",
    "MSET w_1 5 w_2 3 w_3 x w_m1 9",
    "MSET w_1 5 w_2 3 w_3 1 w_m1 9",
    "HSET h_1 f 1 g b",
    "HSET h_2 f 7",
    "DEL L",
    "DEL S",
    "SORT L",
    "SORT S",
    "SORT Z",
    "SORT L {ASC DESC ALPHA}",
    "SORT S DESC ALPHA LIMIT N N",
    "SORT L ALPHA LIMIT 0 -1",
    "SORT L LIMIT x 1",
    "SORT L BY nosort GET #",
    "SORT L BY nosort GET # GET w_*",
    "SORT S BY h_*->f",
    "SORT L ALPHA GET h_*->g GET #",
    "SORT Z BY nosort {DESC}",
    "SORT Z BY nosort DESC LIMIT 0 2",
    "SORT S ALPHA STORE L",
    "SORT Z ALPHA DESC STORE L",
    "SORT S BY nosort STORE L",
    "SORT L ALPHA STORE Y",
    "SORT_RO S ALPHA",
    "SORT_RO L STORE L",
    "SORT L BY",
    "COMMAND GETKEYS SORT L BY store LIMIT 0 1 {GET store STORE Y STORE Z}",
    "SORT nosuch",
    "SORT Y",
    "LRANGE L 0 -1",
    "LLEN L",
];

const LOGS: &[&str] = &[
    "PFADD Y E E E",
    "PFADD Y E",
    "PFADD Y",
    "PFCOUNT Y",
    "PFCOUNT Y Y Y",
    "PFMERGE Y Y Y",
    "PFMERGE Y",
    "PFADD H E",
    "PFCOUNT S",
    "PFDEBUG GETREG Y",
    "PFDEBUG TODENSE Y",
    "PFDEBUG ENCODING S",
    "PFDEBUG NOSUCH Y",
    "SET Y E",
    "DEL Y",
    "TYPE Y",
    "DUMP nosuch",
    "RESTORE Y 0 E",
    "RESTORE nosuch 0 V",
    "RESTORE Y -1 V REPLACE",
    "RESTORE Y x V REPLACE",
    "RESTORE Y 0 V {ABSTTL REPLACE NOSUCH}",
    "RESTORE Y 0 V {IDLETIME N}",
    "RESTORE Y 0 V IDLETIME 5 {FREQ 5 IDLETIME 7}",
    "RESTORE Y 0 V REPLACE FREQ {N 255 256}",
];

/// On keys that hold something, or for a moment.
const BLOCKING: &[&str] = &[
    "RPUSH L E E E",
    "LPUSH L E",
    "ZADD Z Q E Q E",
    "BLPOP L L 0.001",
    "BRPOP L 0.001",
    "BLPOP L x",
    "BLPOP L -1",
    "BLMOVE L L LEFT RIGHT 0.001",
    "BLMOVE L L UP RIGHT 0",
    "BRPOPLPUSH L L 0.001",
    "BLMPOP 0.001 2 L L LEFT",
    "BLMPOP 0.001 1 L RIGHT COUNT N",
    "BLMPOP 0.001 N L LEFT",
    "BZPOPMIN Z 0.001",
    "BZPOPMAX Z Z 0.001",
    "BZMPOP 0.001 1 Z MIN COUNT 2",
    "CLIENT UNBLOCK 0",
    "CLIENT UNBLOCK x",
    "CLIENT UNBLOCK 0 SOON",
];

/// Of any type.
const KEYS: &[&str] = &[
    "TYPE H",
    "TYPE Z",
    "OBJECT ENCODING H",
    "OBJECT ENCODING S",
    "OBJECT ENCODING L",
    "OBJECT ENCODING Z",
    "OBJECT REFCOUNT L",
    "OBJECT FREQ nosuch",
    "OBJECT FREQ H",
    "OBJECT IDLETIME nosuch",
    "DEL H",
    "DEL S",
    "DEL L Z",
    "UNLINK H S",
    "RENAME H H",
    "RENAME S L",
    "RENAMENX Z Z",
    "COPY H H {REPLACE}",
    "COPY Z L REPLACE",
    "COPY S S {REPLACE}",
    "EXPIRE H T",
    "PERSIST H",
    "PEXPIRETIME H",
    "EXPIRE Z T",
    "PERSIST L",
    "EXISTS H S L Z",
    "SCAN 0 COUNT 100000 TYPE hash",
    "SCAN 0 COUNT 100000 TYPE zset",
    "SET Y E",
    "SET Y E GET",
    "SET H E NX",
    "GET H",
    "GETSET S E",
    "GETDEL L",
    "GETEX Z",
    "APPEND H E",
    "STRLEN S",
    "SETRANGE L 1 E",
    "GETRANGE H 0 1",
    "INCR H",
    "INCRBYFLOAT S F",
    "MGET H Y S",
    "LCS H Y",
    "LCS Y Y",
    "MSETNX H E Y E",
];

/// Commands of two passes: quick on each push; `CACHE_NODE_COMPARE_COMMANDS` asks for more.
fn commands() -> usize {
    let wanted = std::env::var("CACHE_NODE_COMPARE_COMMANDS").ok();
    wanted.map_or(4_000, |n| {
        n.parse().expect("CACHE_NODE_COMPARE_COMMANDS is a number")
    })
}

/// Every structure is small at first, then big from the fourth element on.
const CONFIGS: &[&str] = &[
    "CONFIG SET hash-max-listpack-entries 128 set-max-intset-entries 512 zset-max-listpack-entries 128",
    "CONFIG SET hash-max-listpack-entries 3 set-max-intset-entries 3 zset-max-listpack-entries 3",
];

fn compare(families: &[&[&'static str]], seed: u64) {
    let redis = Redis::start();
    let node = TestNode::start();
    let templates: Vec<&'static str> = families.iter().flat_map(|f| f.iter().copied()).collect();
    for (protocol, config) in [(2, 0), (3, 1), (2, 1), (3, 0)] {
        let mut pair = Pair::new(&redis, &node, protocol);
        for client in [&mut pair.redis, &mut pair.node] {
            assert!(!client.ask(CONFIGS[config]).is_error());
        }
        if config == 1 {
            // What redis-server 7.0 does not have.
            for set in ["set-max-listpack-entries 3", "list-max-listpack-size 3"] {
                assert!(!pair.node.ask(&format!("CONFIG SET {set}")).is_error());
            }
        }
        let mut random = Random(seed + u64::from(protocol) * 7 + config as u64);
        let mut done = 0;
        while done < commands() / 2 {
            let batch: Vec<Words> = (0..1 + random.below(40))
                .map(|_| command_of(&mut random, &templates, now_ms()))
                .collect();
            pair.compare(&batch, done);
            done += batch.len();
        }
        let unlike: String = pair.unlike.into_values().collect();
        assert!(
            unlike.is_empty(),
            "protocol {protocol}, configuration {config}\n{unlike}"
        );
    }
}

#[test]
fn hashes_are_answered_as_redis_answers_them() {
    compare(&[HASHES, HASHES, KEYS], 0xC011_0001);
}

#[test]
fn sets_are_answered_as_redis_answers_them() {
    compare(&[SETS, SETS, KEYS], 0xC011_0011);
}

#[test]
fn lists_are_answered_as_redis_answers_them() {
    compare(&[LISTS, LISTS, KEYS], 0xC011_0021);
}

#[test]
fn sorted_sets_are_answered_as_redis_answers_them() {
    compare(&[ZSETS, ZSETS, KEYS], 0xC011_0031);
}

#[test]
fn pops_that_may_wait_are_answered_as_redis_answers_them() {
    compare(&[BLOCKING, BLOCKING, LISTS], 0xC011_0041);
}

#[test]
fn bits_are_answered_as_redis_answers_them() {
    compare(&[BITMAPS, BITMAPS, KEYS], 0xC011_0051);
}

#[test]
fn sorting_is_answered_as_redis_answers_it() {
    // Redis makes a skiplist of each sorted set that it sorts, however small, and never a listpack of it again.
    let keys: Vec<&str> = KEYS
        .iter()
        .copied()
        .filter(|template| !template.starts_with("OBJECT ENCODING"))
        .collect();
    compare(&[SORTING, SORTING, &keys], 0xC011_0061);
}

#[test]
fn hyperloglogs_are_answered_as_redis_answers_them() {
    // What is in the strings is alike, but not the same byte by byte.
    compare(&[LOGS], 0xC011_0071);
}

/// What one server dumps the other restores: every type, small and big, and texts that Redis compresses.
#[test]
fn dumps_are_exchanged_with_redis() {
    let (redis, node) = (Redis::start(), TestNode::start());
    let (mut redis, mut node) = (redis.client(), node.client());
    let mut fill: Vec<String> = Vec::new();
    for (size, count) in [("small", 5), ("big", 700)] {
        for i in 0..count {
            let long = "long".repeat(if i % 50 == 3 { 40 } else { 1 });
            fill.push(format!("HSET hash:{size} f{i} {long}{i}"));
            fill.push(format!(
                "RPUSH list:{size} {i} {long} -{i}00000 {i}0000000000"
            ));
            fill.push(format!("SADD set:{size} m{i}{long}"));
            fill.push(format!("SADD ints:{size} {}", i * 1_000_003));
            fill.push(format!("ZADD zset:{size} {}.5 m{i}", i % 9));
        }
    }
    fill.push(format!(
        "SET text {}",
        "compressible ".repeat(200).replace(' ', "_")
    ));
    fill.push("SET number -123456".into());
    let mut keys: Vec<String> = ["text", "number"].map(str::to_owned).to_vec();
    for kind in ["hash", "list", "set", "ints", "zset"] {
        keys.extend(["small", "big"].map(|size| format!("{kind}:{size}")));
    }
    let show = |client: &mut super::wire::Client, key: &str| -> Vec<String> {
        let kind = client.ask(&format!("TYPE {key}")).text();
        let command = match kind.as_str() {
            "+hash" => format!("HGETALL {key}"),
            "+list" => format!("LRANGE {key} 0 -1"),
            "+set" => format!("SMEMBERS {key}"),
            "+zset" => format!("ZRANGE {key} 0 -1 WITHSCORES"),
            _ => return vec![client.ask(&format!("GET {key}")).text()],
        };
        let reply = client.ask(&command);
        let mut items: Vec<String> = reply.items().iter().map(|item| item.text()).collect();
        match kind.as_str() {
            "+hash" => {
                let mut pairs: Vec<String> = items.chunks(2).map(|p| p.join("=")).collect();
                pairs.sort();
                return pairs;
            }
            "+set" => items.sort(),
            _ => {}
        }
        items
    };
    for turn in 0..2 {
        let (from, to) = match turn {
            0 => (&mut redis, &mut node),
            _ => (&mut node, &mut redis),
        };
        for command in &fill {
            assert!(!from.ask(command).is_error(), "{command}");
        }
        for key in &keys {
            let super::wire::Reply::Bulk(Some(dumped)) = from.ask(&format!("DUMP {key}")) else {
                panic!("{key} is not dumped");
            };
            let copy = format!("copy:{key}");
            let restored = to.ask_words(&[b"RESTORE", copy.as_bytes(), b"0", &dumped]);
            assert_eq!(restored.text(), "+OK", "{key}");
            assert_eq!(show(to, &copy), show(from, key), "{key}");
            let again = to.ask_words(&[b"RESTORE", copy.as_bytes(), b"0", &dumped]);
            assert!(again.text().starts_with("-BUSYKEY"), "{}", again.text());
            let mut damaged = dumped.clone();
            damaged[3] ^= 1;
            let refused = to.ask_words(&[b"RESTORE", copy.as_bytes(), b"0", &damaged, b"REPLACE"]);
            assert!(refused.is_error(), "{key}");
        }
        assert!(!from.ask("FLUSHALL").is_error() && !to.ask("FLUSHALL").is_error());
    }
}

/// First come, first served, across connections; time-outs, UNBLOCK, and clients that go away.
#[test]
fn those_who_wait_are_served_in_their_order() {
    let node = TestNode::start();
    let blocked = || node.node.blocked.count();
    let mut writer = node.client();
    let mut waiting: Vec<_> = (0..5).map(|_| node.client()).collect();
    for (i, client) in waiting.iter_mut().enumerate() {
        super::wire::Client::send(client, b"BLPOP a b 0\r\nPING\r\n");
        super::wire::wait_for("it waits", || blocked() == i + 1);
    }
    assert_eq!(writer.ask("RPUSH b 1 2").text(), ":2");
    assert_eq!(writer.ask("EXISTS b").text(), ":0");
    // One that is gone is passed over.
    drop(waiting.remove(2));
    super::wire::wait_for("it is noticed", || blocked() == 2);
    assert_eq!(writer.ask("RPUSH a 3").text(), ":1");
    let id = {
        let list = writer.ask("CLIENT LIST").text();
        let line = list
            .lines()
            .find(|l| l.contains("flags=b"))
            .expect("one still waits")
            .to_owned();
        line["id=".len()..].split(' ').next().unwrap().to_owned()
    };
    assert_eq!(
        writer.ask(&format!("CLIENT UNBLOCK {id} ERROR")).text(),
        ":1"
    );
    assert_eq!(
        writer.ask(&format!("CLIENT UNBLOCK {id} ERROR")).text(),
        ":0"
    );
    let mut replies = waiting.iter_mut().map(|client| {
        let reply = client.reply().expect("a reply");
        assert_eq!(client.reply().expect("a reply").text(), "+PONG");
        reply
    });
    for (key, element) in [("b", "1"), ("b", "2"), ("a", "3")] {
        let reply = replies.next().expect("one more");
        assert_eq!(
            [reply.items()[0].text(), reply.items()[1].text()],
            [key, element]
        );
    }
    let last = replies.next().expect("the last").text();
    assert_eq!(last, "-UNBLOCKED client unblocked via CLIENT UNBLOCK");
    drop(replies);
    // A chain: what is moved serves the next.
    let mut chain = [node.client(), node.client(), node.client()];
    chain[0].send(b"BLMOVE a b LEFT RIGHT 0\r\n");
    chain[1].send(b"BLMOVE b c LEFT RIGHT 0\r\n");
    chain[2].send(b"BLPOP c 0\r\n");
    super::wire::wait_for("all wait", || blocked() == 3);
    assert_eq!(writer.ask("LPUSH a x").text(), ":1");
    assert_eq!(chain[0].reply().expect("a reply").text(), "x");
    assert_eq!(chain[1].reply().expect("a reply").text(), "x");
    assert_eq!(chain[2].reply().expect("a reply").items()[1].text(), "x");
    assert_eq!(writer.ask("EXISTS a b c").text(), ":0");
    assert_eq!(
        chain[0].ask("BZPOPMIN z 0.05"),
        super::wire::Reply::Many(b'*', None)
    );
    chain[0].send(b"BZPOPMAX z 0\r\n");
    super::wire::wait_for("it waits", || blocked() == 1);
    // Another type is not what it waits for.
    assert_eq!(writer.ask("RPUSH z 1").text(), ":1");
    assert_eq!(writer.ask("DEL z").text(), ":1");
    assert_eq!(writer.ask("ZADD z 1 a 2 b").text(), ":2");
    assert_eq!(chain[0].reply().expect("a reply").items()[1].text(), "b");
    assert_eq!(blocked(), 0);
}
