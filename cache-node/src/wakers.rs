//! Wakes the server's threads, so that parked connections try their commands again.

use std::sync::Arc;

use crate::sync::{RwLock, Waker};

/// The server threads' wakers.
#[derive(Debug, Default)]
pub struct Wakers(RwLock<Vec<Arc<Waker>>>);

impl Wakers {
    /// A server thread says how to wake it.
    pub fn add(&self, waker: Arc<Waker>) {
        self.0.write().push(waker);
    }

    /// Wakes all threads: something that commands may wait for has changed.
    pub fn wake_all(&self) {
        for waker in self.0.read().iter() {
            if let Err(error) = waker.wake() {
                tracing::error!(%error, "cannot wake a server thread");
            }
        }
    }
}
