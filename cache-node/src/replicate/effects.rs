//! Applying effects that another node logged: RESP commands with absolute times.

use thiserror::Error;

use crate::limits::ARGS_MAX;
use crate::store::compress::Sound;
use crate::store::{End, Fault, Guard, OutOfMemory, Point, SLOTS, SlotState, Store};

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EffectError {
    #[error("the effect's bytes are damaged: {0}")]
    Damaged(&'static str),
    #[error("effect {0:?} is unknown: the other node is newer; upgrade this one")]
    Unknown(String),
    #[error("out of memory: this node's limit is below what the other holds; raise it")]
    OutOfMemory,
    #[error("an effect is on a key that holds another type here")]
    WrongType,
    #[error("slot {0} is not being imported here any more")]
    NotImporting(u16),
}

impl From<OutOfMemory> for EffectError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<Fault> for EffectError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::WrongType => Self::WrongType,
            Fault::OutOfMemory(_) => Self::OutOfMemory,
        }
    }
}

/// What is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The primary's log or copy: not logged again.
    Primary,
    /// A slot move: ordinary writes, and only to slots that are being imported.
    Move,
}

type Args<'a> = Vec<&'a [u8]>;

/// Takes one command off `bytes`.
fn take<'a>(bytes: &mut &'a [u8]) -> Result<Args<'a>, EffectError> {
    let count = head(bytes, b'*')?;
    if count == 0 || count > ARGS_MAX {
        return Err(EffectError::Damaged("count of arguments"));
    }
    let mut args = Vec::with_capacity(count.min(8));
    for _ in 0..count {
        let length = head(bytes, b'$')?;
        let (arg, rest) = bytes
            .split_at_checked(length)
            .ok_or(EffectError::Damaged("cut off"))?;
        *bytes = rest.get(2..).ok_or(EffectError::Damaged("cut off"))?;
        args.push(arg);
    }
    Ok(args)
}

fn head(bytes: &mut &[u8], sigil: u8) -> Result<usize, EffectError> {
    let damaged = || EffectError::Damaged("no command where one should be");
    let end = bytes.iter().take(24).position(|&b| b == b'\r');
    let end = end.ok_or_else(damaged)?;
    if bytes[0] != sigil {
        return Err(damaged());
    }
    let number = number(&bytes[1..end])?;
    *bytes = bytes.get(end + 2..).ok_or_else(damaged)?;
    usize::try_from(number).map_err(|_| damaged())
}

fn number(text: &[u8]) -> Result<u64, EffectError> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|t| t.parse().ok())
        .ok_or(EffectError::Damaged("not a number"))
}

