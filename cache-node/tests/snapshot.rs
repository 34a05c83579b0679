//! A snapshot is an RDB file that a real redis-server loads, with the content of one instant.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use cache_node::control::client::Peer;
use cache_node::control::resp::{Reply, take_reply};
use cache_node::store::compress::Method;
use serde_json::Value;
use support::*;

const ALL: &[(u16, u16)] = &[(0, 16_383)];

/// Reads a whole snapshot; `between` runs after each chunk. Gives the file and what STAT said at its end.
fn snapshot(node: &TestNode, mut between: impl FnMut(usize)) -> (Vec<u8>, Value) {
    node.block_on(async {
        let mut peer = connect(node).await;
        let begun = ask(&mut peer, &["SNAPSHOT", "BEGIN"]).await.unwrap();
        between(0);
        let begun: Value = serde_json::from_slice(&begun).unwrap();
        let id = begun["id"].as_str().unwrap();
        let mut file = Vec::new();
        while let Some(chunk) = ask(&mut peer, &["SNAPSHOT", "READ", id]).await {
            assert!(!chunk.is_empty() && chunk.len() <= 1 << 20);
            file.extend(chunk);
            between(file.len());
        }
        let stat = ask(&mut peer, &["SNAPSHOT", "STAT", id]).await.unwrap();
        (file, serde_json::from_slice(&stat).unwrap())
    })
}

async fn connect(node: &TestNode) -> Peer {
    let address = (node.control.ip().to_string(), node.control.port());
    Peer::connect(&address, PASSWORD.as_bytes()).await.unwrap()
}

async fn ask(peer: &mut Peer, command: &[&str]) -> Option<Vec<u8>> {
    let mut words: Vec<&[u8]> = vec![b"CACHE.NODE"];
    words.extend(command.iter().map(|w| w.as_bytes()));
    match peer.ask(&words).await.unwrap() {
        Reply::Bulk(bytes) => Some(bytes),
        Reply::Null => None,
        other => panic!("{other:?}"),
    }
}

struct RedisServer {
    process: Child,
    stream: TcpStream,
    buffer: bytes::BytesMut,
}

