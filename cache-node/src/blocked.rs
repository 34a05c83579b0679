//! Clients that wait for keys, first come first served. Whoever writes serves them, under the locks of what they wait for, before its own
//! reply is sent; their threads find the result when they execute the waiting command again.
//!
//! Locks are taken in this order: domains, a waiter's state, the queues. A waiter is in the queues exactly while it waits.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::node::now_ms;
use crate::store::{Guard, Point, Store};
use crate::wakers::Wakers;

/// What became of a waiter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State<S> {
    Waiting,
    Served(S),
    TimedOut,
    /// By `CLIENT UNBLOCK`; with an error or as if the time was up.
    Unblocked {
        error: bool,
    },
}

/// A client's command that waits. `W`: what it wants, `S`: what it is served.
#[derive(Debug)]
pub struct Waiter<W, S> {
    number: u64,
    pub client: u64,
    /// What it waits for, in its order.
    pub keys: Vec<(Point, Vec<u8>)>,
    /// What is to be locked beside: a destination.
    pub also: Option<(Point, Vec<u8>)>,
    pub wanted: W,
    /// Unix milliseconds; None: for ever.
    deadline: Option<u64>,
    pub state: Mutex<State<S>>,
}

impl<W, S> Waiter<W, S> {
    pub fn slots(&self) -> Vec<u16> {
        let mut slots: Vec<u16> = self
            .keys
            .iter()
            .chain(&self.also)
            .map(|(p, _)| p.slot)
            .collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    pub fn is_waiting(&self) -> bool {
        matches!(*self.state.lock(), State::Waiting)
    }
}

struct Queues<W, S> {
    by_key: HashMap<Vec<u8>, VecDeque<Arc<Waiter<W, S>>>>,
    by_client: HashMap<u64, Arc<Waiter<W, S>>>,
}

/// Deadlines, and what wakes the thread that watches them.
#[derive(Debug, Default)]
struct Timer {
    state: Mutex<Deadlines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Deadlines {
    /// By time and number: the client.
    due: BTreeMap<(u64, u64), u64>,
    running: bool,
    stopped: bool,
}

/// See the module's text.
pub struct Blocked<W, S> {
    store: Arc<Store>,
    wakers: Arc<Wakers>,
    queues: Mutex<Queues<W, S>>,
    count: AtomicUsize,
    next: AtomicUsize,
    timer: Arc<Timer>,
}

impl<W: Send + Sync + 'static, S: Send + Sync + 'static> Blocked<W, S> {
    pub fn new(store: Arc<Store>, wakers: Arc<Wakers>) -> Self {
        Self {
            store,
            wakers,
            queues: Mutex::new(Queues {
                by_key: HashMap::new(),
                by_client: HashMap::new(),
            }),
            count: AtomicUsize::new(0),
            next: AtomicUsize::new(1),
            timer: Arc::default(),
        }
    }

    /// Clients that wait.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether a client waits for a key.
    pub fn is_waiting(&self, client: u64) -> bool {
        self.count() > 0 && self.queues.lock().by_client.contains_key(&client)
    }

    /// Whether somebody waits for a key already.
    pub fn is_awaited(&self, key: &[u8]) -> bool {
        self.count() > 0 && self.queues.lock().by_key.contains_key(key)
    }

    /// Who waits for a key, the first first.
    pub fn waiters(&self, key: &[u8]) -> Vec<Arc<Waiter<W, S>>> {
        let queues = self.queues.lock();
        queues
            .by_key
            .get(key)
            .map(|q| q.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Adds a waiter at the end of its keys' queues. Called under the locks of its keys.
    pub fn add(
        self: &Arc<Self>,
        guard: &mut Guard<'_>,
        client: u64,
        keys: Vec<(Point, Vec<u8>)>,
        also: Option<(Point, Vec<u8>)>,
        wanted: W,
        deadline: Option<u64>,
    ) -> Waiting<W, S> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) as u64;
        let waiter = Arc::new(Waiter {
            number,
            client,
            keys,
            also,
            wanted,
            deadline,
            state: Mutex::new(State::Waiting),
        });
        for (p, _) in &waiter.keys {
            guard.watch(p.slot, true);
        }
        let mut queues = self.queues.lock();
        for (_, key) in &waiter.keys {
            queues
                .by_key
                .entry(key.clone())
                .or_default()
                .push_back(waiter.clone());
        }
        queues.by_client.insert(client, waiter.clone());
        self.count.fetch_add(1, Ordering::Relaxed);
        drop(queues);
        if let Some(deadline) = deadline {
            self.watch_time((deadline, number), client);
        }
        Waiting {
            blocked: self.clone(),
            waiter,
        }
    }

