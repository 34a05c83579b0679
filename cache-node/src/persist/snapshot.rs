//! A shard's snapshot as an RDB stream, pulled by whoever asked for it.
//!
//! A thread walks the store and waits while more than [`SNAPSHOT_BUFFER`] bytes are unread; a write to what is not walked yet emits the old content
//! first and waits for nobody, so a reader that is much slower than the writers makes the snapshot fail at [`SNAPSHOT_BUFFER_MAX`].

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::rdb::{self, Checksum};
use crate::cluster::{Cluster, now_ms};
use crate::limits::{SNAPSHOT_BUFFER, SNAPSHOT_BUFFER_MAX, SNAPSHOT_CHUNK};
use crate::log::{Position, SlotSet};
use crate::store::collections::copy::Frozen;
use crate::store::compress::{Kept, Value};
use crate::store::{
    ItemRef, Kind, SLOTS, SharedValue, SlotState, SnapshotSink, SnapshotWalk, ValueRef,
};

/// Buckets walked under one lock.
const STEP: usize = 32;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stat {
    pub keys: u64,
    /// Bytes of the file so far.
    pub bytes: u64,
    /// The whole file was read.
    pub done: bool,
}

enum Piece {
    Own(Vec<u8>),
    /// A big value, shared with the store.
    Shared(SharedValue),
    /// A value that is unpacked by the reader.
    Packed(Kept),
    /// The elements of a big collection: written by the reader, outside of any lock.
    Frozen(Box<Frozen>),
}

#[derive(Default)]
struct Buffer {
    pieces: VecDeque<Piece>,
    bytes: usize,
    keys: u64,
    /// All items were emitted.
    walked: bool,
    failed: Option<String>,
    /// The reader is gone.
    dropped: bool,
}

struct Shared {
    buffer: Mutex<Buffer>,
    /// For the walk: there is room again.
    room: Condvar,
    /// For the reader: there is something.
    ready: Notify,
    /// Slots that are in the snapshot.
    slots: SlotSet,
    /// Items that had expired by then are left out.
    instant_ms: u64,
    limits: Limits,
}

/// [`SNAPSHOT_BUFFER`] and [`SNAPSHOT_BUFFER_MAX`], or less in tests.
#[derive(Debug, Clone, Copy)]
struct Limits {
    wait: usize,
    fail: usize,
}

const LIMITS: Limits = Limits {
    wait: SNAPSHOT_BUFFER,
    fail: SNAPSHOT_BUFFER_MAX,
};

impl SnapshotSink for Shared {
    fn item(&self, slot: u16, item: ItemRef<'_>) {
        let expires_at = item.expires_at();
        if !self.slots.contains(slot) || expires_at.is_some_and(|time| time <= self.instant_ms) {
            return;
        }
        let mut buffer = self.buffer.lock();
        if buffer.failed.is_some() || buffer.dropped {
            return;
        }
        if buffer.bytes > self.limits.fail {
            buffer.failed = Some(format!(
                "{} MiB of items that were written meanwhile wait to be read: read faster, or when fewer writes come",
                buffer.bytes >> 20
            ));
            buffer.pieces.clear();
            buffer.bytes = 0;
            return;
        }
        let before = match buffer.pieces.back() {
            Some(Piece::Own(last)) if last.len() < SNAPSHOT_CHUNK => last.len(),
            _ => {
                buffer
                    .pieces
                    .push_back(Piece::Own(Vec::with_capacity(4096)));
                0
            }
        };
        let mut bytes = 0;
        if let Some(Piece::Own(last)) = buffer.pieces.back_mut() {
            write_item(last, item);
            bytes = last.len() - before;
        }
        if item.kind() == Kind::String {
            match item.value() {
                Value::Plain(ValueRef::Shared(value)) => {
                    bytes += value.len();
                    buffer.pieces.push_back(Piece::Shared(value));
                }
                Value::Packed(value) => {
                    let value = value.keep();
                    bytes += value.packed().len();
                    buffer.pieces.push_back(Piece::Packed(value));
                }
                Value::Plain(ValueRef::Inline(_)) => {}
            }
        }
        if let Some(frozen) = Frozen::of(item) {
            bytes += frozen.bytes();
            buffer.pieces.push_back(Piece::Frozen(Box::new(frozen)));
        }
        buffer.bytes += bytes;
        buffer.keys += 1;
    }
}

