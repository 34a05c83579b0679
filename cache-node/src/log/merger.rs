//! The thread that makes one stream of the lanes.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::Shared;
use super::lanes::{Entry, index, read};
use crate::store::effect::{effects, write_command};

/// Bytes of an entry's length and ticket.
const HEAD: usize = 12;

/// Merges until the log is dropped.
pub fn run(shared: &Shared) {
    let mut merger = Merger::default();
    let mut drained = Vec::new();
    loop {
        if !shared.lanes.drain(&mut drained) {
            if shared.lanes.is_closed() {
                return;
            }
            shared.lanes.wait();
            continue;
        }
        merger.merge(shared, &drained);
        drained.clear();
    }
}

#[derive(Debug, Default)]
struct Merger {
    /// The ticket to pass on next.
    next: u64,
    /// Entries whose predecessors are not there yet.
    held: BTreeMap<u64, Vec<u8>>,
    /// Records of this round.
    records: Vec<u8>,
}

impl Merger {
    fn merge(&mut self, shared: &Shared, drained: &[Vec<u8>]) {
        let mut entries: Vec<(u64, &[u8])> = Vec::new();
        for buffer in drained {
            entries.extend(index(buffer).map(|(ticket, body, end)| (ticket, &buffer[body..end])));
        }
        // Each lane is all but sorted: this merges runs.
        entries.sort_by_key(|(ticket, _)| *ticket);
        let mut bytes = 0;
        for (ticket, body) in entries {
            self.pass_held(shared, &mut bytes);
            if ticket == self.next {
                self.pass(shared, body);
                bytes += body.len() + HEAD;
                self.next += 1;
            } else {
                self.held.insert(ticket, body.to_vec());
            }
        }
        self.pass_held(shared, &mut bytes);
        self.flush(shared);
        shared.lanes.merged(bytes);
        shared.walks.merged();
        shared.merged.send_replace(self.next);
    }

    fn pass_held(&mut self, shared: &Shared, bytes: &mut usize) {
        while let Some(body) = self.held.remove(&self.next) {
            self.pass(shared, &body);
            *bytes += body.len() + HEAD;
            self.next += 1;
        }
    }

    fn pass(&mut self, shared: &Shared, body: &[u8]) {
        match read(body) {
            Entry::Effects(bytes) => {
                let at = self.records.len();
                self.records.extend_from_slice(&[0; 4]);
                for effect in effects(bytes) {
                    if let Some(transfer) = effect.transfer() {
                        write_command(&mut self.records, &transfer.words());
                        shared.walks.transfer(&transfer);
                    } else {
                        self.records.extend_from_slice(effect.command);
                        shared.walks.effect(effect);
                    }
                }
                let length = (self.records.len() - at - 4) as u32;
                self.records[at..at + 4].copy_from_slice(&length.to_le_bytes());
            }
            Entry::Copied {
                walk,
                slot,
                pos,
                commands,
            } => shared.walks.copied(walk, (slot, pos), commands),
            Entry::Frozen { walk, number } => shared.walks.frozen(walk, number),
            Entry::Mark { walk, mark } => {
                // The position that the mark reports counts everything before it.
                self.flush(shared);
                let offset = *shared.end.borrow();
                shared.walks.mark(walk, mark, offset);
            }
        }
    }

    fn flush(&mut self, shared: &Shared) {
        if self.records.is_empty() {
            return;
        }
        let mut backlog = shared.backlog.lock();
        // Else these are the last writes of a log that is not followed any more.
        if shared.active.load(Ordering::Relaxed) {
            backlog.append(&self.records);
            shared.end.send_replace(backlog.end());
        }
        self.records.clear();
    }
}
