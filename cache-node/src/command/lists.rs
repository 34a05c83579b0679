//! Lists.

use super::access::Access;
use super::collections::{EMPTY, in_range, positive, slice};
use super::errors::{NO_SUCH_KEY, NOT_INTEGER, SYNTAX, wrong_arity};
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::protocol::number::parse_i64;
use crate::protocol::{Args, Reply};
use crate::store::collections::list::List;
use crate::store::{End, Guard, Kind, Point};

pub const COMMANDS: &[Command] = &[
    Command::new("rpush", -3, Group::List, rpush)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.0.0", "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.", "Append one or multiple elements to a list."),
    Command::new("lpush", -3, Group::List, lpush)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.0.0", "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.", "Prepend one or multiple elements to a list."),
    Command::new("rpushx", -3, Group::List, rpushx)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.2.0", "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.", "Append an element to a list, only if the list exists."),
    Command::new("lpushx", -3, Group::List, lpushx)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.2.0", "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.", "Prepend an element to a list, only if the list exists."),
    Command::new("linsert", 5, Group::List, linsert)
        .flags(Flags::WRITE.and(Flags::DENYOOM))
        .keys(1, 1, 1)
        .doc("2.2.0", "O(N) where N is the number of elements to traverse before seeing the value pivot. This means that inserting somewhere on the left end on the list (head) can be considered O(1) and inserting somewhere on the right end (tail) is O(N).", "Insert an element before or after another element in a list."),
    Command::new("rpop", -2, Group::List, rpop)
        .flags(Flags::WRITE.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.0.0", "O(N) where N is the number of elements returned", "Remove and get the last elements in a list."),
    Command::new("lpop", -2, Group::List, lpop)
        .flags(Flags::WRITE.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.0.0", "O(N) where N is the number of elements returned", "Remove and get the first elements in a list."),
    Command::new("lmpop", -4, Group::List, lmpop)
        .flags(Flags::WRITE.and(Flags::MOVABLE_KEYS))
        .counted_keys(1)
        .doc("7.0.0", "O(N+M) where N is the number of provided keys and M is the number of elements returned.", "Pop elements from a list."),
    Command::new("llen", 2, Group::List, llen)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("1.0.0", "O(1)", "Get the length of a list."),
    Command::new("lindex", 3, Group::List, lindex)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("1.0.0", "O(N) where N is the number of elements to traverse to get to the element at index. This makes asking for the first or the last element of the list O(1).", "Get an element from a list by its index."),
    Command::new("lset", 4, Group::List, lset)
        .flags(Flags::WRITE.and(Flags::DENYOOM))
        .keys(1, 1, 1)
        .doc("1.0.0", "O(N) where N is the length of the list. Setting either the first or the last element of the list is O(1).", "Set the value of an element in a list by its index."),
    Command::new("lrange", 4, Group::List, lrange)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("1.0.0", "O(S+N) where S is the distance of start offset from HEAD for small lists, from nearest end (HEAD or TAIL) for large lists; and N is the number of elements in the specified range.", "Get a range of elements from a list."),
    Command::new("ltrim", 4, Group::List, ltrim)
        .flags(Flags::WRITE)
        .keys(1, 1, 1)
        .doc("1.0.0", "O(N) where N is the number of elements to be removed by the operation.", "Trim a list to the specified range."),
    Command::new("lpos", -3, Group::List, lpos)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("6.0.6", "O(N) where N is the number of elements in the list, for the average case. When searching for elements near the head or the tail of the list, or when the MAXLEN option is provided, the command may run in constant time.", "Return the index of matching elements on a list."),
    Command::new("lrem", 4, Group::List, lrem)
        .flags(Flags::WRITE)
        .keys(1, 1, 1)
        .doc("1.0.0", "O(N+M) where N is the length of the list and M is the number of elements removed.", "Remove elements from a list."),
    Command::new("rpoplpush", 3, Group::List, rpoplpush)
        .flags(Flags::WRITE.and(Flags::DENYOOM))
        .keys(1, 2, 1)
        .doc("1.2.0", "O(1)", "Remove the last element in a list, prepend it to another list and return it."),
    Command::new("lmove", 5, Group::List, lmove)
        .flags(Flags::WRITE.and(Flags::DENYOOM))
        .keys(1, 2, 1)
        .doc("6.2.0", "O(1)", "Pop an element from a list, push it to another list and return it."),
];

fn find<'g>(
    guard: &'g mut Guard<'_>,
    p: Point,
    key: &[u8],
    now_ms: u64,
) -> Result<Option<List<'g>>, Stop> {
    let item = guard.get_kind(p, key, Kind::List, now_ms)?;
    Ok(item.map(|item| List(item.view())))
}

