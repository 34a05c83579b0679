use crate::harness::World;
use crate::load::{Load, fill, read_all, verify_filled};

const KEYS: u64 = 3_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cache_is_ready_and_holds_what_is_written() {
    let world = World::start(3, 1).await;
    let client = world.client().await;
    fill(&client, KEYS).await;
    verify_filled(&client, KEYS).await;
    let slots = world.each_slot_is_owned_once().await;
    assert!(
        slots.len() == 3 && slots.values().all(|n| (5461..=5462).contains(n)),
        "slots are spread evenly: {slots:?}"
    );
    world
        .until("replicas hold what their primaries hold", |world| {
            let status = world.cache().status.expect("a status");
            let of = |role| {
                status
                    .members
                    .iter()
                    .filter(|m| m.role == Some(role))
                    .map(|m| m.keys)
                    .sum::<i64>()
            };
            use cache_operator::api::Role;
            of(Role::Primary) == KEYS.cast_signed() && of(Role::Replica) == KEYS.cast_signed()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_out_and_in_under_load_loses_nothing() {
    let world = World::start(3, 1).await;
    let client = world.client().await;
    fill(&client, KEYS).await;
    let load = Load::start(&client, KEYS);
    for shards in [5, 2] {
        load.progress(500).await;
        world.scale(shards);
        world.settled().await;
        let slots = world.each_slot_is_owned_once().await;
        assert_eq!(
            slots.len(),
            usize::try_from(shards).expect("small"),
            "{slots:?}"
        );
        let (min, max) = (
            slots.values().min().expect("some"),
            slots.values().max().expect("some"),
        );
        assert!(max - min <= 1, "slots are spread evenly: {slots:?}");
    }
    load.progress(500).await;
    let tally = load.stop().await;
    assert_eq!(
        tally.errors,
        Vec::<String>::new(),
        "the client absorbs the moves"
    );
    let found = read_all(&client, KEYS).await;
    assert_eq!(found.len() as u64, KEYS);
    tally.assert_nothing_lost(&found);
    // A fresh client finds the same.
    tally.assert_nothing_lost(&read_all(&world.client().await, KEYS).await);
}
