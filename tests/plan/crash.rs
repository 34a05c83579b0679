//! The operator dies at every boundary between two effects of a scale 3 → 5 → 2, enumerated: each time a new one finishes the work, and nothing is
//! lost or doubled.

use serde_json::json;

use crate::world::{World, spec};

/// Scales under writes; the number of boundaries that were passed.
fn scale(mut world: World, crash_at: Option<usize>) -> usize {
    world.crash_at = crash_at;
    world.boundaries = 0;
    let mut key = 0;
    for shards in [5, 2] {
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
            "crash at {crash_at:?}\n{}",
            world.story()
        );
    }
    world.boundaries
}

#[test]
fn operator_dies_at_every_boundary_of_a_scale() {
    let mut world = World::new(1, spec(3, 1));
    world.settle(600);
    for key in 0..300 {
        assert!(world.write(key));
    }
    world.settle(600);
    let boundaries = scale(world.clone(), None);
    assert!(boundaries > 100, "{boundaries}");
    for crash_at in 0..boundaries {
        scale(world.clone(), Some(crash_at));
    }
}
