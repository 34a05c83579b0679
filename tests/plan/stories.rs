//! What users were promised, each told in a simulated world.

use cache_operator::plan::{ReasonKind, Step, WaitReason};
use serde_json::json;

use crate::world::{BAD_IMAGE, World, spec};

const LONG: usize = 600;

fn settled(shards: u16, replicas: u8) -> World {
    let mut world = World::new(1, spec(shards, replicas));
    world.settle(LONG);
    world.assert_converged();
    world
}

fn fill(world: &mut World, keys: u32) {
    for key in 0..keys {
        assert!(
            world.write(key),
            "nobody takes key {key}\n{}",
            world.story()
        );
    }
    // Replicas catch up.
    world.settle(LONG);
}

/// Ticks with writes; counts those that nobody took.
fn run(world: &mut World, ticks: usize, keys: u32) -> usize {
    let mut refused = 0;
    for tick in 0..ticks {
        world.tick();
        for key in 0..20 {
            let key = (u32::try_from(tick).unwrap_or(0) * 20 + key) % keys;
            refused += usize::from(!world.write(key));
        }
    }
    refused
}

fn primary_of(world: &World, shard: &str) -> String {
    let stored = world.stored.as_ref().expect("a topology");
    stored
        .shard(shard)
        .and_then(|shard| shard.primary())
        .map(|member| member.name.clone())
        .expect("a primary")
}

fn told(world: &World, kind: ReasonKind) -> bool {
    world
        .journal
        .iter()
        .any(|line| line.contains(kind.as_str()))
}

#[test]
fn a_cache_comes_up_and_then_nothing_is_done() {
    for (shards, replicas) in [(1, 0), (3, 1), (5, 2), (16, 1)] {
        let mut world = settled(shards, replicas);
        let epoch = world.stored.as_ref().map(|topology| topology.epoch);
        for _ in 0..20 {
            let plan = world.tick().expect("an operator");
            assert!(plan.steps.is_empty(), "a settled world is changed: {plan}");
        }
        assert_eq!(epoch, world.stored.as_ref().map(|topology| topology.epoch));
    }
}

#[test]
fn scaling_under_writes_loses_nothing() {
    let mut world = settled(3, 1);
    fill(&mut world, 500);
    for shards in [5, 2, 4] {
        world.set("shards", json!(shards));
        run(&mut world, 60, 500);
        world.settle(LONG);
        world.assert_converged();
        assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
    }
}

#[test]
fn a_scale_that_is_taken_back_midway_loses_nothing() {
    let mut world = settled(3, 1);
    fill(&mut world, 500);
    for shards in [6, 3, 5, 1, 4] {
        world.set("shards", json!(shards));
        run(&mut world, 9, 500);
    }
    world.settle(LONG);
    world.assert_converged();
    assert!(told(&world, ReasonKind::MoveCancelled), "{}", world.story());
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
}

#[test]
fn a_killed_primary_is_replaced_and_its_empty_process_never_serves() {
    let mut world = settled(3, 1);
    fill(&mut world, 500);
    let killed = primary_of(&world, "1");
    world.kill_process(&killed);
    for _ in 0..40 {
        world.tick();
        let serves_empty = world.node(&killed).is_some_and(|node| node.is_primary());
        assert!(!serves_empty, "{}", world.story());
    }
    world.settle(LONG);
    world.assert_converged();
    assert_ne!(primary_of(&world, "1"), killed);
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
}

#[test]
fn a_deleted_pod_hands_over_first() {
    let mut world = settled(3, 1);
    fill(&mut world, 500);
    let deleted = primary_of(&world, "0");
    world.delete_pod(&deleted);
    run(&mut world, 30, 500);
    world.settle(LONG);
    world.assert_converged();
    assert!(told(&world, ReasonKind::HandedOver), "{}", world.story());
    assert!(!told(&world, ReasonKind::FailedOver), "{}", world.story());
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
}

