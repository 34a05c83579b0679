//! What happens without any fault: a Cache comes up, scales, is paused, and is maintained.

use cache_operator::plan::{ReasonKind, WaitReason};
use serde_json::json;

use super::{LONG, fill, primary_of, run, settled, told};
use crate::world::{World, spec};

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