    /// Takes a waiter out of the queues and wakes its thread. Called under the locks of its keys; its state says why.
    pub fn finish(&self, guard: &mut Guard<'_>, waiter: &Arc<Waiter<W, S>>) {
        let mut queues = self.queues.lock();
        let is_this = |w: &Arc<Waiter<W, S>>| w.number == waiter.number;
        if !queues.by_client.get(&waiter.client).is_some_and(is_this) {
            return;
        }
        queues.by_client.remove(&waiter.client);
        for (_, key) in &waiter.keys {
            if let Some(queue) = queues.by_key.get_mut(key) {
                queue.retain(|w| !is_this(w));
                if queue.is_empty() {
                    queues.by_key.remove(key);
                }
            }
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
        drop(queues);
        for (p, _) in &waiter.keys {
            guard.watch(p.slot, false);
        }
        if let Some(deadline) = waiter.deadline {
            self.timer
                .state
                .lock()
                .due
                .remove(&(deadline, waiter.number));
        }
        self.wakers.ring();
    }

    /// Ends a wait for another reason than being served. Called under the locks of its keys. False: it was over already.
    pub fn end(&self, guard: &mut Guard<'_>, waiter: &Arc<Waiter<W, S>>, why: State<S>) -> bool {
        let mut state = waiter.state.lock();
        if !matches!(*state, State::Waiting) {
            return false;
        }
        *state = why;
        drop(state);
        self.finish(guard, waiter);
        true
    }

    /// What a client waits for.
    pub fn of_client(&self, client: u64) -> Option<Arc<Waiter<W, S>>> {
        self.queues.lock().by_client.get(&client).cloned()
    }

    /// Ends a wait whose time is up, or whose client has gone.
    fn time_out(&self, waiter: &Arc<Waiter<W, S>>) {
        let mut guard = self.store.lock_slots(&waiter.slots());
        if !self.end(&mut guard, waiter, State::TimedOut) {
            self.finish(&mut guard, waiter);
        }
    }

    fn watch_time(self: &Arc<Self>, at: (u64, u64), client: u64) {
        let mut deadlines = self.timer.state.lock();
        deadlines.due.insert(at, client);
        if !deadlines.running {
            let (blocked, timer) = (Arc::downgrade(self), self.timer.clone());
            let thread = std::thread::Builder::new().name("deadlines".into());
            match thread.spawn(move || run(&blocked, &timer)) {
                Ok(_) => deadlines.running = true,
                // The next one that waits tries again.
                Err(error) => tracing::error!(%error, "cannot start the thread of deadlines"),
            }
        }
        drop(deadlines);
        self.timer.changed.notify_one();
    }
}

/// Ends waits whose time is up, until the node is gone.
fn run<W: Send + Sync + 'static, S: Send + Sync + 'static>(
    blocked: &Weak<Blocked<W, S>>,
    timer: &Timer,
) {
    let mut deadlines = timer.state.lock();
    while !deadlines.stopped {
        let Some((&(at, number), &client)) = deadlines.due.first_key_value() else {
            timer.changed.wait(&mut deadlines);
            continue;
        };
        let now = now_ms();
        if at > now {
            timer
                .changed
                .wait_for(&mut deadlines, Duration::from_millis(at - now));
            continue;
        }
        deadlines.due.remove(&(at, number));
        drop(deadlines);
        if let Some(blocked) = blocked.upgrade() {
            let waiter = blocked.of_client(client);
            if let Some(waiter) = waiter.filter(|w| w.number == number) {
                blocked.time_out(&waiter);
            }
        }
        deadlines = timer.state.lock();
    }
}

impl<W, S> Drop for Blocked<W, S> {
    fn drop(&mut self) {
        self.timer.state.lock().stopped = true;
        self.timer.changed.notify_one();
    }
}

/// A connection's wait: over when it is dropped.
pub struct Waiting<W: Send + Sync + 'static, S: Send + Sync + 'static> {
    blocked: Arc<Blocked<W, S>>,
    pub waiter: Arc<Waiter<W, S>>,
}

impl<W: Send + Sync + 'static, S: Send + Sync + 'static> std::fmt::Debug for Waiting<W, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Waiting(client {})", self.waiter.client)
    }
}

impl<W: Send + Sync + 'static, S: Send + Sync + 'static> Drop for Waiting<W, S> {
    fn drop(&mut self) {
        // A client that is gone waits no more, and is not served from here on. The thread of deadlines takes it out of the queues: a script
        // that takes long may hold their locks, and this thread is to go on.
        let mut state = self.waiter.state.lock();
        if matches!(*state, State::Waiting) {
            *state = State::TimedOut;
            drop(state);
            let at = (0, self.waiter.number);
            self.blocked.watch_time(at, self.waiter.client);
        }
    }
}
