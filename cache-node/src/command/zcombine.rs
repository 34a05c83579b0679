//! Unions, intersections and differences of sorted sets; a set counts as one with scores of 1.

use std::borrow::Cow;
use std::collections::HashMap;

use super::access::Access;
use super::collections::EMPTY;
use super::errors::{SYNTAX, WRONG_TYPE};
use super::table::{Command, Flags, Group};
use super::zsets::{Scored, reply_scored};
use super::{Context, Stop};
use crate::protocol::number::parse_i64;
use crate::protocol::{Args, double};
use crate::store::collections::set::Set;
use crate::store::collections::zset::{self, ZSet};
use crate::store::{Guard, Kind, Point};

pub const COMMANDS: &[Command] = &[
    Command::new("zunionstore", -4, Group::SortedSet, zunionstore)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::MOVABLE_KEYS))
        .keys(1, 1, 1)
        .counted_keys(2)
        .doc("2.0.0", "O(N)+O(M log(M)) with N being the sum of the sizes of the input sorted sets, and M being the number of elements in the resulting sorted set.", "Add multiple sorted sets and store the resulting sorted set in a new key."),
    Command::new("zinterstore", -4, Group::SortedSet, zinterstore)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::MOVABLE_KEYS))
        .keys(1, 1, 1)
        .counted_keys(2)
        .doc("2.0.0", "O(N*K)+O(M*log(M)) worst case with N being the smallest input sorted set, K being the number of input sorted sets and M being the number of elements in the resulting sorted set.", "Intersect multiple sorted sets and store the resulting sorted set in a new key."),
    Command::new("zdiffstore", -4, Group::SortedSet, zdiffstore)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::MOVABLE_KEYS))
        .keys(1, 1, 1)
        .counted_keys(2)
        .doc("6.2.0", "O(L + (N-K)log(N)) worst case where L is the total number of elements in all the sets, N is the size of the first set, and K is the size of the result set.", "Subtract multiple sorted sets and store the resulting sorted set in a new key."),
    Command::new("zunion", -3, Group::SortedSet, zunion)
        .flags(Flags::READONLY.and(Flags::MOVABLE_KEYS))
        .counted_keys(1)
        .doc("6.2.0", "O(N)+O(M*log(M)) with N being the sum of the sizes of the input sorted sets, and M being the number of elements in the resulting sorted set.", "Add multiple sorted sets."),
    Command::new("zinter", -3, Group::SortedSet, zinter)
        .flags(Flags::READONLY.and(Flags::MOVABLE_KEYS))
        .counted_keys(1)
        .doc("6.2.0", "O(N*K)+O(M*log(M)) worst case with N being the smallest input sorted set, K being the number of input sorted sets and M being the number of elements in the resulting sorted set.", "Intersect multiple sorted sets."),
    Command::new("zintercard", -3, Group::SortedSet, zintercard)
        .flags(Flags::READONLY.and(Flags::MOVABLE_KEYS))
        .counted_keys(1)
        .doc("7.0.0", "O(N*K) worst case with N being the smallest input sorted set, K being the number of input sorted sets.", "Intersect multiple sorted sets and return the cardinality of the result."),
    Command::new("zdiff", -3, Group::SortedSet, zdiff)
        .flags(Flags::READONLY.and(Flags::MOVABLE_KEYS))
        .counted_keys(1)
        .doc("6.2.0", "O(L + (N-K)log(N)) worst case where L is the total number of elements in all the sets, N is the size of the first set, and K is the size of the result set.", "Subtract multiple sorted sets."),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Combine {
    Unite,
    Intersect,
    Subtract,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    /// Of two scores; infinities that cancel each other out are 0.
    fn of(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Sum => number(a + b),
            Self::Min => a.min(b),
            Self::Max => a.max(b),
        }
    }
}

fn number(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value }
}

/// A source: a sorted set, or a set.
#[derive(Clone, Copy)]
enum Source<'g> {
    Scored(ZSet<'g>),
    Plain(Set<'g>),
}

impl<'g> Source<'g> {
    fn len(self) -> usize {
        match self {
            Self::Scored(zset) => zset.len(),
            Self::Plain(set) => set.len(),
        }
    }

    fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            Self::Scored(zset) => zset.score(member),
            Self::Plain(set) => set.contains(member).then_some(1.0),
        }
    }

    fn members(self) -> Box<dyn Iterator<Item = (Cow<'g, [u8]>, f64)> + 'g> {
        match self {
            Self::Scored(zset) => Box::new(zset.iter_from(0).map(|(m, s)| (Cow::Borrowed(m), s))),
            Self::Plain(set) => Box::new(set.iter().map(|m| (m, 1.0))),
        }
    }
}

