//! Replication and changes of primary.

mod support;

use std::sync::Arc;
use std::time::Duration;

use cache_node::cluster::role::Role;
use cache_node::cluster::state::SyncPhase;
use support::*;

const ALL: &[(u16, u16)] = &[(0, 16_383)];

fn primary_and_replica() -> (Arc<TestNode>, Arc<TestNode>) {
    let (a, b) = (TestNode::start("m-0-0"), TestNode::start("m-0-1"));
    let topology = Topology::new(1).shard("0", ALL, &[&a, &b]).bootstrap();
    a.push(&topology);
    b.push(&topology);
    (Arc::new(a), Arc::new(b))
}

#[test]
fn a_full_sync_under_writes_gives_the_same_keys() {
    let (a, b) = (TestNode::start("m-0-0"), TestNode::start("m-0-1"));
    let (a, b) = (Arc::new(a), Arc::new(b));
    a.push(&Topology::new(1).shard("0", ALL, &[&a]).bootstrap());
    assert_eq!(a.serving().len(), 16_384);
    for i in 0..20_000 {
        let expires = (i % 3 == 0).then(|| now_ms() + 3_600_000 + i);
        assert!(a.try_write(format!("old:{i}").as_bytes(), Some(b"v"), expires));
    }
    let load = Load::start(&[&a], 2, 3_000);
    let both = Topology::new(2).shard("0", ALL, &[&a, &b]);
    a.push(&both);
    b.push(&both);
    b.wait_streaming();
    let ledger = load.stop();
    assert!(ledger.writes > 500, "{}", ledger.writes);
    a.wait_caught_up(&b);
    assert_eq!(a.contents(), b.contents());
    assert!(b.serving().is_empty());
    let state = a.state();
    assert_eq!(state.role, Role::Primary);
    assert!(
        state
            .replicas
            .iter()
            .any(|r| r.member == "m-0-1" && r.synced && r.data_id == b.cluster.data_id)
    );
    assert_eq!(b.cluster.readiness(), Ok(()));
}

#[test]
fn a_replica_that_comes_back_goes_on_where_it_was() {
    let (a, b) = primary_and_replica();
    b.wait_streaming();
    let load = Load::start(&[&a], 1, 2_000);
    // Another address of the same primary makes the replica connect anew.
    for epoch in 2..6 {
        let mut next = Topology::new(epoch).shard("0", ALL, &[&a, &b]);
        next.shards[0]["members"][0]["address"] = if epoch % 2 == 0 {
            "localhost"
        } else {
            "127.0.0.1"
        }
        .into();
        b.push(&next);
        a.push(&next);
        b.wait_streaming();
        assert_eq!(b.state().sync.keys_total, 0, "a full sync was made");
    }
    load.stop();
    a.wait_caught_up(&b);
    assert_eq!(a.contents(), b.contents());
}

#[test]
fn a_replica_behind_the_backlog_syncs_in_full() {
    let a = Arc::new(TestNode::start_with("m-0-0", 64 << 10, 0, None));
    let b = Arc::new(TestNode::start("m-0-1"));
    let both = Topology::new(1).shard("0", ALL, &[&a, &b]).bootstrap();
    a.push(&both);
    b.push(&both);
    b.wait_streaming();
    // Its primary is somewhere else for a while.
    let mut away = Topology::new(2).shard("0", ALL, &[&a, &b]);
    away.shards[0]["members"][0]["controlPort"] = 1.into();
    b.push(&away);
    for i in 0..2_000 {
        while !a.try_write(format!("{i}").as_bytes(), Some(&[7; 1_000]), None) {}
        if i % 100 == 0 {
            // The backlog drops what it was given at once as a whole.
            a.block_on(a.log.settle());
        }
    }
    wait_until("it says what it waits for", || {
        b.state().waiting_for.contains("a connection to m-0-0")
    });
    // It holds an old whole copy, and says so.
    assert!(!b.state().fresh && b.cluster.readiness().is_err());
    let back = Topology::new(3).shard("0", ALL, &[&a, &b]);
    b.push(&back);
    a.push(&back);
    a.wait_caught_up(&b);
    assert!(b.state().sync.keys_total > 0, "no full sync was made");
    assert_eq!(a.contents(), b.contents());
}

