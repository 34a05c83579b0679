//! The one log: what was written, in one order, as one stream of bytes that replicas and slot moves follow.
//!
//! A writer takes a ticket under the lock of what it changed and appends its effects to a lane; the merger puts the lanes' entries in the
//! order of tickets and appends them to the backlog as records: `length u32le`, then RESP commands. The offset counts these bytes, and is
//! the replication offset, the acknowledgement and the position of a partial resync in one. Without a consumer there are no tickets.

mod backlog;
mod lanes;
mod merger;
mod walk;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::watch;

pub use backlog::{LogReader, Records};
pub use walk::{SlotSet, WalkConsumer, WalkEvent};

use crate::limits::LOG_CREDIT;
use crate::store::collections::copy::Frozen;
use crate::store::effect::Effects;
use crate::store::{Store, observer};
use backlog::Backlog;
use lanes::{Entry, Lanes};

/// A place in a history: the topology epoch that its primary was made primary at, and bytes since its beginning. Ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    pub epoch: u64,
    pub offset: u64,
}

/// What waits has so many bytes even beside the smallest backlog.
const ROOM_MIN: usize = 1 << 20;

/// The log of a node.
pub struct Log {
    /// Bytes that may wait to be merged.
    credit: usize,
    shared: Arc<Shared>,
    merger: Mutex<Option<JoinHandle<()>>>,
}

/// What writers, the merger and consumers share.
pub(crate) struct Shared {
    lanes: Lanes,
    /// Changed while the backlog is locked.
    active: AtomicBool,
    /// Its end is sent on while it is locked, so that the last end sent is the last there was.
    backlog: Mutex<Backlog>,
    /// The epoch of the present history.
    epoch: std::sync::atomic::AtomicU64,
    /// End of the backlog, in bytes.
    end: watch::Sender<u64>,
    /// Tickets below are merged.
    merged: watch::Sender<u64>,
    walks: walk::Walks,
    /// Followers of before protocol 2.
    old_followers: AtomicUsize,
}

/// While it lives, nothing is logged or copied that nodes of before protocol 2 do not know.
pub struct OldFollower(Arc<Shared>);