/// The options behind the keys.
#[derive(Debug)]
struct Options {
    weights: Vec<f64>,
    aggregate: Aggregate,
    with_scores: bool,
    /// 0: none.
    limit: usize,
}

/// Which command it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Reply,
    Store,
    Count,
}

impl Options {
    fn read(
        args: Args<'_>,
        from: usize,
        keys: usize,
        how: Combine,
        purpose: Purpose,
    ) -> Result<Self, Stop> {
        let mut options = Self {
            weights: vec![1.0; keys],
            aggregate: Aggregate::Sum,
            with_scores: false,
            limit: 0,
        };
        let combines = how != Combine::Subtract && purpose != Purpose::Count;
        let mut i = from;
        while let Some(word) = args.get(i) {
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            let left = args.len() - i;
            if combines && is(b"WEIGHTS") && left > keys {
                for (k, weight) in options.weights.iter_mut().enumerate() {
                    let text = args.at(i + 1 + k);
                    *weight = double::parse(text).ok_or("ERR weight value is not a float")?;
                }
                i += keys;
            } else if combines && is(b"AGGREGATE") && left > 1 {
                options.aggregate = match args.at(i + 1).to_ascii_uppercase().as_slice() {
                    b"SUM" => Aggregate::Sum,
                    b"MIN" => Aggregate::Min,
                    b"MAX" => Aggregate::Max,
                    _ => return Err(SYNTAX.into()),
                };
                i += 1;
            } else if purpose == Purpose::Reply && is(b"WITHSCORES") {
                options.with_scores = true;
            } else if purpose == Purpose::Count && is(b"LIMIT") && left > 1 {
                let limit = parse_i64(args.at(i + 1)).and_then(|n| usize::try_from(n).ok());
                options.limit = limit.ok_or("ERR LIMIT can't be negative")?;
                i += 1;
            } else {
                return Err(SYNTAX.into());
            }
            i += 1;
        }
        Ok(options)
    }
}

/// The keys behind the count at `at`.
fn keys<'a>(context: &Context<'_>, args: Args<'a>, at: usize) -> Result<Vec<&'a [u8]>, Stop> {
    let count = parse_i64(args.at(at)).ok_or(super::errors::NOT_INTEGER)?;
    let count = usize::try_from(count)
        .ok()
        .filter(|&n| n > 0)
        .ok_or_else(|| {
            format!(
                "ERR at least 1 input key is needed for '{}' command",
                context.name
            )
        })?;
    if count > args.len() - at - 1 {
        return Err(SYNTAX.into());
    }
    Ok((at + 1..=at + count).map(|i| args.at(i)).collect())
}

fn sources<'g>(
    guard: &'g mut Guard<'_>,
    keys: &[(Point, &[u8])],
    now_ms: u64,
) -> Result<Vec<Source<'g>>, Stop> {
    for &(p, key) in keys {
        // What has expired goes.
        guard.get(p, key, now_ms);
    }
    let guard = &*guard;
    keys.iter()
        .map(|&(p, key)| match guard.peek(p, key, now_ms) {
            None => Ok(Source::Scored(ZSet(EMPTY))),
            Some(item) if item.kind() == Kind::ZSet => Ok(Source::Scored(ZSet(item.view()))),
            Some(item) if item.kind() == Kind::Set => Ok(Source::Plain(Set(item.view()))),
            Some(_) => Err(WRONG_TYPE.into()),
        })
        .collect()
}