impl RedisServer {
    /// Loads `dump.rdb` of a directory.
    fn start(dir: &Path) -> Self {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        drop(socket);
        let process = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dbfilename",
                "dump.rdb",
                "--dir",
            ])
            .arg(dir)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed: install the package redis-server");
        let mut stream = None;
        wait_until("redis-server listens", || {
            stream = TcpStream::connect(("127.0.0.1", port)).ok();
            stream.is_some()
        });
        let mut server = Self {
            process,
            stream: stream.unwrap(),
            buffer: bytes::BytesMut::new(),
        };
        wait_until("redis-server has loaded", || {
            server.ask(&["PING"]) == Reply::Simple("PONG".into())
        });
        server
    }

    fn ask(&mut self, command: &[&str]) -> Reply {
        let words: Vec<&[u8]> = command.iter().map(|w| w.as_bytes()).collect();
        let mut bytes = Vec::new();
        cache_node::store::effect::write_command(&mut bytes, &words);
        self.stream.write_all(&bytes).unwrap();
        loop {
            if let Some(reply) = take_reply(&mut self.buffer).unwrap() {
                return reply;
            }
            let mut piece = [0; 65_536];
            let n = self.stream.read(&mut piece).unwrap();
            assert!(n > 0);
            self.buffer.extend_from_slice(&piece[..n]);
        }
    }

    fn contents(&mut self) -> Contents {
        let Reply::Array(keys) = self.ask(&["KEYS", "*"]) else {
            panic!()
        };
        let mut all = BTreeMap::new();
        for key in keys {
            let Reply::Bulk(key) = key else { panic!() };
            let text = String::from_utf8(key.clone()).unwrap();
            let Reply::Bulk(value) = self.ask(&["GET", &text]) else {
                panic!("{text} expired meanwhile")
            };
            let expires = match self.ask(&["PEXPIRETIME", &text]) {
                Reply::Integer(-1) => None,
                Reply::Integer(time) => Some(time as u64),
                other => panic!("{other:?}"),
            };
            all.insert(key, (value, expires));
        }
        all
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It is ours, and holds nothing to be kept.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn load(file: &[u8]) -> Contents {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump.rdb");
    std::fs::write(&path, file).unwrap();
    let check = Command::new("redis-check-rdb")
        .arg(&path)
        .output()
        .expect("redis-check-rdb is needed");
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(
        check.status.success() && said.contains("RDB looks OK"),
        "{said}"
    );
    assert!(said.contains("Checksum OK"), "{said}");
    RedisServer::start(dir.path()).contents()
}

fn primary() -> Arc<TestNode> {
    primary_with(Method::None)
}

fn primary_with(method: Method) -> Arc<TestNode> {
    let node = Arc::new(TestNode::start("m-0-0"));
    node.store.compression.set_method(method);
    node.push(&Topology::new(1).shard("0", ALL, &[&node]).bootstrap());
    node
}

#[test]
fn redis_server_loads_every_kind_of_item() {
    loads_every_kind_of_item(&primary());
}

#[test]
fn redis_server_loads_what_is_compressed_here() {
    for method in [Method::Lz4, Method::Zstd { level: 3 }] {
        let node = primary_with(method);
        loads_every_kind_of_item(&node);
        assert!(node.compressed() >= 10, "{method}");
    }
}

fn loads_every_kind_of_item(node: &TestNode) {
    let later = now_ms() + 3_600_000;
    let lengths = [0, 1, 63, 64, 255, 16_383, 16_384, 70_000, 3 << 20];
    for (i, length) in lengths.into_iter().enumerate() {
        let value = vec![b'a' + i as u8; length];
        assert!(node.try_write(format!("value:{length}").as_bytes(), Some(&value), None));
        assert!(node.try_write(
            format!("expires:{length}").as_bytes(),
            Some(&value),
            Some(later + i as u64)
        ));
    }
    for length in [1, 100, 300, 20_000] {
        assert!(node.try_write(&vec![b'k'; length], Some(b"by a long key"), None));
    }
    assert!(node.try_write(b"number", Some(b"-9223372036854775808"), None));
    let expected = node.contents();
    assert!(node.try_write(b"gone", Some(b"x"), Some(now_ms() - 1)));
    let (file, stat) = snapshot(node, |_| {});
    assert_eq!(stat["keys"], expected.len());
    assert_eq!(
        (&stat["bytes"], &stat["done"]),
        (&file.len().into(), &true.into())
    );
    assert_eq!(load(&file), expected);
}

#[test]
fn an_empty_node_gives_an_empty_file() {
    let (file, stat) = snapshot(&primary(), |_| {});
    assert_eq!(stat["keys"], 0);
    assert!(load(&file).is_empty());
}

#[test]
fn writes_during_a_snapshot_are_not_in_it() {
    writes_are_not_in_it(&primary());
}

#[test]
fn writes_during_a_snapshot_of_compressed_strings_are_not_in_it() {
    writes_are_not_in_it(&primary_with(Method::Lz4));
}

fn writes_are_not_in_it(node: &TestNode) {
    // More than the walk reads ahead, so that it is far from its end when the writes come.
    for i in 0..30_000 {
        let value = format!("{i:0>700}");
        assert!(node.try_write(format!("k:{i}").as_bytes(), Some(value.as_bytes()), None));
    }
    let expected = node.contents();
    let mut begun = false;
    let (file, stat) = snapshot(node, |_| {
        if std::mem::replace(&mut begun, true) {
            return;
        }
        for i in 0..30_000 {
            let key = format!("k:{i}").into_bytes();
            match i % 4 {
                0 => assert!(node.try_write(&key, None, None)),
                1 => assert!(node.try_write(&key, Some(b"overwritten"), None)),
                2 => assert!(node.try_write(format!("new:{i}").as_bytes(), Some(b"x"), None)),
                _ => {}
            }
        }
    });
    assert_eq!(stat["keys"], 30_000);
    assert_eq!(load(&file), expected);
    // The next one has the writes.
    let (file, _) = snapshot(node, |_| {});
    assert_eq!(load(&file), node.contents());
}

#[test]
fn one_snapshot_at_a_time_and_it_ends_with_its_connection() {
    let node = primary();
    for i in 0..30_000 {
        assert!(node.try_write(format!("k:{i}").as_bytes(), Some(&[b'v'; 1_000]), None));
    }
    node.block_on(async {
        let mut first = connect(&node).await;
        ask(&mut first, &["SNAPSHOT", "BEGIN"]).await.unwrap();
        let mut second = connect(&node).await;
        let begin: [&[u8]; 3] = [b"CACHE.NODE", b"SNAPSHOT", b"BEGIN"];
        let busy = second.ask(&begin).await.unwrap_err().to_string();
        assert!(busy.starts_with("BUSY"), "{busy}");
        let busy = first.ask(&begin).await.unwrap_err().to_string();
        assert!(busy.starts_with("BUSY"), "{busy}");
        let read: [&[u8]; 4] = [b"CACHE.NODE", b"SNAPSHOT", b"READ", b"other"];
        let unknown = first.ask(&read).await.unwrap_err().to_string();
        assert!(unknown.starts_with("SNAPSHOTFAILED"), "{unknown}");
    });
    let mut done = None;
    wait_until("the broken connection's snapshot ends", || {
        let ask = || {
            node.block_on(async {
                let mut peer = connect(&node).await;
                let begin: [&[u8]; 3] = [b"CACHE.NODE", b"SNAPSHOT", b"BEGIN"];
                peer.ask(&begin).await.is_ok()
            })
        };
        done = Some(ask());
        done == Some(true)
    });
    // Two were given up; the next is whole.
    let mut whole = None;
    wait_until("the last one ends", || {
        let probe = node.block_on(async {
            let mut peer = connect(&node).await;
            let begin: [&[u8]; 3] = [b"CACHE.NODE", b"SNAPSHOT", b"BEGIN"];
            match peer.ask(&begin).await {
                Ok(Reply::Bulk(reply)) => {
                    let begun: Value = serde_json::from_slice(&reply).unwrap();
                    let id = begun["id"].as_str().unwrap().to_owned();
                    let mut file = Vec::new();
                    while let Some(chunk) = ask(&mut peer, &["SNAPSHOT", "READ", &id]).await {
                        file.extend(chunk);
                    }
                    Some(file)
                }
                _ => None,
            }
        });
        whole = probe;
        whole.is_some()
    });
    assert_eq!(load(&whole.unwrap()), node.contents());
}

#[test]
fn a_member_without_whole_data_gives_no_snapshot() {
    let node = TestNode::start("m-0-0");
    let refused = node.ask(&["SNAPSHOT", "BEGIN"]).unwrap_err();
    assert!(
        refused.starts_with("SNAPSHOTFAILED this node holds no whole data"),
        "{refused}"
    );
}

#[test]
fn slots_of_other_shards_are_not_in_it() {
    let (a, b) = (
        Arc::new(TestNode::start("m-0-0")),
        Arc::new(TestNode::start("m-1-0")),
    );
    let two = |epoch| {
        Topology::new(epoch)
            .shard("0", &[(0, 8_191)], &[&a])
            .shard("1", &[(8_192, 16_383)], &[&b])
    };
    let moving = two(2).moving("mv", (0, 8_191), "0", "1");
    for node in [&b, &a] {
        node.push(&two(1).bootstrap());
        node.push(&moving);
    }
    for i in 0..1_000 {
        let key = format!("{i}").into_bytes();
        assert!(a.try_write(&key, Some(b"x"), None) || b.try_write(&key, Some(b"x"), None));
    }
    a.wait_move("mv", cache_node::cluster::state::MovePhase::Streaming);
    a.ask(&["MOVE", "SEAL", "mv", "60000"]).unwrap();
    assert_eq!(b.contents().len(), 1_000);
    let (in_a, in_b) = (load(&snapshot(&a, |_| {}).0), load(&snapshot(&b, |_| {}).0));
    assert_eq!(in_a.len() + in_b.len(), 1_000);
    assert!(in_a.keys().all(|k| cache_node::store::slot_of(k) < 8_192));
    assert!(in_b.keys().all(|k| cache_node::store::slot_of(k) >= 8_192));
}
