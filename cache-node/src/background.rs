//! The thread that works while nobody asks: removes expired items, frees what flushes left, keeps memory in bounds, and takes samples.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::metrics::process;
use crate::node::{Node, now_ms};
use crate::store::CompactionPass;

const TICK: Duration = Duration::from_millis(100);
/// Of each tick, what the removal of expired items may take.
const SWEEP: Duration = Duration::from_millis(25);
/// How long compaction goes on before other work is looked at, and how long it rests when nobody needs what it gains.
const COMPACTION: Duration = Duration::from_millis(5);
const COMPACTION_REST: Duration = Duration::from_millis(20);
/// How long what was flushed is freed before other work is looked at.
const FREE: Duration = Duration::from_millis(25);
/// Bytes evicted in one go.
const EVICTION: u64 = 4 << 20;
/// Beyond one part in so many of pages being room, compaction comes before eviction.
const FRAGMENTED_PART: u64 = 3;
const SECOND: Duration = Duration::from_secs(1);

/// Whose memory the node is answerable for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accounts {
    /// The store's: the process is somebody else's.
    Store,
    /// All that the process holds beyond what it held when it began.
    Process,
}

/// The running thread.
pub struct Background {
    node: Arc<Node>,
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Background {
    pub fn start(node: Arc<Node>, accounts: Accounts) -> io::Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let mut work = Work {
            node: node.clone(),
            resident_at_start: (accounts == Accounts::Process).then(process::resident_bytes),
            pass: None,
            needed: false,
            ticked: Instant::now(),
            frees: false,
            sampled: (Instant::now(), node.stats.commands()),
        };
        node.store.attend(true);
        let until = stopped.clone();
        let thread = std::thread::Builder::new()
            .name("background".into())
            .spawn(move || {
                while !until.load(Ordering::Acquire) {
                    work.round();
                }
                work.end();
            })?;
        Ok(Self {
            node,
            stopped,
            thread,
        })
    }

    pub fn stop(self) {
        self.stopped.store(true, Ordering::Release);
        self.node.store.call_for_room();
        if self.thread.join().is_err() {
            tracing::error!("the background thread had panicked");
        }
    }
}

struct Work {
    node: Arc<Node>,
    /// None: the process is not ours to account for.
    resident_at_start: Option<u64>,
    pass: Option<CompactionPass>,
    /// Somebody needs what the pass gains.
    needed: bool,
    /// When the clocks of policies went on last.
    ticked: Instant,
    /// There is more to free.
    frees: bool,
    /// When commands were last counted, and how many there were.
    sampled: (Instant, u64),
}

impl Work {
    fn round(&mut self) {
        let rest = match (&self.pass, self.needed) {
            _ if self.frees => Duration::ZERO,
            (None, _) => TICK,
            (Some(_), false) => COMPACTION_REST,
            (Some(_), true) => Duration::ZERO,
        };
        let called = self.node.store.wait_for_need(rest);
        let store = &self.node.store;
        // A region's need is not for pages.
        self.needed |= called && store.shortage().0 > 0;
        let begin = Instant::now();
        // A pause of clients is one of what expires, too: nothing is to change.
        if !self.node.pause.is_on(&self.node) {
            store.expire(now_ms(), begin + SWEEP);
        }
        let freeing = store.free_garbage_until(Instant::now() + FREE);
        self.frees = freeing == Some(true);
        store.settle_regions(begin + SWEEP);
        store.tidy_queues();
        if begin >= self.ticked + TICK {
            self.ticked = begin;
            store.tick_policies(now_ms());
        }
        self.account();
        // What is being freed may be room enough.
        if freeing == Some(false) {
            self.evict(called);
        }
        self.compact();
        self.sample();
        self.node.heartbeat_ms.store(now_ms(), Ordering::Relaxed);
    }

    /// What the process holds beside the store counts against the limit.
    fn account(&self) {
        let Some(at_start) = self.resident_at_start else {
            return;
        };
        let stats = self.node.store.stats();
        let store = stats.bytes - stats.other_bytes;
        let beyond = process::resident_bytes().saturating_sub(at_start);
        self.node
            .store
            .set_other_memory(beyond.saturating_sub(store));
    }

    /// Evicts what is over the limits; and where pages are wanted and the limit is near, as much as brings it back to the reserve, unless
    /// that is in pages that compaction will give back.
    fn evict(&self, called: bool) {
        let store = &self.node.store;
        if !self.node.log.has_credit() {
            return;
        }
        let begin = Instant::now();
        store.evict_from_regions(begin + SWEEP);
        if store.regions_waited_for() {
            self.node.wakers.wake_all();
        }
        if !store.may_evict() {
            return;
        }
        while store.items_over() > 0 && begin.elapsed() < SWEEP {
            if store.evict_one().is_none() {
                break;
            }
        }
        store.set_nothing_to_evict(false);
        let (short, beyond) = store.shortage();
        let wanted = if called { short } else { beyond };
        let stats = store.stats();
        let room = stats.page_bytes.saturating_sub(store.live_page_bytes());
        if wanted == 0 || room > wanted + stats.page_bytes / FRAGMENTED_PART {
            return;
        }
        let evicted = store.evict(wanted.min(EVICTION));
        store.set_nothing_to_evict(evicted.items == 0);
    }

    fn compact(&mut self) {
        let store = &self.node.store;
        if self.pass.is_none() {
            self.pass = store.begin_compaction(self.needed);
            if self.pass.is_none() && self.needed && store.may_evict() {
                // Room that compaction cannot gain yet: what is there must become less.
                let (short, _) = store.shortage();
                if short > 0 && self.node.log.has_credit() {
                    store.evict(short.min(EVICTION));
                }
            }
        }
        if let Some(pass) = &mut self.pass {
            let begin = Instant::now();
            while pass.step(store) {
                if begin.elapsed() >= COMPACTION {
                    return;
                }
            }
        }
        if let Some(pass) = self.pass.take() {
            pass.finish(store);
        }
        self.needed = false;
        if store.somebody_waits() {
            self.node.wakers.wake_all();
        }
    }

    fn sample(&mut self) {
        let elapsed = self.sampled.0.elapsed();
        if elapsed < SECOND {
            return;
        }
        let stats = &self.node.stats;
        let commands = stats.commands();
        // Fewer than before: the counters were reset.
        let since = commands.saturating_sub(self.sampled.1) as f64;
        let rate = (since / elapsed.as_secs_f64()) as u64;
        stats.commands_per_second.store(rate, Ordering::Relaxed);
        self.sampled = (Instant::now(), commands);
    }

    /// Nobody makes room from here on, so nobody may wait for it.
    fn end(self) {
        self.node.store.attend(false);
        if let Some(pass) = self.pass {
            pass.finish(&self.node.store);
        }
        self.node.wakers.wake_all();
    }
}
