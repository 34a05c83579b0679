//! Slot moves between shards.

mod support;

use std::sync::Arc;
use std::time::Duration;

use cache_node::cluster::state::MovePhase;
use serde_json::Value;
use support::*;

const MOVED: (u16, u16) = (0, 4_000);

struct World {
    source: Arc<TestNode>,
    destination: Arc<TestNode>,
    /// A replica of the destination.
    replica: Arc<TestNode>,
}

impl World {
    fn new() -> Self {
        let world = Self {
            source: Arc::new(TestNode::start("m-0-0")),
            destination: Arc::new(TestNode::start("m-1-0")),
            replica: Arc::new(TestNode::start("m-1-1")),
        };
        world.push(&world.before(1).bootstrap());
        world.replica.wait_streaming();
        world
    }

    fn before(&self, epoch: u64) -> Topology {
        Topology::new(epoch)
            .shard("0", &[(0, 8_191)], &[&self.source])
            .shard("1", &[(8_192, 16_383)], &[&self.destination, &self.replica])
    }

    fn moving(&self, epoch: u64) -> Topology {
        self.before(epoch).moving("mv", MOVED, "0", "1")
    }

    fn after(&self, epoch: u64) -> Topology {
        Topology::new(epoch)
            .shard("0", &[(4_001, 8_191)], &[&self.source])
            .shard(
                "1",
                &[(0, 4_000), (8_192, 16_383)],
                &[&self.destination, &self.replica],
            )
    }

    /// Destination first, as the operator does.
    fn push(&self, topology: &Topology) {
        for node in [&self.destination, &self.source, &self.replica] {
            node.push(topology);
        }
    }

    fn fill(&self, keys: usize) -> Ledger {
        let mut ledger = Ledger::default();
        for i in 0..keys {
            let key = format!("filled:{i}").into_bytes();
            let value = format!("value {i}").into_bytes();
            while !self.source.try_write(&key, Some(&value), None)
                && !self.destination.try_write(&key, Some(&value), None)
            {}
            ledger.last.insert(key, Some(value));
        }
        ledger
    }

    fn load(&self) -> Load {
        Load::start(&[&self.source, &self.destination], 2, 4_000)
    }

    fn seal(&self, ms: &str) -> Result<String, String> {
        self.source.ask(&["MOVE", "SEAL", "mv", ms])
    }

    fn verify(&self, filled: Ledger, load: Ledger) {
        let mut all = filled;
        all.last.extend(load.last);
        // Those who lost slots drop their data after they have answered.
        wait_until("the source drops the slots", || {
            (MOVED.0..=MOVED.1).all(|s| self.source.store.lock(s).slot_len(s) == 0)
        });
        verify(&all, &[&self.source, &self.destination]);
        self.destination.wait_caught_up(&self.replica);
        assert_eq!(self.destination.contents(), self.replica.contents());
    }
}

#[test]
fn a_move_under_writes_loses_nothing_and_doubles_nothing() {
    let w = World::new();
    let filled = w.fill(10_000);
    let load = w.load();
    w.push(&w.moving(2));
    w.source.wait_move("mv", MovePhase::Streaming);
    let sealed: Value = serde_json::from_str(&w.seal("10000").unwrap()).unwrap();
    assert_eq!(w.source.state().moves[0].state, MovePhase::Sealed);
    assert_eq!(w.destination.state().imports[0].state, MovePhase::Sealed);
    // Reads go on, writes wait.
    let (key, _) = filled
        .last
        .iter()
        .find(|(k, _)| w.source.store.point(k).slot <= MOVED.1)
        .unwrap();
    assert!(w.source.get(key).is_some() && !w.source.try_write(key, Some(b"x"), None));
    let held = (MOVED.0..=MOVED.1)
        .map(|s| w.destination.store.lock(s).slot_len(s))
        .sum::<usize>();
    assert_eq!(sealed["keys"], held);
    w.push(&w.after(3));
    assert_eq!(w.destination.serving().len(), 8_192 + 4_001);
    wait_until("writes come to the moved slots", || {
        w.destination.state().offset > 0
    });
    let ledger = load.stop();
    assert!(ledger.writes > 300);
    w.verify(filled, ledger);
    assert!(w.source.state().moves.is_empty() && w.destination.state().imports.is_empty());
}

