//! Maintenance on real nodes: a shard that holds all keys gives slots away when its time has come.

use cache_operator::api::Role;
use cache_operator::api::cache::{Maintenance, MaintenanceTask, Rebalance};
use cache_operator::local::edit_spec;

use crate::harness::World;
use crate::load::{key, value};

const KEYS: u64 = 4_000;
const THRESHOLD_PERCENT: i32 = 20;

/// Keys that each shard's primary holds, by the status.
fn keys_by_shard(world: &World) -> Vec<i64> {
    let status = world.cache().status.expect("a status");
    let primaries = status.members.iter();
    primaries
        .filter(|member| member.role == Some(Role::Primary))
        .map(|member| member.keys)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_holds_all_keys_gives_slots_away_when_the_cron_says_so() {
    let world = World::start(2, 1).await;
    // Only what shard 0 takes: the other half answers MOVED.
    let mut full = world.direct(&world.primary("0")).await;
    let mut written = Vec::new();
    for number in 0..KEYS {
        let set = redis::cmd("SET")
            .arg(key(number))
            .arg(value(number, 0))
            .query_async::<()>(&mut full)
            .await;
        match set {
            Ok(()) => written.push(number),
            Err(moved) => assert_eq!(moved.code(), Some("MOVED"), "{moved}"),
        }
    }
    assert!(
        written.len() > 1_000,
        "{} keys are too few to weigh",
        written.len()
    );
    let before = world.each_slot_is_owned_once().await;
    edit_spec(&world.folder(), |spec| {
        spec.maintenance = Some(Maintenance {
            schedule: "* * * * *".into(),
            time_zone: None,
            tasks: vec![MaintenanceTask {
                rebalance: Some(Rebalance {
                    threshold_percent: THRESHOLD_PERCENT,
                }),
            }],
        });
    })
    .expect("edited");
    // A minute at most until the cron's next time.
    world
        .until("a run is complete", |world| {
            let status = world.cache().status.expect("a status");
            status
                .maintenance
                .is_some_and(|maintenance| maintenance.last_completed_time.is_some())
        })
        .await;
    world.settled().await;
    let after = world.each_slot_is_owned_once().await;
    assert!(
        after["0"] < before["0"],
        "slots moved: {before:?}, {after:?}"
    );
    let total = i64::try_from(written.len()).expect("few");
    world
        .until("the status counts every key once", |world| {
            keys_by_shard(world).iter().sum::<i64>() == total
        })
        .await;
    let most = keys_by_shard(&world).into_iter().max().expect("shards");
    assert!(
        most * 2 * 100 <= total * i64::from(100 + THRESHOLD_PERCENT),
        "{:?} of {total}",
        keys_by_shard(&world)
    );
    let mut client = world.client().await;
    for number in written {
        let found: Option<String> = redis::cmd("GET")
            .arg(key(number))
            .query_async(&mut client)
            .await
            .expect("a read");
        assert_eq!(found, Some(value(number, 0)));
    }
}