/// Writes an item, but for what follows it in a piece of its own: a big or packed value, the elements of a big collection.
fn write_item(to: &mut Vec<u8>, item: ItemRef<'_>) {
    let (kind, view) = (item.kind(), item.view());
    let length = match kind {
        Kind::String => item.value_len(),
        kind => view.len(kind),
    };
    rdb::write_entry_head(to, item.key(), kind, length, item.expires_at());
    if kind == Kind::String {
        if let Value::Plain(ValueRef::Inline(value)) = item.value() {
            to.extend_from_slice(value);
        }
    } else if item.object().is_none() {
        for element in view.elements(kind, 0) {
            rdb::write_element(to, &element);
        }
    }
}

/// A snapshot under way. Given up when dropped.
pub struct Snapshot {
    id: String,
    position: Position,
    shared: Arc<Shared>,
    checksum: Option<Checksum>,
    /// Bytes of a big piece that were handed out already.
    taken: usize,
    /// The big collection that is being written.
    frozen: Option<Box<Frozen>>,
    stat: Stat,
}

/// Begins a snapshot of the owned slots at this instant. An error starts with its code.
pub async fn begin(cluster: &Arc<Cluster>) -> Result<Snapshot, String> {
    let cluster = cluster.clone();
    tokio::task::spawn_blocking(move || begin_blocking(&cluster, LIMITS))
        .await
        .map_err(|e| format!("SNAPSHOTFAILED {e}"))?
}

fn begin_blocking(cluster: &Arc<Cluster>, limits: Limits) -> Result<Snapshot, String> {
    if !cluster.is_standalone() && cluster.inner.lock().fresh {
        return Err("SNAPSHOTFAILED this node holds no whole data: ask another member".into());
    }
    let shared = Arc::new(Shared {
        buffer: Mutex::default(),
        room: Condvar::new(),
        ready: Notify::new(),
        slots: owned_slots(cluster),
        instant_ms: now_ms(),
        limits,
    });
    let mut position = Position::default();
    let mut stats = cluster.store.stats();
    let walk = cluster.store.begin_snapshot(shared.clone(), || {
        // What is merged by now is in the snapshot for certain.
        position = cluster.log.position();
        stats = cluster.store.stats();
    });
    let Some(walk) = walk else {
        return Err(
            "BUSY another snapshot of this node is under way: try again when it is done".into(),
        );
    };
    let mut head = Vec::new();
    let aux = [
        ("redis-ver", "7.0.0"),
        ("redis-bits", "64"),
        ("ctime", &(shared.instant_ms / 1000).to_string()),
        ("cache-node-ver", env!("CARGO_PKG_VERSION")),
        ("cache-member", &cluster.member),
        ("cache-log-epoch", &position.epoch.to_string()),
        ("cache-log-offset", &position.offset.to_string()),
    ];
    rdb::write_head(&mut head, &aux, stats.keys, stats.expires);
    {
        // Writes may have emitted items by now: the head goes before them.
        let mut buffer = shared.buffer.lock();
        buffer.bytes += head.len();
        buffer.pieces.push_front(Piece::Own(head));
    }
    let thread = std::thread::Builder::new().name("snapshot".into());
    let walker = shared.clone();
    thread
        .spawn(move || walk_all(walk, &walker))
        .map_err(|e| format!("SNAPSHOTFAILED cannot start its thread: {e}"))?;
    Ok(Snapshot {
        id: uuid::Uuid::new_v4().to_string(),
        position,
        shared,
        checksum: Some(Checksum::default()),
        taken: 0,
        frozen: None,
        stat: Stat::default(),
    })
}

