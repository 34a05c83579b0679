//! `WAIT`: until replicas hold what was written, or the time is up.

use std::sync::Arc;

use super::table::{Command, Flags, Group};
use super::{Context, Reason, Stop};
use crate::cluster::Cluster;
use crate::node::now_ms;
use crate::protocol::Args;
use crate::protocol::number::parse_i64;

pub const COMMANDS: &[Command] = &[
    Command::new("wait", 3, Group::Generic, wait)
        .flags(Flags::NOSCRIPT)
        .doc("3.0.0", "O(1)", "Blocks until the asynchronous replication of all preceding write commands sent by the connection is completed."),
    Command::new("waitaof", 4, Group::Generic, waitaof)
        .flags(Flags::NOSCRIPT)
        .doc("7.2.0", "O(1)", "There is no append-only file: answers an error."),
];

/// A connection that waits for acknowledgements.
pub struct AckWait {
    cluster: Arc<Cluster>,
    /// What was written before has tickets below.
    ticket: u64,
    /// Where the log ended when all of that was in it.
    offset: Option<u64>,
    deadline_ms: u64,
}

impl std::fmt::Debug for AckWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AckWait(below ticket {})", self.ticket)
    }
}

impl Drop for AckWait {
    fn drop(&mut self) {
        self.cluster.waits_for_acks(false);
    }
}

fn wait(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let wanted = parse_i64(args.at(1)).ok_or(super::errors::NOT_INTEGER)?;
    let timeout = parse_i64(args.at(2)).ok_or("ERR timeout is not an integer or out of range")?;
    let timeout = u64::try_from(timeout).map_err(|_| "ERR timeout is negative")?;
    let cluster = &context.node.cluster;
    if cluster.role().follows() {
        context.session.ack_wait = None;
        return Err("ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is configured to be writable (which is not the default) writes to replicas are just local and are not propagated.".into());
    }
    let begun = context.session.ack_wait.take();
    let mut waiting = begun.unwrap_or_else(|| {
        cluster.waits_for_acks(true);
        AckWait {
            cluster: cluster.clone(),
            ticket: context.node.log.next_ticket(),
            offset: None,
            deadline_ms: match timeout {
                0 => u64::MAX,
                ms => now_ms().saturating_add(ms),
            },
        }
    });
    let log = &context.node.log;
    if waiting.offset.is_none() && log.is_merged(waiting.ticket) {
        waiting.offset = Some(log.position().offset);
    }
    let held = waiting
        .offset
        .map_or(0, |at| cluster.replicas_that_hold(at));
    let enough = held as i64 >= wanted;
    // In a transaction there is no waiting.
    if enough || context.held.is_some() || now_ms() >= waiting.deadline_ms {
        drop(waiting);
        context.reply.integer(held as i64);
        return Ok(());
    }
    cluster.ask_for_acks();
    context.session.due_ms = waiting.deadline_ms;
    context.session.ack_wait = Some(waiting);
    Err(Stop::Pending(Reason::Acks))
}

fn waitaof(_: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    Err("ERR WAITAOF is not supported: there is no append-only file".into())
}