#[test]
fn a_blip_is_no_failover() {
    let mut world = settled(3, 1);
    let primary = primary_of(&world, "0");
    world.cut.insert(primary.clone());
    for _ in 0..4 {
        let plan = world.tick().expect("an operator");
        assert!(plan.waits_for(WaitReason::PrimaryUnreachable), "{plan}");
    }
    world.cut.clear();
    world.settle(LONG);
    assert_eq!(primary_of(&world, "0"), primary);
}

#[test]
fn a_partitioned_primary_is_replaced_and_comes_back_as_a_replica() {
    let mut world = settled(3, 1);
    fill(&mut world, 500);
    let primary = primary_of(&world, "2");
    world.cut.insert(primary.clone());
    (0..30).for_each(|_| drop(world.tick()));
    assert_ne!(primary_of(&world, "2"), primary);
    world.cut.clear();
    world.settle(LONG);
    world.assert_converged();
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
}

#[test]
fn a_shard_without_any_copy_begins_anew_and_says_so() {
    let mut world = settled(3, 1);
    fill(&mut world, 300);
    world.kill_process("orders-1-0");
    world.kill_process("orders-1-1");
    world.settle(LONG);
    world.assert_converged();
    assert!(told(&world, ReasonKind::DataLost), "{}", world.story());
    let lost = world.lost();
    assert!(
        !lost.is_empty() && lost.len() < 200,
        "only one shard's keys are lost, not {}",
        lost.len()
    );
}

#[test]
fn an_unreachable_last_copy_is_waited_for() {
    let mut world = settled(1, 1);
    fill(&mut world, 100);
    let primary = primary_of(&world, "0");
    let replica = if primary == "orders-0-0" {
        "orders-0-1"
    } else {
        "orders-0-0"
    };
    world.kill_process(replica);
    world.cut.insert(primary.clone());
    for _ in 0..60 {
        world.tick();
    }
    let plan = world.tick().expect("an operator");
    assert!(plan.waits_for(WaitReason::NoCandidate), "{plan}");
    let named = plan
        .waiting
        .iter()
        .any(|waiting| waiting.message.contains(&primary));
    assert!(named, "says for whom it waits: {plan}");
    world.cut.clear();
    world.settle(LONG);
    world.assert_converged();
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
}

#[test]
fn a_replica_that_fell_behind_does_not_replace_an_unreachable_primary() {
    let mut world = settled(1, 1);
    fill(&mut world, 100);
    let primary = primary_of(&world, "0");
    let behind = if primary == "orders-0-0" {
        "orders-0-1"
    } else {
        "orders-0-0"
    };
    world.cut.insert(behind.into());
    run(&mut world, 20, 100);
    // Its copy is whole, but old.
    world.cut.clear();
    world.cut.insert(primary.clone());
    for _ in 0..40 {
        world.tick();
        assert_eq!(primary_of(&world, "0"), primary, "{}", world.story());
    }
    let plan = world.tick().expect("an operator");
    assert!(plan.waits_for(WaitReason::NoCandidate), "{plan}");
    world.cut.clear();
    world.settle(LONG);
    world.assert_converged();
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
}

#[test]
fn without_an_operator_every_pod_restarts_in_turn() {
    let mut world = settled(3, 1);
    fill(&mut world, 500);
    world.operator = None;
    let names: Vec<String> = world.pods.keys().cloned().collect();
    for name in names {
        world.delete_pod(&name);
        (0..15).for_each(|_| drop(world.tick()));
    }
    world.start_operator();
    world.settle(LONG);
    world.assert_converged();
    assert!(told(&world, ReasonKind::Adopted), "{}", world.story());
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
}

#[test]
fn a_cleared_status_is_taken_over_from_the_nodes() {
    let mut world = settled(3, 1);
    fill(&mut world, 500);
    let before = world.stored.take().expect("a topology");
    world.maintenance = Default::default();
    world.start_operator();
    world.settle(LONG);
    world.assert_converged();
    let after = world.stored.clone().expect("a topology");
    assert_eq!(
        (after.cluster_id, after.shards),
        (before.cluster_id, before.shards)
    );
    assert_eq!(after.epoch, before.epoch + 1);
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
}

