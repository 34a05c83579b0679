//! The time, as a thread keeps it: read from the kernel once a round, and once more a turn.

use std::time::Instant;

use crate::node::now_ms;

/// See the module's text.
#[derive(Debug)]
pub struct Clock {
    /// Unix milliseconds when the round began.
    wall_ms: u64,
    round: Instant,
    /// When the last turn ended.
    lap: Instant,
}

impl Clock {
    /// A round begins.
    pub fn start() -> Self {
        let now = Instant::now();
        Self {
            wall_ms: now_ms(),
            round: now,
            lap: now,
        }
    }

    /// Unix milliseconds at the beginning of this turn.
    pub fn now_ms(&self) -> u64 {
        self.wall_ms + self.lap.duration_since(self.round).as_millis() as u64
    }

    /// Ends a turn. Gives its microseconds.
    pub fn lap_us(&mut self) -> u64 {
        let now = Instant::now();
        let us = now.duration_since(self.lap).as_micros() as u64;
        self.lap = now;
        us
    }
}