#[test]
fn a_replica_becomes_primary_and_others_follow_without_a_full_sync() {
    let mut a = TestNode::start("m-0-0");
    let (b, c) = (
        Arc::new(TestNode::start("m-0-1")),
        Arc::new(TestNode::start("m-0-2")),
    );
    let first = Topology::new(1).shard("0", ALL, &[&a, &b, &c]).bootstrap();
    for node in [&a, &*b, &*c] {
        node.push(&first);
    }
    b.wait_streaming();
    c.wait_streaming();
    for i in 0..3_000 {
        while !a.try_write(format!("{i}").as_bytes(), Some(b"before"), None) {}
    }
    a.wait_caught_up(&b);
    a.wait_caught_up(&c);
    let all = a.contents();
    a.kill();
    let second = Topology::new(2).shard("0", ALL, &[&b, &c, &a]);
    b.push(&second);
    c.push(&second);
    c.wait_streaming();
    let load = Load::start(&[&b], 1, 500);
    wait_until("writes come", || b.state().offset > 100_000);
    let ledger = load.stop();
    b.wait_caught_up(&c);
    assert_eq!(c.state().sync.keys_total, 0, "a full sync was made");
    assert_eq!((b.state().role, b.state().log_epoch), (Role::Primary, 2));
    assert_eq!((c.state().role, c.state().log_epoch), (Role::Replica, 2));
    assert_eq!(b.contents(), c.contents());
    let kept = ledger.last.values().flatten().count();
    assert_eq!(b.contents().len(), all.len() + kept);
    // And once more: the third takes over from the second.
    let third = Topology::new(3).shard("0", ALL, &[&c, &b, &a]);
    c.push(&third);
    b.push(&third);
    b.wait_streaming();
    assert_eq!(b.state().sync.keys_total, 0, "a full sync was made");
    c.wait_caught_up(&b);
    assert_eq!(b.contents(), c.contents());
}

#[test]
fn a_primary_whose_writes_were_not_replicated_drops_them() {
    let (a, b) = primary_and_replica();
    b.wait_streaming();
    assert!(a.try_write(b"both", Some(b"1"), None));
    a.wait_caught_up(&b);
    // Only b learns that it is primary: a writes on in its own branch for a while.
    b.push(&Topology::new(2).shard("0", ALL, &[&b, &a]));
    assert!(a.try_write(b"lost", Some(b"1"), None) && b.try_write(b"new", Some(b"1"), None));
    assert!(a.try_write(b"lost2", Some(b"a longer value"), None));
    a.push(&Topology::new(2).shard("0", ALL, &[&b, &a]));
    a.wait_streaming();
    b.wait_caught_up(&a);
    assert!(
        a.state().sync.keys_total > 0,
        "its branch had to be dropped in a full sync"
    );
    assert_eq!(a.contents(), b.contents());
    assert_eq!(
        b.contents().into_keys().collect::<Vec<_>>(),
        [b"both".to_vec(), b"new".to_vec()]
    );
}

