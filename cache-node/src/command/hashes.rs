//! Hashes.

use super::collections::{self, Sample};
use super::errors::{NOT_FLOAT, NOT_INTEGER, wrong_arity};
use super::long_double::LongDouble;
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::protocol::Args;
use crate::protocol::number::parse_i64;
use crate::store::collections::hash::Hash;
use crate::store::{Guard, Kind, Point};

pub const COMMANDS: &[Command] = &[
    Command::new("hset", -4, Group::Hash, hset)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.0.0", "O(1) for each field/value pair added, so O(N) to add N field/value pairs when the command is called with multiple field/value pairs.", "Set the string value of a hash field."),
    Command::new("hsetnx", 4, Group::Hash, hsetnx)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.0.0", "O(1)", "Set the value of a hash field, only if the field does not exist."),
    Command::new("hget", 3, Group::Hash, hget)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.0.0", "O(1)", "Get the value of a hash field."),
    Command::new("hincrby", 4, Group::Hash, hincrby)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.0.0", "O(1)", "Increment the integer value of a hash field by the given number."),
    Command::new("hincrbyfloat", 4, Group::Hash, hincrbyfloat)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.6.0", "O(1)", "Increment the float value of a hash field by the given amount."),
    Command::new("hmset", -4, Group::Hash, hmset)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.0.0", "O(N) where N is the number of fields being set.", "Set multiple hash fields to multiple values."),
    Command::new("hmget", -3, Group::Hash, hmget)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.0.0", "O(N) where N is the number of fields being requested.", "Get the values of all the given hash fields."),
    Command::new("hdel", -3, Group::Hash, hdel)
        .flags(Flags::WRITE.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.0.0", "O(N) where N is the number of fields to be removed.", "Delete one or more hash fields."),
    Command::new("hlen", 2, Group::Hash, hlen)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.0.0", "O(1)", "Get the number of fields in a hash."),
    Command::new("hstrlen", 3, Group::Hash, hstrlen)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("3.2.0", "O(1)", "Get the length of the value of a hash field."),
    Command::new("hkeys", 2, Group::Hash, hkeys)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("2.0.0", "O(N) where N is the size of the hash.", "Get all the fields in a hash."),
    Command::new("hvals", 2, Group::Hash, hvals)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("2.0.0", "O(N) where N is the size of the hash.", "Get all the values in a hash."),
    Command::new("hgetall", 2, Group::Hash, hgetall)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("2.0.0", "O(N) where N is the size of the hash.", "Get all the fields and values in a hash."),
    Command::new("hexists", 3, Group::Hash, hexists)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.0.0", "O(1)", "Determine if a hash field exists."),
    Command::new("hscan", -3, Group::Hash, hscan)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("2.8.0", "O(1) for every call. O(N) for a complete iteration, including enough command calls for the cursor to return back to 0. N is the number of elements inside the collection.", "Incrementally iterate hash fields and associated values."),
    Command::new("hrandfield", -2, Group::Hash, hrandfield)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("6.2.0", "O(N) where N is the number of fields returned", "Get one or multiple random fields from a hash."),
];

/// The hash of a key.
fn find<'g>(
    guard: &'g mut Guard<'_>,
    p: Point,
    key: &[u8],
    now_ms: u64,
) -> Result<Option<Hash<'g>>, Stop> {
    let item = guard.get_kind(p, key, Kind::Hash, now_ms)?;
    Ok(item.map(|item| Hash(item.view())))
}

/// Reads the hash of the first argument; an absent one is empty.
fn read<R>(
    context: &mut Context<'_>,
    args: Args<'_>,
    f: impl FnOnce(&mut Context<'_>, Hash<'_>) -> R,
) -> Result<R, Stop> {
    let key = args.at(1);
    let (mut guard, p) = context.read(key)?;
    let hash = find(&mut guard, p, key, context.now_ms)?;
    let is_there = hash.is_some();
    let done = f(context, hash.unwrap_or(Hash(collections::EMPTY)));
    context.count_read(&guard, p, key, is_there);
    Ok(done)
}

fn set_pairs(context: &Context<'_>, args: Args<'_>) -> Result<usize, Stop> {
    if !args.len().is_multiple_of(2) {
        return Err(wrong_arity(context.name));
    }
    let pairs: Vec<(&[u8], &[u8])> = (2..args.len())
        .step_by(2)
        .map(|i| (args.at(i), args.at(i + 1)))
        .collect();
    let key = args.at(1);
    let (mut guard, p) = context.write(key)?;
    Ok(guard.hash_set(p, key, &pairs, context.now_ms)?)
}

fn hset(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let added = set_pairs(context, args)?;
    context.reply.integer(added as i64);
    Ok(())
}

fn hmset(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    set_pairs(context, args)?;
    context.reply.ok();
    Ok(())
}

fn hsetnx(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (key, field) = (args.at(1), args.at(2));
    let (mut guard, p) = context.write(key)?;
    let now_ms = context.now_ms;
    let hash = find(&mut guard, p, key, now_ms)?;
    let absent = hash.and_then(|hash| hash.get(field)).is_none();
    if absent {
        guard.hash_set(p, key, &[(field, args.at(3))], now_ms)?;
    }
    context.reply.integer(i64::from(absent));
    Ok(())
}

