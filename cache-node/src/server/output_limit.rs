//! How much may wait to be sent to a client that does not read: `client-output-buffer-limit`.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::{PUBSUB_OUTPUT_HARD, PUBSUB_OUTPUT_SOFT, PUBSUB_OUTPUT_SOFT_S};

/// Bytes beyond which a connection is closed, at once or after so many seconds; 0: no such limit.
#[derive(Debug)]
pub struct OutputLimit {
    pub hard: AtomicU64,
    pub soft: AtomicU64,
    pub soft_s: AtomicU64,
}

impl Default for OutputLimit {
    /// Of those who subscribe, as in Redis.
    fn default() -> Self {
        Self {
            hard: AtomicU64::new(PUBSUB_OUTPUT_HARD),
            soft: AtomicU64::new(PUBSUB_OUTPUT_SOFT),
            soft_s: AtomicU64::new(PUBSUB_OUTPUT_SOFT_S),
        }
    }
}

/// A limit is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

impl OutputLimit {
    /// Looks at the bytes that wait. Gives since when they are beyond the soft limit, given since when they were.
    pub fn is_broken(
        &self,
        pending: u64,
        since_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<Option<u64>, Broken> {
        let beyond = |limit: &AtomicU64| {
            let limit = limit.load(Ordering::Relaxed);
            limit > 0 && pending > limit
        };
        if beyond(&self.hard) {
            return Err(Broken);
        }
        if !beyond(&self.soft) {
            return Ok(None);
        }
        let since = since_ms.unwrap_or(now_ms);
        match now_ms.saturating_sub(since) > self.soft_s.load(Ordering::Relaxed) * 1000 {
            true => Err(Broken),
            false => Ok(Some(since)),
        }
    }

    pub fn text(&self) -> String {
        let [hard, soft, seconds] =
            [&self.hard, &self.soft, &self.soft_s].map(|n| n.load(Ordering::Relaxed));
        format!("{hard} {soft} {seconds}")
    }

    pub fn set(&self, [hard, soft, seconds]: [u64; 3]) {
        self.hard.store(hard, Ordering::Relaxed);
        self.soft.store(soft, Ordering::Relaxed);
        self.soft_s.store(seconds, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_broken_at_once_or_after_a_while() {
        let limit = OutputLimit::default();
        limit.set([100, 50, 10]);
        let table = [
            ((100, None, 0), Ok(Some(0))),
            ((101, None, 0), Err(Broken)),
            ((50, Some(5), 100_000), Ok(None)),
            ((51, Some(5), 10_005), Ok(Some(5))),
            ((51, Some(5), 10_006), Err(Broken)),
        ];
        for ((pending, since, now), expected) in table {
            assert_eq!(
                limit.is_broken(pending, since, now),
                expected,
                "{pending} {since:?} {now}"
            );
        }
        limit.set([0, 0, 0]);
        assert_eq!(limit.is_broken(1 << 40, Some(1), 99), Ok(None));
        assert_eq!(limit.text(), "0 0 0");
    }
}
