//! Members are restarted with a new template, one at a time.

use cache_operator::plan::{ReasonKind, Step, WaitReason};
use serde_json::json;

use super::{LONG, fill, primary_of, run, settled, told};
use crate::world::{BAD_IMAGE, World, spec};

#[test]
fn a_roll_takes_one_member_at_a_time_and_loses_nothing() {
    let mut world = settled(3, 1);
    fill(&mut world, 500);
    world.set("image", json!("example/cache-node:2"));
    run(&mut world, 200, 500);
    world.settle(LONG);
    world.assert_converged();
    assert!(!told(&world, ReasonKind::FailedOver), "{}", world.story());
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
}

#[test]
fn a_roll_waits_while_another_member_of_the_shard_is_down() {
    let mut world = settled(1, 2);
    let primary = primary_of(&world, "0");
    let down = world
        .pods
        .keys()
        .rfind(|name| **name != primary)
        .cloned()
        .expect("a replica");
    world.cut.insert(down.clone());
    (0..20).for_each(|_| drop(world.tick()));
    world.set("image", json!("example/cache-node:2"));
    for _ in 0..40 {
        let plan = world.tick().expect("an operator");
        for step in &plan.steps {
            let other = matches!(step, Step::UpdateMember { member, .. } if *member != down);
            assert!(!other, "{plan}");
        }
    }
    world.cut.clear();
    world.settle(LONG);
    world.assert_converged();
}

#[test]
fn a_roll_to_a_broken_image_stops_at_one_member_and_a_corrected_one_recovers() {
    let mut world = settled(3, 1);
    fill(&mut world, 500);
    world.set("image", json!(BAD_IMAGE));
    run(&mut world, 60, 500);
    let plan = world.tick().expect("an operator");
    assert!(plan.waits_for(WaitReason::RollStuck), "{plan}");
    let broken = world
        .pods
        .values()
        .filter(|pod| pod.image == BAD_IMAGE)
        .count();
    assert_eq!(broken, 1, "{}", world.story());
    assert!((0..500).all(|key| world.write(key)), "service goes on");
    world.set("image", json!("example/cache-node:2"));
    run(&mut world, 200, 500);
    world.settle(LONG);
    world.assert_converged();
    assert_eq!(world.lost(), Vec::<u32>::new(), "{}", world.story());
}

#[test]
fn a_cache_born_with_a_broken_image_recovers_by_a_corrected_spec() {
    let mut world = World::new(1, spec(3, 1));
    world.set("image", json!(BAD_IMAGE));
    (0..20).for_each(|_| drop(world.tick()));
    let plan = world.tick().expect("an operator");
    assert!(plan.waits_for(WaitReason::MemberProblem), "{plan}");
    world.set("image", json!("example/cache-node:1"));
    world.settle(LONG);
    world.assert_converged();
}
