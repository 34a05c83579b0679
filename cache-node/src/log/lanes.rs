//! Tickets, and the lanes that writers append to.
//!
//! A ticket is taken and its entry appended while the writer holds the lock of what it changed, so tickets of one key are in the order of
//! its changes. Tickets are dense: the merger passes one on only when all before it are there.

use crate::sync::{
    AtomicBool, AtomicU64, AtomicUsize, Condvar, LANES, Mutex, Ordering, fence, lane,
};

/// What goes into a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A record: the bytes of [`crate::store::effect::Effects`].
    Effects(&'a [u8]),
    /// A copied part of a walk: everything before (slot, pos) is copied now.
    Copied {
        walk: u64,
        slot: u16,
        pos: u64,
        commands: &'a [u8],
    },
    /// A big collection that a walk has copied: its elements are written later (see [`super::walk`]).
    Frozen { walk: u64, number: u64 },
    /// A mark in a walk's stream.
    Mark { walk: u64, mark: u64 },
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Lane(Mutex<Vec<u8>>);

/// The lanes.
#[derive(Debug, Default)]
pub struct Lanes {
    next: AtomicU64,
    lanes: [Lane; LANES],
    bytes: AtomicUsize,
    asleep: AtomicBool,
    closed: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
}

impl Lanes {
    pub fn push(&self, entry: Entry<'_>) {
        let ticket = self.next.fetch_add(1, Ordering::SeqCst);
        let bytes = {
            let mut lane = self.lanes[lane()].0.lock();
            let before = lane.len();
            write(&mut lane, ticket, entry);
            lane.len() - before
        };
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // SeqCst on both sides: either the merger sees the entry before it sleeps, or we see it asleep.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            self.rouse();
        }
    }

    fn rouse(&self) {
        let _sleep = self.sleep.lock();
        self.asleep.store(false, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Whether less than `most` bytes wait to be merged.
    pub fn has_credit(&self, most: usize) -> bool {
        self.bytes.load(Ordering::Relaxed) < most
    }

    pub fn next_ticket(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    /// How many tickets were ever taken.
    pub fn taken(&self) -> u64 {
        self.next_ticket()
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.rouse();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Moves what the lanes hold to `to` (one buffer a lane). False: nothing was there.
    pub fn drain(&self, to: &mut Vec<Vec<u8>>) -> bool {
        let mut any = false;
        for lane in &self.lanes {
            let taken = std::mem::take(&mut *lane.0.lock());
            if !taken.is_empty() {
                any = true;
                to.push(taken);
            }
        }
        any
    }

    /// Says that so many bytes of what was drained are merged.
    pub fn merged(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Sleeps until something is pushed, unless something is there or the lanes are closed.
    pub fn wait(&self) {
        let mut sleep = self.sleep.lock();
        self.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let idle = self.lanes.iter().all(|lane| lane.0.lock().is_empty());
        if idle && !self.is_closed() && self.asleep.load(Ordering::SeqCst) {
            self.wake.wait(&mut sleep);
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

/// length u32 of all that follows, ticket u64, kind u8, then the kind's fields
fn write(to: &mut Vec<u8>, ticket: u64, entry: Entry<'_>) {
    let at = to.len();
    to.extend_from_slice(&[0; 4]);
    to.extend_from_slice(&ticket.to_le_bytes());
    match entry {
        Entry::Effects(bytes) => {
            to.push(0);
            to.extend_from_slice(bytes);
        }
        Entry::Copied {
            walk,
            slot,
            pos,
            commands,
        } => {
            to.push(1);
            to.extend_from_slice(&walk.to_le_bytes());
            to.extend_from_slice(&slot.to_le_bytes());
            to.extend_from_slice(&pos.to_le_bytes());
            to.extend_from_slice(commands);
        }
        Entry::Frozen { walk, number } => {
            to.push(3);
            to.extend_from_slice(&walk.to_le_bytes());
            to.extend_from_slice(&number.to_le_bytes());
        }
        Entry::Mark { walk, mark } => {
            to.push(2);
            to.extend_from_slice(&walk.to_le_bytes());
            to.extend_from_slice(&mark.to_le_bytes());
        }
    }
    let length = (to.len() - at - 4) as u32;
    to[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Splits a drained buffer into (ticket, offset of the body, end), in the order of the buffer.
pub fn index(bytes: &[u8]) -> impl Iterator<Item = (u64, usize, usize)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let mut length = [0; 4];
        length.copy_from_slice(bytes.get(at..at + 4)?);
        let end = at + 4 + u32::from_le_bytes(length) as usize;
        let body = at + 12;
        let ticket = u64_at(bytes, at + 4);
        at = end;
        Some((ticket, body, end))
    })
}

/// Reads the body of an entry back.
pub fn read(body: &[u8]) -> Entry<'_> {
    match body[0] {
        0 => Entry::Effects(&body[1..]),
        1 => Entry::Copied {
            walk: u64_at(body, 1),
            slot: u16::from_le_bytes([body[9], body[10]]),
            pos: u64_at(body, 11),
            commands: &body[19..],
        },
        3 => Entry::Frozen {
            walk: u64_at(body, 1),
            number: u64_at(body, 9),
        },
        _ => Entry::Mark {
            walk: u64_at(body, 1),
            mark: u64_at(body, 9),
        },
    }
}
