//! Members that die, stop, or cannot be reached.

use cache_operator::api::node_state::NodeRole;
use cache_operator::api::topology::Role;
use cache_operator::plan::{self, ReasonKind, Step, WaitReason, check};
use serde_json::json;

use super::{LONG, fill, primary_of, run, settled, told};

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
fn an_invalid_spec_holds_everything_but_failovers() {
    let mut world = settled(3, 1);
    fill(&mut world, 500);
    let members = world.workloads.len();
    let killed = primary_of(&world, "1");
    world.set("resources", json!({"limits": {"memory": "64Mi"}}));
    world.set("shards", json!(5));
    world.kill_process(&killed);
    for _ in 0..60 {
        world.tick();
    }
    assert_ne!(primary_of(&world, "1"), killed, "{}", world.story());
    assert_eq!(world.workloads.len(), members, "{}", world.story());
    assert_eq!(world.stored.as_ref().unwrap().shards.len(), 3);
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
    world.set("resources", json!({"limits": {"memory": "1Gi"}}));
    world.settle(LONG);
    world.assert_converged();
    assert_eq!(world.stored.as_ref().unwrap().shards.len(), 5);
}

/// Two copies are left, one ahead of the other: that one takes over.
#[test]
fn the_most_advanced_copy_takes_over() {
    let mut world = settled(1, 2);
    fill(&mut world, 200);
    let lost = primary_of(&world, "0");
    let copies: Vec<String> = world
        .pods
        .keys()
        .filter(|name| **name != lost)
        .cloned()
        .collect();
    for ahead in &copies {
        let mut observed = world.observe().expect("an operator");
        for (name, member) in &mut observed.members {
            let state = member.state.as_mut().expect("a state");
            if *name == lost {
                // It has restarted.
                state.data_id = "another".into();
                state.role = NodeRole::Learner;
                (state.fresh, state.offset) = (true, 0);
                state.replicas.clear();
            } else if name == ahead {
                state.offset += 10;
            }
        }
        let (desired, now_ms) = (world.desired(), world.now_ms);
        let plan = plan::plan(&desired, &observed, now_ms);
        let change = plan.steps.iter().find_map(Step::change).expect("a change");
        let primary = change.topology.shard("0").and_then(|shard| shard.primary());
        assert_eq!(primary.map(|entry| &entry.name), Some(ahead), "{plan}");
        assert_eq!(check::check(&desired, &observed, &plan, now_ms), []);
        // The other one is refused, whoever plans it.
        let other = copies.iter().find(|name| *name != ahead).unwrap();
        let mut wrong = plan.clone();
        for step in &mut wrong.steps {
            let Step::WriteTopology(change) = step else {
                continue;
            };
            let shard = change.topology.shard_mut("0").unwrap();
            for entry in &mut shard.members {
                if entry.name == *other {
                    entry.role = Role::Primary;
                } else if entry.name == *ahead {
                    entry.role = Role::Replica;
                }
            }
        }
        let said = check::check(&desired, &observed, &wrong, now_ms);
        assert!(
            said.iter()
                .any(|violation| violation.0.contains("holds more")),
            "{said:?}"
        );
    }
}
