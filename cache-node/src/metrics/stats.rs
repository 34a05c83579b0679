//! Counters of the server's threads. Each thread counts on its own cache lines; whoever asks adds them up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::command::table::COMMANDS_MAX;
use crate::limits::ERROR_CODES_MAX;

/// Upper bounds of the histogram of batches, in microseconds; one more for what is beyond.
pub const BATCH_BOUNDS_US: [u64; 14] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 1_000_000,
];

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds. Called by the one thread that owns the counter: a load and a store, no locked instruction.
    pub fn add(&self, n: u64) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_add(n), Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// What one thread counts.
#[derive(Debug)]
#[repr(align(128))]
pub struct ThreadStats {
    /// By a command's index in the table.
    pub commands: [Counter; COMMANDS_MAX],
    pub failed_commands: [Counter; COMMANDS_MAX],
    /// Of the failed ones, those that were not executed at all.
    pub rejected_commands: [Counter; COMMANDS_MAX],
    /// Executions that had to wait.
    pub parked: Counter,
    pub unknown_commands: Counter,
    pub errors: Counter,
    /// Errors by their first word.
    error_codes: Mutex<BTreeMap<Box<str>, u64>>,
    pub hits: Counter,
    pub misses: Counter,
    pub input_bytes: Counter,
    pub output_bytes: Counter,
    pub batches: [Counter; BATCH_BOUNDS_US.len() + 1],
    pub batch_us: Counter,
    pub output_closed: Counter,
}

impl Default for ThreadStats {
    fn default() -> Self {
        Self {
            commands: std::array::from_fn(|_| Counter::default()),
            failed_commands: std::array::from_fn(|_| Counter::default()),
            rejected_commands: std::array::from_fn(|_| Counter::default()),
            parked: Counter::default(),
            unknown_commands: Counter::default(),
            errors: Counter::default(),
            error_codes: Mutex::default(),
            hits: Counter::default(),
            misses: Counter::default(),
            input_bytes: Counter::default(),
            output_bytes: Counter::default(),
            batches: std::array::from_fn(|_| Counter::default()),
            batch_us: Counter::default(),
            output_closed: Counter::default(),
        }
    }
}

impl ThreadStats {
    /// Counts a command that was refused before it was executed.
    pub fn rejected(&self, command: usize) {
        self.commands[command].add(1);
        self.failed_commands[command].add(1);
        self.rejected_commands[command].add(1);
    }

    /// Counts an error that is told to a client.
    #[cold]
    pub fn error(&self, text: &str) {
        self.errors.add(1);
        let code = text.split(' ').next().unwrap_or_default();
        let mut codes = self.error_codes.lock();
        if let Some(count) = codes.get_mut(code) {
            *count += 1;
        } else if codes.len() < ERROR_CODES_MAX {
            codes.insert(code.into(), 1);
        }
    }

    /// Counts a batch of commands that took so long.
    pub fn batch(&self, us: u64) {
        let bucket = BATCH_BOUNDS_US.partition_point(|&bound| bound < us);
        self.batches[bucket].add(1);
        self.batch_us.add(us);
    }
}

/// The counters of all threads.
#[derive(Debug, Default)]
pub struct Stats {
    threads: Mutex<Vec<Arc<ThreadStats>>>,
    pub connections: AtomicU64,
    pub rejected_connections: AtomicU64,
    /// Commands in the last second.
    pub commands_per_second: AtomicU64,
}

impl Stats {
    /// The counters of one more thread.
    pub fn thread(&self) -> Arc<ThreadStats> {
        let stats = Arc::new(ThreadStats::default());
        self.threads.lock().push(stats.clone());
        stats
    }

    /// The sum of a counter over all threads.
    pub fn sum(&self, which: impl Fn(&ThreadStats) -> &Counter) -> u64 {
        self.threads.lock().iter().map(|t| which(t).get()).sum()
    }

    /// Errors by their first word.
    pub fn error_codes(&self) -> BTreeMap<Box<str>, u64> {
        let mut all = BTreeMap::new();
        for thread in self.threads.lock().iter() {
            for (code, count) in thread.error_codes.lock().iter() {
                *all.entry(code.clone()).or_default() += count;
            }
        }
        all
    }

    /// Commands executed.
    pub fn commands(&self) -> u64 {
        (0..COMMANDS_MAX)
            .map(|i| self.sum(|t| &t.commands[i]))
            .sum()
    }

    /// Sets all counters to zero, as `CONFIG RESETSTAT` does. What is counted at the same instant may stay.
    pub fn reset(&self) {
        for t in self.threads.lock().iter() {
            let arrays = [
                &t.commands[..],
                &t.failed_commands[..],
                &t.rejected_commands[..],
                &t.batches[..],
            ];
            arrays.into_iter().flatten().for_each(Counter::reset);
            let single = [
                &t.parked,
                &t.unknown_commands,
                &t.errors,
                &t.hits,
                &t.misses,
                &t.input_bytes,
                &t.output_bytes,
                &t.batch_us,
                &t.output_closed,
            ];
            single.into_iter().for_each(Counter::reset);
            t.error_codes.lock().clear();
        }
        self.connections.store(0, Ordering::Relaxed);
        self.rejected_connections.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up_and_batches_fall_into_buckets() {
        let stats = Stats::default();
        let (a, b) = (stats.thread(), stats.thread());
        a.hits.add(3);
        b.hits.add(4);
        a.commands[5].add(2);
        b.commands[6].add(1);
        assert_eq!((stats.sum(|t| &t.hits), stats.commands()), (7, 3));
        for us in [0, 10, 11, 1_000_000, 1_000_001] {
            a.batch(us);
        }
        let counts: Vec<u64> = a.batches.iter().map(Counter::get).collect();
        assert_eq!((counts[0], counts[1], counts[13], counts[14]), (2, 1, 1, 1));
        a.error("OOM no memory");
        b.error("OOM");
        b.error("ERR a");
        let codes: Vec<_> = stats.error_codes().into_iter().collect();
        assert_eq!(codes, [("ERR".into(), 1), ("OOM".into(), 2)]);
        (0..2 * ERROR_CODES_MAX).for_each(|i| b.error(&format!("E{i}")));
        assert_eq!(stats.error_codes().len(), ERROR_CODES_MAX);
        assert_eq!(stats.sum(|t| &t.errors), 3 + 2 * ERROR_CODES_MAX as u64);
        stats.reset();
        assert!(stats.error_codes().is_empty());
        assert_eq!((stats.sum(|t| &t.hits), stats.commands()), (0, 0));
    }
}
