//! What the store holds against its limit, in bytes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// No memory within a limit. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutOfMemory {
    #[error("OOM command not allowed when used memory > 'maxmemory'.")]
    Node,
    /// The key's region is full. `waits`: room is being made in it.
    #[error("OOM command not allowed: the region of this key is full.")]
    Region { waits: bool },
}

/// What a taker may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// What is within the limit.
    Limit,
    /// A little more: a replica holds what its primary does, but its pages may be fuller or emptier.
    Slack,
    /// Anything: growth that must not fail half way.
    Any,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Budget {
    used: AtomicU64,
    /// What the process holds beside, as the kernel last reported it.
    other: AtomicU64,
    limit: AtomicU64,
    /// The bell was rung and nobody has answered yet.
    rung: AtomicBool,
    sleep: Mutex<()>,
    bell: Condvar,
}

/// Bytes below a limit at which whoever makes room is called.
pub fn reserve(limit: u64) -> u64 {
    limit / 32
}

impl Budget {
    /// `limit` 0: none.
    pub fn new(limit: u64) -> Self {
        Self {
            limit: AtomicU64::new(limit),
            ..Self::default()
        }
    }

    /// Bytes taken and not given back.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that the process holds beside what was taken here: connections, the log, the allocator's slack.
    pub fn other(&self) -> u64 {
        self.other.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub fn set_other(&self, bytes: u64) {
        self.other.store(bytes, Ordering::Relaxed);
    }

    /// Takes `bytes` if they fit.
    pub fn take(&self, bytes: usize) -> Result<(), OutOfMemory> {
        self.take_in(bytes, Room::Limit)
    }

    pub fn take_in(&self, bytes: usize, room: Room) -> Result<(), OutOfMemory> {
        let bytes = bytes as u64;
        let limit = self.limit();
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if limit == 0 {
            return Ok(());
        }
        let all = used + self.other();
        if all > limit - reserve(limit) {
            self.ring();
        }
        let most = match room {
            Room::Limit => limit,
            Room::Slack => limit + limit / 16,
            Room::Any => u64::MAX,
        };
        if all > most {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(OutOfMemory::Node);
        }
        Ok(())
    }

    /// Bytes that are missing to the reserve below the limit.
    pub fn shortage(&self) -> u64 {
        match self.limit() {
            0 => 0,
            limit => (self.used() + self.other()).saturating_sub(limit - reserve(limit)),
        }
    }

    /// Calls whoever makes room.
    pub fn ring(&self) {
        if !self.rung.load(Ordering::Relaxed) && !self.rung.swap(true, Ordering::AcqRel) {
            let _sleep = self.sleep.lock();
            self.bell.notify_one();
        }
    }

    /// Waits until the bell rings, or for so long. Whether it has rung.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut sleep = self.sleep.lock();
        if !self.rung.load(Ordering::Acquire) && !timeout.is_zero() {
            self.bell.wait_for(&mut sleep, timeout);
        }
        self.rung.swap(false, Ordering::AcqRel)
    }

    /// Takes `bytes` whether they fit or not: for growth that must not fail half way.
    pub fn take_anyway(&self, bytes: usize) {
        self.used.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_taker_gets_what_its_room_allows() {
        let budget = Budget::new(3_200);
        assert!(budget.take(3_100).is_ok() && !budget.wait(Duration::ZERO));
        assert_eq!(budget.shortage(), 0);
        budget.set_other(50);
        assert_eq!(
            (budget.shortage(), budget.take(51)),
            (50, Err(OutOfMemory::Node))
        );
        assert!(
            budget.wait(Duration::from_secs(60)),
            "the reserve is touched"
        );
        assert!(!budget.wait(Duration::ZERO));
        assert!(budget.take(50).is_ok());
        assert_eq!(budget.take_in(201, Room::Slack), Err(OutOfMemory::Node));
        assert!(budget.take_in(200, Room::Slack).is_ok());
        assert!(budget.take_in(5_000, Room::Any).is_ok());
        assert_eq!(budget.used(), 8_350);
        budget.give(8_350);
        budget.set_limit(0);
        assert!(budget.take(1 << 40).is_ok());
    }
}