fn owned_slots(cluster: &Cluster) -> SlotSet {
    let owned = |slot: &u16| {
        let state = cluster.store.lock(*slot).slot_state(*slot);
        !matches!(state, SlotState::None | SlotState::Importing)
    };
    (0..SLOTS).filter(owned).collect()
}

/// Walks to the end, waiting for the reader.
fn walk_all(mut walk: SnapshotWalk, shared: &Shared) {
    let mut more = true;
    while more {
        {
            let mut buffer = shared.buffer.lock();
            while buffer.bytes > shared.limits.wait && !buffer.dropped && buffer.failed.is_none() {
                shared.room.wait(&mut buffer);
            }
            if buffer.dropped || buffer.failed.is_some() {
                break;
            }
        }
        more = walk.step(STEP);
        shared.ready.notify_one();
    }
    let mut buffer = shared.buffer.lock();
    buffer.walked = !more;
    // After the walk's end writes emit nothing more.
    if buffer.walked {
        let mut end = Vec::new();
        rdb::write_end(&mut end);
        buffer.bytes += end.len();
        buffer.pieces.push_back(Piece::Own(end));
    }
    drop(buffer);
    drop(walk);
    shared.ready.notify_one();
}

impl Snapshot {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The log up to here is in the snapshot.
    pub fn position(&self) -> Position {
        self.position
    }

    pub fn stat(&self) -> Stat {
        Stat {
            keys: self.shared.buffer.lock().keys,
            ..self.stat
        }
    }

    /// The next chunk, waiting for one; None at the end.
    pub async fn read(&mut self) -> Result<Option<Vec<u8>>, String> {
        let shared = self.shared.clone();
        loop {
            let ready = shared.ready.notified();
            let (chunk, ended) = self.take()?;
            if !chunk.is_empty() {
                self.stat.bytes += chunk.len() as u64;
                if let Some(checksum) = &mut self.checksum {
                    checksum.update(&chunk);
                }
                return Ok(Some(chunk));
            }
            if ended {
                let Some(checksum) = self.checksum.take() else {
                    self.stat.done = true;
                    return Ok(None);
                };
                let last = checksum.finish().to_vec();
                self.stat.bytes += last.len() as u64;
                return Ok(Some(last));
            }
            ready.await;
        }
    }

    /// What is ready, a chunk of it at most; and whether nothing more will come.
    fn take(&mut self) -> Result<(Vec<u8>, bool), String> {
        let mut chunk = Vec::new();
        if let Some(mut frozen) = self.frozen.take() {
            let more = frozen.take(|element| {
                rdb::write_element(&mut chunk, &element);
                chunk.len() >= SNAPSHOT_CHUNK / 2
            });
            if more {
                self.frozen = Some(frozen);
            } else {
                self.shared.buffer.lock().bytes -= frozen.bytes();
                self.shared.room.notify_one();
            }
            return self.cut(chunk);
        }
        let mut buffer = self.shared.buffer.lock();
        if let Some(why) = &buffer.failed {
            return Err(why.clone());
        }
        while chunk.len() < SNAPSHOT_CHUNK {
            let piece = match buffer.pieces.front() {
                None => break,
                Some(Piece::Packed(_)) => {
                    let Some(Piece::Packed(packed)) = buffer.pieces.pop_front() else {
                        break;
                    };
                    // Writers put what they change into the buffer: it is not kept locked meanwhile. They add to its other end.
                    drop(buffer);
                    let plain = packed.unpack();
                    buffer = self.shared.buffer.lock();
                    if let Some(why) = &buffer.failed {
                        return Err(why.clone());
                    }
                    buffer.bytes += plain.len();
                    buffer.bytes -= packed.packed().len();
                    buffer.pieces.push_front(Piece::Own(plain));
                    continue;
                }
                Some(Piece::Own(bytes)) => &bytes[..],
                Some(Piece::Shared(bytes)) => &bytes[..],
                Some(Piece::Frozen(_)) => {
                    if let Some(Piece::Frozen(frozen)) = buffer.pieces.pop_front() {
                        self.frozen = Some(frozen);
                    }
                    break;
                }
            };
            let rest = &piece[self.taken..];
            let fits = rest.len().min(SNAPSHOT_CHUNK - chunk.len());
            chunk.extend_from_slice(&rest[..fits]);
            self.taken += fits;
            if fits == rest.len() {
                buffer.pieces.pop_front();
                self.taken = 0;
            }
        }
        buffer.bytes -= chunk.len();
        let ended = buffer.walked && buffer.pieces.is_empty() && self.frozen.is_none();
        self.shared.room.notify_one();
        drop(buffer);
        if chunk.is_empty() && self.frozen.is_some() {
            return self.take();
        }
        Ok((chunk, ended))
    }

