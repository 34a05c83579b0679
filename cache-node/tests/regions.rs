//! Regions with real processes: live changes, replicas, full syncs, slot moves, restarts and failover keep each item in its region.

mod support;

use std::collections::BTreeMap;

use cache_node::cluster::state::{MovePhase, RegionState};
use cache_node::control::resp::Reply;
use serde_json::{Value, json};
use support::process::{Client, Process};
use support::*;

const ALL: &[(u16, u16)] = &[(0, 16_383)];

fn region(name: &str, prefix: &str) -> Value {
    json!({"name": name, "prefix": prefix, "eviction": "s3-fifo"})
}

fn set_regions(node: &Process, regions: &[Value]) {
    set_list(node, &json!({"regions": regions}));
}

fn set_list(node: &Process, list: &Value) {
    let before = node.state().regions_hash;
    let reply = node.node(&["REGIONS", "SET", &list.to_string()]);
    assert_eq!(reply.as_deref(), Ok("OK"));
    wait_until("the list is in force", || {
        let hash = node.state().regions_hash;
        hash != before && !hash.is_empty()
    });
}

fn told(node: &Process, name: &str) -> RegionState {
    let mut regions = node.state().regions.into_iter();
    regions.find(|r| r.name == name).unwrap_or_default()
}

fn ask(client: &mut Client, command: &[&str]) -> Reply {
    let words: Vec<&[u8]> = command.iter().map(|w| w.as_bytes()).collect();
    client.ask(&words).unwrap()
}

fn ok(client: &mut Client, command: &[&str]) {
    assert_eq!(
        ask(client, command),
        Reply::Simple("OK".into()),
        "{command:?}"
    );
}

fn integer(client: &mut Client, command: &[&str]) -> i64 {
    match ask(client, command) {
        Reply::Integer(n) => n,
        other => panic!("{command:?}: {other:?}"),
    }
}

fn one(name: &str) -> Process {
    let node = Process::start(name);
    node.push(&Topology::new(1).shard("0", ALL, &[&node]).bootstrap());
    node
}

/// Keys of a region by a naive count over all keys of a node.
fn counted(node: &Process, prefix: &str) -> u64 {
    let keys = node.keys();
    keys.iter()
        .filter(|k| k.starts_with(prefix.as_bytes()))
        .count() as u64
}

#[test]
fn regions_change_and_go_while_the_node_serves() {
    let node = one("m-0-0");
    let mut app = node.app().unwrap();
    for i in 0..3_000 {
        ok(&mut app, &["SET", &format!("session:{i}"), "a value"]);
        ok(&mut app, &["SET", &format!("session:admin:{i}"), "a value"]);
    }
    set_regions(&node, &[region("session", "session:")]);
    let all = told(&node, "session");
    assert_eq!(all.keys, 6_000);
    // A longer prefix takes its keys from the shorter one.
    set_regions(
        &node,
        &[
            region("session", "session:"),
            region("admin", "session:admin:"),
        ],
    );
    let (session, admin) = (told(&node, "session"), told(&node, "admin"));
    assert_eq!((session.keys, admin.keys), (3_000, 3_000));
    assert_eq!(session.bytes + admin.bytes, all.bytes);
    for i in 0..30 {
        ask(&mut app, &["GET", &format!("session:{i}")]);
        ask(&mut app, &["GET", &format!("session:none:{i}")]);
    }
    let found = ask(&mut app, &["MGET", "session:1"]);
    assert_eq!(found, Reply::Array(vec![Reply::Bulk(b"a value".to_vec())]));
    assert_eq!(integer(&mut app, &["EXISTS", "session:1"]), 1);
    let session = told(&node, "session");
    assert_eq!((session.hits, session.misses), (32, 30));
    let Reply::Bulk(info) = ask(&mut app, &["INFO", "regions"]) else {
        panic!("INFO is a bulk")
    };
    let info = String::from_utf8(info).unwrap();
    assert!(info.contains("region_session:keys=3000,"), "{info}");
    // Smaller, live: it gives up what is too much, and nobody else does.
    let mut small = region("session", "session:");
    small["sizeBytes"] = (session.bytes / 2).into();
    set_regions(&node, &[small, region("admin", "session:admin:")]);
    wait_until("it fits", || {
        told(&node, "session").bytes <= session.bytes / 2
    });
    let session = told(&node, "session");
    assert_eq!(session.keys + session.evicted_keys, 3_000);
    assert_eq!(
        (told(&node, "admin").keys, told(&node, "admin").evicted_keys),
        (3_000, 0)
    );
    assert_eq!(session.keys, counted(&node, "session:") - 3_000);
    // Gone: its keys are as all others.
    set_regions(&node, &[]);
    assert!(node.state().regions.is_empty());
    assert_eq!(integer(&mut app, &["DBSIZE"]) as u64, session.keys + 3_000);
}