#[test]
fn with_a_cleared_status_nothing_begins_before_all_that_run_are_heard() {
    let mut world = settled(1, 1);
    fill(&mut world, 100);
    let primary = primary_of(&world, "0");
    let replica = if primary == "orders-0-0" {
        "orders-0-1"
    } else {
        "orders-0-0"
    };
    world.stored = None;
    world.maintenance = Default::default();
    world.cut.insert(primary.clone());
    world.kill_process(replica);
    world.start_operator();
    for _ in 0..40 {
        let plan = world.tick().expect("an operator");
        assert!(plan.steps.is_empty(), "{plan}");
        assert!(plan.waits_for(WaitReason::MembersStarting), "{plan}");
    }
    world.cut.clear();
    world.settle(LONG);
    world.assert_converged();
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
}

#[test]
fn a_restored_old_status_gives_way_to_the_nodes() {
    let mut world = settled(3, 1);
    let old = world.stored.clone();
    world.set("shards", json!(4));
    world.settle(LONG);
    fill(&mut world, 500);
    world.stored = old;
    world.start_operator();
    world.settle(LONG);
    world.assert_converged();
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
}

#[test]
fn two_topologies_of_one_epoch_are_settled() {
    let mut world = settled(3, 1);
    fill(&mut world, 500);
    // What a stale leader could leave behind: another topology of the next epoch on one node, ours on the others.
    let mut other = world.stored.clone().expect("a topology");
    other.epoch += 1;
    let mut ours = other.clone();
    other.shards[0].members.reverse();
    ours.shards[1].members.reverse();
    world
        .node_mut("orders-0-0")
        .expect("it runs")
        .set_topology(&other)
        .expect("newer");
    world.stored = Some(ours);
    world.settle(LONG);
    world.assert_converged();
    assert!(told(&world, ReasonKind::Conflict), "{}", world.story());
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
}

#[test]
fn foreign_data_stops_everything() {
    let mut world = settled(2, 1);
    let mut foreign = world.stored.clone().expect("a topology");
    foreign.cluster_id = "another".into();
    world.node_mut("orders-1-1").expect("it runs").topology = Some(foreign);
    world.set("shards", json!(3));
    for _ in 0..10 {
        let plan = world.tick().expect("an operator");
        assert!(plan.waits_for(WaitReason::ForeignData), "{plan}");
        assert!(
            plan.steps
                .iter()
                .all(|step| matches!(step, Step::CreateMember { .. })),
            "{plan}"
        );
    }
}

#[test]
fn a_roll_takes_one_member_at_a_time_and_loses_nothing() {
    let mut world = settled(3, 1);
    fill(&mut world, 500);
    world.set("image", json!("example/cache-node:2"));
    run(&mut world, 200, 500);
    world.settle(LONG);
    world.assert_converged();
    assert!(!told(&world, ReasonKind::FailedOver), "{}", world.story());
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
}

#[test]
fn a_roll_waits_while_another_member_of_the_shard_is_down() {
    let mut world = settled(1, 2);
    let primary = primary_of(&world, "0");
    let down = world
        .pods
        .keys()
        .rfind(|name| **name != primary)
        .cloned()
        .expect("a replica");
    world.cut.insert(down.clone());
    (0..20).for_each(|_| drop(world.tick()));
    world.set("image", json!("example/cache-node:2"));
    for _ in 0..40 {
        let plan = world.tick().expect("an operator");
        for step in &plan.steps {
            let other = matches!(step, Step::UpdateMember { member, .. } if *member != down);
            assert!(!other, "{plan}");
        }
    }
    world.cut.clear();
    world.settle(LONG);
    world.assert_converged();
}

#[test]
fn a_roll_to_a_broken_image_stops_at_one_member_and_a_corrected_one_recovers() {
    let mut world = settled(3, 1);
    fill(&mut world, 500);
    world.set("image", json!(BAD_IMAGE));
    run(&mut world, 60, 500);
    let plan = world.tick().expect("an operator");
    assert!(plan.waits_for(WaitReason::RollStuck), "{plan}");
    let broken = world
        .pods
        .values()
        .filter(|pod| pod.image == BAD_IMAGE)
        .count();
    assert_eq!(broken, 1, "{}", world.story());
    assert!((0..500).all(|key| world.write(key)), "service goes on");
    world.set("image", json!("example/cache-node:2"));
    run(&mut world, 200, 500);
    world.settle(LONG);
    world.assert_converged();
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
}

