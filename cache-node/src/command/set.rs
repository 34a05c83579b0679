//! `SET`, `GETEX` and what is a `SET` with other words.

use super::access::Access;
use super::errors::{SYNTAX, wrong_arity};
use super::strings::{reply_packed, reply_value};
use super::table::{Command, Flags, Group};
use super::time::{self, Unit};
use super::{Context, Stop};
use crate::protocol::Args;
use crate::store::compress::Given;
use crate::store::{Guard, Point};

const WRITE: Flags = Flags::WRITE.and(Flags::DENYOOM);

pub const COMMANDS: &[Command] = &[
    Command::new("set", -3, Group::String, set)
        .flags(WRITE)
        .keys(1, 1, 1)
        .doc("1.0.0", "O(1)", "Sets the string value of a key, ignoring its type. The key is created if it doesn't exist."),
    Command::new("setnx", 3, Group::String, setnx)
        .flags(WRITE.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.0.0", "O(1)", "Sets the string value of a key only when the key doesn't exist."),
    Command::new("setex", 4, Group::String, setex)
        .flags(WRITE)
        .keys(1, 1, 1)
        .doc("2.0.0", "O(1)", "Sets the string value and expiration time of a key."),
    Command::new("psetex", 4, Group::String, psetex)
        .flags(WRITE)
        .keys(1, 1, 1)
        .doc("2.6.0", "O(1)", "Sets both string value and expiration time in milliseconds of a key."),
    Command::new("getset", 3, Group::String, getset)
        .flags(WRITE.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.0.0", "O(1)", "Returns the previous string value of a key after setting it to a new value."),
    Command::new("getex", -2, Group::String, getex)
        .flags(Flags::WRITE.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("6.2.0", "O(1)", "Returns the string value of a key after setting its expiration time."),
    Command::new("mset", -3, Group::String, mset)
        .flags(WRITE)
        .keys(1, -1, 2)
        .doc("1.0.1", "O(N) where N is the number of keys to set.", "Atomically creates or modifies the string values of one or more keys."),
    Command::new("msetnx", -3, Group::String, msetnx)
        .flags(WRITE)
        .keys(1, -1, 2)
        .doc("1.0.1", "O(N) where N is the number of keys to set.", "Atomically sets the values of one or more keys only when all keys don't exist."),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Always,
    IfAbsent,
    IfPresent,
}

/// What becomes of the expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expiry<'a> {
    /// `SET` without a word: none. `GETEX`: unchanged.
    Unsaid,
    Keep,
    Persist,
    At(&'a [u8], Unit),
}

#[derive(Debug, Clone, Copy)]
struct Options<'a> {
    condition: Condition,
    get: bool,
    expiry: Expiry<'a>,
}

/// Reads the options of `SET`, or of `GETEX`.
fn options<'a>(args: Args<'a>, from: usize, is_set: bool) -> Result<Options<'a>, Stop> {
    let mut options = Options {
        condition: Condition::Always,
        get: false,
        expiry: Expiry::Unsaid,
    };
    let mut i = from;
    while let Some(word) = args.get(i) {
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        let unsaid = options.expiry == Expiry::Unsaid;
        if is_set && is(b"NX") && options.condition != Condition::IfPresent {
            options.condition = Condition::IfAbsent;
        } else if is_set && is(b"XX") && options.condition != Condition::IfAbsent {
            options.condition = Condition::IfPresent;
        } else if is_set && is(b"GET") {
            options.get = true;
        } else if is_set && is(b"KEEPTTL") && (unsaid || options.expiry == Expiry::Keep) {
            options.expiry = Expiry::Keep;
        } else if !is_set && is(b"PERSIST") && (unsaid || options.expiry == Expiry::Persist) {
            options.expiry = Expiry::Persist;
        } else if let (Some(unit), Some(time)) = (time::unit_option(word), args.get(i + 1)) {
            match options.expiry {
                Expiry::Unsaid => {}
                // As in Redis, the same word twice: the last counts.
                Expiry::At(_, before) if before == unit => {}
                _ => return Err(SYNTAX.into()),
            }
            options.expiry = Expiry::At(time, unit);
            i += 1;
        } else {
            return Err(SYNTAX.into());
        }
        i += 1;
    }
    Ok(options)
}

fn set(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (key, value) = (args.at(1), args.at(2));
    if args.len() == 3 {
        let given = context.node.store.pack(key, value);
        let (mut guard, p) = context.write(key)?;
        guard.set_given_new(p, key, &given, context.now_ms)?;
        drop(guard);
        context.reply.ok();
        return Ok(());
    }
    let options = options(args, 3, true)?;
    let at = match options.expiry {
        Expiry::At(text, unit) => Some(time::positive(context, text, unit)?),
        _ => None,
    };
    let given = context.node.store.pack(key, value);
    let (mut guard, p) = context.write(key)?;
    let now_ms = context.now_ms;
    let mut packed = None;
    let present = match options.get {
        true => guard.string(p, key, now_ms)?,
        false => guard.get(p, key, now_ms),
    };
    let kept = present.as_ref().and_then(|item| item.expires_at());
    let exists = present.is_some();
    if options.get {
        match present {
            Some(item) => packed = reply_value(&mut context.reply, item.value()),
            None => context.reply.null(),
        }
        context.count_read(&guard, p, key, exists);
    }
    let wanted = match options.condition {
        Condition::Always => true,
        Condition::IfAbsent => !exists,
        Condition::IfPresent => exists,
    };
    if !wanted {
        drop(guard);
        match options.get {
            true => reply_packed(&mut context.reply, packed),
            false => context.reply.null(),
        }
        return Ok(());
    }
    let expires_at = match options.expiry {
        Expiry::Keep if exists => kept,
        Expiry::At(..) => at,
        _ => guard.default_expiry(p, key, now_ms),
    };
    guard.set_given(p, key, &given, expires_at)?;
    drop(guard);
    match options.get {
        true => reply_packed(&mut context.reply, packed),
        false => context.reply.ok(),
    }
    Ok(())
}

