//! `SORT`: the elements of a list, set or sorted set in another order, by other keys, with what other keys hold.

use std::cmp::Ordering;

use super::access::Access;
use super::errors::{NOT_INTEGER, SYNTAX, WRONG_TYPE};
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::protocol::number::parse_i64;
use crate::protocol::{Args, double};
use crate::store::collections::{Element, View, hash::Hash, list};
use crate::store::compress::{Kept, Value};
use crate::store::{Guard, Kind, SlotState, Store};

pub const COMMANDS: &[Command] = &[
    Command::new("sort", -2, Group::Generic, sort)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::MOVABLE_KEYS).and(Flags::WHOLE))
        .keys(1, 1, 1)
        .doc("1.0.0", "O(N+M*log(M)) where N is the number of elements in the list or set to sort, and M the number of returned elements. When the elements are not sorted, complexity is O(N).", "Sort the elements in a list, set or sorted set."),
    Command::new("sort_ro", -2, Group::Generic, sort_ro)
        .flags(Flags::READONLY.and(Flags::MOVABLE_KEYS).and(Flags::WHOLE))
        .keys(1, 1, 1)
        .doc("7.0.0", "O(N+M*log(M)) where N is the number of elements in the list or set to sort, and M the number of returned elements. When the elements are not sorted, complexity is O(N).", "Sort the elements in a list, set or sorted set. Read-only variant of SORT."),
];

/// The options of a command.
#[derive(Debug, Default)]
struct Options<'a> {
    descending: bool,
    alphabetic: bool,
    /// Offset and count, which may be negative.
    limit: Option<(i64, i64)>,
    store: Option<&'a [u8]>,
    by: Option<&'a [u8]>,
    get: Vec<&'a [u8]>,
}

impl<'a> Options<'a> {
    fn read(args: Args<'a>, stores: bool, is_cluster: bool) -> Result<Self, Stop> {
        let mut options = Self::default();
        let mut i = 2;
        while let Some(word) = args.get(i) {
            let left = args.len() - i - 1;
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            if is(b"ASC") {
                options.descending = false;
            } else if is(b"DESC") {
                options.descending = true;
            } else if is(b"ALPHA") {
                options.alphabetic = true;
            } else if is(b"LIMIT") && left >= 2 {
                let number = |i: usize| parse_i64(args.at(i)).ok_or(NOT_INTEGER);
                options.limit = Some((number(i + 1)?, number(i + 2)?));
                i += 2;
            } else if stores && is(b"STORE") && left >= 1 {
                options.store = args.get(i + 1);
                i += 1;
            } else if is(b"BY") && left >= 1 {
                let pattern = args.at(i + 1);
                if pattern.contains(&b'*') && is_cluster {
                    return Err("ERR BY option of SORT denied in cluster mode.".into());
                }
                options.by = Some(pattern);
                i += 1;
            } else if is(b"GET") && left >= 1 {
                if is_cluster {
                    return Err("ERR GET option of SORT denied in cluster mode.".into());
                }
                options.get.push(args.at(i + 1));
                i += 1;
            } else {
                return Err(SYNTAX.into());
            }
            i += 1;
        }
        Ok(options)
    }

    /// Whether other keys than the sorted one are read.
    fn reads_others(&self) -> bool {
        self.by.is_some_and(|by| by.contains(&b'*')) || self.get.iter().any(|get| *get != b"#")
    }

    /// The range of what is given, of `length`.
    fn range(&self, length: usize) -> (usize, usize) {
        let Some((offset, count)) = self.limit else {
            return (0, length);
        };
        let from = usize::try_from(offset.max(0))
            .unwrap_or(usize::MAX)
            .min(length);
        match usize::try_from(count) {
            Ok(count) => (from, from.saturating_add(count).min(length)),
            Err(_) => (from, length),
        }
    }
}

/// The key that a pattern names for an element, and the field of its hash.
fn named<'p>(pattern: &'p [u8], element: &[u8]) -> Option<(Vec<u8>, Option<&'p [u8]>)> {
    let star = pattern.iter().position(|&b| b == b'*')?;
    let (before, after) = (&pattern[..star], &pattern[star + 1..]);
    let arrow = after
        .windows(2)
        .position(|w| w == b"->")
        .filter(|&at| at + 2 < after.len());
    let (after, field) = match arrow {
        Some(at) => (&after[..at], Some(&after[at + 2..])),
        None => (after, None),
    };
    Some(([before, element, after].concat(), field))
}

/// What a pattern gives.
enum Text {
    Plain(Vec<u8>),
    Packed(Kept),
}

impl Text {
    fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Packed(packed) => packed.unpack(),
        }
    }
}

/// What a pattern gives for an element.
fn look_up(
    guard: &Guard<'_>,
    store: &Store,
    pattern: &[u8],
    element: &[u8],
    now_ms: u64,
) -> Option<Text> {
    if pattern == b"#" {
        return Some(Text::Plain(element.to_vec()));
    }
    let (key, field) = named(pattern, element)?;
    let item = guard.peek(store.point(&key), &key, now_ms)?;
    match (item.kind(), field) {
        (Kind::String, None) => Some(match item.value() {
            Value::Plain(value) => Text::Plain(value.to_vec()),
            Value::Packed(packed) => Text::Packed(packed.keep()),
        }),
        (Kind::Hash, Some(field)) => {
            let value = Hash(item.view()).get(field);
            value.map(|value| Text::Plain(value.to_vec()))
        }
        _ => None,
    }
}

/// What elements are ordered by.
#[derive(Debug)]
enum Weight {
    Number(f64),
    Text(Option<Vec<u8>>),
}

