//! From a frame to its handler.

use std::sync::atomic::Ordering;

use super::errors::{NO_AUTH, OUT_OF_MEMORY, REGION_MAKES_ROOM};
use super::session::ReplyMode;
use super::table::{Command, Entry, Flags, Group, TABLE};
use super::{
    Context, Reason, Request, Session, Stop, monitor, pause, scripting, slowlog, transactions,
};
use crate::metrics::stats::ThreadStats;
use crate::node::{Node, extra};
use crate::protocol::{Args, Output, Reply};
use crate::store::notify;

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its reply is written.
    Done,
    /// Nothing happened: execute it again when the wakers ring.
    Pending(Reason),
}

/// Executes one command and writes its reply.
pub fn execute(
    node: &Node,
    stats: &ThreadStats,
    session: &mut Session,
    request: Request<'_>,
    out: &mut Output,
    now_ms: u64,
) -> Outcome {
    let mark = out.mark();
    let args = request.args;
    let entry = match request.entry.map_or_else(|| find(args), Ok) {
        Ok(entry) => entry,
        Err(Stop::Error(text)) => {
            stats.unknown_commands.add(1);
            stats.error(&text);
            transactions::abort(session);
            let resp3 = session.resp3;
            Reply { out, resp3 }.error(&text);
            after_reply(session, out, mark, None);
            return Outcome::Done;
        }
        Err(Stop::Pending(reason)) => return Outcome::Pending(reason),
    };
    session
        .client
        .last_command
        .store(entry.index as u32, Ordering::Relaxed);
    let command = entry.command;
    let extras = node.extras();
    if extras != 0 {
        if extras & extra::PAUSED != 0 && pause::holds(node, session, entry, args) {
            return Outcome::Pending(Reason::Paused);
        }
        if extras & extra::NOTIFY != 0 {
            notify::set_command(command.name, command.flags.has(Flags::READONLY));
        }
    }
    let timed = entry.timed || extras & extra::TIMED != 0 || args.len() > MANY_ARGS;
    let begun = slowlog::begin(timed);
    let result = if !command.takes(args.len()) {
        stats.rejected_commands[entry.index].add(1);
        Err(transactions::wrong_arity(session, &entry.full_name))
    } else if !session.authenticated && !command.flags.has(Flags::NO_AUTH) {
        stats.rejected_commands[entry.index].add(1);
        transactions::abort(session);
        Err(NO_AUTH.into())
    } else if node.scripting.running.is_busy() && scripting::is_barred(node, command) {
        Err(transactions::busy(session, entry))
    } else if session.subscriptions.is_some() && !allowed_to_subscriber(session, command.flags) {
        transactions::abort(session);
        Err(only_subscribing(&entry.full_name))
    } else if session.transaction.is_some() && !command.flags.has(Flags::UNQUEUED) {
        let resp3 = session.resp3;
        transactions::queue(node, session, entry, args, &mut Reply { out, resp3 })
    } else {
        let resp3 = session.resp3;
        let mut context = Context {
            node,
            session,
            reply: Reply { out, resp3 },
            stats,
            now_ms,
            known: request.point.map(|point| (request.key(), point)),
            name: &entry.full_name,
            held: None,
            in_script: false,
        };
        (command.handler)(&mut context, args)
    };
    if command.flags.has(Flags::WRITE) {
        let ready = crate::store::ready::take();
        if !ready.is_empty() {
            super::blocking::serve(node, ready);
        }
    }
    let done = result.is_ok().then_some(command);
    let executed = session.transaction.is_none() || command.flags.has(Flags::UNQUEUED);
    match result {
        Ok(()) => {}
        Err(Stop::Pending(reason)) => {
            stats.parked.add(1);
            return Outcome::Pending(reason);
        }
        Err(Stop::Error(text)) => {
            // A handler that fails has written nothing that counts.
            out.truncate(mark);
            let waits =
                text == REGION_MAKES_ROOM || (text == OUT_OF_MEMORY && node.store.room_is_coming());
            if waits {
                stats.parked.add(1);
                return Outcome::Pending(Reason::NoRoom);
            }
            let resp3 = session.resp3;
            Reply { out, resp3 }.error(&text);
            // A script's error may be that of a command in it.
            if !std::mem::take(&mut session.error_is_counted) {
                stats.error(&text);
            }
            stats.failed_commands[entry.index].add(1);
        }
    }
    // A queued one counts when it is executed.
    if executed || done.is_none() {
        stats.commands[entry.index].add(1);
        slowlog::end(node, session, entry, args, begun);
    }
    if extras != 0 {
        // What the thread does next is no command's.
        notify::clear_command();
        if extras & extra::MONITOR != 0 && executed {
            monitor::feed(node, session, entry, args, false);
        }
    }
    after_command(session, entry);
    after_reply(session, out, mark, done);
    Outcome::Done
}