/// Reads the list of the first argument.
fn read<R>(
    context: &mut Context<'_>,
    args: Args<'_>,
    f: impl FnOnce(&mut Context<'_>, Option<List<'_>>) -> R,
) -> Result<R, Stop> {
    let key = args.at(1);
    let (mut guard, p) = context.read(key)?;
    let list = find(&mut guard, p, key, context.now_ms)?;
    let is_there = list.is_some();
    let done = f(context, list);
    context.count_read(&guard, p, key, is_there);
    Ok(done)
}

/// An index as clients give it, negative from the end.
fn index(length: usize, index: i64) -> Option<usize> {
    let index = match index {
        0.. => usize::try_from(index).ok()?,
        _ => length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?,
    };
    (index < length).then_some(index)
}

fn push(
    context: &mut Context<'_>,
    args: Args<'_>,
    end: End,
    only_present: bool,
) -> Result<(), Stop> {
    let key = args.at(1);
    let elements: Vec<&[u8]> = args.from(2).iter().collect();
    let (mut guard, p) = context.write(key)?;
    if only_present && find(&mut guard, p, key, context.now_ms)?.is_none() {
        context.reply.integer(0);
        return Ok(());
    }
    let length = guard.list_push(p, key, end, &elements, context.now_ms)?;
    context.reply.integer(length as i64);
    Ok(())
}

fn rpush(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    push(context, args, End::Back, false)
}

fn lpush(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    push(context, args, End::Front, false)
}

fn rpushx(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    push(context, args, End::Back, true)
}

fn lpushx(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    push(context, args, End::Front, true)
}

fn linsert(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let before = match args.at(2) {
        word if word.eq_ignore_ascii_case(b"BEFORE") => true,
        word if word.eq_ignore_ascii_case(b"AFTER") => false,
        _ => return Err(SYNTAX.into()),
    };
    let key = args.at(1);
    let (mut guard, p) = context.write(key)?;
    let now_ms = context.now_ms;
    if find(&mut guard, p, key, now_ms)?.is_none() {
        context.reply.integer(0);
        return Ok(());
    }
    let length = guard.list_insert(p, key, (before, args.at(3)), args.at(4), now_ms)?;
    context.reply.integer(length.map_or(-1, |n| n as i64));
    Ok(())
}

fn pop(context: &mut Context<'_>, args: Args<'_>, end: End) -> Result<(), Stop> {
    if args.len() > 3 {
        return Err(wrong_arity(context.name));
    }
    let count = args.get(2).map(positive).transpose()?;
    let key = args.at(1);
    let (mut guard, p) = context.write(key)?;
    let now_ms = context.now_ms;
    if find(&mut guard, p, key, now_ms)?.is_none() {
        match count {
            Some(_) => context.reply.null_array(),
            None => context.reply.null(),
        }
        return Ok(());
    }
    let popped = match count {
        Some(0) => Vec::new(),
        count => guard.list_pop(p, key, end, count.unwrap_or(1), now_ms)?,
    };
    match count {
        Some(_) => reply_elements(&mut context.reply, &popped),
        None => context.reply.bulk(&popped[0]),
    }
    Ok(())
}

pub fn reply_elements(reply: &mut Reply<'_>, elements: &[Vec<u8>]) {
    reply.array(elements.len());
    elements.iter().for_each(|element| reply.bulk(element));
}

fn rpop(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    pop(context, args, End::Back)
}

fn lpop(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    pop(context, args, End::Front)
}

/// `LEFT` or `RIGHT`.
pub fn end(word: &[u8]) -> Result<End, Stop> {
    match word {
        word if word.eq_ignore_ascii_case(b"LEFT") => Ok(End::Front),
        word if word.eq_ignore_ascii_case(b"RIGHT") => Ok(End::Back),
        _ => Err(SYNTAX.into()),
    }
}

/// The keys, what the word says, and the count of `LMPOP` and its kind.
pub type CountedPop<'a, T> = (Vec<&'a [u8]>, T, usize);

