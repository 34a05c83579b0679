//! What is left of a thread's stack: what walks nested values stops before it is used up, however large a compiler makes each step.

use std::cell::Cell;

/// Whoever goes on has so many bytes at least, for what it calls in turn.
const RESERVE: usize = 256 * 1024;

thread_local! {
    /// The lowest address of this thread's stack; 0: not asked for yet.
    static LOWEST: Cell<usize> = const { Cell::new(0) };
}

/// Whether to go no deeper.
pub fn is_spent() -> bool {
    let here = 0u8;
    let here = std::ptr::from_ref(&here).addr();
    here.saturating_sub(lowest()) < RESERVE
}

fn lowest() -> usize {
    match LOWEST.get() {
        0 => {
            // A system that does not tell is trusted to have enough.
            let lowest = of_this_thread().unwrap_or(1);
            LOWEST.set(lowest);
            lowest
        }
        known => known,
    }
}

fn of_this_thread() -> Option<usize> {
    // SAFETY: the attributes are initialised by the call that fills them, and destroyed once where that has succeeded.
    unsafe {
        let mut attributes = std::mem::zeroed::<libc::pthread_attr_t>();
        if libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes) != 0 {
            return None;
        }
        let (mut lowest, mut size) = (std::ptr::null_mut(), 0);
        let told =
            libc::pthread_attr_getstack(&raw const attributes, &raw mut lowest, &raw mut size);
        libc::pthread_attr_destroy(&raw mut attributes);
        (told == 0).then(|| lowest.addr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depth() -> usize {
        let room = std::hint::black_box([0u8; 1024]);
        match is_spent() {
            true => 0,
            false => depth() + usize::from(std::hint::black_box(&room)[1] == 0),
        }
    }

    #[test]
    fn the_walk_ends_before_the_stack_does() {
        let on = |bytes: usize| {
            let thread = std::thread::Builder::new().stack_size(bytes);
            thread.spawn(depth).unwrap().join().unwrap()
        };
        assert_eq!(on(RESERVE / 2), 0);
        let (small, large) = (on(1 << 20), on(4 << 20));
        assert!(small > 100 && large > 3 * small, "{small} {large}");
        assert!(large * 1024 < 4 << 20);
    }
}
