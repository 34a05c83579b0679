//! Ranges of sorted sets: by rank, by score, by the order of members.

use super::access::Access;
use super::collections::{EMPTY, slice};
use super::errors::{NOT_INTEGER, SYNTAX};
use super::table::{Command, Flags, Group};
use super::zsets::{Scored, find, read, reply_scored};
use super::{Context, Stop};
use crate::protocol::number::parse_i64;
use crate::protocol::{Args, double};
use crate::store::Kind;
use crate::store::collections::zset::{self, ZSet};

pub const COMMANDS: &[Command] = &[
    Command::new("zrange", -4, Group::SortedSet, zrange)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("1.2.0", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements returned.", "Return a range of members in a sorted set."),
    Command::new("zrangestore", -5, Group::SortedSet, zrangestore)
        .flags(Flags::WRITE.and(Flags::DENYOOM))
        .keys(1, 2, 1)
        .doc("6.2.0", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements stored into the destination key.", "Store a range of members from sorted set into another key."),
    Command::new("zrangebyscore", -4, Group::SortedSet, zrangebyscore)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("1.0.5", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements being returned. If M is constant (e.g. always asking for the first 10 elements with LIMIT), you can consider it O(log(N)).", "Return a range of members in a sorted set, by score."),
    Command::new("zrevrangebyscore", -4, Group::SortedSet, zrevrangebyscore)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("2.2.0", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements being returned. If M is constant (e.g. always asking for the first 10 elements with LIMIT), you can consider it O(log(N)).", "Return a range of members in a sorted set, by score, with scores ordered from high to low."),
    Command::new("zrangebylex", -4, Group::SortedSet, zrangebylex)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("2.8.9", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements being returned. If M is constant (e.g. always asking for the first 10 elements with LIMIT), you can consider it O(log(N)).", "Return a range of members in a sorted set, by lexicographical range."),
    Command::new("zrevrangebylex", -4, Group::SortedSet, zrevrangebylex)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("2.8.9", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements being returned. If M is constant (e.g. always asking for the first 10 elements with LIMIT), you can consider it O(log(N)).", "Return a range of members in a sorted set, by lexicographical range, ordered from higher to lower strings."),
    Command::new("zrevrange", -4, Group::SortedSet, zrevrange)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("1.2.0", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements returned.", "Return a range of members in a sorted set, by index, with scores ordered from high to low."),
    Command::new("zcount", 4, Group::SortedSet, zcount)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.0.0", "O(log(N)) with N being the number of elements in the sorted set.", "Count the members in a sorted set with scores within the given values."),
    Command::new("zlexcount", 4, Group::SortedSet, zlexcount)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.8.9", "O(log(N)) with N being the number of elements in the sorted set.", "Count the number of members in a sorted set between a given lexicographical range."),
    Command::new("zremrangebyscore", 4, Group::SortedSet, zremrangebyscore)
        .flags(Flags::WRITE)
        .keys(1, 1, 1)
        .doc("1.2.0", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements removed by the operation.", "Remove all members in a sorted set within the given scores."),
    Command::new("zremrangebyrank", 4, Group::SortedSet, zremrangebyrank)
        .flags(Flags::WRITE)
        .keys(1, 1, 1)
        .doc("2.0.0", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements removed by the operation.", "Remove all members in a sorted set within the given indexes."),
    Command::new("zremrangebylex", 4, Group::SortedSet, zremrangebylex)
        .flags(Flags::WRITE)
        .keys(1, 1, 1)
        .doc("2.8.9", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements removed by the operation.", "Remove all members in a sorted set between the given lexicographical range."),
];

/// What a range is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Lex,
}

/// A bound of members.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lex<'a> {
    Lowest,
    Highest,
    At(&'a [u8], bool),
}

/// A range as it is given; the flag of a bound says that it is exclusive.
#[derive(Debug, Clone, Copy)]
enum Range<'a> {
    Rank(i64, i64),
    Score((f64, bool), (f64, bool)),
    Lex(Lex<'a>, Lex<'a>),
}

fn score_bound(text: &[u8]) -> Result<(f64, bool), Stop> {
    let (number, exclusive) = match text.strip_prefix(b"(") {
        Some(number) => (number, true),
        None => (text, false),
    };
    let number = double::parse_bound(number).ok_or("ERR min or max is not a float")?;
    Ok((number, exclusive))
}

fn lex_bound(text: &[u8]) -> Result<Lex<'_>, Stop> {
    match text {
        b"-" => Ok(Lex::Lowest),
        b"+" => Ok(Lex::Highest),
        [b'(', member @ ..] => Ok(Lex::At(member, true)),
        [b'[', member @ ..] => Ok(Lex::At(member, false)),
        _ => Err("ERR min or max not valid string range item".into()),
    }
}

impl<'a> Range<'a> {
    fn read(by: By, min: &'a [u8], max: &'a [u8]) -> Result<Self, Stop> {
        Ok(match by {
            By::Rank => {
                let number = |text| parse_i64(text).ok_or(NOT_INTEGER);
                Self::Rank(number(min)?, number(max)?)
            }
            By::Score => Self::Score(score_bound(min)?, score_bound(max)?),
            By::Lex => Self::Lex(lex_bound(min)?, lex_bound(max)?),
        })
    }

    /// The indices of its members. `reverse`: ranks count from the highest.
    fn indices(self, zset: ZSet<'_>, reverse: bool) -> (usize, usize) {
        let length = zset.len();
        let (from, to) = match self {
            Self::Rank(start, end) => {
                let (from, to) = slice(length, start, end).unwrap_or((0, 0));
                match reverse && from < to {
                    true => (length - to, length - from),
                    false => (from, to),
                }
            }
            Self::Score((min, above), (max, below)) => (
                zset.partition_point(|_, s| if above { s <= min } else { s < min }),
                zset.partition_point(|_, s| if below { s < max } else { s <= max }),
            ),
            Self::Lex(min, max) => (
                zset.partition_point(|member, _| match min {
                    Lex::Lowest => false,
                    Lex::Highest => true,
                    Lex::At(bound, true) => member <= bound,
                    Lex::At(bound, false) => member < bound,
                }),
                zset.partition_point(|member, _| match max {
                    Lex::Lowest => false,
                    Lex::Highest => true,
                    Lex::At(bound, true) => member < bound,
                    Lex::At(bound, false) => member <= bound,
                }),
            ),
        };
        (from, to.max(from))
    }
}

/// A range with what `ZRANGE` and its older kin say about it.
#[derive(Debug)]
struct Query<'a> {
    range: Range<'a>,
    reverse: bool,
    offset: i64,
    /// Negative: all.
    limit: i64,
    with_scores: bool,
}

impl<'a> Query<'a> {
    /// Reads bounds from the argument at `at`, and options behind them. `by` and `reverse` are None where an option says it.
    fn read(
        args: Args<'a>,
        at: usize,
        by: Option<By>,
        reverse: Option<bool>,
        stores: bool,
    ) -> Result<Self, Stop> {
        let (fixed, mut chosen, mut reversed) = (by.is_some(), by, reverse);
        let (mut offset, mut limit, mut with_scores) = (0, -1, false);
        let mut i = at + 2;
        while let Some(word) = args.get(i) {
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            if !stores && is(b"WITHSCORES") {
                with_scores = true;
            } else if is(b"LIMIT") && args.len() - i > 2 {
                offset = parse_i64(args.at(i + 1)).ok_or(NOT_INTEGER)?;
                limit = parse_i64(args.at(i + 2)).ok_or(NOT_INTEGER)?;
                i += 2;
            } else if reversed.is_none() && is(b"REV") {
                reversed = Some(true);
            } else if !fixed && chosen.is_none() && is(b"BYLEX") {
                chosen = Some(By::Lex);
            } else if !fixed && chosen.is_none() && is(b"BYSCORE") {
                chosen = Some(By::Score);
            } else {
                return Err(SYNTAX.into());
            }
            i += 1;
        }
        let (by, reverse) = (chosen.unwrap_or(By::Rank), reversed.unwrap_or(false));
        if limit != -1 && by == By::Rank {
            return Err("ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX".into());
        }
        if with_scores && by == By::Lex {
            return Err(
                "ERR syntax error, WITHSCORES not supported in combination with BYLEX".into(),
            );
        }
        let (mut min, mut max) = (args.at(at), args.at(at + 1));
        if reverse && by != By::Rank {
            (min, max) = (max, min);
        }
        Ok(Self {
            range: Range::read(by, min, max)?,
            reverse,
            offset,
            limit,
            with_scores,
        })
    }

    /// The members in the order that was asked for.
    fn members(&self, zset: ZSet<'_>) -> Vec<Scored> {
        let (mut from, mut to) = self.range.indices(zset, self.reverse);
        let Ok(offset) = usize::try_from(self.offset) else {
            return Vec::new();
        };
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let own = |(member, score): (&[u8], f64)| (member.to_vec(), score);
        if self.reverse {
            to = to.saturating_sub(offset).max(from);
            let count = (to - from).min(limit);
            zset.iter_back(to.saturating_sub(1))
                .take(count)
                .map(own)
                .collect()
        } else {
            from = from.saturating_add(offset).min(to);
            let count = (to - from).min(limit);
            zset.iter_from(from).take(count).map(own).collect()
        }
    }
}

fn range(
    context: &mut Context<'_>,
    args: Args<'_>,
    by: Option<By>,
    reverse: Option<bool>,
) -> Result<(), Stop> {
    let query = Query::read(args, 2, by, reverse, false)?;
    read(context, args, |context, zset| {
        let members = query.members(zset.unwrap_or(ZSet(EMPTY)));
        let reply = &mut context.reply;
        if query.with_scores {
            let pairs = reply.resp3;
            reply_scored(reply, &members, pairs);
        } else {
            reply.array(members.len());
            members.iter().for_each(|(member, _)| reply.bulk(member));
        }
    })
}

fn zrange(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    range(context, args, None, None)
}

fn zrevrange(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    range(context, args, Some(By::Rank), Some(true))
}

fn zrangebyscore(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    range(context, args, Some(By::Score), Some(false))
}

fn zrevrangebyscore(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    range(context, args, Some(By::Score), Some(true))
}

fn zrangebylex(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    range(context, args, Some(By::Lex), Some(false))
}

fn zrevrangebylex(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    range(context, args, Some(By::Lex), Some(true))
}

fn zrangestore(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let query = Query::read(args, 3, None, None, true)?;
    let (to, from) = (args.at(1), args.at(2));
    let (mut guard, points) = context.lock_keys([to, from].into_iter(), Access::Write)?;
    let now_ms = context.now_ms;
    let zset = find(&mut guard, points[1], from, now_ms)?;
    let members = query.members(zset.unwrap_or(ZSet(EMPTY)));
    let bytes = members.iter().map(|(m, _)| 2 * m.len() + 64).sum();
    let (owned, ()) = guard.build(bytes, |owned, tools| {
        for (member, score) in &members {
            zset::put(owned, member, *score, tools);
        }
    })?;
    let expires_at = guard.default_expiry(points[0], to, now_ms);
    guard.put_collection(points[0], to, Kind::ZSet, owned, expires_at, now_ms)?;
    context.reply.integer(members.len() as i64);
    Ok(())
}

fn count(context: &mut Context<'_>, args: Args<'_>, by: By) -> Result<(), Stop> {
    let range = Range::read(by, args.at(2), args.at(3))?;
    read(context, args, |context, zset| {
        let (from, to) = range.indices(zset.unwrap_or(ZSet(EMPTY)), false);
        context.reply.integer((to - from) as i64);
    })
}

fn zcount(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    count(context, args, By::Score)
}

fn zlexcount(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    count(context, args, By::Lex)
}

fn remove_range(context: &mut Context<'_>, args: Args<'_>, by: By) -> Result<(), Stop> {
    let range = Range::read(by, args.at(2), args.at(3))?;
    let key = args.at(1);
    let (mut guard, p) = context.write(key)?;
    let now_ms = context.now_ms;
    let zset = find(&mut guard, p, key, now_ms)?.unwrap_or(ZSet(EMPTY));
    let (from, to) = range.indices(zset, false);
    let members: Vec<Vec<u8>> = zset
        .iter_from(from)
        .take(to - from)
        .map(|(m, _)| m.to_vec())
        .collect();
    if !members.is_empty() && members.len() == zset.len() {
        guard.remove(p, key, now_ms);
    } else {
        guard.zset_remove(p, key, &members, now_ms)?;
    }
    context.reply.integer(members.len() as i64);
    Ok(())
}

fn zremrangebyscore(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    remove_range(context, args, By::Score)
}

fn zremrangebyrank(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    remove_range(context, args, By::Rank)
}

fn zremrangebylex(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    remove_range(context, args, By::Lex)
}
