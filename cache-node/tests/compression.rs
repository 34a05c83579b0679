//! Compressed strings on their way to replicas, to other shards and into snapshots.

mod support;

use std::sync::Arc;

use cache_node::cluster::state::MovePhase;
use cache_node::control::client::Peer;
use cache_node::control::resp::Reply;
use cache_node::store::compress::Method;
use serde_json::json;
use support::*;

const ALL: &[(u16, u16)] = &[(0, 16_383)];

/// A value that shrinks, of about so many bytes.
fn text(i: usize, bytes: usize) -> Vec<u8> {
    format!("{{\"id\":{i},\"state\":\"active\",\"owner\":\"nobody\"}}")
        .repeat(1 + bytes / 40)
        .into_bytes()
}

fn write(node: &TestNode, keys: std::ops::Range<usize>) {
    for i in keys {
        let key = format!("key:{i}").into_bytes();
        // Some do not shrink, some are large.
        let value = match i % 50 {
            0 => text(i, 60_000),
            1..10 => i.to_string().into_bytes(),
            _ => text(i, 500),
        };
        let expires_at = i.is_multiple_of(7).then(|| now_ms() + 3_600_000);
        while !node.try_write(&key, Some(&value), expires_at) {}
    }
}

fn start(name: &str, method: Method) -> Arc<TestNode> {
    let node = TestNode::start(name);
    node.store.compression.set_method(method);
    Arc::new(node)
}

#[test]
fn a_replica_holds_what_its_primary_compressed_whatever_its_own_setting() {
    let (a, b) = (
        start("m-0-0", Method::Zstd { level: 3 }),
        start("m-0-1", Method::None),
    );
    a.push(&Topology::new(1).shard("0", ALL, &[&a]).bootstrap());
    write(&a, 0..1_000);
    let both = Topology::new(2).shard("0", ALL, &[&a, &b]);
    a.push(&both);
    b.push(&both);
    b.wait_streaming();
    // By the copy so far, by the log from here on.
    write(&a, 1_000..2_000);
    let p = a.store.point(b"key:11");
    let moved = b"key:1111";
    a.store
        .lock(p.slot)
        .append(p, b"key:11", b" and more", 0)
        .unwrap();
    let q = a.store.point(moved);
    a.store
        .lock(q.slot)
        .set_range(q, moved, 3, b"changed", 0)
        .unwrap();
    a.wait_caught_up(&b);
    assert_eq!(a.contents(), b.contents());
    assert!(a.compressed() > 1_500);
    assert_eq!(a.compressed(), b.compressed());
    // The other way round once the roles are changed: the new primary compresses nothing, and keeps what is.
    let before = b.compressed();
    let swapped = Topology::new(3).shard("0", ALL, &[&b, &a]);
    b.push(&swapped);
    a.push(&swapped);
    a.wait_streaming();
    write(&b, 0..100);
    b.wait_caught_up(&a);
    assert_eq!(a.contents(), b.contents());
    assert!(b.compressed() < before && b.compressed() == a.compressed());
}

#[test]
fn a_move_carries_compressed_strings_to_the_other_shard_and_its_replica() {
    let (a, b) = (start("m-0-0", Method::Lz4), start("m-1-0", Method::None));
    let replica = start("m-1-1", Method::None);
    let before = |epoch| {
        Topology::new(epoch).shard("0", &[(0, 8_191)], &[&a]).shard(
            "1",
            &[(8_192, 16_383)],
            &[&b, &replica],
        )
    };
    let push = |topology: &Topology| {
        for node in [&b, &a, &replica] {
            node.push(topology);
        }
    };
    push(&before(1).bootstrap());
    replica.wait_streaming();
    let keys: Vec<usize> = (0..8_000)
        .filter(|i| a.store.point(format!("key:{i}").as_bytes()).slot <= 4_000)
        .collect();
    let (early, late) = keys.split_at(keys.len() / 2);
    early.iter().for_each(|&i| write(&a, i..i + 1));
    push(&before(2).moving("mv", (0, 4_000), "0", "1"));
    a.wait_move("mv", MovePhase::Streaming);
    late.iter().for_each(|&i| write(&a, i..i + 1));
    let (contents, compressed) = (a.contents(), a.compressed());
    assert!(compressed > 1_000);
    a.ask(&["MOVE", "SEAL", "mv", "10000"]).unwrap();
    push(
        &Topology::new(3).shard("0", &[(4_001, 8_191)], &[&a]).shard(
            "1",
            &[(0, 4_000), (8_192, 16_383)],
            &[&b, &replica],
        ),
    );
    b.wait_caught_up(&replica);
    assert_eq!(b.contents(), contents);
    assert_eq!(replica.contents(), contents);
    assert_eq!(
        (b.compressed(), replica.compressed()),
        (compressed, compressed)
    );
}

#[test]
fn a_follower_of_an_older_protocol_gets_plain_strings() {
    let (a, b) = (start("m-0-0", Method::Lz4), start("m-0-1", Method::None));
    a.push(&Topology::new(1).shard("0", ALL, &[&a, &b]).bootstrap());
    write(&a, 0..200);
    assert!(a.compressed() > 100);
    // As an older replica asks, and again where it stopped, which a current one may go on from.
    let sync = |protocol: Option<u32>, epoch: u64, offset: u64| {
        let mut request = json!({"member": "m-0-1", "dataID": "d", "clusterID": "c", "epoch": 1,
            "logEpoch": epoch, "offset": offset});
        request["clusterID"] = a.state().cluster_id.into();
        if let Some(protocol) = protocol {
            request["protocol"] = protocol.into();
        }
        let address = (a.control.ip().to_string(), a.control.port());
        a.block_on(async {
            let mut peer = Peer::connect(&address, PASSWORD.as_bytes()).await.unwrap();
            let request = request.to_string().into_bytes();
            let words: [&[u8]; 3] = [b"CACHE.NODE", b"SYNC", &request];
            let reply = peer.ask(&words).await.unwrap();
            (reply, peer)
        })
    };
    let full = Reply::Simple("FULL".into());
    for protocol in [None, Some(1)] {
        let (reply, old) = sync(protocol, 0, 0);
        assert_eq!(reply, full);
        assert!(!a.log.followers_are_current());
        // While it follows, others are sent plain strings too.
        write(&a, 200..300);
        drop(old);
        wait_until("the old follower is gone", || a.log.followers_are_current());
    }
    let at = a.block_on(a.log.settle());
    assert_eq!(sync(Some(1), at.epoch, at.offset).0, full);
    wait_until("it is gone", || a.log.followers_are_current());
    let old = a.log.admit_old_follower(&a.store);
    b.push(&Topology::new(1).shard("0", ALL, &[&a, &b]).bootstrap());
    b.wait_streaming();
    write(&a, 300..400);
    a.wait_caught_up(&b);
    assert_eq!(b.compressed(), 0);
    drop(old);
    write(&a, 400..500);
    a.wait_caught_up(&b);
    assert!(b.compressed() > 50);
    assert_eq!(a.contents(), b.contents());
}