fn hget(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, hash| match hash.get(args.at(2)) {
        Some(value) => context.reply.bulk(value),
        None => context.reply.null(),
    })
}

fn hmget(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, hash| {
        context.reply.array(args.len() - 2);
        for field in args.from(2).iter() {
            match hash.get(field) {
                Some(value) => context.reply.bulk(value),
                None => context.reply.null(),
            }
        }
    })
}

fn hdel(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let key = args.at(1);
    let fields: Vec<&[u8]> = args.from(2).iter().collect();
    let (mut guard, p) = context.write(key)?;
    let removed = guard.hash_remove(p, key, &fields, context.now_ms)?;
    context.reply.integer(removed as i64);
    Ok(())
}

fn hlen(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, hash| {
        context.reply.integer(hash.len() as i64);
    })
}

fn hstrlen(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, hash| {
        let length = hash.get(args.at(2)).map_or(0, <[u8]>::len);
        context.reply.integer(length as i64);
    })
}

fn hexists(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, hash| {
        let there = hash.get(args.at(2)).is_some();
        context.reply.integer(i64::from(there));
    })
}

fn hkeys(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, hash| {
        context.reply.array(hash.len());
        hash.iter_from(0)
            .for_each(|(field, _)| context.reply.bulk(field));
    })
}

fn hvals(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, hash| {
        context.reply.array(hash.len());
        hash.iter_from(0)
            .for_each(|(_, value)| context.reply.bulk(value));
    })
}

fn hgetall(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, hash| {
        context.reply.map(hash.len());
        for (field, value) in hash.iter_from(0) {
            context.reply.bulk(field);
            context.reply.bulk(value);
        }
    })
}

fn hincrby(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (key, field) = (args.at(1), args.at(2));
    let by = parse_i64(args.at(3)).ok_or(NOT_INTEGER)?;
    let (mut guard, p) = context.write(key)?;
    let now_ms = context.now_ms;
    let value = match find(&mut guard, p, key, now_ms)?.and_then(|hash| hash.get(field)) {
        Some(value) => parse_i64(value).ok_or("ERR hash value is not an integer")?,
        None => 0,
    };
    let sum = value
        .checked_add(by)
        .ok_or("ERR increment or decrement would overflow")?;
    let text = sum.to_string();
    guard.hash_set(p, key, &[(field, text.as_bytes())], now_ms)?;
    context.reply.integer(sum);
    Ok(())
}

fn hincrbyfloat(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (key, field) = (args.at(1), args.at(2));
    let by = LongDouble::parse(args.at(3)).ok_or(NOT_FLOAT)?;
    if !by.is_finite() {
        return Err("ERR value is NaN or Infinity".into());
    }
    let (mut guard, p) = context.write(key)?;
    let now_ms = context.now_ms;
    let value = match find(&mut guard, p, key, now_ms)?.and_then(|hash| hash.get(field)) {
        Some(value) => LongDouble::parse(value).ok_or("ERR hash value is not a float")?,
        None => LongDouble::ZERO,
    };
    let sum = value
        .add(by)
        .ok_or("ERR increment would produce NaN or Infinity")?;
    let text = sum.to_string();
    guard.hash_set(p, key, &[(field, text.as_bytes())], now_ms)?;
    context.reply.text(&text);
    Ok(())
}

fn hscan(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    collections::scan_cursor(args)?;
    read(context, args, |context, hash| {
        if hash.is_empty() {
            collections::reply_scan(&mut context.reply, 0, &[b""; 0]);
            return Ok(());
        }
        let scan = collections::scan(args)?;
        let mut found = Vec::new();
        let next = hash.scan(scan.cursor, scan.count, |field, value| {
            if scan.wants(field) {
                found.extend([field, value]);
            }
        });
        collections::reply_scan(&mut context.reply, next, &found);
        Ok(())
    })?
}

fn hrandfield(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let sample = Sample::read(args, "WITHVALUES")?;
    let Some(sample) = sample else {
        return read(context, args, |context, hash| {
            match collections::one_of(hash.len()).and_then(|i| hash.at(i)) {
                Some((field, _)) => context.reply.bulk(field),
                None => context.reply.null(),
            }
        });
    };
    let key = args.at(1);
    let (mut guard, p) = context.read(key)?;
    let hash = find(&mut guard, p, key, context.now_ms)?.unwrap_or(Hash(collections::EMPTY));
    let reply = &mut context.reply;
    let chosen = sample.choose(hash.len());
    let pairs = sample.with_more && reply.resp3;
    reply.array(chosen.len() * if sample.with_more && !pairs { 2 } else { 1 });
    for i in chosen {
        let Some((field, value)) = hash.at(i) else {
            continue;
        };
        if pairs {
            reply.array(2);
        }
        reply.bulk(field);
        if sample.with_more {
            reply.bulk(value);
        }
        collections::bounded(reply)?;
    }
    Ok(())
}