/// Whoever switches the slots may end between two pushes: clients must not be sent to and fro until it is back.
#[test]
fn a_source_tells_the_new_owner_of_the_switch() {
    let w = World::new();
    let filled = w.fill(1_000);
    w.push(&w.moving(2));
    w.source.wait_move("mv", MovePhase::Streaming);
    w.seal("10000").unwrap();
    w.source.push(&w.after(3));
    wait_until("the destination serves what the source gave up", || {
        w.destination.serving().len() == 8_192 + 4_001
    });
    verify(&filled, &[&w.source, &w.destination]);
}

#[test]
fn a_cancelled_move_leaves_everything_where_it_was() {
    let w = World::new();
    let filled = w.fill(5_000);
    let load = w.load();
    w.push(&w.moving(2));
    w.source.wait_move("mv", MovePhase::Streaming);
    assert!(w.destination.state().imports[0].keys > 0);
    w.push(&w.before(3));
    wait_until("the destination drops what it imported", || {
        (MOVED.0..=MOVED.1).all(|s| w.destination.store.lock(s).slot_len(s) == 0)
    });
    let ledger = load.stop();
    let mut all = filled;
    all.last.extend(ledger.last);
    verify(&all, &[&w.source, &w.destination]);
    w.destination.wait_caught_up(&w.replica);
    assert_eq!(w.destination.contents(), w.replica.contents());
}

#[test]
fn a_seal_is_refused_before_the_copy_is_complete_and_can_be_cancelled() {
    let w = World::new();
    let unknown = w.seal("1000").unwrap_err();
    assert!(
        unknown.starts_with("MOVENOTREADY m-0-0 exports no move"),
        "{unknown}"
    );
    // The destination does not know the move yet.
    w.source.push(&w.moving(2));
    let waiting = w.seal("1000").unwrap_err();
    assert!(waiting.starts_with("MOVENOTREADY"), "{waiting}");
    wait_until("the reason is shown", || {
        w.source
            .state()
            .moves
            .iter()
            .any(|m| m.error.contains("STALEEPOCH"))
    });
    w.push(&w.moving(2));
    w.source.wait_move("mv", MovePhase::Streaming);
    w.seal("60000").unwrap();
    // As an operator does that follows one that was killed here.
    assert_eq!(w.seal("60000"), Ok(w.seal("60000").unwrap()));
    assert_eq!(w.source.serving().len(), 8_192 - 4_001);
    assert_eq!(w.source.ask(&["MOVE", "UNSEAL", "mv"]).as_deref(), Ok("OK"));
    assert_eq!(w.source.state().moves[0].state, MovePhase::Streaming);
    assert_eq!(w.source.serving().len(), 8_192);
    // What is written after the cancelled seal is moved too.
    let load = w.load();
    wait_until("writes come", || w.source.log.position().offset > 200_000);
    w.seal("60000").unwrap();
    w.push(&w.after(3));
    let ledger = load.stop();
    w.verify(Ledger::default(), ledger);
}

#[test]
fn a_seal_that_nobody_uses_ends_and_a_late_switch_loses_nothing() {
    let w = World::new();
    let filled = w.fill(5_000);
    let load = w.load();
    w.push(&w.moving(2));
    w.source.wait_move("mv", MovePhase::Streaming);
    w.seal("2000").unwrap();
    w.source.wait_move("mv", MovePhase::Streaming);
    wait_until("writes go on", || w.source.serving().len() == 8_192);
    assert_eq!(w.destination.state().imports[0].state, MovePhase::Streaming);
    // The operator comes back and pushes what it had written before: the destination waits for the source's last writes.
    w.destination.push(&w.after(3));
    wait_until("the destination serves", || {
        w.destination.serving().len() == 8_192 + 4_001
    });
    wait_until("the source learned it from the destination", || {
        w.source.state().epoch == 3
    });
    w.replica.push(&w.after(3));
    let ledger = load.stop();
    w.verify(filled, ledger);
}

