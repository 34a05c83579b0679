//! Collections on their way: to a replica, to another shard, into a snapshot, while they are written to.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cache_node::cluster::state::MovePhase;
use cache_node::control::client::Peer;
use cache_node::control::resp::Reply;
use cache_node::store::{End, SlotState};
use support::*;

const ALL: &[(u16, u16)] = &[(0, 16_383)];

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// One random write to one of `keys` collections of each type. False: the slot does not serve here.
fn write(node: &TestNode, random: &mut Random, keys: u64) -> bool {
    let kind = ["hash", "set", "list", "zset"][random.below(4) as usize];
    let key = format!("{kind}:{}", random.below(keys)).into_bytes();
    // Some stay small, others grow big.
    let range = if key.ends_with(b"0") { 20_000 } else { 60 };
    let name = format!("m{}", random.below(range)).into_bytes();
    let value = vec![b'a' + random.below(26) as u8; random.below(60) as usize];
    let p = node.store.point(&key);
    if !node.log.has_credit() {
        return false;
    }
    let mut guard = node.store.lock(p.slot);
    if guard.slot_state(p.slot) != SlotState::Serve {
        return false;
    }
    let now = now_ms();
    let end = if random.below(2) == 0 {
        End::Front
    } else {
        End::Back
    };
    let removes = random.below(4) == 0;
    match (kind, removes) {
        ("hash", false) => drop(guard.hash_set(p, &key, &[(&name, &value)], now).unwrap()),
        ("hash", true) => drop(guard.hash_remove(p, &key, &[&name], now).unwrap()),
        ("set", false) => drop(guard.set_add(p, &key, &[&name, &value], now).unwrap()),
        ("set", true) => drop(guard.set_remove(p, &key, &[&name], now).unwrap()),
        ("list", false) => drop(
            guard
                .list_push(p, &key, end, &[&name, &value], now)
                .unwrap(),
        ),
        ("list", true) => match random.below(4) {
            0 => drop(guard.list_remove(p, &key, 1, &name, now).unwrap()),
            1 => drop(
                guard
                    .list_insert(p, &key, (true, &name), &value, now)
                    .unwrap(),
            ),
            2 => drop(guard.list_set(p, &key, 3, &value, now).unwrap()),
            _ => drop(guard.list_pop(p, &key, end, 2, now).unwrap()),
        },
        (_, false) => {
            let score = random.below(100) as f64 / 8.0;
            guard
                .zset_update(p, &key, &[&name], now, |_, _| Some(score))
                .unwrap();
        }
        (_, true) => drop(guard.zset_remove(p, &key, &[&name], now).unwrap()),
    }
    match random.below(400) {
        0 => drop(
            guard
                .set_expiry(p, &key, Some(now + 3_600_000), now)
                .unwrap(),
        ),
        1 => drop(guard.set_expiry(p, &key, None, now).unwrap()),
        2 if random.below(20) == 0 => drop(guard.remove(p, &key, now)),
        _ => {}
    }
    true
}

fn fill(node: &TestNode, writes: usize) {
    let mut random = Random(7);
    for _ in 0..writes {
        assert!(write(node, &mut random, 30));
    }
}

