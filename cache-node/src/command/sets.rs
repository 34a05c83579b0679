//! Sets.

use std::borrow::Cow;
use std::collections::HashSet;

use super::access::Access;
use super::collections::{self, EMPTY, Sample, below};
use super::errors::SYNTAX;
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::protocol::Args;
use crate::protocol::number::parse_i64;
use crate::store::collections::set::{self, Set};
use crate::store::{Guard, Kind, Point};

pub const COMMANDS: &[Command] = &[
    Command::new("sadd", -3, Group::Set, sadd)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.0.0", "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.", "Add one or more members to a set."),
    Command::new("srem", -3, Group::Set, srem)
        .flags(Flags::WRITE.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.0.0", "O(N) where N is the number of members to be removed.", "Remove one or more members from a set."),
    Command::new("smove", 4, Group::Set, smove)
        .flags(Flags::WRITE.and(Flags::FAST))
        .keys(1, 2, 1)
        .doc("1.0.0", "O(1)", "Move a member from one set to another."),
    Command::new("sismember", 3, Group::Set, sismember)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.0.0", "O(1)", "Determine if a given value is a member of a set."),
    Command::new("smismember", -3, Group::Set, smismember)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("6.2.0", "O(N) where N is the number of elements being checked for membership", "Returns the membership associated with the given elements for a set."),
    Command::new("scard", 2, Group::Set, scard)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.0.0", "O(1)", "Get the number of members in a set."),
    Command::new("spop", -2, Group::Set, spop)
        .flags(Flags::WRITE.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.0.0", "Without the count argument O(1), otherwise O(N) where N is the value of the passed count.", "Remove and return one or multiple random members from a set."),
    Command::new("srandmember", -2, Group::Set, srandmember)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("1.0.0", "Without the count argument O(1), otherwise O(N) where N is the absolute value of the passed count.", "Get one or multiple random members from a set."),
    Command::new("sinter", -2, Group::Set, sinter)
        .flags(Flags::READONLY)
        .keys(1, -1, 1)
        .doc("1.0.0", "O(N*M) worst case where N is the cardinality of the smallest set and M is the number of sets.", "Intersect multiple sets."),
    Command::new("sintercard", -3, Group::Set, sintercard)
        .flags(Flags::READONLY.and(Flags::MOVABLE_KEYS))
        .counted_keys(1)
        .doc("7.0.0", "O(N*M) worst case where N is the cardinality of the smallest set and M is the number of sets.", "Intersect multiple sets and return the cardinality of the result."),
    Command::new("sinterstore", -3, Group::Set, sinterstore)
        .flags(Flags::WRITE.and(Flags::DENYOOM))
        .keys(1, -1, 1)
        .doc("1.0.0", "O(N*M) worst case where N is the cardinality of the smallest set and M is the number of sets.", "Intersect multiple sets and store the resulting set in a key."),
    Command::new("sunion", -2, Group::Set, sunion)
        .flags(Flags::READONLY)
        .keys(1, -1, 1)
        .doc("1.0.0", "O(N) where N is the total number of elements in all given sets.", "Add multiple sets."),
    Command::new("sunionstore", -3, Group::Set, sunionstore)
        .flags(Flags::WRITE.and(Flags::DENYOOM))
        .keys(1, -1, 1)
        .doc("1.0.0", "O(N) where N is the total number of elements in all given sets.", "Add multiple sets and store the resulting set in a key."),
    Command::new("sdiff", -2, Group::Set, sdiff)
        .flags(Flags::READONLY)
        .keys(1, -1, 1)
        .doc("1.0.0", "O(N) where N is the total number of elements in all given sets.", "Subtract multiple sets."),
    Command::new("sdiffstore", -3, Group::Set, sdiffstore)
        .flags(Flags::WRITE.and(Flags::DENYOOM))
        .keys(1, -1, 1)
        .doc("1.0.0", "O(N) where N is the total number of elements in all given sets.", "Subtract multiple sets and store the resulting set in a key."),
    Command::new("smembers", 2, Group::Set, smembers)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("1.0.0", "O(N) where N is the set cardinality.", "Get all the members in a set."),
    Command::new("sscan", -3, Group::Set, sscan)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("2.8.0", "O(1) for every call. O(N) for a complete iteration, including enough command calls for the cursor to return back to 0. N is the number of elements inside the collection.", "Incrementally iterate Set elements."),
];

fn find<'g>(
    guard: &'g mut Guard<'_>,
    p: Point,
    key: &[u8],
    now_ms: u64,
) -> Result<Option<Set<'g>>, Stop> {
    let item = guard.get_kind(p, key, Kind::Set, now_ms)?;
    Ok(item.map(|item| Set(item.view())))
}

