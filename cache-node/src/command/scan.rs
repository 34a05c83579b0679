//! Commands that go over all keys: `SCAN`, `KEYS`, `DBSIZE`. No lock is held longer than for one group of slots.
//!
//! A cursor is `slot << 48 | position`; 0 begins and ends. A key that is there from the first call to the last is given exactly once,
//! whatever is written meanwhile.

use super::access::is_shown;
use super::errors::{NOT_INTEGER, SYNTAX};
use super::table::{Command, Flags, Group};
use super::{Context, Stop, glob};
use crate::limits::SCAN_SECTION;
use crate::protocol::Args;
use crate::protocol::number::{parse_i64, parse_u64};
use crate::store::{ItemRef, SLOTS};

const DANGEROUS: Flags = Flags::READONLY.and(Flags::DANGEROUS).and(Flags::WHOLE);

pub const COMMANDS: &[Command] = &[
    Command::new("scan", -2, Group::Generic, scan).flags(Flags::READONLY.and(Flags::WHOLE)).doc(
        "2.8.0",
        "O(1) for every call. O(N) for a complete iteration, including enough command calls for the cursor to return back to 0. N is the number of elements inside the collection.",
        "Iterates over the key names in the database.",
    ),
    Command::new("keys", 2, Group::Generic, keys).flags(DANGEROUS).doc(
        "1.0.0",
        "O(N) with N being the number of keys in the database.",
        "Returns all key names that match a pattern.",
    ),
    Command::new("dbsize", 1, Group::Server, dbsize)
        .flags(Flags::READONLY.and(Flags::FAST).and(Flags::WHOLE))
        .doc("1.0.0", "O(1)", "Returns the number of keys in the database."),
];

const SLOT_SHIFT: u32 = 48;
const COUNT: usize = 10;

/// Visits at least `count` items from a cursor on, unless the end is reached. Gives the next cursor, 0 at the end.
pub fn walk_from(
    context: &Context<'_>,
    cursor: u64,
    count: usize,
    each: &mut dyn FnMut(ItemRef<'_>),
) -> Result<u64, Stop> {
    let mut slot = cursor >> SLOT_SHIFT;
    let mut pos = cursor & ((1 << SLOT_SHIFT) - 1);
    let mut seen = 0;
    while slot < u64::from(SLOTS) {
        let group = slot / 16;
        let mut guard = context.lock(&[slot as u16])?;
        // One lock for all slots of a group; empty ones cost a look.
        while slot / 16 == group {
            let here = slot as u16;
            if guard.slot_len(here) > 0 && is_shown(guard.slot_state(here)) {
                let more = (count - seen).min(SCAN_SECTION);
                let next = guard.walk(here, pos, more, context.now_ms, &mut |item| {
                    seen += 1;
                    each(item);
                });
                if let Some(next) = next {
                    pos = next;
                    if seen >= count {
                        return Ok(slot << SLOT_SHIFT | pos);
                    }
                    // Others get the lock.
                    break;
                }
            }
            (slot, pos) = (slot + 1, 0);
            if seen >= count && slot < u64::from(SLOTS) {
                return Ok(slot << SLOT_SHIFT);
            }
        }
    }
    Ok(0)
}

/// A cursor as Redis reads it, with `strtoul`: also with a sign, and nothing at all.
pub fn cursor(text: &[u8]) -> Option<u64> {
    match text {
        [] => Some(0),
        [b'+', digits @ ..] => parse_u64(digits),
        [b'-', digits @ ..] => parse_u64(digits).map(u64::wrapping_neg),
        digits => parse_u64(digits),
    }
}

fn scan(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let from = cursor(args.at(1)).ok_or("ERR invalid cursor")?;
    let mut count = COUNT;
    let (mut pattern, mut kind) = (None, None);
    let mut i = 2;
    while let Some(word) = args.get(i) {
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        let value = args.get(i + 1).ok_or(SYNTAX)?;
        if is(b"COUNT") {
            let wanted = parse_i64(value).ok_or(NOT_INTEGER)?;
            count = usize::try_from(wanted)
                .ok()
                .filter(|&n| n > 0)
                .ok_or(SYNTAX)?;
        } else if is(b"MATCH") {
            pattern = (value != b"*").then_some(value);
        } else if is(b"TYPE") {
            kind = Some(value);
        } else {
            return Err(SYNTAX.into());
        }
        i += 2;
    }
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let next = walk_from(context, from, count, &mut |item| {
        let wanted = pattern.is_none_or(|p| glob::matches(p, item.key(), false))
            && kind.is_none_or(|k: &[u8]| k.eq_ignore_ascii_case(item.kind().name().as_bytes()));
        if wanted {
            keys.push(item.key().to_vec());
        }
    })?;
    let reply = &mut context.reply;
    reply.array(2);
    reply.text(itoa::Buffer::new().format(next));
    reply.array(keys.len());
    keys.iter().for_each(|key| reply.bulk(key));
    Ok(())
}

fn keys(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let pattern = args.at(1);
    let all = pattern == b"*";
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut cursor = 0;
    loop {
        cursor = walk_from(context, cursor, SCAN_SECTION, &mut |item| {
            if all || glob::matches(pattern, item.key(), false) {
                keys.push(item.key().to_vec());
            }
        })?;
        if cursor == 0 {
            break;
        }
    }
    context.reply.array(keys.len());
    keys.iter().for_each(|key| context.reply.bulk(key));
    Ok(())
}

/// Keys that this node shows: without those of slots that are on their way.
pub fn count_keys(context: &Context<'_>) -> Result<u64, Stop> {
    let node = context.node;
    if !node.is_cluster() {
        return Ok(node.store.stats().keys);
    }
    let mut keys = 0;
    for group in (0..SLOTS).step_by(16) {
        let guard = context.lock(&[group])?;
        for slot in group..group + 16 {
            if is_shown(guard.slot_state(slot)) {
                keys += guard.slot_len(slot) as u64;
            }
        }
    }
    Ok(keys)
}

fn dbsize(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let keys = count_keys(context)?;
    context.reply.unsigned(keys);
    Ok(())
}
