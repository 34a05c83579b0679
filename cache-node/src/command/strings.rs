//! Strings: reading, and changing a part.

use super::access::Access;
use super::errors::{NOT_INTEGER, STRING_TOO_LONG};
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::protocol::number::parse_i64;
use crate::protocol::{Args, Reply};
use crate::store::compress::{Kept, Value};
use crate::store::{BIG_VALUE, Guard, Kind, Point, SharedValue, ValueRef};

const READ: Flags = Flags::READONLY;

pub const COMMANDS: &[Command] = &[
    Command::new("get", 2, Group::String, get)
        .flags(READ.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.0.0", "O(1)", "Returns the string value of a key."),
    Command::new("mget", -2, Group::String, mget)
        .flags(READ.and(Flags::FAST))
        .keys(1, -1, 1)
        .doc("1.0.0", "O(N) where N is the number of keys to retrieve.", "Atomically returns the string values of one or more keys."),
    Command::new("getdel", 2, Group::String, getdel)
        .flags(Flags::WRITE.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("6.2.0", "O(1)", "Returns the string value of a key after deleting the key."),
    Command::new("strlen", 2, Group::String, strlen)
        .flags(READ.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.2.0", "O(1)", "Returns the length of a string value."),
    Command::new("append", 3, Group::String, append)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.0.0", "O(1)", "Appends a string to the value of a key. Creates the key if it doesn't exist."),
    Command::new("getrange", 4, Group::String, getrange)
        .flags(READ)
        .keys(1, 1, 1)
        .doc("2.4.0", "O(N) where N is the length of the returned string.", "Returns a substring of the string stored at a key."),
    Command::new("substr", 4, Group::String, getrange)
        .flags(READ)
        .keys(1, 1, 1)
        .doc("1.0.0", "O(N) where N is the length of the returned string.", "Returns a substring from a string value."),
    Command::new("setrange", 4, Group::String, setrange)
        .flags(Flags::WRITE.and(Flags::DENYOOM))
        .keys(1, 1, 1)
        .doc("2.2.0", "O(N) where N is the length of the value.", "Overwrites a part of a string value with another by an offset. Creates the key if it doesn't exist."),
];

/// Writes a value: copied when it is small, else by reference. A packed one is given back, for [`reply_packed`] when its lock is gone.
#[must_use]
pub fn reply_value(reply: &mut Reply<'_>, value: Value<'_>) -> Option<Kept> {
    match value {
        Value::Plain(ValueRef::Inline(bytes)) => reply.bulk(bytes),
        Value::Plain(ValueRef::Shared(bytes)) => reply.bulk_shared(bytes.into()),
        Value::Packed(packed) => return Some(packed.keep()),
    }
    None
}

/// Unpacks a value into the reply.
pub fn reply_packed(reply: &mut Reply<'_>, packed: Option<Kept>) {
    let Some(packed) = packed else { return };
    match packed.plain_len() {
        large if large >= BIG_VALUE => reply.bulk_shared(packed.unpack().into()),
        small => reply.bulk_filled(small, |to| packed.unpack_into(to)),
    }
}

/// Does something with a string's bytes: under its lock, or if they are packed without.
pub fn with_value<R>(
    mut guard: Guard<'_>,
    (p, key): (Point, &[u8]),
    now_ms: u64,
    f: impl FnOnce(Option<&[u8]>) -> R,
) -> Result<R, Stop> {
    let packed = match guard.string(p, key, now_ms)?.map(|item| item.value()) {
        None => return Ok(f(None)),
        Some(Value::Plain(value)) => return Ok(f(Some(&value))),
        Some(Value::Packed(packed)) => packed.keep(),
    };
    drop(guard);
    Ok(f(Some(&packed.unpack())))
}

/// Replies with a key's string, and counts that it was read. Whether it is there; and what is to be unpacked into the reply without the lock.
fn reply_string(
    context: &mut Context<'_>,
    guard: &mut Guard<'_>,
    p: Point,
    key: &[u8],
) -> Result<(bool, Option<Kept>), Stop> {
    let found = guard.string(p, key, context.now_ms)?;
    let is_there = found.is_some();
    let mut packed = None;
    match found {
        Some(item) => packed = reply_value(&mut context.reply, item.value()),
        None => context.reply.null(),
    }
    context.count_read(guard, p, key, is_there);
    Ok((is_there, packed))
}

fn get(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let key = args.at(1);
    let (mut guard, p) = context.read(key)?;
    let (_, packed) = reply_string(context, &mut guard, p, key)?;
    drop(guard);
    reply_packed(&mut context.reply, packed);
    Ok(())
}

fn mget(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (mut guard, points) = context.lock_all_args(args, Access::Read)?;
    context.reply.array(points.len());
    // From the first packed value on, what is found is kept until the locks are gone.
    let mut later: Vec<Option<Found>> = Vec::new();
    for (key, &p) in args.from(1).iter().zip(&points) {
        let item = guard.get(p, key, context.now_ms);
        let value = item.filter(|item| item.kind() == Kind::String);
        let is_there = value.is_some();
        match value.map(|item| item.value()) {
            None if later.is_empty() => context.reply.null(),
            Some(Value::Plain(value)) if later.is_empty() => {
                let _ = reply_value(&mut context.reply, Value::Plain(value));
            }
            value => later.push(value.map(Found::keep)),
        }
        context.count_read(&guard, p, key, is_there);
    }
    drop(guard);
    for found in later {
        match found {
            None => context.reply.null(),
            Some(Found::Small(bytes)) => context.reply.bulk(&bytes),
            Some(Found::Large(bytes)) => context.reply.bulk_shared(bytes.into()),
            Some(Found::Packed(packed)) => reply_packed(&mut context.reply, Some(packed)),
        }
    }
    Ok(())
}

/// A value that outlives its lock.
enum Found {
    Small(Vec<u8>),
    Large(SharedValue),
    Packed(Kept),
}

impl Found {
    fn keep(value: Value<'_>) -> Self {
        match value {
            Value::Plain(ValueRef::Inline(bytes)) => Self::Small(bytes.to_vec()),
            Value::Plain(ValueRef::Shared(bytes)) => Self::Large(bytes),
            Value::Packed(packed) => Self::Packed(packed.keep()),
        }
    }
}

fn getdel(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let key = args.at(1);
    let (mut guard, p) = context.write(key)?;
    let (is_there, packed) = reply_string(context, &mut guard, p, key)?;
    if is_there {
        guard.remove(p, key, context.now_ms);
        drop(guard);
        reply_packed(&mut context.reply, packed);
    }
    Ok(())
}

fn strlen(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let key = args.at(1);
    let (mut guard, p) = context.read(key)?;
    let length = guard
        .string(p, key, context.now_ms)?
        .map_or(0, |item| item.value_len());
    context.reply.integer(length as i64);
    Ok(())
}

/// Bytes that a string may have: a setting.
pub fn string_max(context: &Context<'_>) -> u64 {
    let bulk_max = &context.node.settings.bulk_max;
    bulk_max.load(std::sync::atomic::Ordering::Relaxed)
}

fn append(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (key, suffix) = (args.at(1), args.at(2));
    let (mut guard, p) = context.write_plain(key)?;
    let present = guard
        .string(p, key, context.now_ms)?
        .map_or(0, |item| item.value_len());
    if (present + suffix.len()) as u64 > string_max(context) {
        return Err(STRING_TOO_LONG.into());
    }
    let length = guard.append(p, key, suffix, context.now_ms)?;
    context.reply.integer(length as i64);
    Ok(())
}

/// The bytes from `start` to `end`, both inclusive, negative ones counted from the end.
fn range(length: usize, start: i64, end: i64) -> Option<(usize, usize)> {
    let length = length as i64;
    if length == 0 || (start < 0 && end < 0 && start > end) {
        return None;
    }
    let from_end = |i: i64| {
        if i < 0 {
            length.saturating_add(i).max(0)
        } else {
            i
        }
    };
    let (start, end) = (from_end(start), from_end(end).min(length - 1));
    (start <= end).then_some((start as usize, end as usize + 1))
}

fn getrange(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let start = parse_i64(args.at(2)).ok_or(NOT_INTEGER)?;
    let end = parse_i64(args.at(3)).ok_or(NOT_INTEGER)?;
    let key = args.at(1);
    let (guard, p) = context.read(key)?;
    let reply = &mut context.reply;
    with_value(guard, (p, key), context.now_ms, |value| {
        let part = value
            .and_then(|value| range(value.len(), start, end).map(|(from, to)| &value[from..to]));
        reply.bulk(part.unwrap_or_default());
    })
}

fn setrange(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let offset = parse_i64(args.at(2)).ok_or(NOT_INTEGER)?;
    let offset = u64::try_from(offset).map_err(|_| "ERR offset is out of range")?;
    let (key, bytes) = (args.at(1), args.at(3));
    let (mut guard, p) = context.write_plain(key)?;
    if bytes.is_empty() {
        let length = guard
            .string(p, key, context.now_ms)?
            .map_or(0, |item| item.value_len());
        context.reply.integer(length as i64);
        return Ok(());
    }
    guard.string(p, key, context.now_ms)?;
    if offset.saturating_add(bytes.len() as u64) > string_max(context) {
        return Err(STRING_TOO_LONG.into());
    }
    let length = guard.set_range(p, key, offset as usize, bytes, context.now_ms)?;
    context.reply.integer(length as i64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn ranges_are_clipped_as_in_redis() {
        let table = [
            ((5, 0, -1), Some((0, 5))),
            ((5, 1, 2), Some((1, 3))),
            ((5, -2, -1), Some((3, 5))),
            ((5, -100, 1), Some((0, 2))),
            ((5, 3, 100), Some((3, 5))),
            ((5, 3, 2), None),
            ((5, -1, -2), None),
            ((5, 5, 9), None),
            ((5, i64::MIN, i64::MAX), Some((0, 5))),
            ((5, 0, -100), Some((0, 1))),
            ((0, 0, -1), None),
        ];
        for ((length, start, end), expected) in table {
            assert_eq!(
                range(length, start, end),
                expected,
                "{length} {start} {end}"
            );
        }
    }
}
