//! The operator dies at every boundary between two effects of a scale out and in, enumerated, alone or together with the primary that slots leave
//! or the one that they go to: each time a new operator finishes the work, and nothing is lost or doubled. Replicas hold every write when the
//! process dies, as clients write between ticks: what asynchronous replication may lose is nothing here.

use serde_json::json;

use crate::world::{End, World, spec};

/// Scales under writes; the number of boundaries that were passed.
fn scale(mut world: World, to: [u16; 2], crash_at: Option<usize>, killed: Option<End>) -> usize {
    world.crash_at = crash_at;
    world.killed_with_operator = killed;
    world.boundaries = 0;
    let mut key = 0;
    for shards in to {
        world.set("shards", json!(shards));
        let mut calm = 0;
        for _ in 0..800 {
            let plan = world.tick().expect("an operator");
            for _ in 0..5 {
                key = (key + 7) % 300;
                // Nobody takes it for an instant while a slot is sealed.
                world.write(key);
            }
            calm = if plan.steps.is_empty() && plan.waiting.is_empty() {
                calm + 1
            } else {
                0
            };
            if calm >= 3 {
                break;
            }
        }
        world.settle(100);
        world.assert_converged();
        assert_eq!(
            world.lost(),
            Vec::<u32>::new(),
            "crash at {crash_at:?}, killed too: {killed:?}\n{}",
            world.story()
        );
    }
    world.boundaries
}

fn filled(shards: u16) -> World {
    let mut world = World::new(1, spec(shards, 1));
    world.settle(600);
    for key in 0..300 {
        assert!(world.write(key));
    }
    world.settle(600);
    world
}

fn at_every_boundary(from: u16, to: [u16; 2], killed: Option<End>) {
    let world = filled(from);
    let boundaries = scale(world.clone(), to, None, None);
    assert!(boundaries > 50, "{boundaries}");
    for crash_at in 0..boundaries {
        scale(world.clone(), to, Some(crash_at), killed);
    }
}

#[test]
fn operator_dies_at_every_boundary_of_a_scale() {
    at_every_boundary(3, [5, 2], None);
}

#[test]
fn operator_and_source_die_at_every_boundary_of_a_scale() {
    at_every_boundary(2, [3, 2], Some(End::Source));
}

#[test]
fn operator_and_destination_die_at_every_boundary_of_a_scale() {
    at_every_boundary(2, [3, 2], Some(End::Destination));
}
