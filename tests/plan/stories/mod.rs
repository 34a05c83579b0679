//! What users were promised, each told in a simulated world.

mod authority;
mod everyday;
mod losses;
mod regions;
mod rolls;

use cache_operator::plan::ReasonKind;

use crate::world::{World, spec};

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
