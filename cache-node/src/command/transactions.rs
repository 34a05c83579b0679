//! `MULTI` and `EXEC`: commands are checked when they are queued, and executed as one.

use std::sync::atomic::Ordering;

use super::access::Access;
use super::errors::{BUSY, CROSS_SLOT, OUT_OF_MEMORY};
use super::introspect::keys_of;
use super::table::{Command, Entry, Flags, Group};
use super::{Claim, Context, Reason, Session, Stop, pause};
use crate::node::Node;
use crate::protocol::{Args, Reply, Words};
use crate::store::Watches;

const NOW: Flags = Flags::NOSCRIPT
    .and(Flags::LOADING)
    .and(Flags::STALE)
    .and(Flags::FAST)
    .and(Flags::ALLOW_BUSY);

pub const COMMANDS: &[Command] = &[
    Command::new("multi", 1, Group::Transactions, multi)
        .flags(NOW.and(Flags::UNQUEUED))
        .doc("1.2.0", "O(1)", "Starts a transaction."),
    Command::new("exec", 1, Group::Transactions, exec)
        .flags(
            Flags::NOSCRIPT
                .and(Flags::LOADING)
                .and(Flags::STALE)
                .and(Flags::SKIP_SLOWLOG)
                .and(Flags::UNQUEUED),
        )
        .doc(
            "1.2.0",
            "Depends on commands in the transaction",
            "Executes all commands in a transaction.",
        ),
    Command::new("discard", 1, Group::Transactions, discard)
        .flags(NOW.and(Flags::UNQUEUED))
        .doc(
            "2.0.0",
            "O(N), when N is the number of queued commands",
            "Discards a transaction.",
        ),
    Command::new("watch", -2, Group::Transactions, watch)
        .flags(NOW.and(Flags::UNQUEUED))
        .keys(1, -1, 1)
        .doc(
            "2.2.0",
            "O(1) for every key.",
            "Monitors changes to keys to determine the execution of a transaction.",
        ),
    Command::new("unwatch", 1, Group::Transactions, unwatch)
        .flags(NOW)
        .doc(
            "2.2.0",
            "O(1)",
            "Forgets about watched keys of a transaction.",
        ),
];

/// Commands since `MULTI`.
#[derive(Debug, Default)]
pub struct Transaction {
    queued: Vec<(&'static Entry, Words)>,
    claim: Claim,
    /// Bytes of the queued commands.
    bytes: usize,
    /// A command could not be queued: `EXEC` refuses.
    aborted: bool,
    /// One of them may write.
    writes: bool,
}

impl Transaction {
    /// How many commands are queued.
    pub fn len(&self) -> usize {
        self.queued.len()
    }

