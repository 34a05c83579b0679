//! Numbers in strings. What is logged is the result, so that followers compute nothing.

use super::errors::{NOT_FLOAT, NOT_INTEGER};
use super::long_double::LongDouble;
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::protocol::Args;
use crate::protocol::number::parse_i64;

const FLAGS: Flags = Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST);

pub const COMMANDS: &[Command] = &[
    Command::new("incr", 2, Group::String, incr)
        .flags(FLAGS)
        .keys(1, 1, 1)
        .doc("1.0.0", "O(1)", "Increments the integer value of a key by one. Uses 0 as initial value if the key doesn't exist."),
    Command::new("decr", 2, Group::String, decr)
        .flags(FLAGS)
        .keys(1, 1, 1)
        .doc("1.0.0", "O(1)", "Decrements the integer value of a key by one. Uses 0 as initial value if the key doesn't exist."),
    Command::new("incrby", 3, Group::String, incrby)
        .flags(FLAGS)
        .keys(1, 1, 1)
        .doc("1.0.0", "O(1)", "Increments the integer value of a key by a number. Uses 0 as initial value if the key doesn't exist."),
    Command::new("decrby", 3, Group::String, decrby)
        .flags(FLAGS)
        .keys(1, 1, 1)
        .doc("1.0.0", "O(1)", "Decrements a number from the integer value of a key. Uses 0 as initial value if the key doesn't exist."),
    Command::new("incrbyfloat", 3, Group::String, incrbyfloat)
        .flags(FLAGS)
        .keys(1, 1, 1)
        .doc("2.6.0", "O(1)", "Increments the floating point value of a key by a number. Uses 0 as initial value if the key doesn't exist."),
];

fn incr(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    add(context, args.at(1), 1)
}

fn decr(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    add(context, args.at(1), -1)
}

fn incrby(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let by = parse_i64(args.at(2)).ok_or(NOT_INTEGER)?;
    add(context, args.at(1), by)
}

fn decrby(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let by = parse_i64(args.at(2)).ok_or(NOT_INTEGER)?;
    let by = by.checked_neg().ok_or("ERR decrement would overflow")?;
    add(context, args.at(1), by)
}

fn add(context: &mut Context<'_>, key: &[u8], by: i64) -> Result<(), Stop> {
    let (mut guard, p) = context.write_plain(key)?;
    let (value, expires_at) = match guard.string(p, key, context.now_ms)? {
        Some(item) => (
            parse_i64(&item.value().bytes()).ok_or(NOT_INTEGER)?,
            item.expires_at(),
        ),
        None => (0, guard.default_expiry(p, key, context.now_ms)),
    };
    let sum = value
        .checked_add(by)
        .ok_or("ERR increment or decrement would overflow")?;
    guard.set(
        p,
        key,
        itoa::Buffer::new().format(sum).as_bytes(),
        expires_at,
    )?;
    context.reply.integer(sum);
    Ok(())
}

fn incrbyfloat(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let key = args.at(1);
    let (mut guard, p) = context.write_plain(key)?;
    let (value, expires_at) = match guard.string(p, key, context.now_ms)? {
        Some(item) => (
            LongDouble::parse(&item.value().bytes()).ok_or(NOT_FLOAT)?,
            item.expires_at(),
        ),
        None => {
            let expires_at = guard.default_expiry(p, key, context.now_ms);
            (LongDouble::ZERO, expires_at)
        }
    };
    let by = LongDouble::parse(args.at(2)).ok_or(NOT_FLOAT)?;
    let sum = value
        .add(by)
        .ok_or("ERR increment would produce NaN or Infinity")?;
    let text = sum.to_string();
    guard.set(p, key, text.as_bytes(), expires_at)?;
    context.reply.text(&text);
    Ok(())
}
