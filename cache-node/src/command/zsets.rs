//! Sorted sets: members and scores. Ranges are in `zranges`, unions and their kind in `zcombine`.

use super::access::Access;
use super::collections::{self, EMPTY, Sample, positive};
use super::errors::{NOT_FLOAT, SYNTAX};
use super::lists::counted_pop;
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::protocol::double;
use crate::protocol::{Args, Reply};
use crate::store::collections::zset::ZSet;
use crate::store::{Guard, Kind, Point};

pub const COMMANDS: &[Command] = &[
    Command::new("zadd", -4, Group::SortedSet, zadd)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.2.0", "O(log(N)) for each item added, where N is the number of elements in the sorted set.", "Add one or more members to a sorted set, or update its score if it already exists."),
    Command::new("zincrby", 4, Group::SortedSet, zincrby)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.2.0", "O(log(N)) where N is the number of elements in the sorted set.", "Increment the score of a member in a sorted set."),
    Command::new("zrem", -3, Group::SortedSet, zrem)
        .flags(Flags::WRITE.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.2.0", "O(M*log(N)) with N being the number of elements in the sorted set and M the number of elements to be removed.", "Remove one or more members from a sorted set."),
    Command::new("zcard", 2, Group::SortedSet, zcard)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.2.0", "O(1)", "Get the number of members in a sorted set."),
    Command::new("zscore", 3, Group::SortedSet, zscore)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.2.0", "O(1)", "Get the score associated with the given member in a sorted set."),
    Command::new("zmscore", -3, Group::SortedSet, zmscore)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("6.2.0", "O(N) where N is the number of members being requested.", "Get the score associated with the given members in a sorted set."),
    Command::new("zrank", -3, Group::SortedSet, zrank)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.0.0", "O(log(N))", "Determine the index of a member in a sorted set."),
    Command::new("zrevrank", -3, Group::SortedSet, zrevrank)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.0.0", "O(log(N))", "Determine the index of a member in a sorted set, with scores ordered from high to low."),
    Command::new("zscan", -3, Group::SortedSet, zscan)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("2.8.0", "O(1) for every call. O(N) for a complete iteration, including enough command calls for the cursor to return back to 0. N is the number of elements inside the collection.", "Incrementally iterate sorted sets elements and associated scores."),
    Command::new("zpopmin", -2, Group::SortedSet, zpopmin)
        .flags(Flags::WRITE.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("5.0.0", "O(log(N)*M) with N being the number of elements in the sorted set, and M being the number of elements popped.", "Remove and return members with the lowest scores in a sorted set."),
    Command::new("zpopmax", -2, Group::SortedSet, zpopmax)
        .flags(Flags::WRITE.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("5.0.0", "O(log(N)*M) with N being the number of elements in the sorted set, and M being the number of elements popped.", "Remove and return members with the highest scores in a sorted set."),
    Command::new("zmpop", -4, Group::SortedSet, zmpop)
        .flags(Flags::WRITE.and(Flags::MOVABLE_KEYS))
        .counted_keys(1)
        .doc("7.0.0", "O(K) + O(M*log(N)) where K is the number of provided keys, N being the number of elements in the sorted set, and M being the number of elements popped.", "Remove and return members with scores in a sorted set."),
    Command::new("zrandmember", -2, Group::SortedSet, zrandmember)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("6.2.0", "O(N) where N is the number of elements returned", "Get one or multiple random elements from a sorted set."),
];

pub fn find<'g>(
    guard: &'g mut Guard<'_>,
    p: Point,
    key: &[u8],
    now_ms: u64,
) -> Result<Option<ZSet<'g>>, Stop> {
    let item = guard.get_kind(p, key, Kind::ZSet, now_ms)?;
    Ok(item.map(|item| ZSet(item.view())))
}

/// Reads the sorted set of the first argument.
pub fn read<R>(
    context: &mut Context<'_>,
    args: Args<'_>,
    f: impl FnOnce(&mut Context<'_>, Option<ZSet<'_>>) -> R,
) -> Result<R, Stop> {
    let key = args.at(1);
    let (mut guard, p) = context.read(key)?;
    let zset = find(&mut guard, p, key, context.now_ms)?;
    let is_there = zset.is_some();
    let done = f(context, zset);
    context.count_read(&guard, p, key, is_there);
    Ok(done)
}

/// The options of `ZADD`.
#[derive(Debug, Clone, Copy, Default)]
struct Adding {
    only_absent: bool,
    only_present: bool,
    greater: bool,
    less: bool,
    changed: bool,
    increment: bool,
}

impl Adding {
    /// Reads options from the second argument on. Gives where scores and members begin.
    fn read(args: Args<'_>) -> Result<(Self, usize), Stop> {
        let mut adding = Self::default();
        let mut i = 2;
        while let Some(word) = args.get(i) {
            let flag = match word.to_ascii_uppercase().as_slice() {
                b"NX" => &mut adding.only_absent,
                b"XX" => &mut adding.only_present,
                b"GT" => &mut adding.greater,
                b"LT" => &mut adding.less,
                b"CH" => &mut adding.changed,
                b"INCR" => &mut adding.increment,
                _ => break,
            };
            *flag = true;
            i += 1;
        }
        let rest = args.len() - i;
        if rest == 0 || !rest.is_multiple_of(2) {
            return Err(SYNTAX.into());
        }
        if adding.only_absent && adding.only_present {
            return Err("ERR XX and NX options at the same time are not compatible".into());
        }
        if (adding.greater && (adding.only_absent || adding.less))
            || (adding.less && adding.only_absent)
        {
            return Err("ERR GT, LT, and/or NX options at the same time are not compatible".into());
        }
        if adding.increment && rest > 2 {
            return Err("ERR INCR option supports a single increment-element pair".into());
        }
        Ok((adding, i))
    }

    /// The score that a member gets; None: it stays as it is. NaN is no score.
    fn decide(self, given: f64, present: Option<f64>) -> Option<f64> {
        let Some(old) = present else {
            return (!self.only_present).then_some(given);
        };
        if self.only_absent {
            return None;
        }
        let score = if self.increment { old + given } else { given };
        let stays = (self.less && score >= old) || (self.greater && score <= old);
        (!stays).then_some(score)
    }
}

fn zadd(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (adding, from) = Adding::read(args)?;
    add(context, args, adding, from)
}

fn zincrby(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let adding = Adding {
        increment: true,
        ..Adding::default()
    };
    add(context, args, adding, 2)
}

fn add(context: &mut Context<'_>, args: Args<'_>, adding: Adding, from: usize) -> Result<(), Stop> {
    let places = (from..args.len()).step_by(2);
    let scores: Option<Vec<f64>> = places.clone().map(|i| double::parse(args.at(i))).collect();
    let scores = scores.ok_or(NOT_FLOAT)?;
    let members: Vec<&[u8]> = places.map(|i| args.at(i + 1)).collect();
    let key = args.at(1);
    let (mut guard, p) = context.write(key)?;
    let (mut result, mut not_a_number) = (None, false);
    let (added, changed) = guard.zset_update(p, key, &members, context.now_ms, |i, present| {
        let score = adding.decide(scores[i], present);
        not_a_number |= score.is_some_and(f64::is_nan);
        result = score.filter(|s| !s.is_nan());
        result
    })?;
    if not_a_number {
        return Err("ERR resulting score is not a number (NaN)".into());
    }
    if !adding.increment {
        let count = if adding.changed {
            added + changed
        } else {
            added
        };
        context.reply.integer(count as i64);
    } else {
        match result {
            Some(score) => context.reply.double(score),
            None => context.reply.null(),
        }
    }
    Ok(())
}

fn zrem(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let key = args.at(1);
    let members: Vec<&[u8]> = args.from(2).iter().collect();
    let (mut guard, p) = context.write(key)?;
    let removed = guard.zset_remove(p, key, &members, context.now_ms)?;
    context.reply.integer(removed as i64);
    Ok(())
}

fn zcard(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, zset| {
        context.reply.integer(zset.map_or(0, ZSet::len) as i64);
    })
}

