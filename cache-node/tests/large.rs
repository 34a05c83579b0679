//! One big value through everything that carries values to other nodes.

mod support;

use cache_node::cluster::state::MovePhase;
use cache_node::control::client::Peer;
use cache_node::control::resp::Reply;
use serde_json::Value;
use support::*;

/// More than any buffer on the way.
const BYTES: usize = 64 << 20;
const KEY: &[u8] = b"big";

/// Bytes of which no part repeats another.
fn value() -> Vec<u8> {
    (0..BYTES as u64 / 8)
        .flat_map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes())
        .collect()
}

/// Reads a whole snapshot.
async fn snapshot(node: &TestNode) -> Vec<u8> {
    let address = (node.control.ip().to_string(), node.control.port());
    let mut peer = Peer::connect(&address, PASSWORD.as_bytes()).await.unwrap();
    let words: [&[u8]; 3] = [b"CACHE.NODE", b"SNAPSHOT", b"BEGIN"];
    let Reply::Bulk(begun) = peer.ask(&words).await.unwrap() else {
        panic!("a snapshot begins");
    };
    let begun: Value = serde_json::from_slice(&begun).unwrap();
    let id = begun["id"].as_str().unwrap().as_bytes();
    let mut file = Vec::new();
    loop {
        let words: [&[u8]; 4] = [b"CACHE.NODE", b"SNAPSHOT", b"READ", id];
        match peer.ask(&words).await.unwrap() {
            Reply::Bulk(chunk) => file.extend(chunk),
            Reply::Null => return file,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_big_value_is_synced_moved_and_in_snapshots() {
    let (a, replica) = (TestNode::start("m-0-0"), TestNode::start("m-0-1"));
    let b = TestNode::start("m-1-0");
    let slot = a.store.point(KEY).slot;
    assert!(slot < 16_383 && slot > 0);
    let before = |epoch| {
        Topology::new(epoch)
            .shard("0", &[(0, slot)], &[&a, &replica])
            .shard("1", &[(slot + 1, 16_383)], &[&b])
    };
    let push = |t: &Topology| [&b, &a, &replica].iter().for_each(|n| n.push(t));
    let value = value();
    // It is there before the replica: a full sync carries it.
    let alone =
        Topology::new(1)
            .shard("0", &[(0, slot)], &[&a])
            .shard("1", &[(slot + 1, 16_383)], &[&b]);
    push(&alone.bootstrap());
    assert!(a.try_write(KEY, Some(&value), None));
    push(&before(2));
    replica.wait_streaming();
    a.wait_caught_up(&replica);
    assert!(replica.get(KEY).unwrap() == value);
    // And the log carries it.
    let turned: Vec<u8> = value.iter().rev().copied().collect();
    assert!(a.try_write(KEY, Some(&turned), None));
    a.wait_caught_up(&replica);
    assert!(replica.get(KEY).unwrap() == turned);
    push(&before(3).moving("mv", (slot, slot), "0", "1"));
    wait_until("it streams", || {
        let moves = a.state().moves;
        moves.iter().any(|m| m.state == MovePhase::Streaming)
    });
    assert!(a.ask(&["MOVE", "SEAL", "mv", "30000"]).is_ok());
    let after = Topology::new(4)
        .shard("0", &[(0, slot - 1)], &[&a, &replica])
        .shard("1", &[(slot, 16_383)], &[&b]);
    push(&after);
    assert!(b.get(KEY).unwrap() == turned);
    wait_until("it is gone from its old shard", || {
        a.get(KEY).is_none() && replica.get(KEY).is_none()
    });
    let file = b.block_on(snapshot(&b));
    let begin = file.windows(16).position(|w| *w == turned[..16]).unwrap();
    assert!(file[begin..begin + BYTES] == turned);
}
