//! Copies of slots that go on as a stream: a full sync or a slot move.
//!
//! A walk over the store appends what it copies to the log's lanes, so copied items and effects have one order. An effect on what the walk
//! has passed is streamed; an effect on what it has not passed is dropped, as the walk will copy its result. A big collection is frozen under
//! the lock, takes its place in that order, and is written by the consumer, piece by piece.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::lanes::Entry;
use super::{Position, ROOM_MIN, Shared};
use crate::limits::{COPY_MAX, COPY_PAUSE, COPY_THROTTLE};
use crate::store::collections::copy::Frozen;
use crate::store::effect::{ALL_SLOTS, Effect, Transfer, write_command, write_item};
use crate::store::{SLOTS, Store};

/// A set of slots.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet {
    bits: Box<[u64; SLOTS as usize / 64]>,
}

impl SlotSet {
    pub fn all() -> Self {
        Self {
            bits: Box::new([u64::MAX; SLOTS as usize / 64]),
        }
    }

    pub fn none() -> Self {
        Self {
            bits: Box::new([0; SLOTS as usize / 64]),
        }
    }

    pub fn insert(&mut self, slot: u16) {
        self.bits[usize::from(slot) / 64] |= 1 << (slot % 64);
    }

    pub fn contains(&self, slot: u16) -> bool {
        slot < SLOTS && self.bits[usize::from(slot) / 64] >> (slot % 64) & 1 != 0
    }

    pub fn is_all(&self) -> bool {
        self.bits.iter().all(|&word| word == u64::MAX)
    }

    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..SLOTS).filter(|&slot| self.contains(slot))
    }

    /// The first slot of the set from `slot` on.
    fn next_from(&self, slot: u16) -> Option<u16> {
        (slot..SLOTS).find(|&slot| self.contains(slot))
    }
}

impl FromIterator<u16> for SlotSet {
    fn from_iter<I: IntoIterator<Item = u16>>(slots: I) -> Self {
        let mut set = Self::none();
        for slot in slots {
            set.insert(slot);
        }
        set
    }
}

impl std::fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SlotSet({} slots)", self.iter().count())
    }
}

/// What a walk's queue yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalkEvent {
    /// Commands to apply in order.
    Commands(Vec<u8>),
    /// A mark was reached: everything before it was yielded; with the log's position there.
    Mark { mark: u64, position: Position },
}

/// The mark at the end of the copy.
const COPIED: u64 = 0;

struct Queue {
    events: VecDeque<Queued>,
    bytes: usize,
}

enum Queued {
    Event(WalkEvent),
    /// A big collection whose commands are not written yet.
    Frozen(Box<Frozen>),
}

/// What a frozen collection counts in the queue: it takes memory only where it is written to meanwhile.
fn frozen_bytes(frozen: &Frozen) -> usize {
    frozen.bytes().min(COPY_PAUSE / 4)
}

pub(crate) struct Walk {
    id: u64,
    slots: SlotSet,
    queue: Mutex<Queue>,
    /// Big collections on their way through the lanes, by number.
    frozen: Mutex<BTreeMap<u64, Box<Frozen>>>,
    ready: Notify,
    /// Rung when the queue has room again.
    room: Notify,
    failed: AtomicBool,
    /// As in [`Walks`].
    pause: usize,
}

struct Follower {
    walk: Arc<Walk>,
    /// Everything before is copied, in the order of tickets.
    cursor: (u16, u64),
}

/// The walks under way.
pub struct Walks {
    next: AtomicU64,
    any: AtomicBool,
    /// Bytes of a queue beyond which its copy waits, and beyond which writers do.
    pause: usize,
    throttle: usize,
    /// Whether a queue is beyond its throttle.
    throttled: AtomicBool,
    followers: Mutex<Vec<Follower>>,
    /// Big collections that were given another key, on their way through the lanes, by number.
    transfers: Mutex<BTreeMap<u64, Frozen>>,
    next_transfer: AtomicU64,
}

