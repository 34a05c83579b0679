//! Members that end, gracefully and not.

use std::time::Duration;

use cache_operator::api::node_state::NodeRole;
use cache_operator::local::Fuse;
use rustix::process::Signal;

use crate::harness::{NAME, World};
use crate::load::{Load, fill, read_all, verify_filled};

const KEYS: u64 = 2_000;

fn process(member: &str) -> String {
    format!("{NAME}/{member}")
}

/// Watches that a member with empty memory never is primary, until dropped.
async fn never_primary_while_fresh(world: &World, member: &str) {
    loop {
        if let Some(state) = world.state(member).await {
            assert!(
                !(state.role == NodeRole::Primary && (state.fresh || state.keys == 0)),
                "{member} is primary with empty memory: {state:?}"
            );
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_is_replaced_and_comes_back_as_a_replica() {
    let world = World::start(2, 1).await;
    let client = world.client().await;
    fill(&client, KEYS).await;
    let load = Load::start(&client, KEYS);
    load.progress(500).await;
    let killed = world.primary("0");
    let data_id = world.data_id(&killed);
    // It is started again at once, with the same name and empty memory.
    world
        .local
        .supervisor()
        .signal(&process(&killed), Signal::KILL);
    let healed = async {
        world
            .until("another member is primary", |w| w.primary("0") != killed)
            .await;
        load.progress(500).await;
        world.came_back(&killed, &data_id).await;
    };
    tokio::select! {
        () = healed => {}
        () = never_primary_while_fresh(&world, &killed) => {}
    }
    let tally = load.stop().await;
    world.each_slot_is_owned_once().await;
    let found = read_all(&world.client().await, KEYS).await;
    assert_eq!(
        found.len() as u64,
        KEYS,
        "each key was replicated long before"
    );
    // Asynchronous: only writes of the last instant may be gone. Each writer has one in flight, and replicas acknowledge
    // every 100 ms at the latest.
    let lost = tally.lost(&found);
    assert!(
        lost.len() < 500,
        "{} acknowledged writes are lost",
        lost.len()
    );
    let back = world.state(&killed).await.expect("it runs");
    assert_eq!(back.role, NodeRole::Replica);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_stays_away_does_not_hinder_the_others() {
    let world = World::start(2, 1).await;
    let client = world.client().await;
    fill(&client, KEYS).await;
    // Until the replicas hold everything, a kill may lose what was just written.
    world
        .until("replicated", |w| {
            let members = w.cache().status.expect("a status").members;
            members.iter().map(|m| m.keys).sum::<i64>() == 2 * KEYS.cast_signed()
        })
        .await;
    let killed = world.primary("1");
    world.local.supervisor().hold(&process(&killed), true);
    world
        .local
        .supervisor()
        .signal(&process(&killed), Signal::KILL);
    world
        .until("another member is primary", |w| w.primary("1") != killed)
        .await;
    verify_filled(&world.client().await, KEYS).await;
    world
        .until("the Cache says that it lacks a copy", |w| {
            let status = w.cache().status.expect("a status");
            status
                .conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "False")
        })
        .await;
    world.local.supervisor().hold(&process(&killed), false);
    world.settled().await;
    world.each_slot_is_owned_once().await;
    verify_filled(&world.client().await, KEYS).await;
}

/// What each member of a shard holds, read from itself.
async fn contents(
    world: &World,
    shard: &str,
) -> Vec<(String, std::collections::BTreeMap<String, String>)> {
    let topology = world
        .cache()
        .status
        .expect("a status")
        .topology
        .expect("a topology");
    let mut all = Vec::new();
    for member in &topology.shard(shard).expect("the shard").members {
        let mut connection = world.direct(&member.name).await;
        redis::cmd("READONLY")
            .query_async::<()>(&mut connection)
            .await
            .expect("OK");
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("*")
            .query_async(&mut connection)
            .await
            .expect("keys");
        let mut held = std::collections::BTreeMap::new();
        for key in keys {
            let value: String = redis::cmd("GET")
                .arg(&key)
                .query_async(&mut connection)
                .await
                .expect("a value");
            held.insert(key, value);
        }
        all.push((member.name.clone(), held));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_syncs_under_load_holds_what_its_primary_holds() {
    let world = World::start(1, 2).await;
    let client = world.client().await;
    fill(&client, KEYS).await;
    let load = Load::start(&client, KEYS);
    let primary = world.primary("0");
    for replica in ["web-0-0", "web-0-1", "web-0-2"]
        .into_iter()
        .filter(|m| *m != primary)
    {
        load.progress(200).await;
        world
            .local
            .supervisor()
            .signal(&process(replica), Signal::KILL);
        world
            .until("it is noticed", |w| {
                let members = w.cache().status.expect("a status").members;
                members.iter().any(|m| m.name == replica && !m.ready)
            })
            .await;
        world.settled().await;
    }
    assert_eq!(world.primary("0"), primary);
    let tally = load.stop().await;
    world
        .until("replicas have the whole log", |w| {
            let members = w.cache().status.expect("a status").members;
            members.iter().all(|m| m.offset == members[0].offset)
        })
        .await;
    let held = contents(&world, "0").await;
    for (member, there) in &held {
        let differs: Vec<_> = held[0]
            .1
            .iter()
            .filter(|(k, v)| there.get(*k) != Some(v))
            .take(5)
            .collect();
        assert!(
            differs.is_empty(),
            "{member} lacks {differs:?} of {}",
            held[0].0
        );
        assert_eq!(there.len(), held[0].1.len(), "{member}");
    }
    tally.assert_nothing_lost(&read_all(&client, KEYS).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_hands_over_and_loses_nothing() {
    let world = World::start(2, 1).await;
    let client = world.client().await;
    fill(&client, KEYS).await;
    let load = Load::start(&client, KEYS);
    for _ in 0..2 {
        load.progress(300).await;
        let stopped = world.primary("0");
        let data_id = world.data_id(&stopped);
        world
            .local
            .supervisor()
            .signal(&process(&stopped), Signal::TERM);
        world
            .until("another member is primary", |w| w.primary("0") != stopped)
            .await;
        // Only then there is someone to hand over to again.
        world.came_back(&stopped, &data_id).await;
    }
    load.progress(300).await;
    let tally = load.stop().await;
    tally.assert_nothing_lost(&read_all(&world.client().await, KEYS).await);
    assert_eq!(
        tally.errors,
        Vec::<String>::new(),
        "the client absorbs the handovers"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_without_an_operator_hands_over_too_and_is_adopted() {
    let mut world = World::start(2, 1).await;
    let client = world.client().await;
    fill(&client, KEYS).await;
    world.kill_operator().await;
    let epoch = |w: &World| {
        w.cache()
            .status
            .expect("a status")
            .topology
            .expect("a topology")
            .epoch
    };
    let before = epoch(&world);
    let stopped = world.primary("0");
    let data_id = world.data_id(&stopped);
    world
        .local
        .supervisor()
        .signal(&process(&stopped), Signal::TERM);
    verify_filled(&client, KEYS).await;
    world.operate(Fuse::default());
    world
        .until("the nodes' topology is adopted", |w| {
            epoch(w) > before && w.primary("0") != stopped
        })
        .await;
    world.came_back(&stopped, &data_id).await;
    world.settled().await;
    world.each_slot_is_owned_once().await;
    verify_filled(&world.client().await, KEYS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_operator_clients_go_on() {
    let mut world = World::start(2, 1).await;
    world.kill_operator().await;
    let client = world.client().await;
    fill(&client, KEYS).await;
    verify_filled(&client, KEYS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_or_foreign_push_is_refused() {
    let world = World::start(2, 1).await;
    let client = world.client().await;
    fill(&client, 100).await;
    let stale: String = world
        .ask("web-0-0", &["TOPOLOGY", "GET"])
        .await
        .expect("a topology");
    world.scale(3);
    world.settled().await;
    let code = |answer: redis::RedisResult<String>| {
        answer.expect_err("refused").code().map(str::to_string)
    };
    let push =
        async |member: &str, json: &str| code(world.ask(member, &["TOPOLOGY", "SET", json]).await);
    for member in ["web-0-0", "web-1-1", "web-2-0"] {
        assert_eq!(
            push(member, &stale).await.as_deref(),
            Some("STALEEPOCH"),
            "{member}"
        );
        let now: String = world
            .ask(member, &["TOPOLOGY", "GET"])
            .await
            .expect("a topology");
        let mut foreign: serde_json::Value = serde_json::from_str(&now).expect("JSON");
        foreign["clusterID"] = "another".into();
        foreign["epoch"] = 1_000_000.into();
        assert_eq!(
            push(member, &foreign.to_string()).await.as_deref(),
            Some("FOREIGNDATA"),
            "{member}"
        );
        let mut twin: serde_json::Value = serde_json::from_str(&now).expect("JSON");
        twin["shards"][0]["members"][0]["host"] = "elsewhere".into();
        assert_eq!(
            push(member, &twin.to_string()).await.as_deref(),
            Some("STALEEPOCH"),
            "{member}: one epoch, two contents"
        );
    }
    world.each_slot_is_owned_once().await;
    // A client of its own: redis-rs, idle while slots moved, may wait for ever when many of its first requests are redirected to a new node.
    verify_filled(&world.client().await, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_members_of_a_shard_lost_are_bootstrapped_again_with_a_warning() {
    let world = World::start(2, 1).await;
    let client = world.client().await;
    fill(&client, KEYS).await;
    for member in ["web-0-0", "web-0-1"] {
        world
            .local
            .supervisor()
            .signal(&process(member), Signal::KILL);
    }
    let warned = |w: &World| {
        let events = cache_operator::local::read_events(&w.folder()).expect("events");
        events.iter().any(|e| e.reason == "DataLost" && e.warning)
    };
    world.until("the loss is told", warned).await;
    world.settled().await;
    let found = read_all(&world.client().await, KEYS).await;
    assert!(
        !found.is_empty() && (found.len() as u64) < KEYS,
        "the other shard kept its keys: {}",
        found.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_members_stopped_one_right_after_the_other_serve_again() {
    let world = World::start(2, 1).await;
    let client = world.client().await;
    fill(&client, KEYS).await;
    let load = Load::start(&client, KEYS);
    load.progress(200).await;
    let first = world.primary("0");
    world
        .local
        .supervisor()
        .signal(&process(&first), Signal::TERM);
    world
        .until("another member is primary", |w| w.primary("0") != first)
        .await;
    // The first may not have a copy yet: then the shard's keys are lost, which is told.
    let second = world.primary("0");
    let data_id = world.data_id(&second);
    world
        .local
        .supervisor()
        .signal(&process(&second), Signal::TERM);
    world
        .until("the second's memory is known to be gone", |w| {
            w.data_id(&second) != data_id
        })
        .await;
    world.settled().await;
    world.each_slot_is_owned_once().await;
    load.progress(500).await;
    load.stop().await;
}