impl Drop for OldFollower {
    fn drop(&mut self) {
        self.0.old_followers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Log {
    /// `backlog_bytes`: how much of the log is kept for replicas that come back.
    pub fn new(backlog_bytes: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                lanes: Lanes::default(),
                active: AtomicBool::new(false),
                backlog: Mutex::new(Backlog::new(backlog_bytes)),
                epoch: std::sync::atomic::AtomicU64::new(0),
                end: watch::Sender::new(0),
                merged: watch::Sender::new(0),
                walks: walk::Walks::new(backlog_bytes),
                old_followers: AtomicUsize::new(0),
            }),
            credit: LOG_CREDIT.min(backlog_bytes.max(ROOM_MIN)),
            merger: Mutex::new(None),
        }
    }

    /// Begins to log the store's writes. When this returns, every later write is logged.
    pub fn activate(&self, store: &Store) {
        let mut merger = self.merger.lock();
        if merger.is_none() {
            let shared = self.shared.clone();
            let thread = std::thread::Builder::new()
                .name("log-merger".into())
                .spawn(move || merger::run(&shared));
            match thread {
                Ok(thread) => *merger = Some(thread),
                Err(error) => {
                    tracing::error!(%error, "cannot start the log's thread; the node does not replicate");
                    return;
                }
            }
        }
        let backlog = self.shared.backlog.lock();
        self.shared.active.store(true, Ordering::Release);
        drop(backlog);
        store.set_observer(observer::LOG, true);
    }

    /// Stops logging: nobody follows. What is written from here on is in no log, so the backlog is dropped and an offset is skipped: no
    /// position of before can be continued, whoever is primary next.
    pub fn deactivate(&self, store: &Store) {
        store.set_observer(observer::LOG, false);
        let mut backlog = self.shared.backlog.lock();
        self.shared.active.store(false, Ordering::Release);
        let end = backlog.end() + 1;
        backlog.reset(end);
        self.shared.end.send_replace(end);
    }

    /// Makes room for a follower of before protocol 2. When this returns, every later write is logged in words that it knows.
    pub fn admit_old_follower(&self, store: &Store) -> OldFollower {
        self.shared.old_followers.fetch_add(1, Ordering::AcqRel);
        store.pass_locks();
        OldFollower(self.shared.clone())
    }

    /// Whether all followers know the effects of protocol 2.
    pub fn followers_are_current(&self) -> bool {
        self.shared.old_followers.load(Ordering::Acquire) == 0
    }

    pub fn is_active(&self) -> bool {
        self.shared.active.load(Ordering::Acquire)
    }

    /// Whether a copy of slots is under way or goes on as a stream.
    pub fn has_walks(&self) -> bool {
        self.shared.walks.any()
    }

    /// Pushes a Guard's effects as one record. Called under the locks of what was changed.
    pub fn push(&self, effects: &Effects) {
        self.shared.lanes.push(Entry::Effects(effects.bytes()));
    }

    /// Keeps a big collection as it is now for the walks that will need it: see [`crate::store::effect::Transfer`]. Gives its number.
    pub(crate) fn freeze(&self, frozen: Frozen) -> u64 {
        self.shared.walks.freeze(frozen)
    }

    /// Whether a writer may go on: false while what was written and not yet merged, or not yet taken by a copy, is beyond its limit. Asked
    /// before locking. Whoever takes from a copy and stops must drop it.
    pub fn has_credit(&self) -> bool {
        self.shared.lanes.has_credit(self.credit) && !self.shared.walks.throttles()
    }

    /// The end of the log as merged.
    pub fn position(&self) -> Position {
        Position {
            epoch: self.shared.epoch.load(Ordering::Acquire),
            offset: *self.shared.end.borrow(),
        }
    }

    /// Waits until everything that was written before the call is merged, and gives the position then.
    pub async fn settle(&self) -> Position {
        let upto = self.shared.lanes.next_ticket();
        let mut merged = self.shared.merged.subscribe();
        if self.shared.lanes.taken() > 0 {
            // The sender lives as long as `self`.
            let _ = merged.wait_for(|&m| m >= upto).await;
        }
        self.position()
    }

    /// Everything that was written before has tickets below.
    pub fn next_ticket(&self) -> u64 {
        self.shared.lanes.next_ticket()
    }

    /// Whether everything with tickets below is in the log.
    pub fn is_merged(&self, ticket: u64) -> bool {
        self.shared.lanes.taken() == 0 || *self.shared.merged.borrow() >= ticket
    }

    /// Begins another history at a position: a promotion (same offset, new epoch), or a replica after a full sync (the primary's position).
    /// `keep`: what the backlog holds is part of the new history too.
    pub fn begin_history(&self, at: Position, keep: bool) {
        let mut backlog = self.shared.backlog.lock();
        if !keep || backlog.end() != at.offset {
            backlog.reset(at.offset);
        }
        self.shared.epoch.store(at.epoch, Ordering::Release);
        self.shared.end.send_replace(at.offset);
    }

    /// Appends whole records of the primary's log, on a replica.
    pub fn append_raw(&self, records: &[u8]) {
        let mut backlog = self.shared.backlog.lock();
        backlog.append(records);
        self.shared.end.send_replace(backlog.end());
    }

    /// Follows the log from an offset on. None: the backlog does not reach back that far, or the offset is not in this history.
    pub fn reader(&self, from: u64) -> Option<LogReader> {
        LogReader::new(self.shared.clone(), from)
    }

    /// Bytes that the backlog holds.
    pub fn backlog_bytes(&self) -> usize {
        self.shared.backlog.lock().bytes()
    }

    /// Begins a copy of slots that goes on as a stream (see [`WalkConsumer`]). The log must be active.
    pub fn attach_walk(&self, slots: SlotSet) -> WalkConsumer {
        walk::attach(self.shared.clone(), slots)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.lanes.close();
        if let Some(merger) = self.merger.lock().take() {
            // A merger that panicked has said so already.
            let _ = merger.join();
        }
    }
}

#[cfg(test)]
mod tests;