fn zscore(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, zset| {
        match zset.and_then(|zset| zset.score(args.at(2))) {
            Some(score) => context.reply.double(score),
            None => context.reply.null(),
        }
    })
}

fn zmscore(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, zset| {
        context.reply.array(args.len() - 2);
        for member in args.from(2).iter() {
            match zset.and_then(|zset| zset.score(member)) {
                Some(score) => context.reply.double(score),
                None => context.reply.null(),
            }
        }
    })
}

fn rank(context: &mut Context<'_>, args: Args<'_>, reverse: bool) -> Result<(), Stop> {
    let with_score = match (args.get(3), args.len()) {
        (None, _) => false,
        (Some(word), 4) if word.eq_ignore_ascii_case(b"WITHSCORE") => true,
        _ => return Err(SYNTAX.into()),
    };
    read(context, args, |context, zset| {
        let found = zset.and_then(|zset| {
            let (rank, score) = zset.rank(args.at(2))?;
            Some((if reverse { zset.len() - 1 - rank } else { rank }, score))
        });
        let reply = &mut context.reply;
        match found {
            Some((rank, score)) if with_score => {
                reply.array(2);
                reply.integer(rank as i64);
                reply.double(score);
            }
            Some((rank, _)) => reply.integer(rank as i64),
            None if with_score => reply.null_array(),
            None => reply.null(),
        }
    })
}

fn zrank(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    rank(context, args, false)
}

fn zrevrank(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    rank(context, args, true)
}