fn order(a: &(Vec<u8>, Weight), b: &(Vec<u8>, Weight)) -> Ordering {
    match (&a.1, &b.1) {
        // Equal numbers are in the order of their elements.
        (Weight::Number(x), Weight::Number(y)) => x
            .partial_cmp(y)
            .unwrap_or(Ordering::Equal)
            .then_with(|| a.0.cmp(&b.0)),
        (Weight::Text(x), Weight::Text(y)) => x.cmp(y),
        _ => Ordering::Equal,
    }
}

fn elements(view: View<'_>, kind: Kind) -> Vec<Vec<u8>> {
    view.elements(kind, 0)
        .map(|element| match element {
            Element::One(one) => one.into_owned(),
            Element::Pair(member, _) | Element::Scored(member, _) => member.to_vec(),
        })
        .collect()
}

fn sorted(
    guard: &Guard<'_>,
    store: &Store,
    mut elements: Vec<Vec<u8>>,
    kind: Kind,
    options: &Options<'_>,
    // What is stored, or goes to a script, must not depend on chance.
    exact: bool,
    now_ms: u64,
) -> Result<Vec<Vec<u8>>, Stop> {
    let mut by = options.by;
    let mut alphabetic = options.alphabetic;
    if by.is_some_and(|by| !by.contains(&b'*')) {
        if kind != Kind::Set || !exact {
            if options.descending && kind == Kind::ZSet {
                elements.reverse();
            }
            return Ok(elements);
        }
        // A set has no order of its own.
        (by, alphabetic) = (None, true);
    }
    let mut weighed = Vec::with_capacity(elements.len());
    for element in elements {
        let text = match by {
            // The order decides which values are looked at: these are unpacked under the lock.
            Some(by) => look_up(guard, store, by, &element, now_ms).map(Text::into_vec),
            None => Some(element.clone()),
        };
        let weight = match (alphabetic, text) {
            (true, text) => Weight::Text(text),
            (false, None) => Weight::Number(0.0),
            (false, Some(text)) => Weight::Number(
                double::parse_bound(&text)
                    .ok_or("ERR One or more scores can't be converted into double")?,
            ),
        };
        weighed.push((element, weight));
    }
    weighed.sort_by(|a, b| match options.descending {
        true => order(b, a),
        false => order(a, b),
    });
    Ok(weighed.into_iter().map(|(element, _)| element).collect())
}

fn sort(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    run(context, args, true)
}

fn sort_ro(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    run(context, args, false)
}

fn run(context: &mut Context<'_>, args: Args<'_>, stores: bool) -> Result<(), Stop> {
    let options = Options::read(args, stores, context.node.is_cluster())?;
    let store = &context.node.store;
    let key = args.at(1);
    let access = match options.store {
        Some(_) => Access::Write,
        None => Access::Read,
    };
    // Which keys patterns name is known only when the elements are: everything is locked for them.
    let (mut guard, points) = if options.reads_others() {
        context.want_credit(access)?;
        let guard = context.lock_all()?;
        let points = [key]
            .into_iter()
            .chain(options.store)
            .map(|key| store.point(key));
        let points: Vec<_> = points.collect();
        if points
            .iter()
            .any(|p| guard.slot_state(p.slot) != SlotState::Serve)
        {
            return Err(Stop::Pending(super::Reason::SlotPaused));
        }
        (guard, points)
    } else {
        context.lock_keys([key].into_iter().chain(options.store), access)?
    };
    let now_ms = context.now_ms;
    let (found, kind) = match guard.get(points[0], key, now_ms) {
        None => (Vec::new(), Kind::List),
        Some(item) => match item.kind() {
            Kind::String | Kind::Hash => return Err(WRONG_TYPE.into()),
            kind => (elements(item.view(), kind), kind),
        },
    };
    let exact = options.store.is_some() || context.in_script;
    let sorted = sorted(&guard, store, found, kind, &options, exact, now_ms)?;
    let (from, to) = options.range(sorted.len());
    let chosen = &sorted[from..to];
    let mut results: Vec<Option<Text>> = Vec::new();
    for element in chosen {
        if options.get.is_empty() {
            results.push(Some(Text::Plain(element.clone())));
        }
        for pattern in &options.get {
            results.push(look_up(&guard, store, pattern, element, now_ms));
        }
    }
    let Some(to_key) = options.store else {
        drop(guard);
        context.reply.array(results.len());
        for result in results {
            match result {
                Some(text) => context.reply.bulk(&text.into_vec()),
                None => context.reply.null(),
            }
        }
        return Ok(());
    };
    let results: Vec<Vec<u8>> = results
        .into_iter()
        .map(|result| result.map(Text::into_vec).unwrap_or_default())
        .collect();
    let bytes = results.iter().map(|r| r.len() + 32).sum();
    let (owned, ()) = guard.build(bytes, |owned, tools| {
        for (i, result) in results.iter().enumerate() {
            list::insert(owned, i, result, tools);
        }
    })?;
    let expires_at = guard.default_expiry(points[1], to_key, now_ms);
    guard.put_collection(points[1], to_key, Kind::List, owned, expires_at, now_ms)?;
    context.reply.integer(results.len() as i64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_keys_and_fields() {
        type Named = Option<(&'static str, Option<&'static str>)>;
        let table: [(&str, Named); 6] = [
            ("w_*", Some(("w_7", None))),
            ("*", Some(("7", None))),
            ("w_*_x", Some(("w_7_x", None))),
            ("h:*->name", Some(("h:7", Some("name")))),
            ("h:*->", Some(("h:7->", None))),
            ("nostar", None),
        ];
        for (pattern, expected) in table {
            let found = named(pattern.as_bytes(), b"7");
            let expected = expected.map(|(k, f)| (k.as_bytes().to_vec(), f.map(str::as_bytes)));
            assert_eq!(found, expected, "{pattern}");
        }
    }
}
