//! A primary whose followers come and go: its log is on while somebody follows or may come back, and off otherwise.

mod support;

use std::sync::Arc;

use cache_node::cluster::role::Role;
use cache_node::cluster::state::MovePhase;
use support::*;

const ALL: &[(u16, u16)] = &[(0, 16_383)];

fn pushed(topology: &Topology, nodes: &[&TestNode]) {
    nodes.iter().for_each(|n| n.push(topology));
}

fn log_is(on: bool, node: &TestNode) {
    wait_until(
        if on {
            "the log is on"
        } else {
            "the log is off"
        },
        || node.log.is_active() == on,
    );
}

/// Keys come in while the log is as it is.
fn more_writes(node: &TestNode, tag: &str) {
    for i in 0..200 {
        let key = format!("{tag}:{i}");
        wait_until("a write is taken", || {
            node.try_write(key.as_bytes(), Some(b"v"), None)
        });
    }
}

#[test]
fn the_log_goes_off_with_the_last_follower_and_on_with_the_next() {
    let (a, b) = (TestNode::start("m-0-0"), TestNode::start("m-0-1"));
    let (a, b) = (Arc::new(a), Arc::new(b));
    let alone = |epoch| Topology::new(epoch).shard("0", ALL, &[&a]);
    let both = |epoch| Topology::new(epoch).shard("0", ALL, &[&a, &b]);
    a.push(&alone(1).bootstrap());
    assert!(!a.log.is_active());
    let load = Load::start(&[&a], 2, 2_000);
    for epoch in [2, 4, 6] {
        pushed(&both(epoch), &[&a, &b]);
        // From when the topology is taken: the replica need not have come yet.
        assert!(a.log.is_active());
        b.wait_streaming();
        more_writes(&a, &format!("followed:{epoch}"));
        a.push(&alone(epoch + 1));
        // Its session is there until it hears of it.
        assert!(a.log.is_active());
        b.push(&alone(epoch + 1));
        log_is(false, &a);
        assert_eq!(a.log.backlog_bytes(), 0);
        more_writes(&a, &format!("alone:{epoch}"));
    }
    pushed(&both(8), &[&a, &b]);
    b.wait_streaming();
    let ledger = load.stop();
    assert!(ledger.writes > 500, "{}", ledger.writes);
    a.wait_caught_up(&b);
    assert_eq!(a.contents(), b.contents());
    assert_eq!(a.contents().len(), keys_of(&ledger) + 3 * 400);
}

fn keys_of(ledger: &Ledger) -> usize {
    ledger.last.values().filter(|v| v.is_some()).count()
}

/// A member that is away and listed goes on where it was.
#[test]
fn a_listed_member_that_is_away_keeps_the_log_on() {
    let (a, b) = (TestNode::start("m-0-0"), TestNode::start("m-0-1"));
    let first = Topology::new(1).shard("0", ALL, &[&a, &b]).bootstrap();
    pushed(&first, &[&a, &b]);
    b.wait_streaming();
    // Its primary is somewhere else for a while.
    let mut away = Topology::new(2).shard("0", ALL, &[&a, &b]);
    away.shards[0]["members"][0]["controlPort"] = 1.into();
    b.push(&away);
    wait_until("its session ends", || a.state().replicas.is_empty());
    more_writes(&a, "away");
    assert!(a.log.is_active());
    pushed(&Topology::new(3).shard("0", ALL, &[&a, &b]), &[&a, &b]);
    b.wait_streaming();
    a.wait_caught_up(&b);
    assert_eq!(b.state().sync.keys_total, 0, "a full sync was made");
    assert_eq!(a.contents(), b.contents());
}

/// What was written without a log is in no history, also when the node begins another one in between.
#[test]
fn a_former_replica_does_not_go_on_over_writes_that_were_not_logged() {
    let (a, b) = (TestNode::start("m-0-0"), TestNode::start("m-0-1"));
    let c = TestNode::start("m-1-0");
    let first = Topology::new(1).shard("0", ALL, &[&a, &b]).bootstrap();
    pushed(&first, &[&a, &b]);
    more_writes(&a, "both");
    b.wait_streaming();
    a.wait_caught_up(&b);
    pushed(&Topology::new(2).shard("0", ALL, &[&a]), &[&b, &a]);
    log_is(false, &a);
    more_writes(&a, "alone");
    // Nobody's primary for a while; both keep what they hold.
    let nobody = Topology::new(3).shard("0", ALL, &[&c]).bootstrap();
    pushed(&nobody, &[&a, &b]);
    assert_eq!((a.state().role, b.state().fresh), (Role::None, false));
    let back = Topology::new(4).shard("0", ALL, &[&a, &b]);
    pushed(&back, &[&a, &b]);
    b.wait_streaming();
    a.wait_caught_up(&b);
    assert_eq!(a.contents().len(), 400);
    assert_eq!(a.contents(), b.contents());
}

#[test]
fn the_log_goes_off_after_the_last_slot_move() {
    let (a, b) = (TestNode::start("m-0-0"), TestNode::start("m-1-0"));
    let (a, b) = (Arc::new(a), Arc::new(b));
    let at = |epoch, split: u16| {
        let high = [(split + 1, 16_383)];
        Topology::new(epoch)
            .shard("0", &[(0, split)], &[&a])
            .shard("1", &high, &[&b])
    };
    pushed(&at(1, 8_191).bootstrap(), &[&a, &b]);
    let load = Load::start(&[&a, &b], 2, 2_000);
    for (epoch, split) in [(2, 6_000), (4, 4_000)] {
        let from = if epoch == 2 { 8_191 } else { 6_000 };
        let moving = at(epoch, from).moving("mv", (split + 1, from), "0", "1");
        pushed(&moving, &[&b, &a]);
        wait_until("it streams", || {
            let moves = a.state().moves;
            moves.iter().any(|m| m.state == MovePhase::Streaming)
        });
        assert!(a.log.is_active() && !b.log.is_active());
        assert!(a.ask(&["MOVE", "SEAL", "mv", "10000"]).is_ok());
        pushed(&at(epoch + 1, split), &[&b, &a]);
        log_is(false, &a);
    }
    let ledger = load.stop();
    wait_until("lost slots are dropped", || {
        a.state().keys + b.state().keys == keys_of(&ledger) as u64
    });
    verify(&ledger, &[&a, &b]);
}
