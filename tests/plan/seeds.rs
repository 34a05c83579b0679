//! Hundreds of worlds in which things go wrong at random while the spec changes: the checker's rules hold at every step, and when the faults end,
//! everything becomes as the spec asks, and stays.

use rand::Rng;
use serde_json::json;

use crate::world::{World, spec};

/// A fault or a change of the spec.
fn disturb(world: &mut World) {
    let names: Vec<String> = world.pods.keys().cloned().collect();
    let any = |world: &mut World| {
        names
            .get(world.random.random_range(0..names.len().max(1)))
            .cloned()
    };
    match world.random.random_range(0..12) {
        0 => {
            let shards = world.random.random_range(1..=6);
            world.set("shards", json!(shards));
        }
        1 => {
            let replicas = world.random.random_range(0..=2);
            world.set("replicasPerShard", json!(replicas));
        }
        2 => {
            let version = world.random.random_range(1..4);
            world.set("image", json!(format!("example/cache-node:{version}")));
        }
        3 | 4 => {
            if let Some(name) = any(world) {
                world.kill_process(&name);
            }
        }
        5 | 6 => {
            if let Some(name) = any(world) {
                world.delete_pod(&name);
            }
        }
        7 => {
            if let Some(name) = any(world) {
                world.note(format!("fault: {name} is cut off"));
                world.cut.insert(name);
            }
        }
        8 => world.cut.clear(),
        9 => {
            world.note("fault: the operator restarts");
            world.start_operator();
        }
        10 => {
            world.note("fault: no operator");
            world.operator = None;
        }
        _ => {
            if world.operator.is_none() {
                world.start_operator();
            }
        }
    }
}

fn wild(seed: u64) {
    let mut world = World::new(seed, spec(3, 1));
    world.lag = true;
    world.settle(1000);
    for _ in 0..120 {
        if world.random.random_bool(0.15) {
            disturb(&mut world);
        }
        for _ in 0..5 {
            let key = world.random.random_range(0..300);
            world.write(key);
        }
        world.tick();
    }
    world.cut.clear();
    if world.operator.is_none() {
        world.start_operator();
    }
    world.lag = false;
    world.settle(2000);
    world.assert_converged();
    let plan = world.tick().expect("an operator");
    assert!(plan.steps.is_empty(), "seed {seed}: {plan}");
}

#[test]
fn wild_worlds_settle_first_half() {
    (0..120).for_each(wild);
}

#[test]
fn wild_worlds_settle_second_half() {
    (120..240).for_each(wild);
}

/// One thing at a time, with replicas in sync before it: then nothing acknowledged may be lost, whatever it is.
fn calm(seed: u64) {
    let mut world = World::new(seed, spec(3, 1));
    world.settle(1000);
    for key in 0..200 {
        assert!(world.write(key));
    }
    world.settle(1000);
    for _ in 0..6 {
        let names: Vec<String> = world.pods.keys().cloned().collect();
        let name = names[world.random.random_range(0..names.len())].clone();
        match world.random.random_range(0..6) {
            0 => {
                let shards = world.random.random_range(1..=6);
                world.set("shards", json!(shards));
            }
            1 => {
                let replicas = world.random.random_range(1..=2);
                world.set("replicasPerShard", json!(replicas));
            }
            2 => {
                let version = world.random.random_range(1..4);
                world.set("image", json!(format!("example/cache-node:{version}")));
            }
            3 => world.kill_process(&name),
            4 => world.delete_pod(&name),
            _ => {
                world.cut.insert(name);
                (0..20).for_each(|_| drop(world.tick()));
                world.cut.clear();
            }
        }
        world.settle(2000);
        world.assert_converged();
        assert_eq!(
            world.lost(),
            Vec::<u32>::new(),
            "seed {seed}\n{}",
            world.story()
        );
        // Writes between, and time for the replicas to hold them.
        for key in 0..200 {
            assert!(world.write(key), "seed {seed}\n{}", world.story());
        }
        world.settle(1000);
    }
}

#[test]
fn calm_worlds_lose_nothing() {
    (0..100).for_each(calm);
}