fn zscan(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    collections::scan_cursor(args)?;
    read(context, args, |context, zset| {
        let Some(zset) = zset else {
            collections::reply_scan(&mut context.reply, 0, &[b""; 0]);
            return Ok(());
        };
        let scan = collections::scan(args)?;
        let mut found: Vec<Vec<u8>> = Vec::new();
        let next = zset.scan(scan.cursor, scan.count, |member, score| {
            if scan.wants(member) {
                found.push(member.to_vec());
                found.push(double::format(score).into_bytes());
            }
        });
        collections::reply_scan(&mut context.reply, next, &found);
        Ok(())
    })?
}

/// Which end members are popped from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extreme {
    Min,
    Max,
}

/// `MIN` or `MAX`.
pub fn extreme(word: &[u8]) -> Result<Extreme, Stop> {
    match word {
        word if word.eq_ignore_ascii_case(b"MIN") => Ok(Extreme::Min),
        word if word.eq_ignore_ascii_case(b"MAX") => Ok(Extreme::Max),
        _ => Err(SYNTAX.into()),
    }
}

pub type Scored = (Vec<u8>, f64);

/// Takes up to `count` members off an end.
pub fn pop_members(
    guard: &mut Guard<'_>,
    (p, key): (Point, &[u8]),
    extreme: Extreme,
    count: usize,
    now_ms: u64,
) -> Result<Vec<Scored>, Stop> {
    let Some(zset) = find(guard, p, key, now_ms)? else {
        return Ok(Vec::new());
    };
    let own = |(member, score): (&[u8], f64)| (member.to_vec(), score);
    let all = zset.len();
    let popped: Vec<Scored> = match extreme {
        Extreme::Min => zset.iter_from(0).take(count).map(own).collect(),
        Extreme::Max => zset
            .iter_back(all.saturating_sub(1))
            .take(count)
            .map(own)
            .collect(),
    };
    if popped.len() == all {
        guard.remove(p, key, now_ms);
    } else {
        let members: Vec<&[u8]> = popped.iter().map(|(member, _)| &member[..]).collect();
        guard.zset_remove(p, key, &members, now_ms)?;
    }
    Ok(popped)
}

/// Members with scores: in pairs, or one after the other.
pub fn reply_scored(reply: &mut Reply<'_>, scored: &[Scored], pairs: bool) {
    reply.array(scored.len() * if pairs { 1 } else { 2 });
    for (member, score) in scored {
        if pairs {
            reply.array(2);
        }
        reply.bulk(member);
        reply.double(*score);
    }
}

fn zpop(context: &mut Context<'_>, args: Args<'_>, extreme: Extreme) -> Result<(), Stop> {
    if args.len() > 3 {
        return Err(SYNTAX.into());
    }
    let count = args.get(2).map(positive).transpose()?;
    let key = args.at(1);
    let (mut guard, p) = context.write(key)?;
    let wanted = count.unwrap_or(1);
    let popped = pop_members(&mut guard, (p, key), extreme, wanted, context.now_ms)?;
    let pairs = context.reply.resp3 && count.is_some();
    reply_scored(&mut context.reply, &popped, pairs);
    Ok(())
}

fn zpopmin(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    zpop(context, args, Extreme::Min)
}

fn zpopmax(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    zpop(context, args, Extreme::Max)
}

fn zmpop(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (keys, extreme, count) = counted_pop(args, 1, extreme)?;
    let (mut guard, points) = context.lock_keys(keys.iter().copied(), Access::Write)?;
    for (&p, key) in points.iter().zip(keys) {
        let popped = pop_members(&mut guard, (p, key), extreme, count, context.now_ms)?;
        if !popped.is_empty() {
            context.reply.array(2);
            context.reply.bulk(key);
            reply_scored(&mut context.reply, &popped, true);
            return Ok(());
        }
    }
    context.reply.null_array();
    Ok(())
}

fn zrandmember(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let sample = Sample::read(args, "WITHSCORES")?;
    read(context, args, |context, zset| {
        let zset = zset.unwrap_or(ZSet(EMPTY));
        let reply = &mut context.reply;
        let Some(sample) = sample else {
            match collections::one_of(zset.len()).and_then(|i| zset.at(i)) {
                Some((member, _)) => reply.bulk(member),
                None => reply.null(),
            }
            return Ok(());
        };
        let chosen = sample.choose(zset.len());
        let pairs = sample.with_more && reply.resp3;
        reply.array(chosen.len() * if sample.with_more && !pairs { 2 } else { 1 });
        for (member, score) in chosen.filter_map(|i| zset.at(i)) {
            if pairs {
                reply.array(2);
            }
            reply.bulk(member);
            if sample.with_more {
                reply.double(score);
            }
            collections::bounded(reply)?;
        }
        Ok(())
    })?
}
