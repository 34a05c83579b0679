//! Ends a loop between any two of its effects, for tests of what comes after a kill.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Counts effects. An unlimited one never ends anything.
#[derive(Debug, Clone)]
pub struct Fuse {
    /// Effects that may still happen; `u64::MAX` for any number.
    left: Arc<AtomicU64>,
    burnt: Arc<Notify>,
}

impl Default for Fuse {
    fn default() -> Self {
        Fuse::of(u64::MAX)
    }
}

impl Fuse {
    /// Lets `effects` happen. The next one does not return: whoever awaits it is to be dropped, as if killed there.
    pub fn of(effects: u64) -> Self {
        Fuse {
            left: Arc::new(AtomicU64::new(effects)),
            burnt: Arc::default(),
        }
    }

    /// At each effect.
    pub(super) async fn burn(&self) {
        let take = |left: u64| match left {
            u64::MAX => Some(left),
            0 => None,
            n => Some(n - 1),
        };
        if self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
            .is_err()
        {
            self.burnt.notify_one();
            std::future::pending::<()>().await;
        }
    }

    /// Returns once an effect was held back.
    pub async fn burnt(&self) {
        self.burnt.notified().await;
    }
}