#[test]
fn an_empty_member_never_serves_as_primary() {
    let (a, b) = primary_and_replica();
    b.wait_streaming();
    assert!(a.try_write(b"k", Some(b"1"), None));
    a.wait_caught_up(&b);
    // The primary's process is another one now: same name, no data.
    let anew = Arc::new(TestNode::start("m-0-0"));
    let mut old = Topology::new(2).shard("0", ALL, &[&a, &b]);
    old.shards[0]["bootstrap"] = true.into();
    anew.push(&old);
    assert_eq!((anew.state().role, anew.serving().len()), (Role::None, 0));
    assert!(
        anew.state().waiting_for.contains("memory began anew"),
        "{}",
        anew.state().waiting_for
    );
    // Nor does a topology make it primary by its new data ID.
    let refused = anew.ask(&[
        "TOPOLOGY",
        "SET",
        &Topology::new(3).shard("0", ALL, &[&anew, &b]).json(),
    ]);
    assert!(
        refused.as_ref().unwrap_err().starts_with("NOTSYNCED"),
        "{refused:?}"
    );
    // As a learner it syncs from the present primary; then it may become primary.
    let mut learner = Topology::new(4).shard("0", ALL, &[&b, &anew]);
    learner.shards[0]["members"][1]["role"] = "Learner".into();
    b.push(&learner);
    // Until it has synced it isn't ready; then it is, as a learner too: a restart must not wait for the promotion.
    assert!(anew.cluster.readiness().is_err());
    anew.push(&learner);
    anew.wait_streaming();
    b.wait_caught_up(&anew);
    assert_eq!(anew.state().role, Role::Learner);
    assert!(anew.cluster.readiness().is_ok());
    assert_eq!(anew.get(b"k").as_deref(), Some(&b"1"[..]));
    let back = Topology::new(5).shard("0", ALL, &[&anew, &b]);
    anew.push(&back);
    b.push(&back);
    b.wait_streaming();
    assert_eq!(anew.serving().len(), 16_384);
    assert!(b.serving().is_empty());
}

#[test]
fn a_sync_that_broke_half_way_is_never_promotable() {
    let mut a = TestNode::start("m-0-0");
    let b = Arc::new(TestNode::start("m-0-1"));
    a.push(&Topology::new(1).shard("0", ALL, &[&a]).bootstrap());
    for i in 0..60_000 {
        assert!(a.try_write(format!("{i}").as_bytes(), Some(&[1; 500]), None));
    }
    let both = Topology::new(2).shard("0", ALL, &[&a, &b]);
    a.push(&both);
    b.push(&both);
    wait_until("some keys came", || b.state().keys > 1_000);
    a.kill();
    wait_until("the break is seen", || {
        b.state().sync.state == SyncPhase::Connecting
    });
    let state = b.state();
    assert!(state.fresh && state.keys < 60_000, "{} keys", state.keys);
    assert_eq!(
        (state.log_epoch, state.offset, state.serving),
        (0, 0, false)
    );
    assert!(
        state.waiting_for.contains("no whole data"),
        "{}",
        state.waiting_for
    );
    let refused = b.ask(&[
        "TOPOLOGY",
        "SET",
        &Topology::new(3).shard("0", ALL, &[&b, &a]).json(),
    ]);
    assert!(
        refused.as_ref().unwrap_err().starts_with("NOTSYNCED"),
        "{refused:?}"
    );
    // Bootstrapped, it begins empty, not with half of the data.
    let anew = Topology::new(3).shard("0", ALL, &[&b, &a]).bootstrap();
    b.push(&anew);
    assert_eq!((b.state().keys, b.serving().len()), (0, 16_384));
}

#[test]
fn a_handover_under_writes_loses_nothing() {
    let (a, b) = primary_and_replica();
    b.wait_streaming();
    let load = Load::start(&[&a, &b], 2, 2_000);
    for (epoch, (from, to)) in (2..).zip([(&a, &b), (&b, &a), (&a, &b)]) {
        wait_until("writes come", || from.serving().len() == 16_384);
        wait_until("it is synced", || {
            from.state().replicas.iter().any(|r| r.synced)
        });
        let reply = from.ask(&["HANDOVER", &to.name, "10000"]).unwrap();
        let at: serde_json::Value = serde_json::from_str(&reply).unwrap();
        assert!(from.state().writes_paused && from.serving().is_empty());
        assert_eq!(at["offset"], to.state().offset);
        let next = Topology::new(epoch).shard("0", ALL, &[to, from]);
        to.push(&next);
        from.push(&next);
        from.wait_streaming();
        assert_eq!(from.state().sync.keys_total, 0, "a full sync was made");
    }
    let ledger = load.stop();
    b.wait_caught_up(&a);
    verify(&ledger, &[&b]);
    assert_eq!(a.contents(), b.contents());
}