#[test]
fn a_list_that_is_wrong_changes_nothing_and_says_why() {
    let node = one("m-0-0");
    set_regions(&node, &[region("a", "a:")]);
    let hash = node.state().regions_hash;
    let twice = json!({"regions": [region("b", "b:"), region("c", "b:")]}).to_string();
    let error = node.node(&["REGIONS", "SET", &twice]).unwrap_err();
    assert!(error.starts_with("BADREGIONS regions[1].prefix"), "{error}");
    assert_eq!(
        (node.state().regions_hash, node.state().regions.len()),
        (hash, 1)
    );
    let held: Value = serde_json::from_str(&node.node(&["REGIONS", "GET"]).unwrap()).unwrap();
    assert_eq!(held["regions"][0]["name"], "a");
}

/// Which commands give a key its region's default expiry, and which leave it alone.
#[test]
fn a_default_expiry_is_given_to_keys_that_are_written_anew() {
    let node = one("m-0-0");
    let mut ttl = region("r", "{r}");
    ttl["ttlMs"] = 500_000.into();
    ttl["jitterPercent"] = 10.into();
    set_list(
        &node,
        &json!({"regions": [ttl], "default": {"eviction": "noeviction", "ttlMs": 50_000}}),
    );
    let mut app = node.app().unwrap();
    let gives: [&[&str]; 17] = [
        &["SET", "K", "5"],
        &["SETNX", "K", "5"],
        &["GETSET", "K", "5"],
        &["MSET", "K", "5"],
        &["MSETNX", "K", "5"],
        &["SET", "K", "5", "KEEPTTL"],
        &["APPEND", "K", "5"],
        &["SETRANGE", "K", "3", "5"],
        &["SETBIT", "K", "3", "1"],
        &["INCR", "K"],
        &["INCRBYFLOAT", "K", "1.5"],
        &["HSET", "K", "f", "v"],
        &["LPUSH", "K", "e"],
        &["SADD", "K", "m"],
        &["ZADD", "K", "1", "m"],
        &["PFADD", "K", "m"],
        &["SUNIONSTORE", "K", "{r}source"],
    ];
    // The second key is of the same slot and of no region.
    for (key, low, high) in [("{r}key", 400_000, 550_000), ("k{r}", 10_000, 50_000)] {
        for command in gives {
            integer(&mut app, &["DEL", key]);
            integer(&mut app, &["SADD", "{r}source", "m"]);
            let words: Vec<&str> = command
                .iter()
                .map(|w| if *w == "K" { key } else { w })
                .collect();
            if let Reply::Error(error) = ask(&mut app, &words) {
                panic!("{words:?}: {error}");
            }
            let left = integer(&mut app, &["PTTL", key]);
            assert!((low..=high).contains(&left), "{words:?}: {left}");
        }
    }
    let key = "{r}key";
    ok(&mut app, &["SET", key, "v", "EX", "7"]);
    assert!(
        integer(&mut app, &["PTTL", key]) <= 7_000,
        "what is said wins"
    );
    assert_eq!(integer(&mut app, &["PERSIST", key]), 1);
    integer(&mut app, &["APPEND", key, "x"]);
    ok(&mut app, &["SET", key, "v", "KEEPTTL"]);
    assert_eq!(integer(&mut app, &["PTTL", key]), -1, "PERSIST wins");
    // The values of these bring their expiry along, or that they have none.
    integer(&mut app, &["COPY", key, "{r}copy"]);
    assert_eq!(integer(&mut app, &["PTTL", "{r}copy"]), -1);
    ok(&mut app, &["RENAME", "{r}copy", "{r}other"]);
    assert_eq!(integer(&mut app, &["PTTL", "{r}other"]), -1);
}

