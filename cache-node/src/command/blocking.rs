//! Commands that wait until a list or a sorted set holds something: first come, first served.

use std::collections::VecDeque;

use super::access::Access;
use super::lists::{self, counted_pop};
use super::table::{Command, Flags, Group};
use super::zsets::{self, Extreme, Scored, extreme, reply_scored};
use super::{Context, Reason, Stop};
use crate::blocked::{Blocked, State, Waiting};
use crate::node::{Node, now_ms};
use crate::protocol::{Args, Reply, double};
use crate::store::{End, Guard, Kind, Point, SlotState};

pub const COMMANDS: &[Command] = &[
    Command::new("blpop", -3, Group::List, blpop)
        .flags(Flags::WRITE.and(Flags::NOSCRIPT).and(Flags::BLOCKING))
        .keys(1, -2, 1)
        .doc("2.0.0", "O(N) where N is the number of provided keys.", "Remove and get the first element in a list, or block until one is available."),
    Command::new("brpop", -3, Group::List, brpop)
        .flags(Flags::WRITE.and(Flags::NOSCRIPT).and(Flags::BLOCKING))
        .keys(1, -2, 1)
        .doc("2.0.0", "O(N) where N is the number of provided keys.", "Remove and get the last element in a list, or block until one is available."),
    Command::new("blmove", 6, Group::List, blmove)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::NOSCRIPT).and(Flags::BLOCKING))
        .keys(1, 2, 1)
        .doc("6.2.0", "O(1)", "Pop an element from a list, push it to another list and return it; or block until one is available."),
    Command::new("brpoplpush", 4, Group::List, brpoplpush)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::NOSCRIPT).and(Flags::BLOCKING))
        .keys(1, 2, 1)
        .doc("2.2.0", "O(1)", "Pop an element from a list, push it to another list and return it; or block until one is available."),
    Command::new("blmpop", -5, Group::List, blmpop)
        .flags(Flags::WRITE.and(Flags::BLOCKING).and(Flags::MOVABLE_KEYS))
        .counted_keys(2)
        .doc("7.0.0", "O(N+M) where N is the number of provided keys and M is the number of elements returned.", "Pop elements from a list, or block until one is available."),
    Command::new("bzpopmin", -3, Group::SortedSet, bzpopmin)
        .flags(Flags::WRITE.and(Flags::NOSCRIPT).and(Flags::BLOCKING).and(Flags::FAST))
        .keys(1, -2, 1)
        .doc("5.0.0", "O(log(N)) with N being the number of elements in the sorted set.", "Remove and return the member with the lowest score from one or more sorted sets, or block until one is available."),
    Command::new("bzpopmax", -3, Group::SortedSet, bzpopmax)
        .flags(Flags::WRITE.and(Flags::NOSCRIPT).and(Flags::BLOCKING).and(Flags::FAST))
        .keys(1, -2, 1)
        .doc("5.0.0", "O(log(N)) with N being the number of elements in the sorted set.", "Remove and return the member with the highest score from one or more sorted sets, or block until one is available."),
    Command::new("bzmpop", -5, Group::SortedSet, bzmpop)
        .flags(Flags::WRITE.and(Flags::BLOCKING).and(Flags::MOVABLE_KEYS))
        .counted_keys(2)
        .doc("7.0.0", "O(K) + O(M*log(N)) where K is the number of provided keys, N being the number of elements in the sorted set, and M being the number of elements popped.", "Remove and return members with scores in a sorted set or block until one is available."),
];

/// What is wanted of the first key that holds something.
#[derive(Debug, Clone)]
pub enum Wanted {
    Pop(End),
    PopMany(End, usize),
    /// From an end to an end of the destination.
    Move(End, End),
    Extreme(Extreme),
    ExtremeMany(Extreme, usize),
}