#[test]
fn a_handover_that_nobody_completes_ends() {
    let (a, b) = primary_and_replica();
    b.wait_streaming();
    wait_until("it is synced", || {
        a.state().replicas.iter().any(|r| r.synced)
    });
    let failed = a.ask(&["HANDOVER", "m-0-9", "1000"]).unwrap_err();
    assert!(failed.starts_with("HANDOVERFAILED m-0-9"), "{failed}");
    let failed = b.ask(&["HANDOVER", "m-0-0", "1000"]).unwrap_err();
    assert!(failed.starts_with("HANDOVERFAILED"), "{failed}");
    a.ask(&["HANDOVER", "m-0-1", "60000"]).unwrap();
    assert!(!a.try_write(b"k", Some(b"1"), None));
    assert_eq!(a.ask(&["RESUME"]).as_deref(), Ok("OK"));
    assert!(a.try_write(b"k", Some(b"1"), None));
    a.ask(&["HANDOVER", "m-0-1", "300"]).unwrap();
    assert!(!a.try_write(b"k", Some(b"2"), None));
    wait_until("writes go on by themselves", || {
        a.try_write(b"k", Some(b"3"), None)
    });
    a.wait_caught_up(&b);
    assert_eq!(b.get(b"k").as_deref(), Some(&b"3"[..]));
}

#[test]
fn without_an_operator_a_stopping_primary_hands_over_itself() {
    let a = Arc::new(TestNode::start("m-0-0"));
    let (b, c) = (
        Arc::new(TestNode::start("m-0-1")),
        Arc::new(TestNode::start("m-0-2")),
    );
    let other = Arc::new(TestNode::start("m-1-0"));
    let half: &[(u16, u16)] = &[(0, 8_191)];
    let first = Topology::new(1)
        .shard("0", half, &[&a, &b, &c])
        .shard("1", &[(8_192, 16_383)], &[&other])
        .bootstrap();
    for node in [&a, &b, &c, &other] {
        node.push(&first);
    }
    wait_until("both are synced", || {
        a.state().replicas.iter().filter(|r| r.synced).count() == 2
    });
    let load = Load::start(&[&a, &b, &c, &other], 1, 2_000);
    wait_until("writes come", || a.state().offset > 50_000);
    let begun = std::time::Instant::now();
    a.block_on(cache_node::lifecycle::shutdown(
        &a.cluster,
        Duration::from_secs(20),
    ));
    assert!(begun.elapsed() < Duration::from_secs(6));
    wait_until("one of the replicas serves", || {
        b.serving().len() + c.serving().len() == 8_192
    });
    assert!(a.serving().is_empty() && a.state().stopping);
    let ledger = load.stop();
    let (heir, rest) = if b.serving().is_empty() {
        (&c, &b)
    } else {
        (&b, &c)
    };
    rest.wait_streaming();
    heir.wait_caught_up(rest);
    assert_eq!(heir.contents(), rest.contents());
    verify(&ledger, &[heir, &other]);
    // All nodes know it, the other shard's too.
    for node in [&a, heir, rest, &other] {
        assert_eq!(node.state().epoch, 2, "{}", node.name);
    }
}