impl Walks {
    pub fn new(backlog_bytes: usize) -> Self {
        let room = backlog_bytes.max(ROOM_MIN);
        Self {
            next: AtomicU64::new(0),
            any: AtomicBool::new(false),
            pause: COPY_PAUSE.min(room / 4),
            throttle: COPY_THROTTLE.min(room),
            throttled: AtomicBool::new(false),
            followers: Mutex::default(),
            transfers: Mutex::default(),
            next_transfer: AtomicU64::new(1),
        }
    }

    #[cfg(test)]
    pub fn has_no_transfers(&self) -> bool {
        self.transfers.lock().is_empty()
    }

    pub fn freeze(&self, frozen: Frozen) -> u64 {
        let number = self.next_transfer.fetch_add(1, Ordering::Relaxed);
        self.transfers.lock().insert(number, frozen);
        number
    }

    /// Called by the merger, in the order of tickets. The command makes one key's big value another's: who has copied both places follows,
    /// who has copied one of them is given what differs there.
    pub fn transfer(&self, transfer: &Transfer<'_>) {
        let frozen = self.transfers.lock().remove(&transfer.frozen);
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        for follower in self.followers.lock().iter() {
            let walk = &follower.walk;
            let follows = |at: (u16, u64)| at < follower.cursor && walk.slots.contains(at.0);
            match (follows(transfer.from), follows(transfer.to)) {
                (true, true) => walk.push_command(&transfer.words()),
                (true, false) if transfer.moves => {
                    walk.push_command(&[b"DEL", transfer.from_key]);
                }
                (false, true) => {
                    walk.push_command(&[b"DEL", transfer.to_key]);
                    match &frozen {
                        Some(frozen) => walk.push_frozen(Box::new(frozen.clone())),
                        // No walk was under way when it was logged, so none can have come so far.
                        None => walk.fail(),
                    }
                }
                _ => {}
            }
        }
    }

    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Whether a queue is so full that writers should wait.
    pub fn throttles(&self) -> bool {
        self.throttled.load(Ordering::Relaxed)
    }

    fn measure(&self) {
        let full = |follower: &Follower| {
            !follower.walk.failed.load(Ordering::Relaxed)
                && follower.walk.queue.lock().bytes > self.throttle
        };
        let throttled = self.followers.lock().iter().any(full);
        self.throttled.store(throttled, Ordering::Relaxed);
    }

    /// Called by the merger after each round.
    pub fn merged(&self) {
        if self.any.load(Ordering::Acquire) {
            self.measure();
        }
    }

    /// Called by the merger, in the order of tickets.
    pub fn effect(&self, effect: Effect<'_>) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        for follower in self.followers.lock().iter() {
            let walk = &follower.walk;
            if effect.slot == ALL_SLOTS && walk.slots.is_all() {
                walk.push(effect.command);
            } else if effect.slot == ALL_SLOTS {
                let mut commands = Vec::new();
                for slot in walk.slots.iter() {
                    let slot = slot.to_string();
                    write_command(&mut commands, &[b"CACHE.FLUSHSLOT", slot.as_bytes()]);
                }
                walk.push(&commands);
            } else if (effect.slot, effect.pos) < follower.cursor
                && walk.slots.contains(effect.slot)
            {
                walk.push(effect.command);
            }
        }
    }

    pub fn copied(&self, id: u64, cursor: (u16, u64), commands: &[u8]) {
        for follower in self.followers.lock().iter_mut() {
            if follower.walk.id == id {
                follower.cursor = cursor;
                follower.walk.push(commands);
            }
        }
    }

    /// A big collection has reached its place in the stream.
    pub fn frozen(&self, id: u64, number: u64) {
        for follower in self.followers.lock().iter() {
            let walk = &follower.walk;
            if walk.id != id {
                continue;
            }
            let Some(frozen) = walk.frozen.lock().remove(&number) else {
                continue;
            };
            walk.push_frozen(frozen);
        }
    }

    pub fn mark(&self, id: u64, mark: u64, position_offset: u64) {
        for follower in self.followers.lock().iter() {
            if follower.walk.id == id {
                let position = Position {
                    epoch: 0,
                    offset: position_offset,
                };
                let mut queue = follower.walk.queue.lock();
                let event = WalkEvent::Mark { mark, position };
                queue.events.push_back(Queued::Event(event));
                drop(queue);
                follower.walk.ready.notify_one();
            }
        }
    }
}

