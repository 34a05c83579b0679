//! The thread that works while nobody asks: removes expired items, frees what flushes left, and takes samples.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::node::{Node, now_ms};

const TICK: Duration = Duration::from_millis(100);
/// Of each tick, what the search for expired items may take.
const SWEEP: Duration = Duration::from_millis(25);
/// Buckets that are looked at under one lock.
const BUCKETS: usize = 8;
/// Another round follows when the last one has removed so many items.
const WORTH_A_ROUND: usize = 1024;
const SECOND: Duration = Duration::from_secs(1);

/// The running thread.
pub struct Background {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: JoinHandle<()>,
}

impl Background {
    pub fn start(node: Arc<Node>) -> io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let until = stop.clone();
        let thread = std::thread::Builder::new()
            .name("background".into())
            .spawn(move || run(&node, &until))?;
        Ok(Self { stop, thread })
    }

    pub fn stop(self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_one();
        if self.thread.join().is_err() {
            tracing::error!("the background thread had panicked");
        }
    }
}

fn run(node: &Node, stop: &(Mutex<bool>, Condvar)) {
    let mut sampled = (Instant::now(), node.stats.commands());
    loop {
        {
            let mut stopped = stop.0.lock();
            if !*stopped {
                stop.1.wait_for(&mut stopped, TICK);
            }
            if *stopped {
                return;
            }
        }
        let begin = Instant::now();
        while node.store.sweep_expired(BUCKETS, now_ms()) >= WORTH_A_ROUND
            && begin.elapsed() < SWEEP
        {}
        node.store.free_garbage();
        if sampled.0.elapsed() >= SECOND {
            let commands = node.stats.commands();
            // Fewer than before: the counters were reset.
            let since = commands.saturating_sub(sampled.1) as f64;
            let rate = since / sampled.0.elapsed().as_secs_f64();
            node.stats
                .commands_per_second
                .store(rate as u64, Ordering::Relaxed);
            sampled = (Instant::now(), commands);
        }
        node.heartbeat_ms.store(now_ms(), Ordering::Relaxed);
    }
}
