//! Keys that were written while someone waits for them. Kept by the thread that wrote, which looks after each command.

use std::cell::RefCell;

use super::Point;

thread_local! {
    static READY: RefCell<Vec<(Point, Vec<u8>)>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn note(p: Point, key: &[u8]) {
    READY.with_borrow_mut(|ready| ready.push((p, key.to_vec())));
}

/// What this thread's writes have made ready since the last call.
pub fn take() -> Vec<(Point, Vec<u8>)> {
    READY.with_borrow_mut(|ready| match ready.is_empty() {
        true => Vec::new(),
        false => std::mem::take(ready),
    })
}