/// Writes until it is dropped, wherever a slot is served.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    fn start(nodes: &[&Arc<TestNode>]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (until, nodes) = (
            stop.clone(),
            nodes.iter().map(|n| (*n).clone()).collect::<Vec<_>>(),
        );
        let thread = std::thread::spawn(move || {
            let mut random = Random(99);
            while !until.load(Ordering::Relaxed) {
                for node in &nodes {
                    write(node, &mut random, 30);
                }
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

#[test]
fn a_replica_holds_the_collections_of_its_primary() {
    let (a, b) = (
        Arc::new(TestNode::start("m-0-0")),
        Arc::new(TestNode::start("m-0-1")),
    );
    let topology = Topology::new(1).shard("0", ALL, &[&a, &b]).bootstrap();
    a.push(&topology);
    fill(&a, 60_000);
    let writer = Writer::start(&[&a]);
    // The copy begins while they are written to, big ones among them.
    b.push(&topology);
    b.wait_streaming();
    for _ in 0..3 {
        let done = a.log.position().offset;
        wait_until("writes go on", || a.log.position().offset > done + 10_000);
    }
    drop(writer);
    a.wait_caught_up(&b);
    let (there, here) = (a.contents(), b.contents());
    assert!(there.len() > 60 && there.values().any(|(value, _)| value.len() > 20_000));
    for (key, value) in &there {
        assert!(
            here.get(key) == Some(value),
            "{}",
            String::from_utf8_lossy(key)
        );
    }
    assert_eq!(here.len(), there.len());
    // What is counted is what is there.
    let bytes =
        |node: &TestNode| -> u64 { (0..16_384).map(|s| node.store.lock(s).slot_bytes(s)).sum() };
    assert!(bytes(&a) > 100_000);
    for node in [&a, &b] {
        for slot in 0..16_384 {
            node.store.lock(slot).clear_slot(slot);
        }
        node.store.free_garbage();
        assert_eq!(bytes(node), 0);
    }
}

#[test]
fn collections_move_with_their_slots() {
    let (a, b) = (
        Arc::new(TestNode::start("m-0-0")),
        Arc::new(TestNode::start("m-1-0")),
    );
    let two = |epoch, at: u16| {
        Topology::new(epoch)
            .shard("0", &[(at, 16_383)], &[&a])
            .shard("1", &[(0, at - 1)], &[&b])
    };
    for node in [&a, &b] {
        node.push(&two(1, 1).bootstrap());
    }
    // Slot 0 is the other's: no key of this test is in it.
    fill(&a, 60_000);
    let before = a.contents().len();
    let moving = two(2, 1).moving("mv", (1, 9_000), "0", "1");
    let writer = Writer::start(&[&a, &b]);
    for node in [&b, &a] {
        node.push(&moving);
    }
    a.wait_move("mv", MovePhase::Streaming);
    a.ask(&["MOVE", "SEAL", "mv", "60000"]).unwrap();
    drop(writer);
    // Sealed: the slots are the same here and there.
    let (there, here) = (a.contents(), b.contents());
    let moved: Vec<_> = there
        .iter()
        .filter(|(key, _)| a.store.point(key).slot <= 9_000)
        .collect();
    assert!(moved.len() > 20 && moved.len() < before);
    for (key, value) in &moved {
        assert!(
            here.get(*key) == Some(value),
            "{}",
            String::from_utf8_lossy(key)
        );
    }
    assert_eq!(here.len(), moved.len());
    for node in [&b, &a] {
        node.push(&two(3, 9_001));
    }
    wait_until("the source has dropped them", || {
        a.contents()
            .keys()
            .all(|key| a.store.point(key).slot > 9_000)
    });
    assert_eq!(a.contents().len() + b.contents().len(), there.len());
}

/// A snapshot of one instant, of which a redis-server says the same as this node, while everything is written to.
#[test]
fn redis_server_loads_collections() {
    let node = Arc::new(TestNode::start("m-0-0"));
    node.push(&Topology::new(1).shard("0", ALL, &[&node]).bootstrap());
    fill(&node, 80_000);
    let expected = node.contents();
    let file = node.block_on(async {
        let address = (node.control.ip().to_string(), node.control.port());
        let mut peer = Peer::connect(&address, PASSWORD.as_bytes()).await.unwrap();
        let begin: [&[u8]; 3] = [b"CACHE.NODE", b"SNAPSHOT", b"BEGIN"];
        let Reply::Bulk(begun) = peer.ask(&begin).await.unwrap() else {
            panic!()
        };
        let begun: serde_json::Value = serde_json::from_slice(&begun).unwrap();
        let id = begun["id"].as_str().unwrap().to_owned();
        let writer = Writer::start(&[&node]);
        let mut file = Vec::new();
        let read: [&[u8]; 4] = [b"CACHE.NODE", b"SNAPSHOT", b"READ", id.as_bytes()];
        while let Reply::Bulk(chunk) = peer.ask(&read).await.unwrap() {
            assert!(chunk.len() <= 1 << 20);
            file.extend(chunk);
        }
        drop(writer);
        file
    });
    assert_ne!(node.contents(), expected);
    let loaded = redis::load(&file);
    let cli = |words: &[&str]| loaded.ask(words);
    assert_eq!(cli(&["DBSIZE"]), expected.len());
    for (key, (value, expires_at)) in &expected {
        let key = String::from_utf8(key.clone()).unwrap();
        let kind = cli(&["TYPE", &key]);
        let loaded = match kind.as_str().unwrap() {
            "hash" => cli(&["HGETALL", &key]),
            "set" => cli(&["SMEMBERS", &key]),
            "list" => cli(&["LRANGE", &key, "0", "-1"]),
            _ => cli(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]),
        };
        let shown = redis_shown(kind.as_str().unwrap(), &loaded);
        assert!(shown == String::from_utf8_lossy(value), "{key}");
        let time = cli(&["PEXPIRETIME", &key]);
        assert_eq!(time, expires_at.map_or(-1, |t| t as i64), "{key}");
    }
}

/// A reply of redis-cli as [`shown`] shows a collection.
fn redis_shown(kind: &str, reply: &serde_json::Value) -> String {
    let text = |v: &serde_json::Value| match v {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let bytes = |text: &str| format!("{:?}", text.as_bytes());
    let one = |v: &serde_json::Value| format!("One({})", bytes(&text(v)));
    let mut shown: Vec<String> = match (kind, reply) {
        ("hash", serde_json::Value::Object(map)) => map
            .iter()
            .map(|(field, value)| format!("Pair({}, {})", bytes(field), bytes(&text(value))))
            .collect(),
        ("zset", serde_json::Value::Array(items)) => {
            let flat: Vec<&serde_json::Value> = items
                .iter()
                .flat_map(|item| {
                    item.as_array()
                        .map_or(vec![item], |pair| pair.iter().collect())
                })
                .collect();
            flat.chunks(2)
                .map(|p| {
                    let score: f64 = text(p[1]).parse().unwrap();
                    format!("Scored({}, {score:?})", bytes(&text(p[0])))
                })
                .collect()
        }
        (_, serde_json::Value::Array(items)) => items.iter().map(one).collect(),
        other => panic!("{other:?}"),
    };
    if matches!(kind, "hash" | "set") {
        shown.sort();
    }
    format!("{kind}: {}", shown.join(" "))
}
