//! Regions and the Cache's policy reach every node without a restart, and then nothing is done.

use cache_operator::api::CacheRegion;
use cache_operator::plan::Step;
use serde_json::{Value, json};

use super::{LONG, settled};
use crate::world::World;

fn region(name: &str, spec: Value) -> CacheRegion {
    let mut spec = spec;
    spec["cacheRef"] = json!({"name": "orders"});
    serde_json::from_value(json!({
        "apiVersion": "cache.clusterdb.io/v1alpha1", "kind": "CacheRegion", "spec": spec,
        "metadata": {"name": name, "namespace": "shop"},
    }))
    .expect("a CacheRegion")
}

/// A settled world whose nodes know regions.
fn world() -> World {
    let mut world = settled(2, 1);
    for member in members(&world) {
        world.node_mut(&member).expect("a node").regions = Some(String::new());
    }
    world
}

fn members(world: &World) -> Vec<String> {
    let stored = world.stored.as_ref().expect("a topology");
    stored.members().map(|(_, m)| m.name.clone()).collect()
}

/// Everybody has what is wanted, nobody was restarted for it, and it stays so.
fn assert_enforced(world: &mut World, hash: &str, template: &str) {
    for member in members(world) {
        let node = world.node(&member).expect("a node");
        assert_eq!(node.regions.as_deref(), Some(hash), "{member}");
    }
    assert_eq!(world.desired().template_hash, template);
    for _ in 0..20 {
        let plan = world.tick().expect("an operator");
        assert!(plan.steps.is_empty(), "{plan}");
    }
}

#[test]
fn a_list_reaches_every_node_and_then_nothing_is_done() {
    let mut world = world();
    let template = world.desired().template_hash;
    // Nothing is said: nothing is pushed.
    assert_enforced(&mut world, "", &template);
    world.regions = vec![region("session", json!({"size": "1Mi"}))];
    world.settle(LONG);
    let hash = world.desired().regions.hash();
    assert_enforced(&mut world, &hash, &template);
    // The Cache's own policy goes the same way.
    world.set(
        "policy",
        json!({"eviction": {"type": "S3FIFO"}, "ttl": {"default": "1h"}}),
    );
    world.settle(LONG);
    let other = world.desired().regions.hash();
    assert_ne!(hash, other);
    assert_enforced(&mut world, &other, &template);
    // What is deleted is taken back.
    world.regions.clear();
    world.settle(LONG);
    let rest = world.desired().regions.hash();
    assert_enforced(&mut world, &rest, &template);
}

#[test]
fn a_node_that_cannot_be_asked_is_told_when_it_can() {
    let mut world = world();
    let all = members(&world);
    world.cut.insert(all[1].clone());
    world.regions = vec![region("session", json!({}))];
    for _ in 0..5 {
        world.tick();
    }
    let wanted = world.desired().regions.hash();
    assert_eq!(
        world.node(&all[0]).expect("a node").regions.as_ref(),
        Some(&wanted)
    );
    assert_eq!(
        world.node(&all[1]).expect("a node").regions.as_deref(),
        Some("")
    );
    world.cut.clear();
    world.settle(LONG);
    assert_eq!(
        world.node(&all[1]).expect("a node").regions.as_ref(),
        Some(&wanted)
    );
}

#[test]
fn nodes_that_know_no_regions_are_passed_over() {
    let mut world = settled(1, 1);
    world.regions = vec![region("session", json!({}))];
    for _ in 0..10 {
        let plan = world.tick().expect("an operator");
        let pushes = plan
            .steps
            .iter()
            .any(|s| matches!(s, Step::PushRegions { .. }));
        assert!(!pushes, "{plan}");
    }
}

#[test]
fn a_paused_cache_gets_no_list() {
    let mut world = world();
    world.set("paused", json!(true));
    world.regions = vec![region("session", json!({}))];
    for _ in 0..5 {
        assert!(world.tick().expect("an operator").steps.is_empty());
    }
}
