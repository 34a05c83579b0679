//! Data under concurrency and under limits.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cache_node::background::{Accounts, Background};

use super::generate::Random;
use super::wire::{Client, Reply, TestNode, wait_for};

/// SCAN's guarantee: a key that is there all the time is given, and here exactly once, while the rest grows and shrinks.
#[test]
fn scan_gives_each_key_that_stays_once_while_others_come_and_go() {
    const STAY: usize = 3_000;
    let node = TestNode::start();
    let mut client = node.client();
    // One slot with many keys, and keys in all slots.
    let stays = |i: usize| {
        if i.is_multiple_of(3) {
            format!("{{one}}stay:{i}")
        } else {
            format!("stay:{i}")
        }
    };
    for i in 0..STAY {
        assert_eq!(client.ask(&format!("SET {} v", stays(i))).text(), "+OK");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2)
        .map(|seed| {
            let (stop, mut client) = (stop.clone(), node.client());
            std::thread::spawn(move || {
                let mut random = Random(77 + seed);
                while !stop.load(Ordering::Relaxed) {
                    let n = random.below(30_000);
                    let key = if n.is_multiple_of(2) {
                        format!("{{one}}go:{n}")
                    } else {
                        format!("go:{n}")
                    };
                    let command = if random.one_in(3) {
                        format!("DEL {key}")
                    } else {
                        format!("SET {key} {n}")
                    };
                    assert!(!client.ask(&command).is_error());
                }
            })
        })
        .collect();
    for count in [1, 7, 100, 5_000] {
        let seen = scan_all(&mut client, &format!("COUNT {count}"));
        for i in 0..STAY {
            assert_eq!(
                seen.get(&stays(i)),
                Some(&1),
                "{} with COUNT {count}",
                stays(i)
            );
        }
        assert!(
            seen.keys()
                .all(|k| k.contains("stay:") || k.contains("go:"))
        );
    }
    let matched = scan_all(&mut client, "COUNT 50 MATCH *stay:*");
    assert_eq!(matched.len(), STAY);
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|w| w.join().unwrap());
}

/// How often each key is given by a whole iteration.
fn scan_all(client: &mut Client, options: &str) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    let mut cursor = "0".to_owned();
    loop {
        let reply = client.ask(&format!("SCAN {cursor} {options}"));
        let items = reply.items();
        for key in items[1].items() {
            *seen.entry(key.text()).or_default() += 1;
        }
        cursor = items[0].text();
        if cursor == "0" {
            return seen;
        }
    }
}

#[test]
fn values_are_binary_safe_and_large() {
    let node = TestNode::start();
    let mut client = node.client();
    let mut random = Random(5);
    for length in [
        0,
        1,
        255,
        15_871,
        15_872,
        16_384,
        70_000,
        5_000_000,
        64 << 20,
    ] {
        let value: Vec<u8> = (0..length.min(4096))
            .map(|_| random.below(256) as u8)
            .collect();
        let value = value
            .iter()
            .copied()
            .cycle()
            .take(length)
            .collect::<Vec<_>>();
        assert_eq!(
            client.ask_words(&[b"SET", b"k\r\n\0", &value]).text(),
            "+OK"
        );
        assert!(
            client.ask_words(&[b"GET", b"k\r\n\0"]) == Reply::Bulk(Some(value.clone())),
            "{length}"
        );
        assert_eq!(
            client.ask_words(&[b"STRLEN", b"k\r\n\0"]).text(),
            format!(":{length}")
        );
        let end = client.ask_words(&[b"GETRANGE", b"k\r\n\0", b"-3", b"-1"]);
        assert_eq!(
            end,
            Reply::Bulk(Some(value[length.saturating_sub(3)..].to_vec()))
        );
    }
    let key = vec![b'k'; 100_000];
    assert_eq!(client.ask_words(&[b"SET", &key, b"v"]).text(), "+OK");
    assert_eq!(client.ask_words(&[b"GET", &key]).text(), "v");
}

