//! The scripts that run: which of them take long, what those hold, and which are to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::limits::SCRIPT_TIME_MAX;

/// What a script holds while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holds {
    Everything,
    Slots(Vec<u16>),
}

/// What becomes of a running script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    GoOn,
    /// By `SCRIPT KILL`.
    Killed,
    /// It has reached the bound that no script passes.
    Endless,
}

/// One that runs.
#[derive(Debug)]
pub struct Run {
    begin: Instant,
    holds: Holds,
    /// From when on it takes long; None: never.
    slow_after: Option<Duration>,
    scripts: Arc<Shared>,
    slow: AtomicBool,
    wrote: AtomicBool,
    killed: AtomicBool,
}

impl Run {
    /// Called by the script's thread now and then.
    pub fn look(&self) -> Verdict {
        let elapsed = self.begin.elapsed();
        if self.slow_after.is_some_and(|limit| elapsed >= limit)
            && !self.slow.swap(true, Ordering::AcqRel)
        {
            self.scripts.slow.fetch_add(1, Ordering::AcqRel);
            tracing::warn!(
                ?elapsed,
                "a script takes long: SCRIPT KILL ends it if it wrote nothing"
            );
        }
        if self.killed.load(Ordering::Acquire) {
            tracing::warn!(?elapsed, "a script was ended by SCRIPT KILL");
            return Verdict::Killed;
        }
        if elapsed >= SCRIPT_TIME_MAX {
            tracing::warn!(?elapsed, "a script was ended: none may run for so long");
            return Verdict::Endless;
        }
        Verdict::GoOn
    }

    /// It is about to write. False: it was killed before.
    pub fn writes(&self) -> bool {
        self.wrote.store(true, Ordering::SeqCst);
        !self.killed.load(Ordering::SeqCst)
    }

    fn holds(&self, slots: &[u16]) -> bool {
        match &self.holds {
            Holds::Everything => true,
            Holds::Slots(held) => slots.iter().any(|slot| held.contains(slot)),
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// Scripts that take long.
    slow: AtomicU32,
    running: Mutex<Vec<Arc<Run>>>,
}

/// What came of `SCRIPT KILL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    Done,
    /// None takes long.
    NotBusy,
    /// It has written.
    Unkillable,
}

/// See the module's text.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    /// Milliseconds after which a script takes long; 0: it never does.
    pub threshold_ms: AtomicU64,
}

impl Default for Running {
    fn default() -> Self {
        Self {
            shared: Arc::default(),
            threshold_ms: AtomicU64::new(crate::limits::SCRIPT_BUSY_MS),
        }
    }
}

impl Running {
    /// A script begins. It ends when what this gives is dropped.
    pub fn begin(&self, holds: Holds) -> Begun {
        let slow_after = match self.threshold_ms.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        };
        let run = Arc::new(Run {
            begin: Instant::now(),
            holds,
            slow_after,
            scripts: self.shared.clone(),
            slow: AtomicBool::new(false),
            wrote: AtomicBool::new(false),
            killed: AtomicBool::new(false),
        });
        self.shared.running.lock().push(run.clone());
        Begun(run)
    }

    /// Whether a script takes long.
    pub fn is_busy(&self) -> bool {
        self.shared.slow.load(Ordering::Relaxed) > 0
    }

    /// Whether one that takes long holds any of these slots.
    #[cold]
    pub fn is_busy_with(&self, slots: &[u16]) -> bool {
        let slow = |run: &Arc<Run>| run.slow.load(Ordering::Acquire) && run.holds(slots);
        self.is_busy() && self.shared.running.lock().iter().any(slow)
    }

    /// Whether one that takes long holds everything.
    #[cold]
    pub fn is_all_busy(&self) -> bool {
        let slow =
            |run: &Arc<Run>| run.slow.load(Ordering::Acquire) && run.holds == Holds::Everything;
        self.shared.running.lock().iter().any(slow)
    }

    /// Ends the scripts that take long and have written nothing.
    pub fn kill(&self) -> Kill {
        let mut answer = Kill::NotBusy;
        for run in self.shared.running.lock().iter() {
            if !run.slow.load(Ordering::Acquire) {
                continue;
            }
            // Whichever comes first is seen by the other: a script never ends after a write that it has done.
            run.killed.store(true, Ordering::SeqCst);
            if run.wrote.load(Ordering::SeqCst) {
                run.killed.store(false, Ordering::SeqCst);
                if answer == Kill::NotBusy {
                    answer = Kill::Unkillable;
                }
            } else {
                answer = Kill::Done;
            }
        }
        answer
    }
}

/// A script that runs until this is dropped.
#[derive(Debug)]
pub struct Begun(pub Arc<Run>);

impl Begun {
    /// The script is over. Whether it took long, so that others did not wait for it.
    pub fn end(self) -> bool {
        self.0.slow.load(Ordering::Acquire)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let shared = &self.0.scripts;
        shared
            .running
            .lock()
            .retain(|run| !Arc::ptr_eq(run, &self.0));
        if self.0.slow.load(Ordering::Acquire) {
            shared.slow.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_takes_long_and_wrote_nothing_is_killed() {
        let running = Running::default();
        running.threshold_ms.store(0, Ordering::Relaxed);
        let never = running.begin(Holds::Everything);
        assert_eq!((never.0.look(), running.is_busy()), (Verdict::GoOn, false));
        assert_eq!(running.kill(), Kill::NotBusy);
        drop(never);
        running.threshold_ms.store(1, Ordering::Relaxed);
        let (one, two) = (
            running.begin(Holds::Slots(vec![5, 9])),
            running.begin(Holds::Slots(vec![7])),
        );
        while !running.is_busy() {
            assert_eq!(one.0.look(), Verdict::GoOn);
        }
        assert!(running.is_busy_with(&[3, 9]) && !running.is_busy_with(&[3, 7]));
        assert!(one.0.writes());
        assert_eq!(running.kill(), Kill::Unkillable);
        assert_eq!(one.0.look(), Verdict::GoOn);
        while !running.is_busy_with(&[7]) {
            assert_eq!(two.0.look(), Verdict::GoOn);
        }
        assert_eq!(running.kill(), Kill::Done);
        assert_eq!(
            (one.0.look(), two.0.look()),
            (Verdict::GoOn, Verdict::Killed)
        );
        assert!(!two.0.writes(), "killed before it wrote");
        assert!(!running.is_all_busy());
        drop((one, two));
        assert!(!running.is_busy() && running.kill() == Kill::NotBusy);
    }
}
