//! Regions on real nodes: from a manifest to what each node enforces and to the status, through a scale.

use cache_operator::api::CacheRegion;
use cache_operator::api::region::CacheRegionStatus;
use cache_operator::local::{read_region, write_region_specs};
use serde_json::{Value, json};

use crate::harness::{NAME, World};

fn region(name: &str, spec: Value) -> CacheRegion {
    let mut spec = spec;
    spec["cacheRef"] = json!({"name": NAME});
    serde_json::from_value(json!({
        "apiVersion": "cache.clusterdb.io/v1alpha1", "kind": "CacheRegion", "spec": spec,
        "metadata": {"name": name},
    }))
    .expect("a CacheRegion")
}

fn status(world: &World, name: &str) -> CacheRegionStatus {
    let region = read_region(world.local.folder(), name).expect("a CacheRegion");
    region.status.unwrap_or_default()
}

fn reason(status: &CacheRegionStatus) -> String {
    let mut conditions = status.conditions.iter();
    let ready = conditions.find(|condition| condition.type_ == "Ready");
    ready.map(|ready| ready.reason.clone()).unwrap_or_default()
}

async fn enforced(world: &World, name: &str, nodes: usize) {
    world
        .until("every node enforces the region", |world| {
            let status = status(world, name);
            reason(&status) == "Enforced" && status.nodes.len() == nodes
        })
        .await;
}

async fn counted(world: &World, name: &str, keys: i64) {
    world
        .until("the status counts the region's keys", |world| {
            status(world, name).keys == Some(keys)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_are_enforced_by_all_nodes_and_live_through_a_scale() {
    let world = World::start(2, 1).await;
    let folder = world.local.folder().clone();
    let session = region("session", json!({"size": "1Mi", "ttl": {"default": "1h"}}));
    let clash = region("younger", json!({"keyPrefix": "session:"}));
    write_region_specs(&folder, &[session.clone(), clash]).expect("written");
    enforced(&world, "session", 4).await;
    assert_eq!(reason(&status(&world, "younger")), "Conflicting");
    let mut client = world.client().await;
    for number in 0..500 {
        for prefix in ["session", "other"] {
            redis::cmd("SET")
                .arg(format!("{prefix}:{number}"))
                .arg("x".repeat(100))
                .query_async::<()>(&mut client)
                .await
                .expect("a write");
        }
    }
    counted(&world, "session", 500).await;
    for (key, low, high) in [("session:1", 3_000, 3_600), ("other:1", -1, -1)] {
        let ttl: i64 = redis::cmd("TTL")
            .arg(key)
            .query_async(&mut client)
            .await
            .expect("a read");
        assert!((low..=high).contains(&ttl), "{key}: {ttl}");
    }
    world.scale(3);
    world.settled().await;
    enforced(&world, "session", 6).await;
    counted(&world, "session", 500).await;
    // Smaller: it gives up its own keys.
    let small = region(
        "session",
        json!({"size": "30Ki", "eviction": {"type": "FIFO"}}),
    );
    write_region_specs(&folder, std::slice::from_ref(&small)).expect("written");
    world
        .until("the region fits its size", |world| {
            let status = status(world, "session");
            status.used_bytes.is_some_and(|bytes| bytes <= 30 << 10)
                && status.evicted_keys.is_some_and(|keys| keys > 200)
        })
        .await;
    write_region_specs(&folder, &[]).expect("written");
    let mut all = 0;
    for shard in ["0", "1", "2"] {
        let mut node = world.direct(&world.primary(shard)).await;
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("other:*")
            .query_async(&mut node)
            .await
            .expect("a read");
        all += keys.len();
    }
    assert_eq!(all, 500, "keys of no region stay");
}