/// Reads the set of the first argument; an absent one is empty.
fn read<R>(
    context: &mut Context<'_>,
    args: Args<'_>,
    f: impl FnOnce(&mut Context<'_>, Set<'_>) -> R,
) -> Result<R, Stop> {
    let key = args.at(1);
    let (mut guard, p) = context.read(key)?;
    let found = find(&mut guard, p, key, context.now_ms)?;
    let is_there = found.is_some();
    let done = f(context, found.unwrap_or(Set(EMPTY)));
    context.count_read(&guard, p, key, is_there);
    Ok(done)
}

fn sadd(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let key = args.at(1);
    let members: Vec<&[u8]> = args.from(2).iter().collect();
    let (mut guard, p) = context.write(key)?;
    let added = guard.set_add(p, key, &members, context.now_ms)?;
    context.reply.integer(added as i64);
    Ok(())
}

fn srem(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let key = args.at(1);
    let members: Vec<&[u8]> = args.from(2).iter().collect();
    let (mut guard, p) = context.write(key)?;
    let removed = guard.set_remove(p, key, &members, context.now_ms)?;
    context.reply.integer(removed as i64);
    Ok(())
}

fn smove(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (from, to, member) = (args.at(1), args.at(2), args.at(3));
    let (mut guard, points) = context.lock_keys([from, to].into_iter(), Access::Write)?;
    let now_ms = context.now_ms;
    let Some(source) = find(&mut guard, points[0], from, now_ms)? else {
        context.reply.integer(0);
        return Ok(());
    };
    let there = source.contains(member);
    find(&mut guard, points[1], to, now_ms)?;
    if there && from != to {
        // What may lack memory comes first.
        guard.set_add(points[1], to, &[member], now_ms)?;
        guard.set_remove(points[0], from, &[member], now_ms)?;
    }
    context.reply.integer(i64::from(there));
    Ok(())
}

fn sismember(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, set| {
        let there = set.contains(args.at(2));
        context.reply.integer(i64::from(there));
    })
}

fn smismember(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, set| {
        context.reply.array(args.len() - 2);
        for member in args.from(2).iter() {
            context.reply.integer(i64::from(set.contains(member)));
        }
    })
}

fn scard(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, set| {
        context.reply.integer(set.len() as i64);
    })
}

fn smembers(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, set| {
        context.reply.set(set.len());
        set.iter().for_each(|member| context.reply.bulk(&member));
    })
}

fn sscan(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    collections::scan_cursor(args)?;
    read(context, args, |context, set| {
        if set.is_empty() {
            collections::reply_scan(&mut context.reply, 0, &[b""; 0]);
            return Ok(());
        }
        let scan = collections::scan(args)?;
        let mut found = Vec::new();
        let next = set.scan(scan.cursor, scan.count, |member| {
            if scan.wants(&member) {
                found.push(member);
            }
        });
        collections::reply_scan(&mut context.reply, next, &found);
        Ok(())
    })?
}

fn spop(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let key = args.at(1);
    let count = match (args.get(2), args.len()) {
        (None, _) => None,
        (Some(count), 3) => Some(collections::positive(count)?),
        _ => return Err(SYNTAX.into()),
    };
    let (mut guard, p) = context.write(key)?;
    let now_ms = context.now_ms;
    let set = find(&mut guard, p, key, now_ms)?.unwrap_or(Set(EMPTY));
    let reply = &mut context.reply;
    let chosen: Vec<Vec<u8>> = match count {
        None if set.is_empty() => {
            reply.null();
            return Ok(());
        }
        None => vec![set.at(below(set.len())).unwrap_or_default().into_owned()],
        Some(count) if count >= set.len() => set.iter().map(Cow::into_owned).collect(),
        Some(count) => collections::some_of(set.len(), count)
            .into_iter()
            .filter_map(|i| set.at(i))
            .map(Cow::into_owned)
            .collect(),
    };
    let all = chosen.len() == set.len();
    if all {
        // Dropped as a whole: a big one by the background thread.
        guard.remove(p, key, now_ms);
    } else {
        guard.set_remove(p, key, &chosen, now_ms)?;
    }
    match count {
        None => reply.bulk(&chosen[0]),
        Some(_) => {
            reply.set(chosen.len());
            chosen.iter().for_each(|member| reply.bulk(member));
        }
    }
    Ok(())
}

