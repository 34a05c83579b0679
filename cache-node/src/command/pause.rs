//! `CLIENT PAUSE`: clients' commands, or those that write, wait for a while.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::errors::SYNTAX;
use super::table::{Command, Entry, Flags};
use super::{Context, Session, Stop, scripting};
use crate::node::{Node, extra, now_ms};
use crate::protocol::Args;
use crate::protocol::number::parse_i64;

/// Until when clients wait.
#[derive(Debug, Default)]
pub struct Pause {
    /// Unix milliseconds; 0: nobody waits.
    until_ms: AtomicU64,
    writes_only: AtomicBool,
}

impl Pause {
    /// Whether the pause goes on; one that is over is ended.
    pub fn is_on(&self, node: &Node) -> bool {
        let until = self.until_ms.load(Ordering::Relaxed);
        if until == 0 {
            return false;
        }
        if now_ms() < until {
            return true;
        }
        let over = self
            .until_ms
            .compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed);
        if over.is_ok() {
            node.set_extra(extra::PAUSED, false);
        }
        false
    }
}

/// Whether a command waits for the end of a pause. Then the session knows when that is.
#[cold]
pub fn holds(node: &Node, session: &mut Session, entry: &Entry, args: Args<'_>) -> bool {
    let pause = &node.pause;
    // A wrong command is told so at once.
    if !pause.is_on(node) || !entry.command.takes(args.len()) {
        return false;
    }
    let name = entry.full_name.as_str();
    if name == "client|unpause" || name == "client|pause" {
        return false;
    }
    let writes = || match &session.transaction {
        // What is queued waits as a whole.
        Some(transaction) => name == "exec" && transaction.may_write(),
        None => may_write(node, entry, args),
    };
    if pause.writes_only.load(Ordering::Relaxed) && !writes() {
        return false;
    }
    session.due_ms = pause.until_ms.load(Ordering::Relaxed);
    true
}

/// Whether a command is one that changes what others see, though it may write no key. What a script says of itself counts.
pub fn may_write(node: &Node, entry: &Entry, args: Args<'_>) -> bool {
    let command = entry.command;
    match command.flags.has(Flags::MAY_WRITE) {
        true => scripting::may_write(node, command, args),
        false => command.flags.has(Flags::WRITE) || is_told(command),
    }
}

/// Whether replicas or other nodes learn of a command that writes no key.
pub fn is_told(command: &Command) -> bool {
    matches!(command.name, "publish" | "spublish" | "pfcount")
}

/// `CLIENT PAUSE timeout [WRITE|ALL]`
pub fn pause(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let writes_only = match args.get(3) {
        None => false,
        Some(word) if word.eq_ignore_ascii_case(b"ALL") => false,
        Some(word) if word.eq_ignore_ascii_case(b"WRITE") => true,
        Some(_) => return Err(SYNTAX.into()),
    };
    if args.len() > 4 {
        return Err(SYNTAX.into());
    }
    let ms = parse_i64(args.at(2)).ok_or("ERR timeout is not an integer or out of range")?;
    let ms = u64::try_from(ms).map_err(|_| "ERR timeout is negative")?;
    let until = now_ms()
        .checked_add(ms)
        .filter(|&until| until < i64::MAX as u64);
    let until = until.ok_or("ERR timeout is out of range")?;
    let pause = &context.node.pause;
    // A pause that goes on is made longer and stricter, never shorter.
    let goes_on = pause.is_on(context.node);
    let writes_only = writes_only && (!goes_on || pause.writes_only.load(Ordering::Relaxed));
    pause.writes_only.store(writes_only, Ordering::Relaxed);
    pause.until_ms.fetch_max(until, Ordering::Relaxed);
    context.node.set_extra(extra::PAUSED, true);
    context.reply.ok();
    Ok(())
}

/// `CLIENT UNPAUSE`
pub fn unpause(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    context.node.pause.until_ms.store(0, Ordering::Relaxed);
    context.node.set_extra(extra::PAUSED, false);
    context.node.wakers.wake_all();
    context.reply.ok();
    Ok(())
}