impl Wanted {
    fn kind(&self) -> Kind {
        match self {
            Self::Pop(_) | Self::PopMany(..) | Self::Move(..) => Kind::List,
            Self::Extreme(_) | Self::ExtremeMany(..) => Kind::ZSet,
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub enum Served {
    Elements(Vec<u8>, Vec<Vec<u8>>),
    Members(Vec<u8>, Vec<Scored>),
    Failed(Stop),
}

/// The node's clients that wait.
pub type BlockedClients = Blocked<Wanted, Served>;
/// A session's wait.
pub type Wait = Waiting<Wanted, Served>;

/// Takes what is wanted off a key; None: there is nothing.
fn attempt(
    guard: &mut Guard<'_>,
    (p, key): (Point, &[u8]),
    to: Option<(Point, &[u8])>,
    wanted: &Wanted,
    now_ms: u64,
) -> Result<Option<Served>, Stop> {
    if guard.get_kind(p, key, wanted.kind(), now_ms)?.is_none() {
        return Ok(None);
    }
    let name = key.to_vec();
    Ok(Some(match *wanted {
        Wanted::Pop(end) => Served::Elements(name, guard.list_pop(p, key, end, 1, now_ms)?),
        Wanted::PopMany(end, count) => {
            Served::Elements(name, guard.list_pop(p, key, end, count, now_ms)?)
        }
        Wanted::Move(from_end, to_end) => {
            let (to, to_key) = to.unwrap_or((p, key));
            let moved = lists::shift(guard, (p, key, from_end), (to, to_key, to_end), now_ms)?;
            Served::Elements(name, moved.into_iter().collect())
        }
        Wanted::Extreme(extreme) => Served::Members(
            name,
            zsets::pop_members(guard, (p, key), extreme, 1, now_ms)?,
        ),
        Wanted::ExtremeMany(extreme, count) => Served::Members(
            name,
            zsets::pop_members(guard, (p, key), extreme, count, now_ms)?,
        ),
    }))
}

fn reply_served(reply: &mut Reply<'_>, wanted: &Wanted, served: Served) -> Result<(), Stop> {
    match (served, wanted) {
        (Served::Failed(stop), _) => return Err(stop),
        (Served::Elements(_, elements), Wanted::Move(..)) => reply.bulk(&elements[0]),
        (Served::Elements(key, elements), Wanted::PopMany(..)) => {
            reply.array(2);
            reply.bulk(&key);
            lists::reply_elements(reply, &elements);
        }
        (Served::Elements(key, elements), _) => {
            reply.array(2);
            reply.bulk(&key);
            reply.bulk(&elements[0]);
        }
        (Served::Members(key, members), Wanted::ExtremeMany(..)) => {
            reply.array(2);
            reply.bulk(&key);
            reply_scored(reply, &members, true);
        }
        (Served::Members(key, members), _) => {
            reply.array(3);
            reply.bulk(&key);
            reply.bulk(&members[0].0);
            reply.double(members[0].1);
        }
    }
    Ok(())
}

/// Executes a command that may wait, anew or again.
fn block(
    context: &mut Context<'_>,
    keys: &[&[u8]],
    to: Option<&[u8]>,
    wanted: Wanted,
    timeout_ms: Option<u64>,
) -> Result<(), Stop> {
    if let Some(wait) = context.session.wait.take() {
        return again(context, wait);
    }
    let all = keys.iter().copied().chain(to);
    let (mut guard, points) = context.lock_keys(all, Access::Write)?;
    let now = context.now_ms;
    let to = to.map(|key| (points[keys.len()], key));
    let node = context.node;
    let mut behind = Vec::new();
    for (&p, &key) in points.iter().zip(keys) {
        // Others came first: they are served first.
        if context.held.is_none() && node.blocked.is_awaited(key) {
            guard.get_kind(p, key, wanted.kind(), now)?;
            behind.push((p, key.to_vec()));
            continue;
        }
        if let Some(served) = attempt(&mut guard, (p, key), to, &wanted, now)? {
            drop(guard);
            return reply_served(&mut context.reply, &wanted, served);
        }
    }
    if context.held.is_some() {
        // A transaction does not wait.
        drop(guard);
        match wanted {
            Wanted::Move(..) => context.reply.null(),
            _ => context.reply.null_array(),
        }
        return Ok(());
    }
    let mut distinct: Vec<(Point, Vec<u8>)> = Vec::with_capacity(keys.len());
    for (&p, &key) in points.iter().zip(keys) {
        if !distinct.iter().any(|(_, k)| k == key) {
            distinct.push((p, key.to_vec()));
        }
    }
    let also = to.map(|(p, key)| (p, key.to_vec()));
    let deadline = timeout_ms.map(|ms| now_ms().saturating_add(ms));
    let client = context.session.client.id;
    let wait = node
        .blocked
        .add(&mut guard, client, distinct, also, wanted, deadline);
    drop(guard);
    context.session.wait = Some(wait);
    serve(node, behind);
    Err(Stop::Pending(Reason::Blocked))
}

/// A command that has waited: its result, or it goes on waiting.
fn again(context: &mut Context<'_>, wait: Wait) -> Result<(), Stop> {
    let waiter = wait.waiter.clone();
    let over = {
        let mut state = waiter.state.lock();
        match &*state {
            State::Waiting => None,
            _ => Some(std::mem::replace(&mut *state, State::TimedOut)),
        }
    };
    match over {
        Some(State::Served(served)) => reply_served(&mut context.reply, &waiter.wanted, served),
        Some(State::Unblocked { error: true }) => {
            Err("UNBLOCKED client unblocked via CLIENT UNBLOCK".into())
        }
        Some(_) => {
            context.reply.null_array();
            Ok(())
        }
        None => {
            // Whether the keys are still this node's; a pause is waited out with the rest.
            let slots = waiter.slots();
            // A script that takes long is not waited for: at its end all are asked again.
            let Ok(guard) = context.lock(&slots) else {
                context.session.wait = Some(wait);
                return Err(Stop::Pending(Reason::Blocked));
            };
            let lost = slots.iter().copied().find(|&slot| {
                !matches!(
                    guard.slot_state(slot),
                    SlotState::Serve | SlotState::WritePaused
                )
            });
            let state = lost.map(|slot| (slot, guard.slot_state(slot)));
            drop(guard);
            match state {
                None => {
                    context.session.wait = Some(wait);
                    Err(Stop::Pending(Reason::Blocked))
                }
                Some((_, SlotState::ReadOnly)) => Err("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)".into()),
                Some((slot, _)) => Err(context.moved(slot)),
            }
        }
    }
}

/// Serves those who wait for keys that were written, in the order of the writes.
pub fn serve(node: &Node, keys: Vec<(Point, Vec<u8>)>) {
    let mut keys = VecDeque::from(keys);
    while let Some((p, key)) = keys.pop_front() {
        for waiter in node.blocked.waiters(&key) {
            let slots = waiter.slots();
            let mut guard = node.store.lock_slots(&slots);
            if slots
                .iter()
                .any(|&slot| guard.slot_state(slot) != SlotState::Serve)
            {
                break;
            }
            if guard.peek(p, &key, now_ms()).is_none() {
                break;
            }
            let mut state = waiter.state.lock();
            if !matches!(*state, State::Waiting) {
                continue;
            }
            let to = waiter.also.as_ref().map(|(p, key)| (*p, &key[..]));
            // Another kind of value is not what this one waits for.
            let kind = guard.peek(p, &key, now_ms()).map(|item| item.kind());
            if kind != Some(waiter.wanted.kind()) {
                continue;
            }
            *state = match attempt(&mut guard, (p, &key), to, &waiter.wanted, now_ms()) {
                Ok(Some(served)) => State::Served(served),
                Ok(None) => continue,
                Err(stop) => State::Served(Served::Failed(stop)),
            };
            drop(state);
            node.blocked.finish(&mut guard, &waiter);
        }
        // What was served may have moved elements to keys that others wait for.
        keys.extend(crate::store::ready::take());
    }
}

/// Seconds, with a fraction; 0: for ever.
fn timeout(text: &[u8]) -> Result<Option<u64>, Stop> {
    let named = double::parse_bound(text).filter(|_| !text.is_empty());
    let seconds = named.ok_or("ERR timeout is not a float or out of range")?;
    let ms = seconds * 1000.0;
    if ms > (i64::MAX / 2) as f64 {
        return Err("ERR timeout is out of range".into());
    }
    if ms < 0.0 {
        return Err("ERR timeout is negative".into());
    }
    Ok((ms > 0.0).then_some(ms.ceil() as u64))
}

/// Keys up to the last argument, which is the timeout.
fn pop_any(context: &mut Context<'_>, args: Args<'_>, wanted: Wanted) -> Result<(), Stop> {
    let last = args.len() - 1;
    let timeout_ms = timeout(args.at(last))?;
    let keys: Vec<&[u8]> = (1..last).map(|i| args.at(i)).collect();
    block(context, &keys, None, wanted, timeout_ms)
}

fn blpop(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    pop_any(context, args, Wanted::Pop(End::Front))
}

fn brpop(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    pop_any(context, args, Wanted::Pop(End::Back))
}

fn bzpopmin(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    pop_any(context, args, Wanted::Extreme(Extreme::Min))
}

fn bzpopmax(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    pop_any(context, args, Wanted::Extreme(Extreme::Max))
}

fn blmove(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let wanted = Wanted::Move(lists::end(args.at(3))?, lists::end(args.at(4))?);
    let timeout_ms = timeout(args.at(5))?;
    block(context, &[args.at(1)], Some(args.at(2)), wanted, timeout_ms)
}

fn brpoplpush(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let timeout_ms = timeout(args.at(3))?;
    let wanted = Wanted::Move(End::Back, End::Front);
    block(context, &[args.at(1)], Some(args.at(2)), wanted, timeout_ms)
}

fn blmpop(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let timeout_ms = timeout(args.at(1))?;
    let (keys, end, count) = counted_pop(args, 2, lists::end)?;
    let wanted = Wanted::PopMany(end, count);
    block(context, &keys, None, wanted, timeout_ms)
}

fn bzmpop(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let timeout_ms = timeout(args.at(1))?;
    let (keys, extreme, count) = counted_pop(args, 2, extreme)?;
    let wanted = Wanted::ExtremeMany(extreme, count);
    block(context, &keys, None, wanted, timeout_ms)
}

/// `CLIENT UNBLOCK id [TIMEOUT|ERROR]`
pub fn unblock(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    if args.len() > 4 {
        return Err(
            "ERR unknown subcommand or wrong number of arguments for 'UNBLOCK'. Try CLIENT HELP."
                .into(),
        );
    }
    let error = match args.get(3) {
        None => false,
        Some(word) if word.eq_ignore_ascii_case(b"TIMEOUT") => false,
        Some(word) if word.eq_ignore_ascii_case(b"ERROR") => true,
        Some(_) => return Err("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR".into()),
    };
    let id = crate::protocol::number::parse_i64(args.at(2)).ok_or(super::errors::NOT_INTEGER)?;
    let id = u64::try_from(id).unwrap_or(0);
    let unblocked = match context.node.blocked.of_client(id) {
        None => false,
        Some(waiter) => {
            let mut guard = context.lock(&waiter.slots())?;
            let why = State::Unblocked { error };
            context.node.blocked.end(&mut guard, &waiter, why)
        }
    };
    context.reply.integer(i64::from(unblocked));
    Ok(())
}
