//! The part of the log that is kept for those who follow it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Shared;

/// Bytes after which the newest part is closed and a new one begun.
const PART: usize = 256 * 1024;

/// Whole records of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    /// Offset of the first byte.
    pub offset: u64,
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
struct Part {
    offset: u64,
    bytes: Arc<Vec<u8>>,
}

/// Parts of whole records, oldest first.
#[derive(Debug)]
pub struct Backlog {
    parts: VecDeque<Part>,
    bytes: usize,
    limit: usize,
    end: u64,
}

impl Backlog {
    pub fn new(limit: usize) -> Self {
        Self {
            parts: VecDeque::new(),
            bytes: 0,
            limit,
            end: 0,
        }
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops all, and goes on at an offset.
    pub fn reset(&mut self, offset: u64) {
        self.forget();
        self.end = offset;
    }

    /// Drops all that is kept.
    pub fn forget(&mut self) {
        self.parts.clear();
        self.bytes = 0;
    }

    /// Appends whole records.
    pub fn append(&mut self, records: &[u8]) {
        match self.parts.back_mut() {
            Some(part) if part.bytes.len() < PART => {
                Arc::make_mut(&mut part.bytes).extend_from_slice(records);
            }
            _ => self.parts.push_back(Part {
                offset: self.end,
                bytes: Arc::new(records.to_vec()),
            }),
        }
        self.end += records.len() as u64;
        self.bytes += records.len();
        while self.bytes > self.limit && self.parts.len() > 1 {
            if let Some(part) = self.parts.pop_front() {
                self.bytes -= part.bytes.len();
            }
        }
    }

    /// Whether the log can be followed from an offset on.
    fn reaches(&self, offset: u64) -> bool {
        let start = self.parts.front().map_or(self.end, |part| part.offset);
        (start..=self.end).contains(&offset)
    }

    /// Records from an offset on, about `max` bytes at most (one record at least); empty at the end, None when they are gone.
    fn read(&self, offset: u64, max: usize) -> Option<Vec<u8>> {
        if !self.reaches(offset) {
            return None;
        }
        let after = self.parts.partition_point(|part| part.offset <= offset);
        let Some(part) = after.checked_sub(1).and_then(|i| self.parts.get(i)) else {
            return Some(Vec::new());
        };
        let from = (offset - part.offset) as usize;
        let rest = part.bytes.get(from..)?;
        Some(rest[..whole_records(rest, max)].to_vec())
    }
}

/// The length of the whole records that fit in `max` bytes, and of the first in any case.
fn whole_records(bytes: &[u8], max: usize) -> usize {
    let mut at = 0;
    while let Some(head) = bytes.get(at..at + 4) {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let next = at + 4 + length;
        if next > bytes.len() || (at > 0 && next > max) {
            break;
        }
        at = next;
    }
    at
}

/// Follows the log.
pub struct LogReader {
    shared: Arc<Shared>,
    offset: u64,
    end: tokio::sync::watch::Receiver<u64>,
}

impl LogReader {
    pub(super) fn new(shared: Arc<Shared>, offset: u64) -> Option<Self> {
        let reaches = shared.backlog.lock().reaches(offset);
        let end = shared.end.subscribe();
        reaches.then_some(Self {
            shared,
            offset,
            end,
        })
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next whole records, about `max` bytes at most, waiting for some. None: the reader fell behind the backlog, or the history was
    /// replaced; begin anew. Cancel safe.
    pub async fn next(&mut self, max: usize) -> Option<Records> {
        loop {
            self.end.borrow_and_update();
            let bytes = self.shared.backlog.lock().read(self.offset, max)?;
            if !bytes.is_empty() {
                let offset = self.offset;
                self.offset += bytes.len() as u64;
                return Some(Records { offset, bytes });
            }
            self.end.changed().await.ok()?;
        }
    }
}