fn srandmember(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    if args.len() > 3 {
        return Err(SYNTAX.into());
    }
    let Some(sample) = Sample::read(args, "")? else {
        return read(context, args, |context, set| {
            match collections::one_of(set.len()).and_then(|i| set.at(i)) {
                Some(member) => context.reply.bulk(&member),
                None => context.reply.null(),
            }
        });
    };
    read(context, args, |context, set| {
        let chosen = sample.choose(set.len());
        context.reply.array(chosen.len());
        for member in chosen.filter_map(|i| set.at(i)) {
            context.reply.bulk(&member);
            collections::bounded(&context.reply)?;
        }
        Ok(())
    })?
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Combine {
    Intersect,
    Unite,
    Subtract,
}

type Members<'g> = Vec<Cow<'g, [u8]>>;

/// Combines the sets of locked keys; `most` members at most of an intersection.
fn combine<'g>(
    guard: &'g mut Guard<'_>,
    keys: &[(Point, &[u8])],
    how: Combine,
    most: usize,
    now_ms: u64,
) -> Result<Members<'g>, Stop> {
    for &(p, key) in keys {
        find(guard, p, key, now_ms)?;
    }
    let guard = &*guard;
    let sets: Vec<Set<'g>> = keys
        .iter()
        .map(|&(p, key)| {
            guard
                .peek(p, key, now_ms)
                .map_or(Set(EMPTY), |item| Set(item.view()))
        })
        .collect();
    let Some((first, rest)) = sets.split_first() else {
        return Ok(Vec::new());
    };
    Ok(match how {
        Combine::Intersect => {
            let Some(least) = sets.iter().min_by_key(|set| set.len()) else {
                return Ok(Vec::new());
            };
            let common = least
                .iter()
                .filter(|m| sets.iter().all(|set| set.contains(m)));
            common.take(most).collect()
        }
        Combine::Unite if rest.is_empty() => first.iter().collect(),
        Combine::Unite => {
            let all: HashSet<Cow<'g, [u8]>> = sets.iter().flat_map(|set| set.iter()).collect();
            all.into_iter().collect()
        }
        Combine::Subtract => first
            .iter()
            .filter(|m| !rest.iter().any(|set| set.contains(m)))
            .collect(),
    })
}

fn reply_combined(context: &mut Context<'_>, args: Args<'_>, how: Combine) -> Result<(), Stop> {
    let (mut guard, points) = context.lock_all_args(args, Access::Read)?;
    let keys: Vec<_> = points.into_iter().zip(args.from(1).iter()).collect();
    let members = combine(&mut guard, &keys, how, usize::MAX, context.now_ms)?;
    context.reply.set(members.len());
    members.iter().for_each(|member| context.reply.bulk(member));
    Ok(())
}

fn store_combined(context: &mut Context<'_>, args: Args<'_>, how: Combine) -> Result<(), Stop> {
    let (mut guard, points) = context.lock_all_args(args, Access::Write)?;
    let keys: Vec<_> = points.into_iter().zip(args.from(1).iter()).collect();
    let now_ms = context.now_ms;
    let members = combine(&mut guard, &keys[1..], how, usize::MAX, now_ms)?;
    let members: Vec<Vec<u8>> = members.into_iter().map(Cow::into_owned).collect();
    let bytes = members.iter().map(|m| m.len() + 32).sum();
    let (owned, ()) = guard.build(bytes, |owned, tools| {
        for member in &members {
            set::add(owned, member, tools);
        }
    })?;
    let (p, key) = keys[0];
    let expires_at = guard.default_expiry(p, key, now_ms);
    guard.put_collection(p, key, Kind::Set, owned, expires_at, now_ms)?;
    context.reply.integer(members.len() as i64);
    Ok(())
}

fn sinter(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    reply_combined(context, args, Combine::Intersect)
}

fn sunion(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    reply_combined(context, args, Combine::Unite)
}

fn sdiff(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    reply_combined(context, args, Combine::Subtract)
}

fn sinterstore(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    store_combined(context, args, Combine::Intersect)
}

fn sunionstore(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    store_combined(context, args, Combine::Unite)
}

fn sdiffstore(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    store_combined(context, args, Combine::Subtract)
}

fn sintercard(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let keys = collections::counted_keys(args, 1)?;
    let mut most = usize::MAX;
    let mut i = 2 + keys.len();
    while let Some(word) = args.get(i) {
        let value = args
            .get(i + 1)
            .filter(|_| word.eq_ignore_ascii_case(b"LIMIT"));
        let limit = parse_i64(value.ok_or(SYNTAX)?).and_then(|n| usize::try_from(n).ok());
        most = match limit.ok_or("ERR LIMIT can't be negative")? {
            0 => usize::MAX,
            limit => limit,
        };
        i += 2;
    }
    let (mut guard, points) = context.lock_keys(keys.iter().copied(), Access::Read)?;
    let keys: Vec<_> = points.into_iter().zip(keys).collect();
    let members = combine(&mut guard, &keys, Combine::Intersect, most, context.now_ms)?;
    context.reply.integer(members.len() as i64);
    Ok(())
}