/// An effect and where it applies.
#[derive(Debug)]
enum Parsed<'a> {
    Key(Point, Args<'a>),
    Packed {
        p: Point,
        key: &'a [u8],
        value: Sound<'a>,
        expires_at: Option<u64>,
    },
    /// To another key of the slot.
    Transfer {
        from: (Point, &'a [u8]),
        to: (Point, &'a [u8]),
        moves: bool,
    },
    FlushSlot(u16),
    FlushAll,
}

impl Parsed<'_> {
    fn slot(&self) -> Option<u16> {
        match self {
            Self::Key(p, _) | Self::Packed { p, .. } | Self::Transfer { from: (p, _), .. } => {
                Some(p.slot)
            }
            Self::FlushSlot(slot) => Some(*slot),
            Self::FlushAll => None,
        }
    }
}

fn parse<'a>(store: &Store, args: Args<'a>) -> Result<Parsed<'a>, EffectError> {
    let arg = |i: usize| {
        args.get(i)
            .copied()
            .ok_or(EffectError::Damaged("too few arguments"))
    };
    match args[0] {
        b"FLUSHALL" => Ok(Parsed::FlushAll),
        b"CACHE.FLUSHSLOT" => {
            let slot = number(arg(1)?)?;
            let slot = u16::try_from(slot).ok().filter(|&s| s < SLOTS);
            slot.map(Parsed::FlushSlot)
                .ok_or(EffectError::Damaged("slot"))
        }
        b"CACHE.SETPACKED" => {
            // Unpacked once here, without a lock: what items hold always unpacks.
            let value = Sound::check(arg(2)?).ok_or(EffectError::Damaged("packed value"))?;
            let expires_at = match &args[3..] {
                [] => None,
                [b"PXAT", time] => Some(number(time)?),
                _ => return Err(EffectError::Damaged("words after a packed value")),
            };
            Ok(Parsed::Packed {
                p: store.point(args[1]),
                key: args[1],
                value,
                expires_at,
            })
        }
        name @ (b"RENAME" | b"COPY") => {
            let keys = [arg(1)?, arg(2)?];
            let [from, to] = keys.map(|key| (store.point(key), key));
            match args.len() == 3 && from.0.slot == to.0.slot {
                true => Ok(Parsed::Transfer {
                    from,
                    to,
                    moves: name == b"RENAME",
                }),
                false => Err(EffectError::Damaged("a transfer within a slot")),
            }
        }
        b"APPEND" | b"SETRANGE" => {
            let key = arg(1)?;
            let p = store.point(key);
            // Best done without a lock; what memory lacks here it will lack when the effect is applied.
            let _ = store.expand(p, key);
            Ok(Parsed::Key(p, args))
        }
        b"SET" | b"DEL" | b"PEXPIREAT" | b"PERSIST" | b"HSET" | b"HDEL" | b"SADD" | b"SREM"
        | b"LPUSH" | b"RPUSH" | b"LPOP" | b"RPOP" | b"LSET" | b"LTRIM" | b"LINSERT" | b"LREM"
        | b"ZADD" | b"ZREM" => Ok(Parsed::Key(store.point(arg(1)?), args)),
        other => Err(EffectError::Unknown(
            String::from_utf8_lossy(other).into_owned(),
        )),
    }
}

/// Applies one record: all of its effects under the locks of all of their slots.
pub fn apply_record(store: &Store, mut record: &[u8]) -> Result<(), EffectError> {
    let mut effects = Vec::new();
    while !record.is_empty() {
        effects.push(parse(store, take(&mut record)?)?);
    }
    let slots: Option<Vec<u16>> = effects.iter().map(Parsed::slot).collect();
    let mut guard = match slots {
        Some(slots) if slots.is_empty() => return Ok(()),
        Some(mut slots) => {
            slots.sort_unstable();
            slots.dedup();
            store.lock_slots(&slots)
        }
        None => store.lock_all(),
    };
    guard.replay();
    effects.iter().try_for_each(|e| apply(&mut guard, e))
}

