//! A member of a cluster, to its clients: redirections, read-only replicas, and what `CLUSTER` tells.

use std::collections::BTreeSet;

use cache_node::store::SlotState;
use serde_json::json;

use super::redis::Redis;
use super::wire::{Client, Reply, TestNode};

/// A node `m-0`, primary of the slots up to 8191, beside `o-0` with its replica `o-1` for the others.
pub struct Member {
    pub node: TestNode,
    _runtime: tokio::runtime::Runtime,
    _files: tempfile::TempDir,
}

impl Member {
    pub fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let password = files.path().join("password");
        std::fs::write(&password, "secret\n").unwrap();
        let node = TestNode::with(|config| {
            config.cluster = true;
            config.member = Some("m-0".into());
            config.control_password_file = Some(password);
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Self {
            node,
            _runtime: runtime,
            _files: files,
        }
    }

    pub fn push(&self, epoch: u64) {
        self.push_up_to(epoch, 8191);
    }

    /// The slots up to `last` are this node's.
    pub fn push_up_to(&self, epoch: u64, last: u16) {
        let data_id = &self.node.node.cluster.data_id;
        let member = |name: &str, id: &str, role: &str, port: u16| json!({"name": name, "dataID": id, "role": role, "host": format!("{name}.test"), "port": port, "controlPort": 7379});
        let topology = json!({"clusterID": "c", "epoch": epoch, "shards": [
            {"name": "m", "slots": [[0, last]], "bootstrap": true, "members": [member("m-0", data_id, "Primary", 6379)]},
            {"name": "o", "slots": [[last + 1, 16382], [16383, 16383]], "members": [
                member("o-0", "d0", "Primary", 7001), member("o-1", "d1", "Replica", 7002), member("o-2", "", "Learner", 7003)]},
        ]});
        let cluster = &self.node.node.cluster;
        self._runtime
            .block_on(cluster.set_topology(topology.to_string().as_bytes()))
            .unwrap();
    }
}

/// `foo` is in slot 12182, `bar` in 5061.
#[test]
fn keys_of_other_shards_are_redirected() {
    let member = Member::start();
    let mut client = member.node.client();
    let down = "-CLUSTERDOWN Hash slot not served";
    assert_eq!(client.ask("GET bar").text(), down);
    assert_eq!(client.ask("SET bar 1").text(), down);
    assert_eq!(client.ask("PING").text(), "+PONG");
    member.push(1);
    let table = [
        ("SET bar 1", "+OK"),
        ("GET bar", "1"),
        ("GET foo", "-MOVED 12182 o-0.test:7001"),
        ("SET foo 1", "-MOVED 12182 o-0.test:7001"),
        (
            "MSET bar 1 foo 2",
            "-CROSSSLOT Keys in request don't hash to the same slot",
        ),
        ("MSET {bar}1 1 {bar}2 2 bar 3", "+OK"),
        ("DEL {bar}1 {bar}2 bar", ":3"),
        (
            "RENAME bar foo",
            "-CROSSSLOT Keys in request don't hash to the same slot",
        ),
        ("MGET foo foo", "-MOVED 12182 o-0.test:7001"),
        ("SELECT 0", "+OK"),
        ("SELECT 1", "-ERR SELECT is not allowed in cluster mode"),
        ("CLUSTER KEYSLOT foo", ":12182"),
        ("CLUSTER COUNTKEYSINSLOT 16384", "-ERR Invalid slot"),
    ];
    for (command, reply) in table {
        assert_eq!(client.ask(command).text(), reply, "{command}");
    }
    assert_eq!(client.ask("SET {bar}a 1").text(), "+OK");
    assert_eq!(client.ask("CLUSTER COUNTKEYSINSLOT 5061").text(), ":1");
    assert_eq!(
        client.ask("CLUSTER GETKEYSINSLOT 5061 10").items()[0].text(),
        "{bar}a"
    );
    assert_eq!(client.ask("DBSIZE").text(), ":1");
}

/// A member that does not have all slots flushes its own, slot by slot.
#[test]
fn a_flush_is_told_to_who_tracks_keys_by_prefix() {
    let member = Member::start();
    member.push(1);
    let (mut reader, mut writer) = (member.node.client(), member.node.client());
    reader.ask("HELLO 3");
    let on = "CLIENT TRACKING ON BCAST PREFIX {bar} PREFIX other";
    assert_eq!(reader.ask(on).text(), "+OK");
    let told = |what: &str, reader: &mut Client| {
        let push = reader.reply().unwrap();
        assert_eq!(push.items()[0].text(), "invalidate", "{what}");
        push.items()[1].clone()
    };
    for i in 0..3 {
        writer.ask(&format!("SET {{bar}}{i} 1"));
        let keys = told("a key", &mut reader);
        assert_eq!(keys.items()[0].text(), format!("{{bar}}{i}"));
    }
    assert_eq!(writer.ask("FLUSHALL").text(), "+OK");
    assert_eq!(told("all", &mut reader).text(), "_");
    // Once: what comes next is of the next key.
    writer.ask("SET {bar}next 1");
    let keys = told("a key", &mut reader);
    assert_eq!(keys.items()[0].text(), "{bar}next");
}

#[test]
fn who_waits_for_a_key_is_told_where_it_has_gone() {
    let member = Member::start();
    member.push(1);
    let waiting = |count: usize| {
        super::wire::wait_for("clients wait", || member.node.node.blocked.count() == count);
    };
    let (mut moves, mut stays) = (member.node.client(), member.node.client());
    moves.send(b"BLPOP bar 0\r\n");
    stays.send(b"BZPOPMIN {user1000}.following 0\r\n");
    waiting(2);
    member.push_up_to(2, 5_000);
    let moved = moves.reply().expect("a reply");
    assert_eq!(moved.text(), "-MOVED 5061 o-0.test:7001");
    waiting(1);
    // What becomes a replica's serves nobody any more.
    let store = &member.node.node.store;
    let slot = cache_node::store::slot_of(b"{user1000}.following");
    store.lock(slot).set_slot_state(slot, SlotState::ReadOnly);
    member.node.node.wakers.wake_all();
    let unblocked = stays.reply().expect("a reply").text();
    assert!(
        unblocked.starts_with("-UNBLOCKED force unblock"),
        "{unblocked}"
    );
    waiting(0);
    let mut client = member.node.client();
    let crossed = "-CROSSSLOT Keys in request don't hash to the same slot";
    for command in [
        "BLPOP a b 0",
        "SUNION a b",
        "LMOVE a b LEFT LEFT",
        "ZUNIONSTORE a 1 b",
        "SORT a STORE b",
    ] {
        assert_eq!(client.ask(command).text(), crossed, "{command}");
    }
}

#[test]
fn a_replica_serves_reads_to_those_who_ask_for_it() {
    let member = Member::start();
    member.push(1);
    // As after a full sync of the other shard.
    let store = &member.node.node.store;
    let p = store.point(b"foo");
    {
        let mut guard = store.lock(p.slot);
        guard.replay();
        guard.set(p, b"foo", b"1", None).unwrap();
        guard.set_slot_state(p.slot, SlotState::ReadOnly);
    }
    let mut client = member.node.client();
    let moved = "-MOVED 12182 o-0.test:7001";
    assert_eq!(client.ask("GET foo").text(), moved);
    assert_eq!(client.ask("READONLY").text(), "+OK");
    assert_eq!(client.ask("GET foo").text(), "1");
    assert_eq!(client.ask("SET foo 2").text(), moved);
    assert_eq!(client.ask("INCR foo").text(), moved);
    assert_eq!(client.ask("READWRITE").text(), "+OK");
    assert_eq!(client.ask("GET foo").text(), moved);
    assert_eq!(client.ask("READONLY").text(), "+OK");
    assert_eq!(client.ask("RESET").text(), "+RESET");
    assert_eq!(client.ask("GET foo").text(), moved);
}

/// A flush drops what this node serves, and nothing that is another's.
#[test]
fn a_flush_drops_what_is_served_here() {
    let member = Member::start();
    member.push(1);
    let mut client = member.node.client();
    assert_eq!(client.ask("SET bar 1").text(), "+OK");
    let store = &member.node.node.store;
    let p = store.point(b"foo");
    {
        // On its way here by a slot move.
        let mut guard = store.lock(p.slot);
        guard.import();
        guard.set(p, b"foo", b"1", None).unwrap();
        guard.set_slot_state(p.slot, SlotState::Importing);
    }
    assert_eq!(client.ask("DBSIZE").text(), ":1");
    assert_eq!(client.ask("KEYS *").items().len(), 1);
    assert_eq!(client.ask("RANDOMKEY").text(), "bar");
    assert_eq!(client.ask("GET foo").text(), "-MOVED 12182 o-0.test:7001");
    assert_eq!(client.ask("FLUSHALL").text(), "+OK");
    assert_eq!(client.ask("DBSIZE").text(), ":0");
    assert_eq!(client.ask("RANDOMKEY"), Reply::Bulk(None));
    let mut guard = store.lock(p.slot);
    assert!(guard.get(p, b"foo", 0).is_some());
}

#[test]
fn the_topology_is_told_to_clients() {
    let member = Member::start();
    member.push(7);
    let mut client = member.node.client();
    let slots = client.ask("CLUSTER SLOTS");
    let slots: Vec<String> = slots.items().iter().map(flat).collect();
    let my_id = client.ask("CLUSTER MYID").text();
    assert_eq!(my_id.len(), 40);
    assert_eq!(slots.len(), 3);
    assert_eq!(slots[0], format!(":0 :8191 m-0.test :6379 {my_id} "));
    assert!(
        slots[1].starts_with(":8192 :16382 o-0.test :7001 "),
        "{}",
        slots[1]
    );
    assert!(
        slots[1].contains(" o-1.test :7002 ") && !slots[1].contains("o-2"),
        "{}",
        slots[1]
    );
    let info = client.ask("CLUSTER INFO").text();
    for line in [
        "cluster_state:ok",
        "cluster_slots_assigned:16384",
        "cluster_known_nodes:3",
        "cluster_size:2",
        "cluster_current_epoch:7",
    ] {
        assert!(info.lines().any(|l| l == line), "{line} in {info}");
    }
    let nodes = client.ask("CLUSTER NODES").text();
    let lines: Vec<&str> = nodes.lines().collect();
    assert_eq!(lines.len(), 3, "{nodes}");
    assert_eq!(
        lines[0],
        format!("{my_id} m-0.test:6379@7379 myself,master - 0 0 7 connected 0-8191")
    );
    assert!(
        lines[1].ends_with(" o-0.test:7001@7379 master - 0 0 7 connected 8192-16382 16383"),
        "{nodes}"
    );
    let other = lines[1].split(' ').next().unwrap();
    assert!(
        lines[2].ends_with(&format!(
            " o-1.test:7002@7379 slave {other} 0 0 7 connected"
        )),
        "{nodes}"
    );
    let replicas = client.ask(&format!("CLUSTER REPLICAS {other}"));
    assert_eq!(replicas.items()[0].text(), lines[2]);
    let info = client.ask("INFO replication").text();
    assert!(info.contains("role:master\r\n"), "{info}");
}

fn flat(reply: &Reply) -> String {
    match reply {
        Reply::Many(_, Some(items)) => items.iter().map(flat).collect::<Vec<_>>().join(" "),
        other => other.text(),
    }
}

/// The shape of a reply: its kinds, without its contents.
fn shape(reply: &Reply) -> String {
    match reply {
        Reply::Line(line) => line[..1].to_owned(),
        Reply::Bulk(_) => "$".into(),
        Reply::Verbatim(_) => "=".into(),
        Reply::Many(kind, items) => {
            let items = items.iter().flatten().map(shape);
            format!("{}({})", char::from(*kind), items.collect::<String>())
        }
    }
}

/// Clients parse these replies: they have the shape that a node of a real Redis cluster gives them.
#[test]
fn cluster_replies_have_redis_shapes() {
    let redis = Redis::start_with(&["--cluster-enabled", "yes"]);
    let mut redis = redis.client();
    assert_eq!(redis.ask("CLUSTER ADDSLOTSRANGE 0 8191").text(), "+OK");
    let member = Member::start();
    member.push(1);
    let mut node = member.node.client();
    for protocol in [2, 3] {
        for client in [&mut redis, &mut node] {
            assert!(!client.ask(&format!("HELLO {protocol}")).is_error());
        }
        let mut ask = |command: &str| [redis.ask(command), node.ask(command)];
        let [there, here] = ask("CLUSTER SLOTS");
        assert_eq!(shape(&here.items()[0]), shape(&there.items()[0]));
        let [there, here] = ask("CLUSTER SHARDS");
        assert_eq!(shape(&here.items()[0]), shape(&there.items()[0]));
        assert_eq!(words(&here.items()[0]), words(&there.items()[0]));
        for command in [
            "CLUSTER NODES",
            "CLUSTER INFO",
            "CLUSTER MYID",
            "CLUSTER KEYSLOT a",
            "CLUSTER COUNTKEYSINSLOT 1",
            "CLUSTER GETKEYSINSLOT 1 1",
        ] {
            let [there, here] = ask(command);
            assert_eq!(shape(&here), shape(&there), "{command}");
        }
    }
    // Every field that Redis has is here, and the fields of a line are as many.
    let fields = |client: &mut Client| -> BTreeSet<String> {
        let info = client.ask("CLUSTER INFO").text();
        info.lines()
            .filter_map(|l| Some(l.split_once(':')?.0.to_owned()))
            .collect()
    };
    let (there, here) = (fields(&mut redis), fields(&mut node));
    assert!(here.is_superset(&there), "{:?}", there.difference(&here));
    let line = |client: &mut Client| {
        client
            .ask("CLUSTER NODES")
            .text()
            .lines()
            .next()
            .map(|l| l.split(' ').count())
    };
    assert_eq!(line(&mut node), line(&mut redis));
}

/// The names of a shard's fields.
fn words(shard: &Reply) -> BTreeSet<String> {
    let map = |reply: &Reply| -> BTreeSet<String> {
        reply.items().iter().step_by(2).map(Reply::text).collect()
    };
    let nodes = &shard.items()[3];
    map(shard)
        .into_iter()
        .chain(map(&nodes.items()[0]))
        .collect()
}
