//! The primitives that the lanes of the log and the wakers are made of. The model checker's crate (`cache-node/model`) has its own `sync`, of loom's types.

use std::cell::Cell;
pub use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

pub use mio::Waker;
pub use parking_lot::{Condvar, Mutex, RwLock};

/// Lanes of the log.
pub const LANES: usize = 16;

thread_local! {
    static LANE: Cell<usize> = const { Cell::new(usize::MAX) };
}
static NEXT_LANE: AtomicUsize = AtomicUsize::new(0);

/// The lane of this thread.
pub fn lane() -> usize {
    LANE.with(|lane| {
        if lane.get() == usize::MAX {
            lane.set(NEXT_LANE.fetch_add(1, Ordering::Relaxed) % LANES);
        }
        lane.get()
    })
}