#[test]
fn topologies_are_refused_by_epoch_cluster_and_form() {
    let (a, _b) = primary_and_replica();
    let held = a.ask(&["TOPOLOGY", "GET"]).unwrap();
    assert_eq!(a.ask(&["TOPOLOGY", "SET", &held]).as_deref(), Ok("OK"));
    let table = [
        (
            held.replace(r#""epoch":1"#, r#""epoch":0"#),
            "BADTOPOLOGY epoch",
        ),
        (held.replace("localhost", "other"), "STALEEPOCH"),
        (
            held.replace("c1", "c2")
                .replace(r#""epoch":1"#, r#""epoch":9"#),
            "FOREIGNDATA",
        ),
        ("{".into(), "BADTOPOLOGY topology"),
    ];
    for (json, code) in table {
        assert_ne!(json, held);
        let error = a.ask(&["TOPOLOGY", "SET", &json]).unwrap_err();
        assert!(error.starts_with(code), "{error}");
    }
    a.push(&Topology::new(5).shard("0", ALL, &[&a]));
    let stale = a.ask(&["TOPOLOGY", "SET", &held]).unwrap_err();
    assert!(
        stale.starts_with("STALEEPOCH epoch 1 is older than epoch 5"),
        "{stale}"
    );
    assert_eq!(a.state().epoch, 5);
}

#[test]
fn a_node_learns_a_newer_topology_from_its_peers() {
    let (a, b) = primary_and_replica();
    b.wait_streaming();
    let newer = Topology::new(2).shard("0", ALL, &[&b, &a]);
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("topology.json");
    std::fs::write(&file, Topology::new(1).shard("0", ALL, &[&a, &b]).json()).unwrap();
    b.push(&newer);
    a.push(&newer);
    // It starts with the ConfigMap's old topology, by which it was primary; its peers know better.
    let anew = TestNode::start_with("m-0-0", 1 << 20, 0, Some(file));
    wait_until("the peers' topology is taken", || anew.state().epoch == 2);
    anew.wait_streaming();
    assert_eq!(anew.state().role, Role::Learner);
}

/// A pod's address goes to another pod after a restart: the topology of an operator that is gone names the old one.
#[test]
fn an_address_that_is_another_members_by_now_falls_back_to_the_name() {
    let (a, b) = (TestNode::start("m-0-0"), TestNode::start("m-0-1"));
    let other = TestNode::start("m-9-9");
    let stale = ("127.0.0.2", a.control.port());
    let listener = other
        .block_on(tokio::net::TcpListener::bind(stale))
        .unwrap();
    other.spawn(cache_node::control::serve(other.cluster.clone(), listener));
    let mut topology = Topology::new(1).shard("0", ALL, &[&a, &b]).bootstrap();
    topology.shards[0]["members"][0]["address"] = stale.0.into();
    a.push(&topology);
    assert!(a.try_write(b"k", Some(b"v"), None));
    b.push(&topology);
    b.wait_streaming();
    assert_eq!(b.get(b"k").as_deref(), Some(&b"v"[..]));
    // Only another member there: it is told apart, and said.
    topology.epoch = 2;
    topology.shards[0]["members"][0]["host"] = stale.0.into();
    b.push(&topology);
    let says = "127.0.0.2 is member \"m-9-9\", not \"m-0-0\"";
    wait_until("it says whom it met", || {
        b.state().sync.error.contains(says)
    });
}

/// All processes are told to stop at once: nobody is left to hand over to, and nobody waits for it.
#[test]
fn a_replica_that_is_stopping_too_is_no_heir() {
    let (a, b) = primary_and_replica();
    b.wait_streaming();
    wait_until("it is synced", || {
        a.state().replicas.iter().any(|r| r.synced)
    });
    let grace = Duration::from_secs(600);
    b.block_on(cache_node::lifecycle::shutdown(&b.cluster, grace));
    assert!(b.state().stopping);
    // It would not return in this test's time if it paused for the heir.
    a.block_on(cache_node::lifecycle::shutdown(&a.cluster, grace));
    assert_eq!(
        (a.state().role, b.state().role),
        (Role::Primary, Role::Replica)
    );
    assert!(!a.state().writes_paused);
}

/// With no operator, a replica was restarted: the topology has its old address and its old name's records lag. It is reached where it
/// connects from, and the others learn that from the topology.
#[test]
fn an_heir_is_reached_where_it_connects_from() {
    let (a, b) = primary_and_replica();
    let mut stale = Topology::new(2).shard("0", ALL, &[&a, &b]);
    // Nobody listens there.
    for field in ["address", "host"] {
        stale.shards[0]["members"][1][field] = "127.0.0.3".into();
    }
    a.push(&stale);
    b.push(&stale);
    wait_until("it follows", || a.state().replicas.iter().any(|r| r.synced));
    assert!(a.try_write(b"k", Some(b"v"), None));
    a.block_on(cache_node::lifecycle::shutdown(
        &a.cluster,
        Duration::from_secs(600),
    ));
    assert_eq!(
        (a.state().role, b.state().role),
        (Role::Replica, Role::Primary)
    );
    assert_eq!(b.get(b"k").as_deref(), Some(&b"v"[..]));
    let known = a.cluster.known().unwrap();
    let (_, heir) = known.topology.find("m-0-1").unwrap();
    assert_eq!(heir.address.as_deref(), Some("127.0.0.1"));
}
