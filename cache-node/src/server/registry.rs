//! The open connections, for `CLIENT LIST` and `CLIENT KILL`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::mail::Mailbox;

const SHARDS: usize = 16;

/// A connection, as other threads may see it.
#[derive(Debug)]
pub struct Client {
    pub id: u64,
    pub address: SocketAddr,
    pub local: SocketAddr,
    pub created_ms: u64,
    pub labels: Mutex<Labels>,
    /// Unix milliseconds of its last command.
    pub active_ms: AtomicU64,
    /// Index of its last command in the table.
    pub last_command: AtomicU32,
    /// See [`flag`].
    pub flags: AtomicU32,
    /// Bytes received and not executed, and bytes of replies not sent, as of the last turn.
    pub input_bytes: AtomicU64,
    pub output_bytes: AtomicU64,
    /// Its thread is to close it.
    pub killed: AtomicBool,
    /// It is closed.
    pub gone: AtomicBool,
    /// Channels, patterns and sharded channels that it has subscribed to.
    pub subscriptions: [AtomicU32; 3],
    /// Commands of its transaction; -1: it is in none.
    pub queued: AtomicI64,
    /// Bytes of these.
    pub queued_bytes: AtomicU64,
    /// The client that it has its invalidations sent to; -1: it tracks no keys.
    pub redirect: AtomicI64,
    /// What others have for it.
    pub mail: Mailbox,
}

/// What a connection calls itself.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    pub name: Vec<u8>,
    pub library: Vec<u8>,
    pub library_version: Vec<u8>,
}

/// Bits of [`Client::flags`].
pub mod flag {
    pub const RESP3: u32 = 1;
    pub const READONLY: u32 = 2;
    /// A command of it waits.
    pub const PARKED: u32 = 4;
    pub const NO_EVICT: u32 = 8;
    pub const NO_TOUCH: u32 = 16;
    pub const MONITOR: u32 = 32;
    pub const TRACKING: u32 = 64;
}

impl Client {
    pub fn new(id: u64, address: SocketAddr, local: SocketAddr, now_ms: u64) -> Self {
        Self {
            id,
            address,
            local,
            created_ms: now_ms,
            labels: Mutex::default(),
            active_ms: AtomicU64::new(now_ms),
            last_command: AtomicU32::new(u32::MAX),
            flags: AtomicU32::new(0),
            input_bytes: AtomicU64::new(0),
            output_bytes: AtomicU64::new(0),
            killed: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            subscriptions: Default::default(),
            queued: AtomicI64::new(-1),
            queued_bytes: AtomicU64::new(0),
            redirect: AtomicI64::new(-1),
            mail: Mailbox::default(),
        }
    }

    pub fn has(&self, bit: u32) -> bool {
        self.flags.load(Ordering::Relaxed) & bit != 0
    }

    /// Sets or clears a flag. Called by the connection's own thread.
    pub fn set(&self, bit: u32, on: bool) {
        let now = self.flags.load(Ordering::Relaxed);
        let next = if on { now | bit } else { now & !bit };
        self.flags.store(next, Ordering::Relaxed);
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Registry {
    next_id: AtomicU64,
    count: AtomicUsize,
    /// How often connections were marked as killed: threads look for theirs when it changes.
    pub kills: AtomicU64,
    shards: [Mutex<BTreeMap<u64, Arc<Client>>>; SHARDS],
}

impl Registry {
    pub fn add(&self, address: SocketAddr, local: SocketAddr, now_ms: u64) -> Arc<Client> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client::new(id, address, local, now_ms));
        self.shard(id).lock().insert(id, client.clone());
        self.count.fetch_add(1, Ordering::Relaxed);
        client
    }

    pub fn remove(&self, id: u64) {
        if let Some(client) = self.shard(id).lock().remove(&id) {
            client.gone.store(true, Ordering::Relaxed);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All connections, by ascending id.
    pub fn all(&self) -> Vec<Arc<Client>> {
        let mut all: Vec<_> = self
            .shards
            .iter()
            .flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>())
            .collect();
        all.sort_by_key(|client| client.id);
        all
    }

    pub fn get(&self, id: u64) -> Option<Arc<Client>> {
        self.shard(id).lock().get(&id).cloned()
    }

    fn shard(&self, id: u64) -> &Mutex<BTreeMap<u64, Arc<Client>>> {
        &self.shards[id as usize % SHARDS]
    }
}
