//! Keys of whatever type.

use super::access::{Access, is_shown};
use super::errors::{DB_OUT_OF_RANGE, NO_SUCH_KEY, SAME_OBJECT, SYNTAX, database};
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::protocol::Args;
use crate::store::SLOTS;

const READ: Flags = Flags::READONLY.and(Flags::FAST);

pub const COMMANDS: &[Command] = &[
    Command::new("del", -2, Group::Generic, del)
        .flags(Flags::WRITE)
        .keys(1, -1, 1)
        .doc(
            "1.0.0",
            "O(N) where N is the number of keys that will be removed.",
            "Deletes one or more keys.",
        ),
    Command::new("unlink", -2, Group::Generic, del)
        .flags(Flags::WRITE.and(Flags::FAST))
        .keys(1, -1, 1)
        .doc(
            "4.0.0",
            "O(N) where N is the number of keys that will be removed.",
            "Deletes one or more keys.",
        ),
    Command::new("exists", -2, Group::Generic, exists)
        .flags(READ)
        .keys(1, -1, 1)
        .doc(
            "1.0.0",
            "O(N) where N is the number of keys to check.",
            "Determines whether one or more keys exist.",
        ),
    Command::new("touch", -2, Group::Generic, exists)
        .flags(READ)
        .keys(1, -1, 1)
        .doc(
            "3.2.1",
            "O(N) where N is the number of keys that will be touched.",
            "Returns the number of existing keys out of those specified.",
        ),
    Command::new("type", 2, Group::Generic, type_of)
        .flags(READ)
        .keys(1, 1, 1)
        .doc(
            "1.0.0",
            "O(1)",
            "Determines the type of value stored at a key.",
        ),
    Command::new("rename", 3, Group::Generic, rename)
        .flags(Flags::WRITE)
        .keys(1, 2, 1)
        .doc(
            "1.0.0",
            "O(1)",
            "Renames a key and overwrites the destination.",
        ),
    Command::new("renamenx", 3, Group::Generic, renamenx)
        .flags(Flags::WRITE.and(Flags::FAST))
        .keys(1, 2, 1)
        .doc(
            "1.0.0",
            "O(1)",
            "Renames a key only when the target key name doesn't exist.",
        ),
    Command::new("copy", -3, Group::Generic, copy)
        .flags(Flags::WRITE.and(Flags::DENYOOM))
        .keys(1, 2, 1)
        .doc(
            "6.2.0",
            "O(N) where N is the length of the value.",
            "Copies the value of a key to a new key.",
        ),
    Command::new("randomkey", 1, Group::Generic, randomkey)
        .flags(Flags::READONLY.and(Flags::WHOLE))
        .doc(
            "1.0.0",
            "O(1)",
            "Returns a random key name from the database.",
        ),
];

fn del(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let removed = if args.len() == 2 {
        let (mut guard, p) = context.write(args.at(1))?;
        i64::from(guard.remove(p, args.at(1), context.now_ms))
    } else {
        let (mut guard, points) = context.lock_all_args(args, Access::Write)?;
        let keys = args.from(1).iter().zip(&points);
        keys.filter(|(key, p)| guard.remove(**p, key, context.now_ms))
            .count() as i64
    };
    context.reply.integer(removed);
    Ok(())
}

fn exists(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (mut guard, points) = context.lock_all_args(args, Access::Read)?;
    let keys = args.from(1).iter().zip(&points);
    let touches = context.name == "touch";
    let mut found = 0;
    for (key, &p) in keys {
        let is_there = match touches {
            true => guard.get(p, key, context.now_ms).is_some(),
            false => guard.look(p, key, context.now_ms).is_some(),
        };
        context.count_read(&guard, p, key, is_there);
        found += i64::from(is_there);
    }
    context.reply.integer(found);
    Ok(())
}

fn type_of(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (mut guard, p) = context.read(args.at(1))?;
    let name = guard
        .look(p, args.at(1), context.now_ms)
        .map_or("none", |item| item.kind().name());
    context.reply.simple(name);
    Ok(())
}

fn rename(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    move_key(context, args, true)?;
    context.reply.ok();
    Ok(())
}

fn renamenx(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let moved = move_key(context, args, false)?;
    context.reply.integer(i64::from(moved));
    Ok(())
}

/// Whether the key has the new name now.
fn move_key(context: &Context<'_>, args: Args<'_>, replace: bool) -> Result<bool, Stop> {
    let (from, to) = (args.at(1), args.at(2));
    let (mut guard, points) = context.lock_all_args(args, Access::Write)?;
    let now_ms = context.now_ms;
    if guard.get(points[0], from, now_ms).is_none() {
        return Err(NO_SUCH_KEY.into());
    }
    if from == to {
        return Ok(false);
    }
    if !replace && guard.get(points[1], to, now_ms).is_some() {
        return Ok(false);
    }
    Ok(guard.transfer((points[0], from), (points[1], to), true, now_ms)?)
}

fn copy(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let mut replace = false;
    let mut i = 3;
    while let Some(word) = args.get(i) {
        if word.eq_ignore_ascii_case(b"REPLACE") {
            replace = true;
        } else if let (true, Some(db)) = (word.eq_ignore_ascii_case(b"DB"), args.get(i + 1)) {
            if database(db)? != 0 {
                return Err(DB_OUT_OF_RANGE.into());
            }
            i += 1;
        } else {
            return Err(SYNTAX.into());
        }
        i += 1;
    }
    let keys = [args.at(1), args.at(2)];
    if keys[0] == keys[1] {
        return Err(SAME_OBJECT.into());
    }
    let (mut guard, points) = context.lock_keys(keys.into_iter(), Access::Write)?;
    let now_ms = context.now_ms;
    let taken = !replace && guard.get(points[1], keys[1], now_ms).is_some();
    let copied =
        !taken && guard.transfer((points[0], keys[0]), (points[1], keys[1]), false, now_ms)?;
    context.reply.integer(i64::from(copied));
    Ok(())
}

/// Some 64 bits that nobody can foresee.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

fn randomkey(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let random = random();
    let first = (random % u64::from(SLOTS)) as u16;
    let pos = random >> 16;
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for slot in (first..SLOTS).chain(0..first) {
        let mut guard = context.lock(&[slot])?;
        if guard.slot_len(slot) == 0 || !is_shown(guard.slot_state(slot)) {
            continue;
        }
        // From somewhere within the slot on; what is before when nothing is there.
        for from in [pos, 0] {
            guard.walk(slot, from, 1, context.now_ms, &mut |item| {
                keys.push(item.key().to_vec())
            });
            if !keys.is_empty() {
                break;
            }
        }
        if !keys.is_empty() {
            break;
        }
    }
    match keys.is_empty() {
        true => context.reply.null(),
        false => context.reply.bulk(&keys[random as usize % keys.len()]),
    }
    Ok(())
}
