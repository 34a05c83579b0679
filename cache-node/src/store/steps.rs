//! How long the store's own work holds a lock: growth of tables, compaction, expiry, eviction, and counting items anew when
//! regions change.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the histogram, in microseconds; one more for what is beyond.
pub const STEP_BOUNDS_US: [u64; 8] = [10, 25, 50, 100, 200, 500, 1_000, 10_000];

/// What is done in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Growth,
    Compaction,
    Expiry,
    Eviction,
    Regions,
}

/// Every kind of step and its name.
pub const STEPS: [(Step, &str); 5] = [
    (Step::Growth, "growth"),
    (Step::Compaction, "compaction"),
    (Step::Expiry, "expiry"),
    (Step::Eviction, "eviction"),
    (Step::Regions, "regions"),
];

#[derive(Debug, Default)]
struct Histogram {
    counts: [AtomicU64; STEP_BOUNDS_US.len() + 1],
    total_us: AtomicU64,
    max_us: AtomicU64,
}

/// One kind's counts: by upper bound, then beyond; the sum and the longest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepCounts {
    pub counts: [u64; STEP_BOUNDS_US.len() + 1],
    pub total_us: u64,
    pub max_us: u64,
}

/// Processor time of steps, by kind.
#[derive(Debug, Default)]
pub struct Steps([Histogram; STEPS.len()]);

impl Steps {
    /// Does one step and counts the processor time it took.
    pub fn time<T>(&self, step: Step, work: impl FnOnce() -> T) -> T {
        let begin = thread_cpu_us();
        let result = work();
        self.count(step, thread_cpu_us().saturating_sub(begin));
        result
    }

    fn count(&self, step: Step, us: u64) {
        let histogram = &self.0[step as usize];
        let bucket = STEP_BOUNDS_US.partition_point(|&bound| bound < us);
        histogram.counts[bucket].fetch_add(1, Ordering::Relaxed);
        histogram.total_us.fetch_add(us, Ordering::Relaxed);
        histogram.max_us.fetch_max(us, Ordering::Relaxed);
    }

    pub fn counts(&self, step: Step) -> StepCounts {
        let histogram = &self.0[step as usize];
        StepCounts {
            counts: std::array::from_fn(|i| histogram.counts[i].load(Ordering::Relaxed)),
            total_us: histogram.total_us.load(Ordering::Relaxed),
            max_us: histogram.max_us.load(Ordering::Relaxed),
        }
    }
}

/// Processor time of this thread: what others took of the processor meanwhile does not count.
fn thread_cpu_us() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes a timespec to where it may.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_fall_into_their_buckets() {
        let steps = Steps::default();
        for us in [0, 10, 11, 200, 20_000] {
            steps.count(Step::Expiry, us);
        }
        let counts = steps.counts(Step::Expiry);
        assert_eq!(counts.counts, [2, 1, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!((counts.total_us, counts.max_us), (20_221, 20_000));
        assert_eq!(steps.counts(Step::Growth), StepCounts::default());
        assert_eq!(steps.time(Step::Growth, || 7), 7);
        assert_eq!(steps.counts(Step::Growth).counts.iter().sum::<u64>(), 1);
    }
}