impl Walk {
    fn push_command(&self, words: &[&[u8]]) {
        let mut command = Vec::new();
        write_command(&mut command, words);
        self.push(&command);
    }

    fn push_frozen(&self, frozen: Box<Frozen>) {
        if !self.failed.load(Ordering::Relaxed) {
            let mut queue = self.queue.lock();
            queue.bytes += frozen_bytes(&frozen);
            queue.events.push_back(Queued::Frozen(frozen));
        }
        self.ready.notify_one();
    }

    /// What follows would have gaps.
    fn fail(&self) {
        let mut queue = self.queue.lock();
        self.failed.store(true, Ordering::Relaxed);
        queue.events.clear();
        queue.bytes = 0;
        drop(queue);
        self.ready.notify_one();
    }

    fn push(&self, commands: &[u8]) {
        /// A queued piece is not extended beyond.
        const PIECE: usize = 64 * 1024;
        if commands.is_empty() || self.failed.load(Ordering::Relaxed) {
            return;
        }
        let mut queue = self.queue.lock();
        if queue.bytes > COPY_MAX {
            self.failed.store(true, Ordering::Relaxed);
            queue.events.clear();
            queue.bytes = 0;
        } else {
            queue.bytes += commands.len();
            match queue.events.back_mut() {
                Some(Queued::Event(WalkEvent::Commands(last))) if last.len() < PIECE => {
                    last.extend_from_slice(commands);
                }
                _ => {
                    let event = WalkEvent::Commands(commands.to_vec());
                    queue.events.push_back(Queued::Event(event));
                }
            }
        }
        drop(queue);
        self.ready.notify_one();
    }
}

/// A copy of slots and the stream that follows it. Whoever holds it drives the walk ([`WalkConsumer::copy`]) and takes the events
/// ([`WalkConsumer::next`]), from two tasks or in turns. Ends when dropped.
pub struct WalkConsumer {
    shared: Arc<Shared>,
    walk: Arc<Walk>,
    marks: AtomicU64,
    frozen: AtomicU64,
}

pub fn attach(shared: Arc<Shared>, slots: SlotSet) -> WalkConsumer {
    let walks = &shared.walks;
    let walk = Arc::new(Walk {
        id: walks.next.fetch_add(1, Ordering::Relaxed),
        slots,
        queue: Mutex::new(Queue {
            events: VecDeque::new(),
            bytes: 0,
        }),
        frozen: Mutex::default(),
        ready: Notify::new(),
        room: Notify::new(),
        failed: AtomicBool::new(false),
        pause: walks.pause,
    });
    let mut followers = walks.followers.lock();
    followers.push(Follower {
        walk: walk.clone(),
        cursor: (0, 0),
    });
    walks.any.store(true, Ordering::Release);
    drop(followers);
    WalkConsumer {
        shared,
        walk,
        marks: AtomicU64::new(COPIED + 1),
        frozen: AtomicU64::new(0),
    }
}

impl WalkConsumer {
    /// Copies all slots of the set, a part under each lock, waiting while the queue is full; then sets the mark of the copy's end.
    /// `now_ms` gives the time, `copied` is told the items of each part. Gives up when the walk has failed.
    pub async fn copy(
        &self,
        store: &Store,
        now_ms: impl Fn() -> u64,
        mut copied: impl FnMut(usize),
    ) {
        let mut commands = Vec::new();
        let mut cursor = self.walk.slots.next_from(0).map(|slot| (slot, 0));
        while let Some((slot, pos)) = cursor {
            self.wait_for_room().await;
            if self.has_failed() {
                return;
            }
            commands.clear();
            let (items, next) = self.copy_part(store, (slot, pos), now_ms(), &mut commands);
            copied(items);
            cursor = match next {
                Some(pos) => Some((slot, pos)),
                None => self.walk.slots.next_from(slot + 1).map(|slot| (slot, 0)),
            };
            tokio::task::yield_now().await;
        }
        self.push_mark(COPIED);
    }

