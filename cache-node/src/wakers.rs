//! Wakes the server's threads, so that parked connections try their commands again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::{RwLock, Waker};

/// The server threads' wakers.
#[derive(Debug, Default)]
pub struct Wakers {
    threads: RwLock<Vec<Arc<Waker>>>,
    /// How often something has changed.
    changes: AtomicU64,
    /// How often threads were woken for their parked connections.
    rings: AtomicU64,
}

impl Wakers {
    /// A server thread says how to wake it.
    pub fn add(&self, waker: Arc<Waker>) {
        self.threads.write().push(waker);
    }

    /// Wakes all threads: something that commands may wait for has changed.
    pub fn wake_all(&self) {
        self.changes.fetch_add(1, Ordering::Release);
        self.ring();
    }

    /// How often [`Wakers::wake_all`] was called.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// How often threads were woken: who has seen as many rings has nothing to look for.
    pub fn rings(&self) -> u64 {
        self.rings.load(Ordering::Acquire)
    }

    /// Wakes all threads: a connection that waits for a key is served.
    pub fn ring(&self) {
        self.rings.fetch_add(1, Ordering::Release);
        for waker in self.threads.read().iter() {
            if let Err(error) = waker.wake() {
                tracing::error!(%error, "cannot wake a server thread");
            }
        }
    }
}