/// Reads `numkeys key … word [COUNT count]` from the argument at `at` on.
pub fn counted_pop<T>(
    args: Args<'_>,
    at: usize,
    word: impl Fn(&[u8]) -> Result<T, Stop>,
) -> Result<CountedPop<'_, T>, Stop> {
    let keys = parse_i64(args.at(at)).and_then(|n| usize::try_from(n).ok());
    let keys = keys
        .filter(|&n| n > 0)
        .ok_or("ERR numkeys should be greater than 0")?;
    let word_at = at.saturating_add(keys).saturating_add(1);
    let word = word(args.get(word_at).ok_or(SYNTAX)?)?;
    let mut count = None;
    let mut i = word_at + 1;
    while let Some(option) = args.get(i) {
        let value = args
            .get(i + 1)
            .filter(|_| option.eq_ignore_ascii_case(b"COUNT"));
        if count.is_some() || value.is_none() {
            return Err(SYNTAX.into());
        }
        let wanted = value
            .and_then(parse_i64)
            .and_then(|n| usize::try_from(n).ok());
        let wanted = wanted.filter(|&n| n > 0);
        count = Some(wanted.ok_or("ERR count should be greater than 0")?);
        i += 2;
    }
    let keys = (at + 1..word_at).map(|i| args.at(i)).collect();
    Ok((keys, word, count.unwrap_or(1)))
}

fn lmpop(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (keys, end, count) = counted_pop(args, 1, end)?;
    let (mut guard, points) = context.lock_keys(keys.iter().copied(), Access::Write)?;
    for (&p, key) in points.iter().zip(keys) {
        if find(&mut guard, p, key, context.now_ms)?.is_some() {
            let popped = guard.list_pop(p, key, end, count, context.now_ms)?;
            context.reply.array(2);
            context.reply.bulk(key);
            reply_elements(&mut context.reply, &popped);
            return Ok(());
        }
    }
    context.reply.null_array();
    Ok(())
}

fn llen(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, list| {
        let length = list.map_or(0, List::len);
        context.reply.integer(length as i64);
    })
}

fn lindex(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    read(context, args, |context, list| {
        let Some(list) = list else {
            context.reply.null();
            return Ok(());
        };
        let at = parse_i64(args.at(2)).ok_or(NOT_INTEGER)?;
        match index(list.len(), at).and_then(|i| list.get(i)) {
            Some(element) => context.reply.bulk(element),
            None => context.reply.null(),
        }
        Ok(())
    })?
}

fn lset(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let key = args.at(1);
    let (mut guard, p) = context.write(key)?;
    let now_ms = context.now_ms;
    let length = find(&mut guard, p, key, now_ms)?.ok_or(NO_SUCH_KEY)?.len();
    let at = parse_i64(args.at(2)).ok_or(NOT_INTEGER)?;
    let at = index(length, at).ok_or("ERR index out of range")?;
    guard.list_set(p, key, at, args.at(3), now_ms)?;
    context.reply.ok();
    Ok(())
}

fn lrange(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let start = parse_i64(args.at(2)).ok_or(NOT_INTEGER)?;
    let end = parse_i64(args.at(3)).ok_or(NOT_INTEGER)?;
    read(context, args, |context, list| {
        let list = list.unwrap_or(List(EMPTY));
        let (from, to) = slice(list.len(), start, end).unwrap_or((0, 0));
        context.reply.array(to - from);
        for element in list.iter_from(from).take(to - from) {
            context.reply.bulk(element);
        }
    })
}

fn ltrim(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let start = parse_i64(args.at(2)).ok_or(NOT_INTEGER)?;
    let end = parse_i64(args.at(3)).ok_or(NOT_INTEGER)?;
    let key = args.at(1);
    let (mut guard, p) = context.write(key)?;
    let now_ms = context.now_ms;
    if let Some(list) = find(&mut guard, p, key, now_ms)? {
        let range = slice(list.len(), start, end).unwrap_or((0, 0));
        guard.list_trim(p, key, range, now_ms)?;
    }
    context.reply.ok();
    Ok(())
}

/// The options of `LPOS`.
#[derive(Debug, Clone, Copy)]
struct Search {
    rank: i64,
    /// None: the first match, not as an array.
    count: Option<usize>,
    /// Elements that are compared at most; 0: all.
    most: usize,
}