#[test]
fn a_destination_that_dies_is_copied_to_anew() {
    let w = World::new();
    let filled = w.fill(20_000);
    let load = Load::start(&[&w.source, &w.destination, &w.replica], 2, 4_000);
    w.push(&w.moving(2));
    wait_until("some keys came", || {
        w.destination.state().imports.iter().any(|i| i.keys > 500)
    });
    // Its own writes stop, so that what it acknowledged is replicated; then its replica takes over, in the middle of the copy.
    w.destination.ask(&["HANDOVER", "m-1-1", "30000"]).unwrap();
    let shard = |epoch| {
        Topology::new(epoch)
            .shard("0", &[(0, 8_191)], &[&w.source])
            .shard("1", &[(8_192, 16_383)], &[&w.replica, &w.destination])
            .moving("mv", MOVED, "0", "1")
    };
    for node in [&w.replica, &w.source, &w.destination] {
        node.push(&shard(3));
    }
    w.source.wait_move("mv", MovePhase::Streaming);
    w.seal("10000").unwrap();
    let after = Topology::new(4)
        .shard("0", &[(4_001, 8_191)], &[&w.source])
        .shard(
            "1",
            &[(0, 4_000), (8_192, 16_383)],
            &[&w.replica, &w.destination],
        );
    for node in [&w.replica, &w.source, &w.destination] {
        node.push(&after);
    }
    let ledger = load.stop();
    let mut all = filled;
    all.last.extend(ledger.last);
    verify(&all, &[&w.source, &w.replica]);
    w.replica.wait_caught_up(&w.destination);
    assert_eq!(w.replica.contents(), w.destination.contents());
}

#[test]
fn a_source_whose_replica_takes_over_copies_anew() {
    let source = Arc::new(TestNode::start("m-0-0"));
    let second = Arc::new(TestNode::start("m-0-1"));
    let destination = Arc::new(TestNode::start("m-1-0"));
    let world = |epoch, first: &TestNode, other: &TestNode| {
        Topology::new(epoch)
            .shard("0", &[(0, 8_191)], &[first, other])
            .shard("1", &[(8_192, 16_383)], &[&destination])
    };
    let all = [&destination, &source, &second];
    let push = |t: &Topology| all.iter().for_each(|n| n.push(t));
    push(&world(1, &source, &second).bootstrap());
    second.wait_streaming();
    let load = Load::start(&all, 2, 3_000);
    push(&world(2, &source, &second).moving("mv", MOVED, "0", "1"));
    source.wait_move("mv", MovePhase::Streaming);
    source.ask(&["MOVE", "SEAL", "mv", "60000"]).unwrap();
    wait_until("the replica is synced", || {
        source.state().replicas.iter().any(|r| r.synced)
    });
    source.ask(&["HANDOVER", "m-0-1", "30000"]).unwrap();
    push(&world(3, &second, &source).moving("mv", MOVED, "0", "1"));
    assert!(source.state().moves.is_empty());
    // The sealed slots serve again, at the new primary.
    assert_eq!(second.serving().len(), 8_192);
    second.wait_move("mv", MovePhase::Streaming);
    second.ask(&["MOVE", "SEAL", "mv", "60000"]).unwrap();
    push(
        &Topology::new(4)
            .shard("0", &[(4_001, 8_191)], &[&second, &source])
            .shard("1", &[(0, 4_000), (8_192, 16_383)], &[&destination]),
    );
    let ledger = load.stop();
    verify(&ledger, &[&second, &destination]);
}

#[test]
fn writes_to_sealed_slots_wait_while_the_destination_may_own_them() {
    let mut destination = TestNode::start("m-1-0");
    let source = Arc::new(TestNode::start("m-0-0"));
    let before = |epoch| {
        Topology::new(epoch)
            .shard("0", &[(0, 8_191)], &[&source])
            .shard("1", &[(8_192, 16_383)], &[&destination])
    };
    let moving = before(2).moving("mv", MOVED, "0", "1");
    let cancelled = before(3);
    for node in [&destination, &source] {
        node.push(&before(1).bootstrap());
        node.push(&moving);
    }
    source.wait_move("mv", MovePhase::Streaming);
    source.ask(&["MOVE", "SEAL", "mv", "300"]).unwrap();
    destination.kill();
    wait_until("the break is seen", || {
        source.state().moves[0].state == MovePhase::Waiting
    });
    let refused = source.ask(&["MOVE", "UNSEAL", "mv"]).unwrap_err();
    assert!(
        refused.starts_with("MOVENOTREADY the destination is not connected"),
        "{refused}"
    );
    // Longer than the seal's time: nobody knows whether the destination became the owner before it died.
    let end = std::time::Instant::now() + Duration::from_millis(600);
    while std::time::Instant::now() < end {
        assert_eq!(source.serving().len(), 8_192 - 4_001);
    }
    // The operator knows.
    source.push(&cancelled);
    assert_eq!(source.serving().len(), 8_192);
}