/// Eviction under a client that writes without a pause: the region stays near its size, nothing fails.
#[test]
fn writers_wait_for_a_full_region_and_never_fail() {
    let node = one("m-0-0");
    let mut small = region("r", "r:");
    small["sizeBytes"] = 1_000_000.into();
    set_regions(&node, &[small.clone()]);
    let mut app = node.app().unwrap();
    let value = "v".repeat(1_000);
    let bound = 1_000_000 + 1_000_000 / 16 + 64 * 1024 + 2_000;
    for i in 0..20_000 {
        ok(&mut app, &["SET", &format!("r:{i}"), &value]);
        if i % 1_000 == 0 {
            let bytes = told(&node, "r").bytes;
            assert!(bytes <= bound, "{bytes} of {bound}");
        }
    }
    wait_until("it is within its size", || {
        told(&node, "r").bytes <= 1_000_000
    });
    assert!(told(&node, "r").evicted_keys > 18_000);
    let large = "v".repeat(2_000_000);
    match ask(&mut app, &["SET", "r:large", &large]) {
        Reply::Error(text) => assert!(text.starts_with("OOM"), "{text}"),
        other => panic!("more than its size: {other:?}"),
    }
    ok(&mut app, &["SET", "elsewhere", &large]);
    small["eviction"] = "noeviction".into();
    set_regions(&node, &[small]);
    let mut refused = 0;
    for i in 0..2_000 {
        if let Reply::Error(text) = ask(&mut app, &["SET", &format!("r:new{i}"), &value]) {
            assert!(text.starts_with("OOM"), "{text}");
            refused += 1;
        }
    }
    assert!(refused > 900, "{refused}");
    let keys = node.keys();
    let held = keys.iter().find(|key| key.starts_with(b"r:")).unwrap();
    let held = String::from_utf8_lossy(held);
    assert_eq!(integer(&mut app, &["DEL", &held]), 1);
}

#[test]
fn values_are_compressed_as_their_region_says_and_read_as_they_were() {
    let node = one("m-0-0");
    let mut app = node.app().unwrap();
    let value = "a value that shrinks; ".repeat(200);
    let mut write = |key: &str| {
        ok(&mut app, &["SET", key, &value]);
        let found = ask(&mut app, &["GET", key]);
        assert_eq!(found, Reply::Bulk(value.clone().into_bytes()), "{key}");
        integer(&mut app, &["MEMORY", "USAGE", key])
    };
    let plain = write("session:1");
    assert!(plain > value.len() as i64);
    let mut session = region("session", "session:");
    session["compression"] = "zstd:3".into();
    set_regions(&node, &[session.clone()]);
    // What was there stays as it is until it is written again.
    assert!(write("session:1") < plain / 4);
    assert!(write("other") > plain / 2);
    // The node's own for all others, and none for the region.
    session["compression"] = "none".into();
    let default = json!({"eviction": "noeviction", "compression": "lz4", "compressionMinSize": 64});
    set_list(&node, &json!({"default": default, "regions": [session]}));
    assert!(write("session:1") > plain / 2);
    assert!(write("other") < plain / 4);
    // The region gone, its keys are as any others; a list that says nothing of compression has none.
    set_list(&node, &json!({"default": default, "regions": []}));
    assert!(write("session:1") < plain / 4);
    set_list(
        &node,
        &json!({"default": {"eviction": "noeviction"}, "regions": []}),
    );
    assert!(write("session:1") > plain / 2);
}

#[test]
fn a_list_outlives_a_restart_without_an_operator() {
    let mut node = one("m-0-0");
    set_regions(&node, &[region("a", "a:")]);
    let hash = node.state().regions_hash;
    node.restart();
    wait_until("it knows its regions", || node.state().regions_hash == hash);
    assert_eq!(node.state().regions[0].name, "a");
}

fn figures(node: &Process) -> BTreeMap<String, (u64, u64)> {
    let regions = node.state().regions.into_iter();
    regions.map(|r| (r.name, (r.keys, r.bytes))).collect()
}

