//! What a connection's turn is given, and what comes of it.

use super::clock::Clock;
use crate::command::{Ahead, Reason, Request};
use crate::metrics::stats::ThreadStats;
use crate::node::Node;
use crate::protocol::Output;

/// What a thread lends to the connection whose turn it is.
pub struct Tools<'t> {
    pub node: &'t Node,
    pub stats: &'t ThreadStats,
    /// Where a read goes that no unfinished command waits for.
    pub scratch: &'t mut Vec<u8>,
    /// An output for a connection that has nothing unsent, so that idle ones hold no memory.
    pub spare: &'t mut Output,
    pub ahead: &'t mut Ahead,
    pub clock: &'t mut Clock,
}

/// What was received for a connection together with others, before its turn.
#[derive(Debug, Clone, Copy)]
pub struct Arrived<'t> {
    pub bytes: &'t [u8],
    /// If it is one whole command: the command.
    pub single: Option<Request<'t>>,
}

/// What commands are executed with in a turn.
pub struct Work<'t> {
    pub node: &'t Node,
    pub stats: &'t ThreadStats,
    pub ahead: &'t mut Ahead,
    pub now_ms: u64,
    /// How many more may be executed in this turn.
    pub commands: &'t mut usize,
}

impl Tools<'_> {
    /// The buffer that was read into, and what its commands are executed with.
    pub fn work<'w>(&'w mut self, now_ms: u64, commands: &'w mut usize) -> (&'w [u8], Work<'w>) {
        let work = Work {
            node: self.node,
            stats: self.stats,
            ahead: self.ahead,
            now_ms,
            commands,
        };
        (self.scratch, work)
    }
}

/// What comes after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// For the socket.
    Wait,
    /// There is more to do: others first.
    Again,
    /// For the wakers.
    Park(Reason),
    Close,
}

/// Why no further command is executed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    NeedsInput,
    TurnOver,
    /// The client must read first.
    OutputFull,
    Parked(Reason),
    /// The connection ends when its replies are sent.
    Closing,
    /// It ends at once.
    Abort,
}
