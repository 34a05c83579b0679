//! `DUMP` and `RESTORE`: a value as bytes, with a version and a checksum, in Redis's format.

use std::collections::HashSet;

use super::access::Access;
use super::collections::in_range;
use super::errors::{NOT_INTEGER, SYNTAX};
use super::object::FREQ_MAX;
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::persist::load::{BadData, Loaded, read_value};
use crate::persist::rdb::{self, Checksum};
use crate::protocol::Args;
use crate::protocol::number::parse_i64;
use crate::store::collections::{Owned, Tools, hash, list, set, zset};
use crate::store::compress::{Kept, Value};
use crate::store::{Guard, ItemRef, Kind, Point, Usage};

pub const COMMANDS: &[Command] = &[
    Command::new("dump", 2, Group::Generic, dump)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("2.6.0", "O(1) to access the key and additional O(N*M) to serialize it, where N is the number of Redis objects composing the value and M their average size. For small string values the time complexity is thus O(1)+O(1*M) where M is small, so simply O(1).", "Return a serialized version of the value stored at the specified key."),
    Command::new("restore", -4, Group::Generic, restore)
        .flags(Flags::WRITE.and(Flags::DENYOOM))
        .keys(1, 1, 1)
        .doc("2.6.0", "O(1) to create the new key and additional O(N*M) to reconstruct the serialized value, where N is the number of Redis objects composing the value and M their average size. For small string values the time complexity is thus O(1)+O(1*M) where M is small, so simply O(1). However for sorted set values the complexity is O(N*M*log(N)) because inserting values into sorted sets is O(log(N)).", "Create a key using the provided serialized value, previously obtained using DUMP."),
];

/// The version of RDB that is written.
const VERSION: u16 = 10;
/// The newest that is read: Redis 7.2's.
const VERSION_MAX: u16 = 11;
/// Version and checksum.
const FOOT: usize = 10;

fn dump(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let key = args.at(1);
    let (mut guard, p) = context.read(key)?;
    let Some(item) = guard.get(p, key, context.now_ms) else {
        context.reply.null();
        return Ok(());
    };
    let serialized = serialized(&item);
    drop(guard);
    let mut bytes = serialized.finish();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    let mut checksum = Checksum::default();
    checksum.update(&bytes);
    bytes.extend_from_slice(&checksum.finish());
    context.reply.bulk(&bytes);
    Ok(())
}

/// Type and value, as in a file; a compressed string is still to be unpacked, which no lock waits for.
pub struct Serialized {
    bytes: Vec<u8>,
    packed: Option<Kept>,
}

impl Serialized {
    pub fn finish(mut self) -> Vec<u8> {
        if let Some(packed) = self.packed {
            rdb::write_string(&mut self.bytes, &packed.unpack());
        }
        self.bytes
    }
}

pub fn serialized(item: &ItemRef<'_>) -> Serialized {
    let (kind, view) = (item.kind(), item.view());
    let mut bytes = vec![rdb::type_of(kind)];
    let mut packed = None;
    if kind == Kind::String {
        match item.value() {
            Value::Plain(value) => rdb::write_string(&mut bytes, &value),
            Value::Packed(value) => packed = Some(value.keep()),
        }
    } else {
        rdb::write_length(&mut bytes, view.len(kind) as u64);
        for element in view.elements(kind, 0) {
            rdb::write_element(&mut bytes, &element);
        }
    }
    Serialized { bytes, packed }
}

/// The value in a payload, whose version and checksum are right.
fn verified(payload: &[u8]) -> Result<&[u8], Stop> {
    const WRONG: &str = "ERR DUMP payload version or checksum are wrong";
    let at = payload.len().checked_sub(FOOT).ok_or(WRONG)?;
    let (value, foot) = payload.split_at(at);
    let mut checksum = Checksum::default();
    checksum.update(&payload[..at + 2]);
    let sum = checksum.finish();
    // As in Redis, a checksum of zero was not computed.
    let right = foot[2..] == sum || foot[2..] == [0; 8];
    match right && u16::from_le_bytes([foot[0], foot[1]]) <= VERSION_MAX {
        true => Ok(value),
        false => Err(WRONG.into()),
    }
}

#[derive(Debug, Default)]
struct Options {
    replace: bool,
    absolute: bool,
    /// Kept where the policy in force keeps the like, as in Redis.
    usage: Option<Usage>,
}

impl Options {
    fn has_idle(&self) -> bool {
        matches!(self.usage, Some(Usage::IdleMs(_)))
    }

    fn has_reads(&self) -> bool {
        matches!(self.usage, Some(Usage::Reads(_)))
    }
}

