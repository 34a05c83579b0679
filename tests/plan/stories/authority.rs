//! Whose topology holds: a status that was cleared, restored, or written twice.

use cache_operator::plan::{ReasonKind, Step, WaitReason};
use serde_json::json;

use super::{LONG, fill, primary_of, settled, told};

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