/// Applies a log's records (`length u32le`, commands), each atomically.
pub fn apply_records(store: &Store, mut records: &[u8]) -> Result<(), EffectError> {
    while !records.is_empty() {
        let cut = || EffectError::Damaged("a record is cut off");
        let (length, rest) = records.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (record, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        apply_record(store, record)?;
        records = rest;
    }
    Ok(())
}

/// Applies copied items and the effects on them, in order; those of one slot that follow each other under one lock, some at a time. Gives
/// the number of commands.
pub fn apply_copied(store: &Store, mut bytes: &[u8], source: Source) -> Result<u64, EffectError> {
    const TOGETHER: usize = 64;
    let mut applied = 0;
    let mut ahead: Option<Parsed<'_>> = None;
    loop {
        let first = match ahead.take() {
            Some(parsed) => parsed,
            None if bytes.is_empty() => return Ok(applied),
            None => parse(store, take(&mut bytes)?)?,
        };
        let Some(slot) = first.slot() else {
            if source == Source::Move {
                return Err(EffectError::Damaged("FLUSHALL in a slot move"));
            }
            let mut guard = store.lock_all();
            guard.replay();
            guard.clear_all();
            applied += 1;
            continue;
        };
        // All are read before the lock is taken.
        let mut group = vec![first];
        while group.len() < TOGETHER && !bytes.is_empty() {
            let next = parse(store, take(&mut bytes)?)?;
            if next.slot() != Some(slot) {
                ahead = Some(next);
                break;
            }
            group.push(next);
        }
        let mut guard = store.lock(slot);
        match source {
            Source::Primary => guard.replay(),
            Source::Move if guard.slot_state(slot) != SlotState::Importing => {
                return Err(EffectError::NotImporting(slot));
            }
            Source::Move => guard.import(),
        }
        for effect in &group {
            apply(&mut guard, effect)?;
            applied += 1;
        }
    }
}

fn apply(guard: &mut Guard<'_>, effect: &Parsed<'_>) -> Result<(), EffectError> {
    /// Expired items are there until the other node deletes them, so time does not matter.
    const NOW: u64 = 0;
    let (p, args) = match effect {
        Parsed::FlushAll => {
            guard.clear_all();
            return Ok(());
        }
        Parsed::FlushSlot(slot) => {
            guard.flush_slots(&[*slot]);
            return Ok(());
        }
        Parsed::Packed {
            p,
            key,
            value,
            expires_at,
        } => return Ok(guard.set_packed(*p, key, *value, *expires_at)?),
        Parsed::Transfer { from, to, moves } => {
            return match guard.transfer(*from, *to, *moves, NOW)? {
                true => Ok(()),
                false => Err(EffectError::Damaged("a transfer of what is not here")),
            };
        }
        Parsed::Key(p, args) => (*p, args),
    };
    let key = args[1];
    match (args[0], &args[2..]) {
        (b"SET", [value]) => guard.set(p, key, value, None)?,
        (b"SET", [value, b"PXAT", time]) => guard.set(p, key, value, Some(number(time)?))?,
        (b"APPEND", [suffix]) => {
            guard.append(p, key, suffix, NOW)?;
        }
        (b"SETRANGE", [offset, bytes]) => {
            let offset = number(offset)? as usize;
            guard.set_range(p, key, offset, bytes, NOW)?;
        }
        (b"DEL", []) => {
            guard.remove(p, key, NOW);
        }
        (b"PEXPIREAT", [time]) => {
            guard.set_expiry(p, key, Some(number(time)?), NOW)?;
        }
        (b"PERSIST", []) => {
            guard.set_expiry(p, key, None, NOW)?;
        }
        (name, words) if apply_to_collection(guard, p, key, name, words)? => {}
        _ => {
            let text = args[0].escape_ascii().to_string();
            return Err(EffectError::Unknown(format!(
                "{text} with {} arguments",
                args.len() - 1
            )));
        }
    }
    Ok(())
}

/// Applies an effect on a collection. False: it is none.
fn apply_to_collection(
    guard: &mut Guard<'_>,
    p: Point,
    key: &[u8],
    name: &[u8],
    words: &[&[u8]],
) -> Result<bool, EffectError> {
    const NOW: u64 = 0;
    let index = |text: &[u8]| number(text).map(|n| n as usize);
    match (name, words) {
        (b"HSET", pairs) if pairs.len() % 2 == 0 => {
            let pairs: Vec<(&[u8], &[u8])> = pairs.chunks(2).map(|p| (p[0], p[1])).collect();
            guard.hash_set(p, key, &pairs, NOW)?;
        }
        (b"HDEL", fields) => drop(guard.hash_remove(p, key, fields, NOW)?),
        (b"SADD", members) => drop(guard.set_add(p, key, members, NOW)?),
        (b"SREM", members) => drop(guard.set_remove(p, key, members, NOW)?),
        (b"LPUSH", elements) => drop(guard.list_push(p, key, End::Front, elements, NOW)?),
        (b"RPUSH", elements) => drop(guard.list_push(p, key, End::Back, elements, NOW)?),
        (b"LPOP", [count]) => drop(guard.list_pop(p, key, End::Front, index(count)?, NOW)?),
        (b"RPOP", [count]) => drop(guard.list_pop(p, key, End::Back, index(count)?, NOW)?),
        (b"LSET", [at, element]) => {
            guard.list_set(p, key, index(at)?, element, NOW)?;
        }
        (b"LTRIM", [from, to]) => {
            guard.list_trim(p, key, (index(from)?, index(to)?.saturating_add(1)), NOW)?;
        }
        (b"LINSERT", [side, pivot, element]) => {
            guard.list_insert(p, key, (*side == b"BEFORE", *pivot), element, NOW)?;
        }
        (b"LREM", [count, element]) => {
            let count = crate::protocol::number::parse_i64(count);
            let count = count.ok_or(EffectError::Damaged("not a number"))?;
            guard.list_remove(p, key, count, element, NOW)?;
        }
        (b"ZADD", pairs) if pairs.len() % 2 == 0 => {
            let scores: Vec<f64> = pairs
                .chunks(2)
                .map(|p| score(p[0]))
                .collect::<Result<_, _>>()?;
            let members: Vec<&[u8]> = pairs.chunks(2).map(|p| p[1]).collect();
            guard.zset_update(p, key, &members, NOW, |i, _| Some(scores[i]))?;
        }
        (b"ZREM", members) => drop(guard.zset_remove(p, key, members, NOW)?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn score(text: &[u8]) -> Result<f64, EffectError> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|t| t.parse().ok())
        .filter(|n: &f64| !n.is_nan())
        .ok_or(EffectError::Damaged("not a score"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::log::Log;
    use crate::store::StoreOptions;
    use crate::store::collections::Element;
    use crate::store::effect::write_command;

    fn store() -> Arc<Store> {
        let options = StoreOptions {
            max_memory: 0,
            hash_seed: 3,
        };
        Arc::new(Store::new(options, Arc::new(Log::new(1 << 20))).unwrap())
    }

    fn commands(list: &[&[&str]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for command in list {
            let args: Vec<&[u8]> = command.iter().map(|a| a.as_bytes()).collect();
            write_command(&mut bytes, &args);
        }
        bytes
    }

    fn get(store: &Store, key: &str) -> Option<(String, Option<u64>)> {
        let p = store.point(key.as_bytes());
        let mut guard = store.lock(p.slot);
        let item = guard.get(p, key.as_bytes(), 0)?;
        Some((
            String::from_utf8_lossy(&item.value().bytes()).into_owned(),
            item.expires_at(),
        ))
    }

    #[test]
    fn every_effect_is_applied() {
        let store = store();
        let record = commands(&[
            &["SET", "a", "1"],
            &["SET", "b", "2", "PXAT", "900"],
            &["APPEND", "a", "23"],
            &["SETRANGE", "a", "1", "xy"],
            &["PEXPIREAT", "a", "800"],
            &["PERSIST", "b"],
            &["SET", "c", "3"],
            &["DEL", "c"],
        ]);
        apply_record(&store, &record).unwrap();
        assert_eq!(get(&store, "a"), Some(("1xy".into(), Some(800))));
        assert_eq!(get(&store, "b"), Some(("2".into(), None)));
        assert_eq!(get(&store, "c"), None);
        let slot = crate::store::slot_of(b"a").to_string();
        apply_record(&store, &commands(&[&["CACHE.FLUSHSLOT", &slot]])).unwrap();
        assert_eq!(get(&store, "a"), None);
        assert_eq!(apply_copied(&store, &record, Source::Primary), Ok(8));
        apply_record(&store, &commands(&[&["FLUSHALL"]])).unwrap();
        assert_eq!(store.stats().keys, 0);
        let mut records = (record.len() as u32).to_le_bytes().to_vec();
        records.extend(&record);
        apply_records(&store, &[records.clone(), records].concat()).unwrap();
        assert_eq!(store.stats().keys, 2);
    }

    #[test]
    fn every_effect_on_a_collection_is_applied() {
        let store = store();
        let record = commands(&[
            &["HSET", "h", "a", "1", "b", "2"],
            &["HDEL", "h", "a"],
            &["SADD", "s", "x", "y"],
            &["SREM", "s", "y"],
            &["RPUSH", "l", "b", "c", "d", "e", "f"],
            &["LPUSH", "l", "a"],
            &["LPOP", "l", "1"],
            &["RPOP", "l", "1"],
            &["LSET", "l", "0", "B"],
            &["LINSERT", "l", "AFTER", "B", "z"],
            &["LREM", "l", "-1", "d"],
            &["LTRIM", "l", "0", "2"],
            &["ZADD", "z", "1.5e0", "m", "inf", "n"],
            &["ZREM", "z", "n"],
            &["PEXPIREAT", "z", "800"],
        ]);
        apply_record(&store, &record).unwrap();
        let shown = |key: &str| -> String {
            let p = store.point(key.as_bytes());
            let guard = store.lock(p.slot);
            let item = guard.peek(p, key.as_bytes(), 0).unwrap();
            let elements: Vec<_> = item.view().elements(item.kind(), 0).collect();
            format!("{elements:?} {:?}", item.expires_at())
        };
        assert_eq!(
            shown("h"),
            format!("{:?} None", [Element::Pair(b"b", b"2")])
        );
        let one = |text: &'static [u8]| Element::One(text.into());
        assert_eq!(shown("s"), format!("{:?} None", [one(b"x")]));
        assert_eq!(
            shown("l"),
            format!("{:?} None", [one(b"B"), one(b"z"), one(b"c")])
        );
        assert_eq!(
            shown("z"),
            format!("{:?} Some(800)", [Element::Scored(b"m", 1.5)])
        );
        let wrong = commands(&[&["SADD", "h", "x"]]);
        assert_eq!(apply_record(&store, &wrong), Err(EffectError::WrongType));
        for damaged in [
            &["HSET", "h", "a"][..],
            &["LPOP", "l", "x"],
            &["ZADD", "z", "nan", "m"],
        ] {
            assert!(
                apply_record(&store, &commands(&[damaged])).is_err(),
                "{damaged:?}"
            );
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let store = store();
        let unknown = commands(&[&["XADD", "a", "1"]]);
        assert_eq!(
            apply_record(&store, &unknown),
            Err(EffectError::Unknown("XADD".into()))
        );
        assert!(apply_record(&store, &commands(&[&["SET", "a"]])).is_err());
        assert!(apply_record(&store, &commands(&[&["CACHE.FLUSHSLOT", "16384"]])).is_err());
        let whole = commands(&[&["SET", "a", "1"]]);
        for end in 1..whole.len() - 1 {
            assert!(apply_record(&store, &whole[..end]).is_err(), "{end}");
        }
        assert!(apply_records(&store, &[9, 0, 0, 0, 1]).is_err());
        assert_eq!(store.stats().keys, 0);
    }

    #[test]
    fn a_move_writes_only_to_slots_that_are_imported() {
        let store = store();
        let bytes = commands(&[&["SET", "a", "1"]]);
        let slot = crate::store::slot_of(b"a");
        for state in [SlotState::None, SlotState::Serve, SlotState::WritePaused] {
            store.lock(slot).set_slot_state(slot, state);
            let refused = apply_copied(&store, &bytes, Source::Move);
            assert_eq!(refused, Err(EffectError::NotImporting(slot)));
        }
        store.lock(slot).set_slot_state(slot, SlotState::Importing);
        assert_eq!(apply_copied(&store, &bytes, Source::Move), Ok(1));
        assert_eq!(get(&store, "a"), Some(("1".into(), None)));
        // It expires by the source's word, whatever the clock here says.
        let expiring = commands(&[&["PEXPIREAT", "a", "5"]]);
        assert_eq!(apply_copied(&store, &expiring, Source::Move), Ok(1));
        store.expire(
            1_000,
            std::time::Instant::now() + std::time::Duration::from_secs(60),
        );
        let lengthened = commands(&[&["PERSIST", "a"], &["APPEND", "a", "2"]]);
        assert_eq!(apply_copied(&store, &lengthened, Source::Move), Ok(2));
        assert_eq!(get(&store, "a"), Some(("12".into(), None)));
    }
}
