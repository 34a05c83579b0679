//! What replication and slot moves apply: records of the log and copied items, however damaged.

#![no_main]

use std::sync::{Arc, OnceLock};

use cache_node::log::Log;
use cache_node::replicate::effects::{Source, apply_copied, apply_records};
use cache_node::store::{Store, StoreOptions};
use libfuzzer_sys::fuzz_target;

fn store() -> &'static Store {
    static STORE: OnceLock<Store> = OnceLock::new();
    STORE.get_or_init(|| {
        let options = StoreOptions {
            max_memory: 64 << 20,
            hash_seed: 1,
        };
        Store::new(options, Arc::new(Log::new(1 << 20))).expect("there is memory")
    })
}

fuzz_target!(|stream: &[u8]| {
    // An error is what damage deserves; anything else is a finding.
    let _ = apply_records(store(), stream);
    let _ = apply_copied(store(), stream, Source::Primary);
    let _ = apply_copied(store(), stream, Source::Move);
});