fn combine(sources: &[Source<'_>], how: Combine, options: &Options) -> Vec<Scored> {
    // The smallest first, as in Redis: sums of infinities depend on the order.
    let mut order: Vec<(Source<'_>, f64)> = sources
        .iter()
        .copied()
        .zip(options.weights.iter().copied())
        .collect();
    if how != Combine::Subtract {
        order.sort_by_key(|(source, _)| source.len());
    }
    let Some(((first, weight), rest)) = order.split_first() else {
        return Vec::new();
    };
    // Zeros are one.
    let weighted = |score: f64, weight: f64| number(score * weight) + 0.0;
    match how {
        Combine::Unite => {
            let mut all: HashMap<Cow<'_, [u8]>, f64> = HashMap::new();
            for (source, weight) in &order {
                for (member, score) in source.members() {
                    let score = weighted(score, *weight);
                    all.entry(member)
                        .and_modify(|present| *present = options.aggregate.of(*present, score))
                        .or_insert(score);
                }
            }
            all.into_iter().map(|(m, s)| (m.into_owned(), s)).collect()
        }
        Combine::Intersect => {
            let limit = if options.limit == 0 {
                usize::MAX
            } else {
                options.limit
            };
            let common = first.members().filter_map(|(member, score)| {
                let mut result = weighted(score, *weight);
                for (source, weight) in rest {
                    let score = weighted(source.score(&member)?, *weight);
                    result = options.aggregate.of(result, score);
                }
                Some((member.into_owned(), result))
            });
            common.take(limit).collect()
        }
        Combine::Subtract => first
            .members()
            .filter(|(member, _)| {
                rest.iter()
                    .all(|(source, _)| source.score(member).is_none())
            })
            .map(|(member, score)| (member.into_owned(), score))
            .collect(),
    }
}

fn in_order(members: &mut [Scored]) {
    members.sort_by(|(a, x), (b, y)| x.total_cmp(y).then_with(|| a.cmp(b)));
}

fn reply(context: &mut Context<'_>, args: Args<'_>, how: Combine) -> Result<(), Stop> {
    let keys = keys(context, args, 1)?;
    let (mut guard, points) = context.lock_keys(keys.iter().copied(), Access::Read)?;
    let from = 2 + keys.len();
    let keys: Vec<_> = points.into_iter().zip(keys).collect();
    let sources = sources(&mut guard, &keys, context.now_ms)?;
    let options = Options::read(args, from, keys.len(), how, Purpose::Reply)?;
    let mut members = combine(&sources, how, &options);
    in_order(&mut members);
    let reply = &mut context.reply;
    if options.with_scores {
        let pairs = reply.resp3;
        reply_scored(reply, &members, pairs);
    } else {
        reply.array(members.len());
        members.iter().for_each(|(member, _)| reply.bulk(member));
    }
    Ok(())
}

fn store(context: &mut Context<'_>, args: Args<'_>, how: Combine) -> Result<(), Stop> {
    let keys = keys(context, args, 2)?;
    let all = std::iter::once(args.at(1)).chain(keys.iter().copied());
    let (mut guard, points) = context.lock_keys(all, Access::Write)?;
    let from = 3 + keys.len();
    let keys: Vec<_> = points[1..].iter().copied().zip(keys).collect();
    let now_ms = context.now_ms;
    let members = {
        let sources = sources(&mut guard, &keys, now_ms)?;
        let options = Options::read(args, from, keys.len(), how, Purpose::Store)?;
        combine(&sources, how, &options)
    };
    let bytes = members.iter().map(|(m, _)| 2 * m.len() + 64).sum();
    let (owned, ()) = guard.build(bytes, |owned, tools| {
        for (member, score) in &members {
            zset::put(owned, member, *score, tools);
        }
    })?;
    let expires_at = guard.default_expiry(points[0], args.at(1), now_ms);
    guard.put_collection(points[0], args.at(1), Kind::ZSet, owned, expires_at, now_ms)?;
    context.reply.integer(members.len() as i64);
    Ok(())
}

fn zunion(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    reply(context, args, Combine::Unite)
}

fn zinter(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    reply(context, args, Combine::Intersect)
}

fn zdiff(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    reply(context, args, Combine::Subtract)
}

fn zunionstore(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    store(context, args, Combine::Unite)
}

fn zinterstore(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    store(context, args, Combine::Intersect)
}

fn zdiffstore(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    store(context, args, Combine::Subtract)
}

fn zintercard(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let keys = keys(context, args, 1)?;
    let (mut guard, points) = context.lock_keys(keys.iter().copied(), Access::Read)?;
    let from = 2 + keys.len();
    let keys: Vec<_> = points.into_iter().zip(keys).collect();
    let sources = sources(&mut guard, &keys, context.now_ms)?;
    let how = Combine::Intersect;
    let options = Options::read(args, from, keys.len(), how, Purpose::Count)?;
    let members = combine(&sources, how, &options);
    context.reply.integer(members.len() as i64);
    Ok(())
}
