//! Threads on one store: each writes keys of its own to slots that all share, while one more expires, compacts and frees.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const WRITERS: u64 = 3;

#[test]
fn writers_of_shared_slots_and_upkeep_keep_what_each_wrote() {
    let store = store(0);
    let stop = AtomicBool::new(false);
    let passes = AtomicU64::new(0);
    let models: Vec<Model> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // What is written expires later than that.
                store.expire(NOW, Instant::now() + Duration::from_millis(1));
                store.free_garbage();
                if let Some(mut pass) = store.begin_compaction(true) {
                    while pass.step(&store) {}
                    pass.finish(&store);
                    passes.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::yield_now();
            }
        });
        let writers: Vec<_> = (0..WRITERS)
            .map(|seed| {
                let store = &store;
                let passes = &passes;
                scope.spawn(move || {
                    let (mut random, mut model) = (Lcg(seed), Model::new());
                    let who = format!("{seed}:");
                    let mut steps = 0;
                    // Compaction must have been at work meanwhile.
                    while steps < 10_000 || (passes.load(Ordering::Relaxed) == 0 && steps < 200_000)
                    {
                        step_as(&who, store, &mut model, &mut random, 4_000);
                        steps += 1;
                    }
                    model
                })
            })
            .collect();
        let models = writers.into_iter().map(|w| w.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        models
    });
    assert!(passes.into_inner() > 0);
    let all: Model = models.into_iter().flatten().collect();
    assert_eq!(store.stats().keys, all.len() as u64);
    assert_eq!(contents(&store, NOW), all);
}
