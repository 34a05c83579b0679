//! A command that meets a paused slot parks until its thread is woken (docs/decisions/0001-pending.md): the steps of `server/thread.rs` and of
//! whoever changes the slot's state, over the real wakers.

use std::sync::Arc;

use loom::thread;

use crate::sync::{Mutex, Waker};
use crate::wakers::Wakers;

#[derive(Default)]
struct Node {
    wakers: Wakers,
    /// The slot's state, read and changed under its lock.
    paused: Mutex<bool>,
    /// Writes that were executed.
    written: Mutex<usize>,
}

impl Node {
    fn pause(&self, paused: bool) {
        *self.paused.lock() = paused;
    }
}

/// A server thread with one connection: makes its waker known before it has any, tries, parks, and tries again at each wake.
fn serve(node: &Node) {
    let waker = Arc::new(Waker::default());
    node.wakers.add(waker.clone());
    loop {
        {
            let paused = node.paused.lock();
            if !*paused {
                *node.written.lock() += 1;
                return;
            }
        }
        waker.wait();
    }
}

fn check(threads: usize, change: impl Fn(&Node) + Send + Sync + Copy + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let node = Arc::new(Node::default());
        node.pause(true);
        let servers: Vec<_> = (0..threads)
            .map(|_| {
                let node = node.clone();
                thread::spawn(move || serve(&node))
            })
            .collect();
        change(&node);
        for server in servers {
            server.join().unwrap();
        }
        assert_eq!(*node.written.lock(), threads);
    });
}

/// However the end of a pause and the command meet, none is left parked: loom reports a deadlock otherwise.
#[test]
fn a_parked_command_is_tried_again_when_the_pause_ends() {
    for threads in [1, 2] {
        check(threads, |node| {
            node.pause(false);
            node.wakers.wake_all();
        });
    }
}

/// A pause that ends and comes again, as a seal after an unseal: the last end counts.
#[test]
fn a_pause_that_comes_again_loses_no_wake_up() {
    check(1, |node| {
        for paused in [false, true, false] {
            node.pause(paused);
            node.wakers.wake_all();
        }
    });
}

/// What the model is for: it finds a node that wakes before the change.
#[test]
#[should_panic(expected = "deadlock")]
fn waking_before_the_change_is_found() {
    check(1, |node| {
        node.wakers.wake_all();
        node.pause(false);
    });
}
