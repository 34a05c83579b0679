//! The loop killed between any two of its effects, one after the other, alone or together with a node, and a new one that goes on.

use cache_operator::local::Fuse;
use rustix::process::Signal;

use crate::harness::{NAME, World};
use crate::load::{count, fill, verify_filled};

const KEYS: u64 = 500;
/// More than any of these plans has; the tests end when one ran through.
const BOUNDARIES_MAX: u64 = 300;

/// An end of the first move under way; without one, the first or the last shard.
#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

impl End {
    /// Name and data ID of its primary.
    fn primary(self, world: &World) -> Option<(String, String)> {
        let topology = world.cache().status?.topology?;
        let shard = match (topology.moves.first(), self) {
            (Some(moving), End::Source) => topology.shard(&moving.from)?,
            (Some(moving), End::Destination) => topology.shard(&moving.to)?,
            (None, End::Source) => topology.shards.first()?,
            (None, End::Destination) => topology.shards.last()?,
        };
        let primary = shard.primary()?;
        Some((primary.name.clone(), primary.data_id.clone()))
    }
}

/// Runs `begin`, and lets the loop that carries it out be killed at effect `n`, for n = 0, 1, … until there is none left; with it the process of
/// the primary at `killed`, which comes back with an empty memory.
async fn at_every_boundary(
    world: &mut World,
    mut begin: impl FnMut(&World, u64),
    client_keys: u64,
    killed: Option<End>,
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
        let victim = killed.and_then(|end| end.primary(world));
        if let Some((member, _)) = &victim {
            let process = format!("{NAME}/{member}");
            world.local.supervisor().signal(&process, Signal::KILL);
        }
        world.operate(Fuse::default());
        if let Some((_, data_id)) = &victim {
            // What was said before the kill is no news of it.
            world
                .until("what the killed process held is given up", |world| {
                    let status = world.cache().status.expect("a status");
                    let topology = status.topology.expect("a topology");
                    topology
                        .members()
                        .all(|(_, entry)| entry.data_id != *data_id)
                })
                .await;
        }
        world.settled().await;
        world.each_slot_is_owned_once().await;
        verify_filled(&world.client().await, client_keys).await;
        // Nor is any there twice.
        assert_eq!(count(&world.client().await).await, client_keys);
    }
    panic!("more than {BOUNDARIES_MAX} boundaries");
}

async fn at_every_boundary_of_scaling(killed: Option<End>) {
    let mut world = World::start(2, 1).await;
    fill(&world.client().await, KEYS).await;
    // Out with even boundaries, in with odd ones, and once more the other way round.
    let passed = at_every_boundary(
        &mut world,
        |world, n| world.scale(if n % 2 == 0 { 3 } else { 2 }),
        KEYS,
        killed,
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
        killed,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_boundary_of_scaling() {
    at_every_boundary_of_scaling(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_with_the_source_at_every_boundary_of_scaling() {
    at_every_boundary_of_scaling(Some(End::Source)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_with_the_destination_at_every_boundary_of_scaling() {
    at_every_boundary_of_scaling(Some(End::Destination)).await;
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