    /// A chunk of a collection may be larger than others by an element: what is too much comes first next time.
    fn cut(&mut self, mut chunk: Vec<u8>) -> Result<(Vec<u8>, bool), String> {
        let mut buffer = self.shared.buffer.lock();
        if let Some(why) = &buffer.failed {
            return Err(why.clone());
        }
        if chunk.len() > SNAPSHOT_CHUNK {
            let rest = chunk.split_off(SNAPSHOT_CHUNK);
            buffer.bytes += rest.len();
            if let Some(frozen) = self.frozen.take() {
                buffer.pieces.push_front(Piece::Frozen(frozen));
            }
            buffer.pieces.push_front(Piece::Own(rest));
        }
        let ended = buffer.walked && buffer.pieces.is_empty() && self.frozen.is_none();
        Ok((chunk, ended))
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let mut buffer = self.shared.buffer.lock();
        buffer.dropped = true;
        buffer.pieces.clear();
        buffer.bytes = 0;
        drop(buffer);
        self.shared.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Log;
    use crate::store::StoreOptions;

    fn write(store: &crate::store::Store, from: usize, to: usize, value: &[u8]) {
        for i in from..to {
            let key = i.to_string().into_bytes();
            let p = store.point(&key);
            store.lock(p.slot).set(p, &key, value, None).unwrap();
        }
    }

    fn standalone() -> Arc<Cluster> {
        let log = Arc::new(Log::new(0));
        let options = StoreOptions {
            max_memory: 0,
            hash_seed: 5,
        };
        let store = Arc::new(crate::store::Store::new(options, log.clone()).unwrap());
        Cluster::standalone(None, store, log, Arc::default())
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_for_the_writes_is_told_so() {
        let cluster = standalone();
        write(&cluster.store, 0, 5_000, &[1; 1_000]);
        let limits = Limits {
            wait: 64 << 10,
            fail: 1 << 20,
        };
        let mut slow = begin_blocking(&cluster, limits).unwrap();
        write(&cluster.store, 0, 5_000, &[2; 1_000]);
        let why = slow.read().await.unwrap_err();
        assert!(why.contains("read faster"), "{why}");
        drop(slow);
        // One that keeps up reads all of it, with what was there when it began.
        let mut file = Vec::new();
        let mut next = loop {
            // The thread of the one that was given up may hold the store's snapshot for a moment.
            match begin_blocking(&cluster, limits) {
                Ok(snapshot) => break snapshot,
                Err(why) => assert!(why.starts_with("BUSY"), "{why}"),
            }
            tokio::task::yield_now().await;
        };
        let mut written = 0;
        while let Some(chunk) = next.read().await.unwrap() {
            file.extend(chunk);
            write(
                &cluster.store,
                written,
                (written + 50).min(5_000),
                &[3; 1_000],
            );
            written = (written + 50).min(5_000);
        }
        assert_eq!(next.stat().keys, 5_000);
        assert_eq!(file.iter().filter(|&&b| b == 2).count() / 1_000, 5_000);
    }
}