    /// Bytes of what is queued.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether one of them may write.
    pub fn may_write(&self) -> bool {
        self.writes
    }
}

/// A command that was not even queued spoils the transaction.
pub fn abort(session: &mut Session) {
    if let Some(transaction) = &mut session.transaction {
        transaction.aborted = true;
    }
}

/// A command with too few or too many arguments: `EXEC` itself ends the transaction by it.
pub fn wrong_arity(session: &mut Session, name: &str) -> Stop {
    let stop = super::errors::wrong_arity(name);
    if name != "exec" || session.transaction.take().is_none() {
        abort(session);
        return stop;
    }
    session.watches = None;
    match stop {
        Stop::Error(text) => {
            let why = text.strip_prefix("ERR ").unwrap_or(&text);
            format!("EXECABORT Transaction discarded because of: {why}").into()
        }
        stop => stop,
    }
}

/// A command that comes while a script holds everything: `EXEC` itself ends the transaction by it.
#[cold]
pub fn busy(session: &mut Session, entry: &Entry) -> Stop {
    if entry.full_name != "exec" || session.transaction.take().is_none() {
        abort(session);
        return BUSY.into();
    }
    session.watches = None;
    format!("EXECABORT Transaction discarded because of: {BUSY}").into()
}

/// Checks a command and puts it behind those of the transaction.
pub fn queue(
    node: &Node,
    session: &mut Session,
    entry: &'static Entry,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Stop> {
    let checked = check(node, session, entry, args);
    let Some(transaction) = &mut session.transaction else {
        return checked;
    };
    if checked.is_err() {
        transaction.aborted = true;
        return checked;
    }
    let words: Words = args.iter().collect();
    transaction.bytes += words.bytes() + size_of::<(&Entry, Words)>();
    if transaction.bytes as u64 > node.settings.input_max.load(Ordering::Relaxed) {
        session.close = true;
        session.transaction = None;
        return Err("ERR the transaction is longer than client-query-buffer-limit".into());
    }
    transaction.claim.add(&node.store, entry, args);
    transaction.writes |= pause::may_write(node, entry, args);
    transaction.queued.push((entry, words));
    reply.simple("QUEUED");
    Ok(())
}

fn check(node: &Node, session: &Session, entry: &Entry, args: Args<'_>) -> Result<(), Stop> {
    let command = entry.command;
    if command.flags.has(Flags::NO_MULTI) {
        return Err("ERR Command not allowed inside a transaction".into());
    }
    if node.is_cluster() {
        let keys = keys_of(command, args);
        let slots: Vec<u16> = keys
            .iter()
            .map(|&i| node.store.point(args.at(i)).slot)
            .collect();
        if slots.windows(2).any(|w| w[0] != w[1]) {
            return Err(CROSS_SLOT.into());
        }
        if let Some(&slot) = slots.first() {
            let access = match command.flags.has(Flags::WRITE) {
                true => Access::Write,
                false => Access::Read,
            };
            let state = node.store.lock(slot).slot_state(slot);
            match super::access::admit(node, session, (state, slot), access) {
                // `EXEC` waits, if it still must.
                Ok(()) | Err(Stop::Pending(_)) => {}
                Err(stop) => return Err(stop),
            }
        }
    }
    let grows = command.flags.has(Flags::DENYOOM);
    if grows && node.store.is_full() && !node.store.room_is_coming() {
        return Err(OUT_OF_MEMORY.into());
    }
    Ok(())
}

fn multi(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    if context.session.transaction.is_some() {
        return Err("ERR MULTI calls can not be nested".into());
    }
    context.session.transaction = Some(Box::default());
    context.reply.ok();
    Ok(())
}

fn discard(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    if context.session.transaction.take().is_none() {
        return Err("ERR DISCARD without MULTI".into());
    }
    context.session.watches = None;
    context.reply.ok();
    Ok(())
}

fn watch(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    if context.session.transaction.is_some() {
        return Err("ERR WATCH inside MULTI is not allowed".into());
    }
    let (mut guard, points) = context.lock_all_args(args, Access::Read)?;
    let store = &context.node.store;
    let watches = &mut context.session.watches;
    let watches = watches.get_or_insert_with(|| Box::new(Watches::new(store.clone())));
    for (key, &p) in args.from(1).iter().zip(&points) {
        watches.add(&mut guard, p, key, context.now_ms);
    }
    drop(guard);
    context.reply.ok();
    Ok(())
}

fn unwatch(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    // In a transaction nothing is watched any more.
    context.session.watches = None;
    context.reply.ok();
    Ok(())
}

fn exec(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let Some(transaction) = context.session.transaction.take() else {
        return Err("ERR EXEC without MULTI".into());
    };
    if transaction.aborted {
        context.session.watches = None;
        return Err("EXECABORT Transaction discarded because of previous errors.".into());
    }
    let done = run(context, &transaction);
    if let Err(Stop::Pending(_)) = done {
        context.session.transaction = Some(transaction);
    } else {
        context.session.watches = None;
    }
    done
}

fn run(context: &mut Context<'_>, transaction: &Transaction) -> Result<(), Stop> {
    let watches = context.session.watches.take();
    let watched = watches.iter().flat_map(|w| w.slots());
    let claimed = context.claim(&transaction.claim, watched);
    let mut guard = match claimed {
        Ok(guard) => guard,
        Err(stop) => {
            // Dropped here, they would be forgotten while the transaction waits.
            context.session.watches = watches;
            return Err(full(context, stop));
        }
    };
    if let Some(mut watches) = watches {
        let touched = watches.are_touched(&guard, context.now_ms);
        watches.clear(&mut guard);
        if touched {
            drop(guard);
            context.reply.null_array();
            return Ok(());
        }
    }
    context.hold(guard);
    context.reply.array(transaction.len());
    for (entry, words) in &transaction.queued {
        context.call(entry, words.args());
    }
    context.release();
    Ok(())
}

/// Without memory a transaction waits for it as a whole, or is not begun.
fn full(context: &Context<'_>, stop: Stop) -> Stop {
    match stop {
        Stop::Error(text) if text == OUT_OF_MEMORY => match context.node.store.room_is_coming() {
            true => Stop::Pending(Reason::NoRoom),
            false => format!("EXECABORT Transaction discarded because of: {OUT_OF_MEMORY}").into(),
        },
        stop => stop,
    }
}
