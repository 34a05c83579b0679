//! Commands: one table of them, and a handler each, which decides on locked slots and writes a reply.

mod access;
mod ahead;
mod atomic;
mod bitmaps;
pub mod blocking;
mod client;
mod cluster;
mod collections;
mod config;
mod connection;
mod counters;
mod debug;
mod dispatch;
mod dump;
mod errors;
mod expiry;
pub mod glob;
mod hashes;
mod histogram;
mod hyperloglog;
mod info;
mod introspect;
mod keys;
mod lcs;
mod lists;
mod long_double;
pub mod monitor;
mod object;
pub mod pause;
mod pfdebug;
mod pubsub;
mod scan;
pub mod scripting;
mod server;
mod session;
mod set;
mod sets;
pub mod slowlog;
mod sort;
mod strings;
pub mod table;
mod time;
pub mod tracking;
mod transactions;
mod wait;
mod zcombine;
mod zranges;
mod zsets;

use std::borrow::Cow;

use crate::metrics::stats::ThreadStats;
use crate::node::Node;
use crate::protocol::{Args, Reply};
use crate::store::{Held, Point};

pub use access::Access;
pub use ahead::{Ahead, Request};
pub use atomic::Claim;
pub use dispatch::{Outcome, execute};
pub use info::info;
pub use session::Session;

/// What a handler works with.
pub struct Context<'a> {
    pub node: &'a Node,
    pub session: &'a mut Session,
    pub reply: Reply<'a>,
    pub stats: &'a ThreadStats,
    /// Unix milliseconds at the beginning of the batch.
    pub now_ms: u64,
    /// The first key, if it was looked at before, and where it lives.
    pub known: Option<(&'a [u8], Point)>,
    /// The command's full name, for errors: `client|list`.
    pub name: &'static str,
    /// The locks of the transaction or script that the command belongs to: it finds them locked.
    pub held: Option<Held<'a>>,
    /// A script has called it.
    pub in_script: bool,
}

/// Executes a command. A handler that answers `Pending` has changed and written nothing.
pub type Handler = fn(&mut Context<'_>, Args<'_>) -> Result<(), Stop>;

/// Why a command did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// An error reply.
    Error(Cow<'static, str>),
    /// It is to be executed again when the node's wakers ring.
    Pending(Reason),
}

/// What a parked connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Writes to a slot are held back.
    SlotPaused,
    /// The log must merge what was written before.
    NoCredit,
    /// Memory is full, and room is being made.
    NoRoom,
    /// Nothing is there to be popped yet: see [`crate::blocked`].
    Blocked,
    /// Clients are paused.
    Paused,
    /// Replicas have not acknowledged enough.
    Acks,
}

impl From<&'static str> for Stop {
    fn from(text: &'static str) -> Self {
        Self::Error(Cow::Borrowed(text))
    }
}

impl From<String> for Stop {
    fn from(text: String) -> Self {
        Self::Error(Cow::Owned(text))
    }
}