fn options(args: Args<'_>) -> Result<Options, Stop> {
    let mut options = Options::default();
    let mut i = 4;
    while let Some(word) = args.get(i) {
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        if is(b"REPLACE") {
            options.replace = true;
        } else if is(b"ABSTTL") {
            options.absolute = true;
        } else if is(b"IDLETIME") && args.len() > i + 1 && !options.has_reads() {
            let seconds = parse_i64(args.at(i + 1)).ok_or(NOT_INTEGER)?;
            let seconds =
                u64::try_from(seconds).map_err(|_| "ERR Invalid IDLETIME value, must be >= 0")?;
            options.usage = Some(Usage::IdleMs(seconds.saturating_mul(1000)));
            i += 1;
        } else if is(b"FREQ") && args.len() > i + 1 && !options.has_idle() {
            let freq = parse_i64(args.at(i + 1)).ok_or(NOT_INTEGER)?;
            let freq = u32::try_from(freq).ok().filter(|&n| n <= FREQ_MAX);
            let freq = freq.ok_or("ERR Invalid FREQ value, must be >= 0 and <= 255")?;
            options.usage = Some(Usage::Reads(freq));
            i += 1;
        } else {
            return Err(SYNTAX.into());
        }
        i += 1;
    }
    Ok(options)
}

fn restore(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let options = options(args)?;
    let key = args.at(1);
    let value = verified(args.at(3));
    let loaded = value.as_ref().ok().map(|value| read_value(value));
    let given = match &loaded {
        Some(Ok(Loaded::String(value))) => Some(context.node.store.pack(key, value)),
        _ => None,
    };
    let (mut guard, points) = context.lock_keys([key].into_iter(), Access::Write)?;
    let (p, now_ms) = (points[0], context.now_ms);
    let present = guard.get(p, key, now_ms).is_some();
    if present && !options.replace {
        return Err("BUSYKEY Target key name already exists.".into());
    }
    let ttl = in_range(args.at(2), i64::MIN, i64::MAX)?;
    let ttl = u64::try_from(ttl).map_err(|_| "ERR Invalid TTL value, must be >= 0")?;
    let value = value?;
    let loaded = match &loaded {
        Some(loaded) => loaded.as_ref().map_err(|bad| bad.to_string())?,
        None => return Err(BadData.to_string().into()),
    };
    let expires_at = match (ttl, options.absolute) {
        (0, _) => None,
        (ttl, true) => Some(ttl),
        (ttl, false) => Some(now_ms.saturating_add(ttl)),
    };
    if expires_at.is_some_and(|at| at <= now_ms) {
        guard.remove(p, key, now_ms);
        context.reply.ok();
        return Ok(());
    }
    if let Some(given) = &given {
        guard.set_given(p, key, given, expires_at)?;
    } else {
        let (kind, owned) = build(&guard, loaded, value.len())?;
        guard.put_collection(p, key, kind, owned, expires_at, now_ms)?;
    }
    if let Some(usage) = options.usage {
        guard.set_usage(p, key, usage, now_ms);
    }
    context.reply.ok();
    Ok(())
}

/// Makes the value that a key has anew, of its serialized form.
pub fn rebuild(guard: &mut Guard<'_>, p: Point, key: &[u8], now_ms: u64) -> Result<(), Stop> {
    let Some(item) = guard.get(p, key, now_ms) else {
        return Ok(());
    };
    let (bytes, expires_at) = (serialized(&item).finish(), item.expires_at());
    let loaded = read_value(&bytes).map_err(|bad| bad.to_string())?;
    if let Loaded::String(value) = &loaded {
        let given = guard.store().pack(key, value);
        guard.set_given(p, key, &given, expires_at)?;
    } else {
        let (kind, owned) = build(guard, &loaded, bytes.len())?;
        guard.put_collection(p, key, kind, owned, expires_at, now_ms)?;
    }
    Ok(())
}

fn build(guard: &Guard<'_>, loaded: &Loaded, bytes: usize) -> Result<(Kind, Owned), Stop> {
    let bad = || Stop::from(BadData.to_string());
    let (owned, kind) = guard.build(2 * bytes, |owned, tools| fill(owned, loaded, tools))?;
    Ok((kind.ok_or_else(bad)?, owned))
}

/// Fills an empty collection. None: an element is there twice.
fn fill(owned: &mut Owned, loaded: &Loaded, tools: &Tools<'_>) -> Option<Kind> {
    match loaded {
        Loaded::String(_) => None,
        Loaded::List(elements) => {
            for (i, element) in elements.iter().enumerate() {
                list::insert(owned, i, element, tools);
            }
            Some(Kind::List)
        }
        Loaded::Set(members) => {
            let distinct = members.iter().all(|member| set::add(owned, member, tools));
            distinct.then_some(Kind::Set)
        }
        Loaded::Hash(pairs) => {
            let distinct = pairs
                .iter()
                .all(|(field, value)| hash::put(owned, field, value, tools));
            distinct.then_some(Kind::Hash)
        }
        Loaded::ZSet(members) => {
            let names: HashSet<&[u8]> = members.iter().map(|(member, _)| &member[..]).collect();
            for (member, score) in members {
                zset::put(owned, member, *score, tools);
            }
            (names.len() == members.len()).then_some(Kind::ZSet)
        }
    }
}
