//! How long commands took, where they are timed: `LATENCY HISTOGRAM`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::table::{COMMANDS_MAX, Entry, TABLE};
use super::{Context, Stop, introspect};
use crate::protocol::{Args, Reply};

/// The first holds what took up to 1,024 ns, each of the others twice as much, the last all beyond.
const BUCKETS: usize = 21;

type Counts = [AtomicU64; BUCKETS];

/// One for each command that was timed, by its index.
#[derive(Debug)]
pub struct Histograms([OnceLock<Box<Counts>>; COMMANDS_MAX]);

impl Default for Histograms {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }
}

fn bucket(time: Duration) -> usize {
    let ns = time.as_nanos().clamp(1, 1 << 60) as u64;
    // Bits of what exceeds the first bound, counted from its size.
    let bits = u64::BITS - (ns - 1).leading_zeros();
    (bits.saturating_sub(10) as usize).min(BUCKETS - 1)
}

/// In microseconds.
fn bound(bucket: usize) -> u64 {
    (1024 << bucket) / 1000
}

impl Histograms {
    /// A command took so long.
    pub fn add(&self, command: usize, time: Duration) {
        let counts = self.0[command].get_or_init(Box::default);
        counts[bucket(time)].fetch_add(1, Ordering::Relaxed);
    }

    pub fn reset(&self) {
        let all = self.0.iter().filter_map(OnceLock::get);
        all.flat_map(|counts| counts.iter())
            .for_each(|count| count.store(0, Ordering::Relaxed));
    }

    /// Of each bucket that holds something its bound in microseconds, and how many took no longer. None: it was never timed.
    fn steps(&self, command: usize) -> Option<Vec<(u64, u64)>> {
        let counts = self.0[command].get()?;
        let mut sum = 0;
        let mut steps = Vec::new();
        for (i, count) in counts.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            sum += count;
            if count > 0 {
                steps.push((bound(i), sum));
            }
        }
        (sum > 0).then_some(steps)
    }
}

fn write(reply: &mut Reply<'_>, entry: &Entry, steps: &[(u64, u64)]) {
    reply.text(&entry.full_name);
    reply.map(2);
    reply.text("calls");
    reply.unsigned(steps.last().map_or(0, |(_, sum)| *sum));
    reply.text("histogram_usec");
    reply.map(steps.len());
    for (bound, sum) in steps {
        reply.unsigned(*bound);
        reply.unsigned(*sum);
    }
}

/// `LATENCY HISTOGRAM [command …]`: a container stands for its subcommands; names that there are not are left out.
pub fn histogram(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let mut entries: Vec<&Entry> = Vec::new();
    for name in args.from(2).iter() {
        if let Some(entry) = introspect::by_full_name(name) {
            entries.push(entry);
            entries.extend(&TABLE.entries[entry.subcommands.clone()]);
        }
    }
    if args.len() == 2 {
        entries.extend(&TABLE.entries);
    }
    let histograms = &context.node.slow.histograms;
    let timed = |entry: &&'static Entry| Some((*entry, histograms.steps(entry.index)?));
    let found: Vec<_> = entries.iter().filter_map(timed).collect();
    context.reply.map(found.len());
    for (entry, steps) in found {
        write(&mut context.reply, entry, &steps);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_their_buckets_and_add_up() {
        for (ns, expected) in [
            (0, 0),
            (1, 0),
            (1024, 0),
            (1025, 1),
            (2048, 1),
            (2049, 2),
            (1 << 30, 20),
            (u64::MAX, 20),
        ] {
            assert_eq!(bucket(Duration::from_nanos(ns)), expected, "{ns}");
        }
        let all = Histograms::default();
        assert_eq!(all.steps(7), None);
        for us in [1, 1, 3, 900, 10_000_000] {
            all.add(7, Duration::from_micros(us));
        }
        let steps = vec![(1, 2), (4, 3), (1048, 4), (1_073_741, 5)];
        assert_eq!((all.steps(7), all.steps(8)), (Some(steps), None));
        all.reset();
        assert_eq!(all.steps(7), None);
    }
}
