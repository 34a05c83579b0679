//! The checker refuses what a broken planner could come up with.

use cache_operator::api::SlotRange;
use cache_operator::api::topology::{Role, Topology};
use cache_operator::plan::{
    Observed, Plan, Reason, ReasonKind, Step, TopologyChange, check, structure,
};
use serde_json::json;

use crate::world::{World, spec};

fn settled() -> World {
    let mut world = World::new(1, spec(3, 1));
    world.settle(600);
    world
}

fn observed(world: &World) -> Observed {
    world.observe().expect("an operator")
}

fn write(world: &World, change: impl FnOnce(&mut Topology)) -> Step {
    let stored = world.stored.clone().expect("a topology");
    let mut topology = stored.clone();
    topology.epoch += 1;
    change(&mut topology);
    Step::WriteTopology(TopologyChange {
        topology,
        replaces: Some(stored.epoch),
        reasons: vec![Reason {
            kind: ReasonKind::FailedOver,
            message: String::new(),
        }],
        push: Vec::new(),
    })
}

fn refused(world: &World, steps: Vec<Step>) -> String {
    let plan = Plan {
        steps,
        ..Plan::default()
    };
    let violations = check::check(&world.desired(), &observed(world), &plan, world.now_ms);
    violations
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Makes `member` primary of its shard, with the data that it holds.
fn promote(world: &World, topology: &mut Topology, member: &str) {
    let data_id = world
        .node(member)
        .map(|node| node.data_id.clone())
        .unwrap_or_default();
    for entry in topology
        .shards
        .iter_mut()
        .flat_map(|shard| &mut shard.members)
    {
        if entry.name == member {
            entry.role = Role::Primary;
            entry.data_id.clone_from(&data_id);
        } else if entry.role == Role::Primary && entry.name[..9] == member[..9] {
            entry.role = Role::Replica;
        }
    }
}

fn assert_refused(world: &World, steps: Vec<Step>, why: &str) {
    let said = refused(world, steps);
    assert!(said.contains(why), "wanted {why:?}, said {said:?}");
}

#[test]
fn an_unchanged_topology_is_fine() {
    let world = settled();
    assert_eq!(refused(&world, vec![write(&world, |_| {})]), "");
}

#[test]
fn a_primary_that_is_there_stays() {
    let world = settled();
    let step = write(&world, |topology| promote(&world, topology, "orders-1-1"));
    assert_refused(&world, vec![step], "though orders-1-0 is there");
}

#[test]
fn an_empty_member_never_becomes_primary() {
    let mut world = settled();
    world.kill_process("orders-1-0");
    world.kill_process("orders-1-1");
    (0..2).for_each(|_| {
        world.now_ms += 500;
        world.kube_tick();
    });
    let mut operator = world.operator.take().expect("an operator");
    operator.since_ms = world.now_ms;
    world.operator = Some(operator);
    world.listen();
    let step = write(&world, |topology| promote(&world, topology, "orders-1-1"));
    assert_refused(
        &world,
        vec![step],
        "becomes primary without a consistent copy",
    );
}

#[test]
fn a_shard_with_data_does_not_begin_anew() {
    let world = settled();
    let step = write(&world, |topology| {
        promote(&world, topology, "orders-1-1");
        topology.shards[1].bootstrap = true;
    });
    assert_refused(
        &world,
        vec![step],
        "begins anew though orders-1-0 may hold its data",
    );
}

#[test]
fn slots_change_only_by_sealed_moves() {
    let world = settled();
    let step = write(&world, |topology| {
        topology.shards[0].slots = vec![SlotRange(0, 5000)];
        topology.shards[1].slots = vec![SlotRange(5001, 10921)];
    });
    assert_refused(&world, vec![step], "change without a sealed move");
    let step = write(&world, |topology| {
        topology.shards[0].slots = vec![SlotRange(0, 5000)]
    });
    assert_refused(&world, vec![step], "slot 5001 is owned by 0 shards");
}

#[test]
fn epochs_follow_one_another() {
    let world = settled();
    assert_refused(
        &world,
        vec![write(&world, |topology| topology.epoch += 1)],
        "does not follow",
    );
    assert_refused(
        &world,
        vec![write(&world, |topology| topology.epoch -= 1)],
        "does not follow",
    );
    assert_refused(
        &world,
        vec![write(&world, |topology| topology.cluster_id = "x".into())],
        "the clusterID changes",
    );
}

#[test]
fn a_shard_with_slots_does_not_leave() {
    let world = settled();
    let step = write(&world, |topology| {
        topology.shards.pop();
    });
    assert_refused(&world, vec![step], "slots of shard 2 change");
}

#[test]
fn members_are_restarted_and_deleted_with_care() {
    let mut world = settled();
    let update = |member: &str| Step::UpdateMember {
        member: member.into(),
        template_hash: "t".into(),
        why: String::new(),
    };
    let delete = |member: &str| Step::DeleteMember {
        member: member.into(),
        why: String::new(),
    };
    assert_eq!(refused(&world, vec![update("orders-0-1")]), "");
    assert_refused(&world, vec![update("orders-0-0")], "while it is primary");
    assert_refused(
        &world,
        vec![update("orders-0-1"), update("orders-1-1")],
        "more than one disruptive step",
    );
    assert_refused(&world, vec![delete("orders-2-1")], "listed or wanted");
    world.kill_process("orders-0-0");
    world.listen();
    assert_refused(
        &world,
        vec![update("orders-0-1")],
        "another member of shard 0 is not well",
    );
}

#[test]
fn nothing_is_done_to_a_paused_cache() {
    let mut world = settled();
    world.set("paused", json!(true));
    assert_refused(&world, vec![write(&world, |_| {})], "paused");
}

#[test]
fn the_first_topology_is_made_once() {
    let mut world = settled();
    let mut topology = world.stored.take().expect("a topology");
    topology.epoch = 1;
    topology.cluster_id = "another".into();
    let change = TopologyChange {
        topology,
        replaces: None,
        reasons: Vec::new(),
        push: Vec::new(),
    };
    assert_refused(
        &world,
        vec![Step::WriteTopology(change)],
        "though nodes hold epoch",
    );
}

#[test]
fn malformed_topologies_are_named() {
    let world = settled();
    let good = world.stored.clone().expect("a topology");
    assert_eq!(structure(&good), vec![]);
    let bad = |change: &dyn Fn(&mut Topology)| {
        let mut topology = good.clone();
        change(&mut topology);
        structure(&topology)
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    };
    assert!(
        bad(&|t| t.shards[1].slots = t.shards[0].slots.clone())
            .contains("slot 0 is owned by 2 shards")
    );
    assert!(bad(&|t| t.shards[0].members[1].role = Role::Primary).contains("2 primaries"));
    assert!(bad(&|t| t.shards[1].members[0].name = "orders-0-0".into()).contains("listed twice"));
    assert!(
        bad(&|t| t.shards[1].members[0].data_id = t.shards[0].members[0].data_id.clone())
            .contains("data ID")
    );
    assert!(
        bad(&|t| t.shards[0].slots = vec![SlotRange(3, 5460), SlotRange(0, 2)])
            .contains("ascending")
    );
}
