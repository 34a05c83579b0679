//! The loop killed between any two of its effects, one after the other, and a new one that goes on.

use cache_operator::local::Fuse;

use crate::harness::World;
use crate::load::{fill, verify_filled};

const KEYS: u64 = 500;
/// More than any of these plans has; the tests end when one ran through.
const BOUNDARIES_MAX: u64 = 300;

/// Runs `begin`, and lets the loop that carries it out be killed at effect `n`, for n = 0, 1, … until there is none left.
async fn at_every_boundary(
    world: &mut World,
    mut begin: impl FnMut(&World, u64),
    client_keys: u64,
) -> u64 {
    for boundary in 0..BOUNDARIES_MAX {
        world.kill_operator().await;
        begin(world, boundary);
        world.operate(Fuse::of(boundary));
        let ran_through = tokio::select! {
            () = world.operator_burnt() => false,
            () = world.settled() => true,
        };
        if ran_through {
            // What is left of its fuse is not enough for anything else.
            world.kill_operator().await;
            world.operate(Fuse::default());
            return boundary;
        }
        world.kill_operator().await;
        world.operate(Fuse::default());
        world.settled().await;
        world.each_slot_is_owned_once().await;
        verify_filled(&world.client().await, client_keys).await;
    }
    panic!("more than {BOUNDARIES_MAX} boundaries");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_boundary_of_scaling() {
    let mut world = World::start(2, 1).await;
    fill(&world.client().await, KEYS).await;
    // Out with even boundaries, in with odd ones, and once more the other way round.
    let passed = at_every_boundary(
        &mut world,
        |world, n| world.scale(if n % 2 == 0 { 3 } else { 2 }),
        KEYS,
    )
    .await;
    assert!(passed > 10, "{passed} boundaries are too few to be all");
    let now = world.cache().spec.shards;
    let other = if now == 2 { 3 } else { 2 };
    world.scale(other);
    world.settled().await;
    at_every_boundary(
        &mut world,
        |world, n| world.scale(if n % 2 == 0 { now } else { other }),
        KEYS,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_boundary_of_creation() {
    for boundary in 0..BOUNDARIES_MAX {
        let mut world = World::prepare(2, 1);
        world.operate(Fuse::of(boundary));
        let ran_through = tokio::select! {
            () = world.operator_burnt() => false,
            () = world.settled() => true,
        };
        if ran_through {
            assert!(boundary > 5, "{boundary} boundaries are too few to be all");
            return;
        }
        world.kill_operator().await;
        world.operate(Fuse::default());
        world.settled().await;
        world.each_slot_is_owned_once().await;
        let client = world.client().await;
        fill(&client, 50).await;
        verify_filled(&client, 50).await;
    }
    panic!("more than {BOUNDARIES_MAX} boundaries");
}