impl Search {
    fn read(args: Args<'_>) -> Result<Self, Stop> {
        let mut search = Self {
            rank: 1,
            count: None,
            most: 0,
        };
        let mut i = 3;
        while let Some(word) = args.get(i) {
            let value = args.get(i + 1).ok_or(SYNTAX)?;
            let natural = |error: &'static str| -> Result<usize, Stop> {
                let n = parse_i64(value).and_then(|n| usize::try_from(n).ok());
                Ok(n.ok_or(error)?)
            };
            if word.eq_ignore_ascii_case(b"RANK") {
                search.rank = in_range(value, -i64::MAX, i64::MAX)?;
                if search.rank == 0 {
                    return Err("ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start from the end of the list".into());
                }
            } else if word.eq_ignore_ascii_case(b"COUNT") {
                search.count = Some(natural("ERR COUNT can't be negative")?);
            } else if word.eq_ignore_ascii_case(b"MAXLEN") {
                search.most = natural("ERR MAXLEN can't be negative")?;
            } else {
                return Err(SYNTAX.into());
            }
            i += 2;
        }
        Ok(search)
    }

    fn find(self, list: List<'_>, element: &[u8]) -> Vec<usize> {
        let length = list.len();
        let elements: Box<dyn Iterator<Item = (usize, &[u8])>> = if self.rank < 0 {
            let last = length.saturating_sub(1);
            Box::new(
                list.iter_back(last)
                    .enumerate()
                    .map(move |(i, e)| (last - i, e)),
            )
        } else {
            Box::new(list.iter_from(0).enumerate())
        };
        let most = if self.most == 0 { length } else { self.most };
        let count = match self.count {
            None => 1,
            Some(0) => length,
            Some(count) => count,
        };
        elements
            .take(most)
            .filter(|(_, e)| *e == element)
            .map(|(i, _)| i)
            .skip((self.rank.unsigned_abs() - 1) as usize)
            .take(count)
            .collect()
    }
}

fn lpos(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let search = Search::read(args)?;
    read(context, args, |context, list| {
        let found = search.find(list.unwrap_or(List(EMPTY)), args.at(2));
        match (search.count, found.first()) {
            (Some(_), _) => {
                context.reply.array(found.len());
                found.iter().for_each(|&i| context.reply.integer(i as i64));
            }
            (None, Some(&i)) => context.reply.integer(i as i64),
            (None, None) => context.reply.null(),
        }
    })
}

fn lrem(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let count = in_range(args.at(2), -i64::MAX, i64::MAX)?;
    let key = args.at(1);
    let (mut guard, p) = context.write(key)?;
    let removed = guard.list_remove(p, key, count, args.at(3), context.now_ms)?;
    context.reply.integer(removed as i64);
    Ok(())
}

/// Moves an element from an end of a list to an end of another, or of the same; both are locked. None: there is none to move.
pub fn shift(
    guard: &mut Guard<'_>,
    (from, from_key, from_end): (Point, &[u8], End),
    (to, to_key, to_end): (Point, &[u8], End),
    now_ms: u64,
) -> Result<Option<Vec<u8>>, Stop> {
    let Some(list) = find(guard, from, from_key, now_ms)? else {
        return Ok(None);
    };
    let at = match from_end {
        End::Front => 0,
        End::Back => list.len() - 1,
    };
    let element = list.get(at).unwrap_or_default().to_vec();
    find(guard, to, to_key, now_ms)?;
    // Within a list, from an end to the same end nothing moves. Else what may lack memory comes first.
    if from_key == to_key && from_end == to_end {
        return Ok(Some(element));
    }
    guard.list_push(to, to_key, to_end, &[&element], now_ms)?;
    guard.list_pop(from, from_key, from_end, 1, now_ms)?;
    Ok(Some(element))
}

fn move_element(
    context: &mut Context<'_>,
    args: Args<'_>,
    (from_end, to_end): (End, End),
) -> Result<(), Stop> {
    let (from, to) = (args.at(1), args.at(2));
    let (mut guard, points) = context.lock_keys([from, to].into_iter(), Access::Write)?;
    let source = (points[0], from, from_end);
    match shift(&mut guard, source, (points[1], to, to_end), context.now_ms)? {
        Some(element) => context.reply.bulk(&element),
        None => context.reply.null(),
    }
    Ok(())
}

fn rpoplpush(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    move_element(context, args, (End::Back, End::Front))
}

fn lmove(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let ends = (end(args.at(3))?, end(args.at(4))?);
    move_element(context, args, ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_count_from_both_ends() {
        let table = [
            ((3, 0), Some(0)),
            ((3, 2), Some(2)),
            ((3, 3), None),
            ((3, -1), Some(2)),
            ((3, -3), Some(0)),
            ((3, -4), None),
            ((0, 0), None),
            ((3, i64::MIN), None),
        ];
        for ((length, at), expected) in table {
            assert_eq!(index(length, at), expected, "{length} {at}");
        }
    }
}