    /// Copies a part under one lock. Gives the number of items and where to go on in the slot.
    fn copy_part(
        &self,
        store: &Store,
        (slot, pos): (u16, u64),
        now_ms: u64,
        commands: &mut Vec<u8>,
    ) -> (usize, Option<u64>) {
        const ITEMS: usize = 256;
        let mut items = 0;
        let mut big = Vec::new();
        let mut guard = store.lock(slot);
        let packed = self.shared.old_followers.load(Ordering::Acquire) == 0;
        let next = guard.walk(slot, pos, ITEMS, now_ms, &mut |item| {
            match Frozen::of(item) {
                Some(frozen) => big.push(Box::new(frozen)),
                None => write_item(commands, item, packed),
            }
            items += 1;
        });
        for frozen in big {
            let number = self.frozen.fetch_add(1, Ordering::Relaxed);
            self.walk.frozen.lock().insert(number, frozen);
            self.shared.lanes.push(Entry::Frozen {
                walk: self.walk.id,
                number,
            });
        }
        let reached = next.map_or((slot + 1, 0), |pos| (slot, pos));
        self.shared.lanes.push(Entry::Copied {
            walk: self.walk.id,
            slot: reached.0,
            pos: reached.1,
            commands,
        });
        (items, next)
    }

    /// Sets a mark behind all that was written before the call. Gives the mark that [`WalkConsumer::next`] will yield.
    pub fn mark(&self) -> u64 {
        let mark = self.marks.fetch_add(1, Ordering::Relaxed);
        self.push_mark(mark);
        mark
    }

    fn push_mark(&self, mark: u64) {
        self.shared.lanes.push(Entry::Mark {
            walk: self.walk.id,
            mark,
        });
    }

    /// Whether a mark is that of the copy's end.
    pub fn is_copy_end(mark: u64) -> bool {
        mark == COPIED
    }

    /// Whether the queue overflowed: what follows would have gaps, so nothing follows.
    pub fn has_failed(&self) -> bool {
        self.walk.failed.load(Ordering::Relaxed)
    }

    async fn wait_for_room(&self) {
        loop {
            let room = self.walk.room.notified();
            if self.walk.queue.lock().bytes < self.walk.pause || self.has_failed() {
                return;
            }
            room.await;
        }
    }

    /// The next event, waiting for one. None: the walk failed. Cancel safe.
    pub async fn next(&self) -> Option<WalkEvent> {
        loop {
            let ready = self.walk.ready.notified();
            if self.has_failed() {
                self.walk.room.notify_one();
                return None;
            }
            if let Some(event) = self.take() {
                return Some(event);
            }
            ready.await;
        }
    }

    /// An event that is there already.
    fn take(&self) -> Option<WalkEvent> {
        let mut queue = self.walk.queue.lock();
        let commands = match queue.events.pop_front()? {
            Queued::Event(WalkEvent::Commands(commands)) => {
                queue.bytes -= commands.len();
                drop(queue);
                commands
            }
            Queued::Frozen(mut frozen) => {
                drop(queue);
                let mut commands = Vec::new();
                let more = frozen.write_commands(&mut commands);
                let mut queue = self.walk.queue.lock();
                if self.has_failed() {
                    return None;
                }
                match more {
                    true => queue.events.push_front(Queued::Frozen(frozen)),
                    false => queue.bytes -= frozen_bytes(&frozen),
                }
                commands
            }
            Queued::Event(WalkEvent::Mark { mark, position }) => {
                let epoch = self.shared.epoch.load(Ordering::Acquire);
                let position = Position { epoch, ..position };
                return Some(WalkEvent::Mark { mark, position });
            }
        };
        if self.shared.walks.throttles() {
            self.shared.walks.measure();
        }
        self.walk.room.notify_one();
        Some(WalkEvent::Commands(commands))
    }
}

impl Drop for WalkConsumer {
    fn drop(&mut self) {
        let walks = &self.shared.walks;
        let mut followers = walks.followers.lock();
        followers.retain(|follower| follower.walk.id != self.walk.id);
        walks.any.store(!followers.is_empty(), Ordering::Release);
        drop(followers);
        walks.measure();
    }
}