/// Membership is on no wire: it is right after a full sync, in the log's stream, after a failover, and after a slot move.
#[test]
fn replicas_and_moves_keep_items_in_their_regions() {
    let (mut a, b, c) = (
        Process::start("m-0-0"),
        Process::start("m-0-1"),
        Process::start("m-1-0"),
    );
    let mut short = region("short", "s:");
    short["ttlMs"] = 100_000_000.into();
    let list = [short, region("long", "s:long:")];
    // The replica learns of the regions before its sync, the destination after its first keys.
    set_regions(&b, &list);
    let mut first = Topology::new(1)
        .shard("0", &[(0, 8_191)], &[&a])
        .shard("1", &[(8_192, 16_383)], &[&c])
        .bootstrap();
    a.push(&first);
    c.push(&first);
    let write = |from: u32, to: u32, nodes: &[&Process]| {
        let mut clients: Vec<Client> = nodes.iter().map(|n| n.app().unwrap()).collect();
        for i in from..to {
            for key in [format!("s:{i}"), format!("s:long:{i}"), format!("n:{i}")] {
                let done = clients
                    .iter_mut()
                    .any(|c| ask(c, &["SET", &key, "a value"]) == Reply::Simple("OK".into()));
                assert!(done, "{key}");
                let list = format!("{key}:list");
                clients
                    .iter_mut()
                    .any(|c| matches!(ask(c, &["RPUSH", &list, "e1", "e2"]), Reply::Integer(_)));
            }
        }
    };
    write(0, 500, &[&a, &c]);
    first =
        Topology::new(2)
            .shard("0", &[(0, 8_191)], &[&a, &b])
            .shard("1", &[(8_192, 16_383)], &[&c]);
    for node in [&a, &b, &c] {
        node.push(&first);
    }
    wait_until("the replica is synced", || {
        a.state().replicas.iter().any(|r| r.synced)
    });
    set_regions(&a, &list);
    set_regions(&c, &list);
    write(500, 1_000, &[&a, &c]);
    let caught_up = || {
        let (a, b) = (a.state(), b.state());
        (a.log_epoch, a.offset) == (b.log_epoch, b.offset)
    };
    wait_until("the replica has it all", caught_up);
    assert_eq!(figures(&a), figures(&b));
    assert_eq!(
        figures(&a)["short"].0 + figures(&a)["long"].0,
        counted(&a, "s:")
    );
    assert_eq!(figures(&a)["long"].0, counted(&a, "s:long:"));
    let total =
        |nodes: &[&Process], name: &str| -> u64 { nodes.iter().map(|n| figures(n)[name].0).sum() };
    assert_eq!(
        (total(&[&a, &c], "short"), total(&[&a, &c], "long")),
        (2_000, 2_000)
    );
    // A move takes items from region to region.
    let mut moving = Topology::new(3)
        .shard("0", &[(0, 8_191)], &[&a, &b])
        .shard("1", &[(8_192, 16_383)], &[&c])
        .moving("mv", (0, 3_999), "0", "1");
    for node in [&c, &a, &b] {
        node.push(&moving);
    }
    wait_until("the move streams", || {
        a.state()
            .moves
            .iter()
            .any(|m| m.state == MovePhase::Streaming)
    });
    a.node(&["MOVE", "SEAL", "mv", "10000"]).unwrap();
    moving = Topology::new(4)
        .shard("0", &[(4_000, 8_191)], &[&a, &b])
        .shard("1", &[(0, 3_999), (8_192, 16_383)], &[&c]);
    for node in [&c, &a, &b] {
        node.push(&moving);
    }
    wait_until("the source has dropped what moved", || {
        (total(&[&a, &c], "short"), total(&[&a, &c], "long")) == (2_000, 2_000)
    });
    for node in [&a, &c] {
        assert_eq!(figures(node)["long"].0, counted(node, "s:long:"));
    }
    wait_until("the replica has dropped it too", || {
        figures(&a) == figures(&b)
    });
    // The replica takes over, with the same figures; default expiries came with the log.
    let before = figures(&a);
    a.kill();
    let after = Topology::new(5).shard("0", &[(4_000, 8_191)], &[&b]).shard(
        "1",
        &[(0, 3_999), (8_192, 16_383)],
        &[&c],
    );
    for node in [&b, &c] {
        node.push(&after);
    }
    assert_eq!(figures(&b), before);
    let mut app = b.app().unwrap();
    let own = |i: &u32| matches!(ask(&mut b.app().unwrap(), &["TTL", &format!("s:{i}")]), Reply::Integer(n) if n > 0);
    assert!((500..1_000).any(|i| own(&i)), "written after the list came");
    assert!(integer(&mut app, &["DBSIZE"]) > 0);
}