/// Whether what it answers are pushes, which are sent whatever `CLIENT REPLY` says: `SUBSCRIBE` and its siblings.
fn confirms(command: &Command) -> bool {
    command.group == Group::PubSub && command.flags.has(Flags::SUBSCRIBED)
}

/// Commands with more arguments are timed, whatever they are.
const MANY_ARGS: usize = 64;

/// In RESP2 a message cannot be told from a reply, so little else is answered while messages may come.
fn allowed_to_subscriber(session: &Session, flags: Flags) -> bool {
    session.resp3 || flags.has(Flags::SUBSCRIBED)
}

fn only_subscribing(name: &str) -> Stop {
    format!("ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context").into()
}

/// `CLIENT CACHING` is about the next command, or transaction.
fn after_command(session: &mut Session, entry: &Entry) {
    if session.transaction.is_none()
        && let Some(tracking) = &mut session.tracking
        && entry.full_name != "client|caching"
    {
        tracking.command_over();
    }
}

/// `CLIENT REPLY OFF` and `SKIP`. `done`: the command, if it has not failed.
fn after_reply(
    session: &mut Session,
    out: &mut Output,
    mark: crate::protocol::output::Mark,
    done: Option<&Command>,
) {
    if session.reply == ReplyMode::On && !session.skip_next {
        return;
    }
    let pushes = session.transaction.is_none() && done.is_some_and(confirms);
    if session.reply != ReplyMode::On && !pushes {
        out.truncate(mark);
    }
    if session.reply == ReplyMode::Skip {
        session.reply = ReplyMode::On;
    }
    if std::mem::take(&mut session.skip_next) {
        session.reply = ReplyMode::Skip;
    }
}

/// The row of a command, or of its subcommand, if there is one.
pub fn look_up(args: Args<'_>) -> Option<&'static Entry> {
    let entry = TABLE.find(args.get(0)?)?;
    match args.get(1) {
        Some(sub) if !entry.subcommands.is_empty() => TABLE.find_subcommand(entry, sub),
        _ => Some(entry),
    }
}

/// As [`look_up`], with an error for what there is not.
pub fn find(args: Args<'_>) -> Result<&'static Entry, Stop> {
    if let Some(entry) = look_up(args) {
        return Ok(entry);
    }
    let (Some(name), Some(sub)) = (args.get(0), args.get(1)) else {
        return Err(unknown(args));
    };
    if TABLE.find(name).is_none() {
        return Err(unknown(args));
    }
    let (sub, name) = (shown(sub, 128), shown(name, 128).to_uppercase());
    Err(format!("ERR unknown subcommand '{sub}'. Try {name} HELP.").into())
}

fn unknown(args: Args<'_>) -> Stop {
    let mut text = String::new();
    for arg in args.from(1).iter() {
        if text.len() >= 128 {
            break;
        }
        let room = 128 - text.len();
        text.push_str(&format!("'{}' ", shown(arg, room)));
    }
    let name = shown(args.get(0).unwrap_or_default(), 128);
    format!("ERR unknown command '{name}', with args beginning with: {text}").into()
}

/// The beginning of an argument, up to a zero byte, as Redis prints it.
pub fn shown(arg: &[u8], max: usize) -> String {
    let end = arg.iter().position(|&b| b == 0).unwrap_or(arg.len());
    String::from_utf8_lossy(&arg[..end.min(max)]).into_owned()
}