/// Full memory answers Redis's error, loses nothing, and goes on when there is room.
#[test]
fn full_memory_refuses_writes_and_keeps_what_is_there() {
    let node = TestNode::with(|config| config.max_memory = 4 << 20);
    let mut client = node.client();
    let value = "v".repeat(1000);
    let mut held = 0;
    let refusal = loop {
        let reply = client.ask(&format!("SET key:{held} {value}"));
        if reply.is_error() {
            break reply.text();
        }
        held += 1;
        assert!(held < 10_000);
    };
    assert_eq!(
        refusal,
        "-OOM command not allowed when used memory > 'maxmemory'."
    );
    assert!(held > 2_000, "{held} keys of 1 kB in 4 MB");
    for i in 0..held {
        assert_eq!(client.ask(&format!("GET key:{i}")).text(), value);
    }
    // All of an MSET or none of it, new keys and old ones.
    let big = "w".repeat(100_000);
    let mut mset = "MSET key:0 changed new:0 n".to_owned();
    for i in 1..50 {
        mset += &format!(" key:{i} {big}");
    }
    assert!(client.ask(&mset).is_error());
    for i in 0..50 {
        assert_eq!(client.ask(&format!("GET key:{i}")).text(), value);
    }
    assert_eq!(client.ask("GET new:0"), Reply::Bulk(None));
    assert_eq!(client.ask("DBSIZE").text(), format!(":{held}"));
    assert_eq!(client.ask("FLUSHALL").text(), "+OK");
    for i in 0..held {
        assert_eq!(client.ask(&format!("SET again:{i} {value}")).text(), "+OK");
    }
}

#[test]
fn counters_are_exact_under_contention() {
    let node = TestNode::start();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let mut client = node.client();
            std::thread::spawn(move || {
                for _ in 0..2_000 {
                    assert!(!client.ask("INCR counter").is_error());
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(node.client().ask("GET counter").text(), "8000");
}

/// Expiry is exact to the millisecond for clients, and what nobody asks for goes too.
#[test]
fn expired_keys_are_gone_on_time_and_swept() {
    let node = TestNode::start();
    let background = Background::start(node.node.clone(), Accounts::Store).unwrap();
    let mut client = node.client();
    for i in 0..2_000 {
        assert_eq!(client.ask(&format!("SET short:{i} v PX 300")).text(), "+OK");
    }
    assert_eq!(client.ask("SET long v EX 1000").text(), "+OK");
    let at = cache_node::node::now_ms() + 400;
    assert_eq!(client.ask(&format!("SET exact v PXAT {at}")).text(), "+OK");
    loop {
        let before = cache_node::node::now_ms();
        let reply = client.ask("GET exact");
        let after = cache_node::node::now_ms();
        if reply == Reply::Bulk(None) {
            assert!(after >= at, "gone {} ms early", at - after);
            break;
        }
        assert!(before < at, "there {} ms late", before - at);
    }
    wait_for("the sweep", || node.node.store.stats().keys == 1);
    assert_eq!(client.ask("DBSIZE").text(), ":1");
    background.stop();
}

/// Values of 512 MB as in Redis, and not a byte more. What is compared is compared as it comes, so that the test holds a value once.
#[test]
fn the_largest_value_is_512_megabytes() {
    const LARGEST: usize = 512 << 20;
    let node = TestNode::start();
    let mut client = node.client();
    let piece: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
    let send = |stream: &mut std::net::TcpStream, bytes: usize| {
        let head = format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${bytes}\r\n");
        stream.write_all(head.as_bytes())?;
        for _ in 0..bytes / piece.len() {
            stream.write_all(&piece)?;
        }
        stream.write_all(&piece[..bytes % piece.len()])?;
        stream.write_all(b"\r\n")
    };
    send(&mut client.stream, LARGEST).unwrap();
    assert_eq!(client.reply().unwrap().text(), "+OK");
    client.send(b"GET big\r\n");
    let mut head = [0; 12];
    client.stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"$536870912\r\n");
    let mut read = vec![0; piece.len()];
    for at in (0..LARGEST).step_by(piece.len()) {
        client.stream.read_exact(&mut read).unwrap();
        assert!(read == piece, "at {at}");
    }
    let mut end = [0; 2];
    client.stream.read_exact(&mut end).unwrap();
    for command in ["APPEND big x", "SETRANGE big 536870912 x"] {
        let refused = client.ask(command).text();
        assert!(refused.contains("maximum allowed size"), "{refused}");
    }
    assert_eq!(client.ask("STRLEN big").text(), format!(":{LARGEST}"));
    // One byte more is refused by its length alone.
    client.send(format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${}\r\n", LARGEST + 1).as_bytes());
    assert_eq!(
        client.rest(),
        b"-ERR Protocol error: invalid bulk length\r\n"
    );
    assert_eq!(
        node.client().ask("STRLEN big").text(),
        format!(":{LARGEST}")
    );
}