#[test]
fn a_cache_born_with_a_broken_image_recovers_by_a_corrected_spec() {
    let mut world = World::new(1, spec(3, 1));
    world.set("image", json!(BAD_IMAGE));
    (0..20).for_each(|_| drop(world.tick()));
    let plan = world.tick().expect("an operator");
    assert!(plan.waits_for(WaitReason::MemberProblem), "{plan}");
    world.set("image", json!("example/cache-node:1"));
    world.settle(LONG);
    world.assert_converged();
}

#[test]
fn replicas_come_and_go() {
    let mut world = settled(2, 1);
    fill(&mut world, 300);
    // The second member becomes primary, so that leaving needs a handover.
    let first = primary_of(&world, "0");
    world.delete_pod(&first);
    run(&mut world, 30, 300);
    for replicas in [2, 0, 1] {
        world.set("replicasPerShard", json!(replicas));
        run(&mut world, 40, 300);
        world.settle(LONG);
        world.assert_converged();
        assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
    }
}

#[test]
fn a_scale_in_without_room_is_refused_with_bytes() {
    let mut world = World::new(1, spec(3, 0));
    world.settle(LONG);
    fill(&mut world, 900);
    world.bytes_per_key = 2 << 20;
    world.set("shards", json!(2));
    for _ in 0..10 {
        let plan = world.tick().expect("an operator");
        assert!(plan.steps.is_empty(), "{plan}");
        assert!(plan.waits_for(WaitReason::NoRoom), "{plan}");
        let message = plan
            .waiting
            .iter()
            .map(|waiting| waiting.message.as_str())
            .collect::<String>();
        assert!(
            message.contains("MiB") && message.contains("raise spec.resources.limits.memory"),
            "{message}"
        );
    }
    // Less data, and it goes on by itself.
    world.bytes_per_key = 100;
    world.settle(LONG);
    world.assert_converged();
}

#[test]
fn a_paused_cache_is_left_alone() {
    let mut world = settled(3, 1);
    world.set("paused", json!(true));
    world.set("shards", json!(5));
    let primary = primary_of(&world, "0");
    world.kill_process(&primary);
    for _ in 0..20 {
        assert!(world.tick().expect("an operator").steps.is_empty());
    }
    world.set("paused", json!(false));
    world.settle(LONG);
    world.assert_converged();
}

#[test]
fn maintenance_evens_out_a_hot_shard_at_its_time() {
    let mut spec = spec(3, 1);
    spec["maintenance"] =
        json!({"schedule": "*/5 * * * *", "tasks": [{"rebalance": {"thresholdPercent": 15}}]});
    let mut world = World::new(1, spec);
    world.settle(LONG);
    let hot: Vec<u32> = (0..60_000)
        .filter(|key| crate::world::slot_of(*key) < 2000)
        .take(3000)
        .collect();
    let rest: Vec<u32> = (60_000..61_500).collect();
    for key in hot.iter().chain(&rest) {
        assert!(world.write(*key));
    }
    let before = world.stored.clone();
    (0..700).for_each(|_| drop(world.tick()));
    world.settle(LONG);
    world.assert_converged();
    assert_ne!(before, world.stored, "{}", world.story());
    assert!(world.maintenance.running_since.is_none());
    let mut keys: Vec<usize> = Vec::new();
    for shard in ["0", "1", "2"] {
        let primary = primary_of(&world, shard);
        keys.push(
            world
                .node(&primary)
                .map_or(0, |node| node.data.values().map(|slot| slot.len()).sum()),
        );
    }
    let most = keys.iter().max().copied().unwrap_or(0);
    assert!(most * 3 <= 4500 * 115 / 100, "{keys:?} {}", world.story());
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
    // What was weighed stays: nothing moves back.
    let after = world.stored.clone();
    (0..100).for_each(|_| drop(world.tick()));
    assert_eq!(after, world.stored);
}
