//! `OBJECT IDLETIME` and `FREQ`: what the eviction policy in force keeps, and the errors of a real redis-server where it does not.

use cache_node::background::{Accounts, Background};

use super::redis::Redis;
use super::wire::{Client, Reply, TestNode, wait_for};

/// The node's answer may be behind by what passes meanwhile.
const SLACK_S: u64 = 60;

fn restore(client: &mut Client, option: &str) {
    assert!(!client.ask("SET k value").is_error());
    let Reply::Bulk(Some(dumped)) = client.ask("DUMP k") else {
        panic!("it is not dumped");
    };
    let words: Vec<&[u8]> = option.split(' ').map(str::as_bytes).collect();
    let command = [
        &[&b"RESTORE"[..], b"k", b"0", &dumped, b"REPLACE"],
        &words[..],
    ]
    .concat();
    assert_eq!(client.ask_words(&command).text(), "+OK");
}

fn number(client: &mut Client, command: &str) -> u64 {
    let text = client.ask(command).text();
    let number = text.strip_prefix(':').and_then(|n| n.parse().ok());
    number.unwrap_or_else(|| panic!("{command}: {text}"))
}

#[test]
fn an_lru_knows_when_and_an_lfu_how_often() {
    let (redis, node) = (Redis::start(), TestNode::start());
    let (mut redis, mut client) = (redis.client(), node.client());
    for policy in ["allkeys-lru", "volatile-lru"] {
        for client in [&mut redis, &mut client] {
            let set = client.ask(&format!("CONFIG SET maxmemory-policy {policy}"));
            assert_eq!(set.text(), "+OK");
            restore(client, "IDLETIME 1000");
            for look in [
                "TTL k",
                "TYPE k",
                "EXISTS k",
                "OBJECT ENCODING k",
                "OBJECT FREQ k",
            ] {
                client.ask(look);
            }
            let idle = number(client, "OBJECT IDLETIME k");
            assert!((1_000..1_000 + SLACK_S).contains(&idle), "{idle}");
            // Of another kind: not kept.
            restore(client, "FREQ 77");
            assert!(number(client, "OBJECT IDLETIME k") < SLACK_S);
            restore(client, "IDLETIME 5000");
            assert_eq!(client.ask("TOUCH k").text(), ":1");
            assert!(number(client, "OBJECT IDLETIME k") < SLACK_S);
        }
        assert_eq!(client.ask("OBJECT FREQ k"), redis.ask("OBJECT FREQ k"));
    }
    for client in [&mut redis, &mut client] {
        let set = client.ask("CONFIG SET maxmemory-policy allkeys-lfu");
        assert_eq!(set.text(), "+OK");
        restore(client, "IDLETIME 1000");
        restore(client, "FREQ 100");
        assert_eq!(number(client, "OBJECT FREQ k"), 100);
    }
    assert_eq!(client.ask("GET k").text(), "value");
    assert_eq!(number(&mut client, "OBJECT FREQ k"), 101);
    assert_eq!(
        client.ask("OBJECT IDLETIME k"),
        redis.ask("OBJECT IDLETIME k")
    );
    // Redis keeps a clock under every policy, this server does not.
    assert_eq!(
        client.ask("CONFIG SET maxmemory-policy s3-fifo").text(),
        "+OK"
    );
    for (command, error) in [
        ("IDLETIME", "-ERR An LRU maxmemory policy"),
        ("FREQ", "-ERR An LFU maxmemory policy"),
    ] {
        let reply = client.ask(&format!("OBJECT {command} k")).text();
        assert!(reply.starts_with(error), "{reply}");
    }
}

#[test]
fn idle_time_grows_while_nothing_else_happens() {
    let node = TestNode::start();
    let background = Background::start(node.node.clone(), Accounts::Store).unwrap();
    let mut client = node.client();
    assert_eq!(
        client.ask("CONFIG SET maxmemory-policy allkeys-lru").text(),
        "+OK"
    );
    for key in ["a", "b"] {
        assert_eq!(client.ask(&format!("SET {key} value")).text(), "+OK");
    }
    wait_for("a is idle", || {
        number(&mut client, "OBJECT IDLETIME a") >= 3
    });
    assert_eq!(client.ask("GET a").text(), "value");
    let (a, b) = (
        number(&mut client, "OBJECT IDLETIME a"),
        number(&mut client, "OBJECT IDLETIME b"),
    );
    assert!(a < b && b >= 2, "{a} {b}");
    background.stop();
}
