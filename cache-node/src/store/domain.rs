//! What one lock guards: the tables of 16 neighbouring slots, and who watches their writes.

use parking_lot::Mutex;

use super::expire::Sweep;
use super::point::SLOTS_PER_DOMAIN;
use super::regions::DomainRegions;
use super::table::Table;
use super::tracking::Readers;
use super::watch::Watchers;

/// Observers of a domain's writes, as bits; a write tests the whole mask once.
pub mod observer {
    /// The log: effects get a ticket and are streamed to its consumers.
    pub const LOG: u32 = 1;
    /// A snapshot: what a write is about to change is emitted first.
    pub const SNAPSHOT: u32 = 2;
    /// Clients that wait for keys: writes that may serve them are noted.
    pub const BLOCKED: u32 = 4;
    /// Clients that have read keys and want to know whether they change (`WATCH`).
    pub const WATCHED: u32 = 8;

    /// Clients that keep copies of what they have read (`CLIENT TRACKING`).
    pub const TRACKED: u32 = 16;
    /// Those of them that name prefixes instead: on in all domains.
    pub const PREFIXES: u32 = 32;
    /// Keyspace notifications: on in all domains.
    pub const NOTIFY: u32 = 64;

    /// Those that are told which keys change.
    pub const KEYS: u32 = WATCHED | TRACKED | PREFIXES | NOTIFY;
}

/// What a node does with a slot. Read and changed under the lock of the slot's domain, so no write slips past a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum SlotState {
    /// Not ours: clients are sent to the owner.
    #[default]
    None,
    /// Reads and writes.
    Serve,
    /// Ours; reads go on, writes wait for a change of state.
    WritePaused,
    /// A replica's: reads on READONLY connections.
    ReadOnly,
    /// Being moved here; its owner is another shard.
    Importing,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Domain {
    pub tables: [Table; SLOTS_PER_DOMAIN as usize],
    pub states: [SlotState; SLOTS_PER_DOMAIN as usize],
    pub observers: u32,
    /// Flips with each snapshot: buckets of the other phase are not visited yet.
    pub phase: bool,
    /// Keys that clients wait for, each as often as they do.
    pub awaited: u32,
    /// Who watches its keys.
    pub watchers: Option<Box<Watchers>>,
    /// Who keeps copies of its keys.
    pub readers: Option<Box<Readers>>,
    pub sweep: Sweep,
    /// None: there are none.
    pub regions: Option<Box<DomainRegions>>,
}

/// One lock and what it guards, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Locked(pub Mutex<Domain>);