fn setnx(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let key = args.at(1);
    let given = context.node.store.pack(key, args.at(2));
    let (mut guard, p) = context.write(key)?;
    let absent = guard.get(p, key, context.now_ms).is_none();
    if absent {
        guard.set_given_new(p, key, &given, context.now_ms)?;
    }
    context.reply.integer(i64::from(absent));
    Ok(())
}

fn setex(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    set_until(context, args, Unit::Seconds)
}

fn psetex(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    set_until(context, args, Unit::Milliseconds)
}

fn set_until(context: &mut Context<'_>, args: Args<'_>, unit: Unit) -> Result<(), Stop> {
    let at = time::positive(context, args.at(2), unit)?;
    let key = args.at(1);
    let given = context.node.store.pack(key, args.at(3));
    let (mut guard, p) = context.write(key)?;
    guard.set_given(p, key, &given, Some(at))?;
    context.reply.ok();
    Ok(())
}

fn getset(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let key = args.at(1);
    let given = context.node.store.pack(key, args.at(2));
    let (mut guard, p) = context.write(key)?;
    let present = guard.string(p, key, context.now_ms)?;
    let is_there = present.is_some();
    let mut packed = None;
    match present {
        Some(item) => packed = reply_value(&mut context.reply, item.value()),
        None => context.reply.null(),
    }
    context.count_read(&guard, p, key, is_there);
    guard.set_given_new(p, key, &given, context.now_ms)?;
    drop(guard);
    reply_packed(&mut context.reply, packed);
    Ok(())
}

fn getex(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let options = options(args, 2, false)?;
    let key = args.at(1);
    let (mut guard, p) = context.write(key)?;
    let now_ms = context.now_ms;
    let Some(item) = guard.string(p, key, now_ms)? else {
        context.count_read(&guard, p, key, false);
        context.reply.null();
        return Ok(());
    };
    let at = match options.expiry {
        Expiry::At(text, unit) => Some(time::positive(context, text, unit)?),
        _ => None,
    };
    let had_expiry = item.expires_at().is_some();
    let packed = reply_value(&mut context.reply, item.value());
    context.count_read(&guard, p, key, true);
    match (options.expiry, at) {
        (_, Some(at)) if at <= now_ms => drop(guard.remove(p, key, now_ms)),
        (_, Some(at)) => drop(guard.set_expiry(p, key, Some(at), now_ms)?),
        (Expiry::Persist, _) if had_expiry => drop(guard.set_expiry(p, key, None, now_ms)?),
        _ => {}
    }
    drop(guard);
    reply_packed(&mut context.reply, packed);
    Ok(())
}

fn pairs(args: Args<'_>) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
    (1..args.len())
        .step_by(2)
        .map(move |i| (args.at(i), args.at(i + 1)))
}

fn mset(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    if args.len().is_multiple_of(2) {
        return Err(wrong_arity(context.name));
    }
    let values = pack_all(context, args);
    let (mut guard, points) = context.lock_keys(pairs(args).map(|(key, _)| key), Access::Write)?;
    set_all(context, &mut guard, &points, (args, &values))?;
    context.reply.ok();
    Ok(())
}

fn msetnx(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    if args.len().is_multiple_of(2) {
        return Err(wrong_arity(context.name));
    }
    let values = pack_all(context, args);
    let (mut guard, points) = context.lock_keys(pairs(args).map(|(key, _)| key), Access::Write)?;
    let any = pairs(args)
        .zip(&points)
        .any(|((key, _), &p)| guard.get(p, key, context.now_ms).is_some());
    if !any {
        set_all(context, &mut guard, &points, (args, &values))?;
    }
    context.reply.integer(i64::from(!any));
    Ok(())
}

fn pack_all<'a>(context: &Context<'_>, args: Args<'a>) -> Vec<Given<'a>> {
    let store = &context.node.store;
    pairs(args)
        .map(|(key, value)| store.pack(key, value))
        .collect()
}

/// Sets all pairs or none.
fn set_all(
    context: &Context<'_>,
    guard: &mut Guard<'_>,
    points: &[Point],
    (args, values): (Args<'_>, &[Given<'_>]),
) -> Result<(), Stop> {
    /// More than an item and its part of a table take beside key and value, and a page for each.
    const EACH: u64 = 128 * 1024;
    let stats = context.node.store.stats();
    let need: u64 = pairs(args)
        .map(|(k, v)| (k.len() + v.len()) as u64 + EACH)
        .sum();
    // Values as they were are kept only where the memory might not do.
    let may_fail = stats.max_bytes > 0 && stats.bytes.saturating_add(need) > stats.max_bytes;
    let mut before = Vec::new();
    for (((key, _), value), &p) in pairs(args).zip(values).zip(points) {
        if may_fail {
            before.push(guard.save(p, key, context.now_ms));
        }
        if let Err(full) = guard.set_given_new(p, key, value, context.now_ms) {
            guard.restore();
            // Latest first, as a key may be there twice.
            for (((key, _), &p), old) in pairs(args)
                .zip(points)
                .zip(before)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
            {
                match old {
                    Some(saved) => {
                        if guard.put_back(p, key, saved, context.now_ms).is_err() {
                            tracing::error!(
                                "an MSET that found no memory could not put a value back"
                            );
                        }
                    }
                    None => drop(guard.remove(p, key, context.now_ms)),
                }
            }
            return Err(full.into());
        }
    }
    Ok(())
}
