//! Strings as arrays of bits, the highest bit of a byte first.

use std::collections::BTreeMap;

use super::access::Access;
use super::errors::{NOT_INTEGER, SYNTAX};
use super::strings::{string_max, with_value};
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::protocol::Args;
use crate::protocol::number::parse_i64;
use crate::store::compress::Value;

pub const COMMANDS: &[Command] = &[
    Command::new("setbit", 4, Group::Bitmap, setbit)
        .flags(Flags::WRITE.and(Flags::DENYOOM))
        .keys(1, 1, 1)
        .doc("2.2.0", "O(1)", "Sets or clears the bit at offset in the string value stored at key."),
    Command::new("getbit", 3, Group::Bitmap, getbit)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.2.0", "O(1)", "Returns the bit value at offset in the string value stored at key."),
    Command::new("bitop", -4, Group::Bitmap, bitop)
        .flags(Flags::WRITE.and(Flags::DENYOOM))
        .keys(2, -1, 1)
        .doc("2.6.0", "O(N)", "Perform bitwise operations between strings."),
    Command::new("bitcount", -2, Group::Bitmap, bitcount)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("2.6.0", "O(N)", "Count set bits in a string."),
    Command::new("bitpos", -3, Group::Bitmap, bitpos)
        .flags(Flags::READONLY)
        .keys(1, 1, 1)
        .doc("2.8.7", "O(N)", "Find first bit set or clear in a string."),
    Command::new("bitfield", -2, Group::Bitmap, bitfield)
        .flags(Flags::WRITE.and(Flags::DENYOOM))
        .keys(1, 1, 1)
        .doc("3.2.0", "O(1) for each subcommand specified", "Perform arbitrary bitfield integer operations on strings."),
    Command::new("bitfield_ro", -2, Group::Bitmap, bitfield_ro)
        .flags(Flags::READONLY.and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("6.0.0", "O(1) for each subcommand specified", "Perform arbitrary bitfield integer operations on strings. Read-only variant of BITFIELD."),
];

/// An offset in bits; with `#` in front in units of `bits`.
fn offset(context: &Context<'_>, text: &[u8], bits: Option<u32>) -> Result<u64, Stop> {
    const RANGE: &str = "ERR bit offset is not an integer or out of range";
    let (number, unit) = match (text.strip_prefix(b"#"), bits) {
        (Some(number), Some(bits)) => (number, u64::from(bits)),
        _ => (text, 1),
    };
    let number = parse_i64(number).and_then(|n| u64::try_from(n).ok());
    let offset = number.and_then(|n| n.checked_mul(unit)).ok_or(RANGE)?;
    match offset >> 3 < string_max(context) {
        true => Ok(offset),
        false => Err(RANGE.into()),
    }
}

/// The byte and the shift of a bit.
fn place(bit: u64) -> (usize, u32) {
    ((bit >> 3) as usize, 7 - (bit & 7) as u32)
}

fn setbit(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let bit = offset(context, args.at(2), None)?;
    let on = parse_i64(args.at(3)).filter(|n| matches!(n, 0 | 1));
    let on = on.ok_or("ERR bit is not an integer or out of range")?;
    let key = args.at(1);
    let (mut guard, p) = context.write_plain(key)?;
    let now_ms = context.now_ms;
    let (at, shift) = place(bit);
    let value = guard.string(p, key, now_ms)?.map(|item| item.value());
    let value = value.as_ref().map(Value::bytes).unwrap_or_default();
    let length = value.len();
    let byte = value.get(at).copied().unwrap_or(0);
    let new = byte & !(1 << shift) | (on as u8) << shift;
    if new != byte || at >= length {
        guard.set_range(p, key, at, &[new], now_ms)?;
    }
    context.reply.integer(i64::from(byte >> shift & 1));
    Ok(())
}

fn getbit(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let bit = offset(context, args.at(2), None)?;
    let key = args.at(1);
    let (guard, p) = context.read(key)?;
    let (at, shift) = place(bit);
    let byte = with_value(guard, (p, key), context.now_ms, |value| {
        value.and_then(|v| v.get(at).copied()).unwrap_or(0)
    })?;
    context.reply.integer(i64::from(byte >> shift & 1));
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Logic {
    And,
    Or,
    Xor,
    Not,
}

/// The bytes of an operation; shorter values are filled up with zeroes.
fn combine(how: Logic, values: &[Vec<u8>]) -> Vec<u8> {
    let length = values.iter().map(Vec::len).max().unwrap_or(0);
    let mut result = values.first().cloned().unwrap_or_default();
    result.resize(length, 0);
    if how == Logic::Not {
        result.iter_mut().for_each(|b| *b = !*b);
    }
    for value in values.iter().skip(1) {
        for (i, byte) in result.iter_mut().enumerate() {
            let other = value.get(i).copied().unwrap_or(0);
            match how {
                Logic::And => *byte &= other,
                Logic::Or => *byte |= other,
                Logic::Xor => *byte ^= other,
                Logic::Not => {}
            }
        }
    }
    result
}

fn bitop(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let how = match args.at(1).to_ascii_uppercase().as_slice() {
        b"AND" => Logic::And,
        b"OR" => Logic::Or,
        b"XOR" => Logic::Xor,
        b"NOT" => Logic::Not,
        _ => return Err(SYNTAX.into()),
    };
    if how == Logic::Not && args.len() != 4 {
        return Err("ERR BITOP NOT must be called with a single source key.".into());
    }
    let keys: Vec<&[u8]> = args.from(2).iter().collect();
    context.expand(keys[1..].iter().copied())?;
    let (mut guard, points) = context.lock_keys(keys.iter().copied(), Access::Write)?;
    let now_ms = context.now_ms;
    let mut values = Vec::with_capacity(keys.len() - 1);
    for (&p, key) in points.iter().zip(&keys).skip(1) {
        let item = guard.string(p, key, now_ms)?;
        values.push(item.map(|item| item.value().to_vec()).unwrap_or_default());
    }
    let result = combine(how, &values);
    if result.is_empty() {
        guard.remove(points[0], keys[0], now_ms);
    } else {
        guard.set_new(points[0], keys[0], &result, now_ms)?;
    }
    context.reply.integer(result.len() as i64);
    Ok(())
}

/// The range of a command on bits, in bits; None: it is empty.
fn bit_range(length: usize, start: i64, end: i64, bits: bool) -> Option<(u64, u64)> {
    let total = if bits {
        length as i64 * 8
    } else {
        length as i64
    };
    let from_end = |i: i64| {
        if i < 0 {
            total.saturating_add(i).max(0)
        } else {
            i
        }
    };
    let (start, end) = (from_end(start), from_end(end).min(total - 1));
    if start > end {
        return None;
    }
    Some(match bits {
        true => (start as u64, end as u64 + 1),
        false => (start as u64 * 8, (end as u64 + 1) * 8),
    })
}

/// Whether a word says bits rather than bytes.
fn in_bits(word: Option<&[u8]>) -> Result<bool, Stop> {
    match word {
        None => Ok(false),
        Some(word) if word.eq_ignore_ascii_case(b"BYTE") => Ok(false),
        Some(word) if word.eq_ignore_ascii_case(b"BIT") => Ok(true),
        Some(_) => Err(SYNTAX.into()),
    }
}

/// A byte of which only the bits from `from` to before `to` of the whole count; the others are `fill`.
fn masked(value: &[u8], at: usize, (from, to): (u64, u64), fill: bool) -> u8 {
    let first = at as u64 * 8;
    let mut keep = 0xFFu8;
    if from > first {
        keep &= 0xFFu8.checked_shr((from - first) as u32).unwrap_or(0);
    }
    if to < first + 8 {
        keep &= 0xFFu8.checked_shl((first + 8 - to) as u32).unwrap_or(0);
    }
    if fill {
        value[at] | !keep
    } else {
        value[at] & keep
    }
}

fn count_bits(value: &[u8], from: u64, to: u64) -> u64 {
    let (first, last) = ((from / 8) as usize, ((to - 1) / 8) as usize);
    if first == last {
        return u64::from(masked(value, first, (from, to), false).count_ones());
    }
    let edges = [first, last].map(|at| masked(value, at, (from, to), false).count_ones());
    let middle = value[first + 1..last].chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from(u64::from_ne_bytes(word).count_ones())
    });
    u64::from(edges[0] + edges[1]) + middle.sum::<u64>()
}

fn find_bit(value: &[u8], on: bool, from: u64, to: u64) -> Option<u64> {
    let (first, last) = ((from / 8) as usize, ((to - 1) / 8) as usize);
    let skip = if on { 0 } else { 0xFF };
    for at in first..=last {
        if value[at] == skip {
            continue;
        }
        let byte = masked(value, at, (from, to), !on);
        if byte != skip {
            let byte = if on { byte } else { !byte };
            return Some(at as u64 * 8 + u64::from(byte.leading_zeros()));
        }
    }
    None
}

fn bitcount(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let key = args.at(1);
    let (guard, p) = context.read(key)?;
    let count = with_value(guard, (p, key), context.now_ms, |value| match value {
        None => Ok(0),
        Some(value) => count_in(value, args),
    })??;
    context.reply.integer(count as i64);
    Ok(())
}

fn count_in(value: &[u8], args: Args<'_>) -> Result<u64, Stop> {
    let range = match args.len() {
        2 => bit_range(value.len(), 0, -1, false),
        4 | 5 => {
            let start = parse_i64(args.at(2)).ok_or(NOT_INTEGER)?;
            let end = parse_i64(args.at(3)).ok_or(NOT_INTEGER)?;
            let bits = in_bits(args.get(4));
            // As in Redis: an empty range is one before its unit is looked at.
            if start < 0 && end < 0 && start > end {
                None
            } else {
                bit_range(value.len(), start, end, bits?)
            }
        }
        _ => return Err(SYNTAX.into()),
    };
    Ok(range.map_or(0, |(from, to)| count_bits(value, from, to)))
}

fn bitpos(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let on = match parse_i64(args.at(2)).ok_or(NOT_INTEGER)? {
        0 => false,
        1 => true,
        _ => return Err("ERR The bit argument must be 1 or 0.".into()),
    };
    let key = args.at(1);
    let (guard, p) = context.read(key)?;
    let found = with_value(guard, (p, key), context.now_ms, |value| match value {
        None => Ok(if on { -1 } else { 0 }),
        Some(value) => find_in(value, on, args),
    })??;
    context.reply.integer(found);
    Ok(())
}

fn find_in(value: &[u8], on: bool, args: Args<'_>) -> Result<i64, Stop> {
    let number = |i: usize| parse_i64(args.at(i)).ok_or(NOT_INTEGER);
    if args.len() > 6 {
        return Err(SYNTAX.into());
    }
    let start = if args.len() > 3 { number(3)? } else { 0 };
    let bits = in_bits(args.get(5))?;
    let end = if args.len() > 4 { number(4)? } else { -1 };
    let ends = args.len() > 4;
    let range = bit_range(value.len(), start, end, bits);
    let found = range.map(|(from, to)| find_bit(value, on, from, to));
    Ok(match found {
        Some(Some(bit)) => bit as i64,
        // Behind the end there are zeroes, unless the end was given.
        Some(None) if !on && !ends => value.len() as i64 * 8,
        _ => -1,
    })
}

/// The type of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Type {
    signed: bool,
    bits: u32,
}

impl Type {
    fn read(text: &[u8]) -> Result<Self, Stop> {
        const INVALID: &str = "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.";
        let (signed, bits) = match text {
            [b'i', bits @ ..] => (true, bits),
            [b'u', bits @ ..] => (false, bits),
            _ => return Err(INVALID.into()),
        };
        let most = if signed { 64 } else { 63 };
        let bits = parse_i64(bits)
            .filter(|n| (1..=most).contains(n))
            .ok_or(INVALID)?;
        Ok(Self {
            signed,
            bits: bits as u32,
        })
    }

    fn range(self) -> (i128, i128) {
        match self.signed {
            true => (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1),
            false => (0, (1 << self.bits) - 1),
        }
    }

    /// The number that these bits are.
    fn number(self, bits: u64) -> i128 {
        let shift = 64 - self.bits;
        match self.signed {
            true => i128::from((bits << shift) as i64 >> shift),
            false => i128::from(bits),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

impl Overflow {
    /// The number that is stored; None: nothing is.
    fn fit(self, value: i128, kind: Type) -> Option<i128> {
        let (min, max) = kind.range();
        if (min..=max).contains(&value) {
            return Some(value);
        }
        match self {
            Self::Wrap => {
                let mask = (1u128 << kind.bits) - 1;
                Some(kind.number((value as u128 & mask) as u64))
            }
            Self::Saturate => Some(value.clamp(min, max)),
            Self::Fail => None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Get,
    Set(i64),
    Add(i64),
}

#[derive(Debug, Clone, Copy)]
struct Operation {
    kind: Type,
    at: u64,
    action: Action,
    overflow: Overflow,
}

fn operations(context: &Context<'_>, args: Args<'_>) -> Result<Vec<Operation>, Stop> {
    let mut operations = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut i = 2;
    while let Some(word) = args.get(i) {
        let left = args.len() - i - 1;
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        if is(b"OVERFLOW") && left >= 1 {
            overflow = match args.at(i + 1).to_ascii_uppercase().as_slice() {
                b"WRAP" => Overflow::Wrap,
                b"SAT" => Overflow::Saturate,
                b"FAIL" => Overflow::Fail,
                _ => return Err("ERR Invalid OVERFLOW type specified".into()),
            };
            i += 2;
            continue;
        }
        let words = match () {
            () if is(b"GET") && left >= 2 => 3,
            () if (is(b"SET") || is(b"INCRBY")) && left >= 3 => 4,
            () => return Err(SYNTAX.into()),
        };
        let kind = Type::read(args.at(i + 1))?;
        let at = offset(context, args.at(i + 2), Some(kind.bits))?;
        let value = || parse_i64(args.at(i + 3)).ok_or(NOT_INTEGER);
        let action = match words {
            3 => Action::Get,
            _ if is(b"SET") => Action::Set(value()?),
            _ => Action::Add(value()?),
        };
        operations.push(Operation {
            kind,
            at,
            action,
            overflow,
        });
        i += words;
    }
    Ok(operations)
}

/// A value with changed bytes over it.
struct Overlay<'v> {
    value: &'v [u8],
    changed: BTreeMap<usize, u8>,
}

impl<'a> Overlay<'a> {
    fn of(value: &'a [u8]) -> Self {
        Self {
            value,
            changed: BTreeMap::new(),
        }
    }

    fn byte(&self, at: usize) -> u8 {
        let below = || self.value.get(at).copied().unwrap_or(0);
        self.changed.get(&at).copied().unwrap_or_else(below)
    }

    fn read(&self, from: u64, bits: u32) -> u64 {
        (from..from + u64::from(bits)).fold(0, |number, bit| {
            let (at, shift) = place(bit);
            number << 1 | u64::from(self.byte(at) >> shift & 1)
        })
    }

    fn write(&mut self, from: u64, bits: u32, number: u64) {
        for i in 0..bits {
            let (at, shift) = place(from + u64::from(i));
            let on = (number >> (bits - 1 - i) & 1) as u8;
            let byte = self.byte(at) & !(1 << shift) | on << shift;
            self.changed.insert(at, byte);
        }
    }

    /// Gives what is answered.
    fn apply(&mut self, operation: Operation) -> Option<i128> {
        let Operation { kind, at, .. } = operation;
        let old = kind.number(self.read(at, kind.bits));
        let wanted = match operation.action {
            Action::Get => return Some(old),
            Action::Set(value) if kind.signed => i128::from(value),
            Action::Set(value) => i128::from(value as u64),
            Action::Add(by) => old + i128::from(by),
        };
        let new = operation.overflow.fit(wanted, kind);
        if let Some(new) = new {
            self.write(at, kind.bits, new as u64);
        }
        match operation.action {
            Action::Set(_) => new.map(|_| old),
            _ => new,
        }
    }
}

fn bitfield(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let operations = operations(context, args)?;
    run(context, args.at(1), &operations)
}

fn bitfield_ro(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let operations = operations(context, args)?;
    if operations.iter().any(|o| !matches!(o.action, Action::Get)) {
        return Err("ERR BITFIELD_RO only supports the GET subcommand".into());
    }
    run(context, args.at(1), &operations)
}

fn run(context: &mut Context<'_>, key: &[u8], operations: &[Operation]) -> Result<(), Stop> {
    let writes = operations
        .iter()
        .filter(|o| !matches!(o.action, Action::Get));
    // One past the last byte that is written, whether an overflow leaves it or not.
    let end = writes
        .map(|o| (o.at + u64::from(o.kind.bits)).div_ceil(8) as usize)
        .max();
    let now_ms = context.now_ms;
    let Some(end) = end else {
        let (guard, p) = context.read(key)?;
        let answers = with_value(guard, (p, key), now_ms, |value| {
            let mut overlay = Overlay::of(value.unwrap_or_default());
            operations.iter().map(|&o| overlay.apply(o)).collect()
        })?;
        reply_fields(context, answers);
        return Ok(());
    };
    let (mut guard, p) = context.write_plain(key)?;
    let value = guard.string(p, key, now_ms)?.map(|item| item.value());
    let bytes = value.as_ref().map(Value::bytes).unwrap_or_default();
    let mut overlay = Overlay::of(&bytes);
    if end > overlay.value.len() {
        overlay.changed.insert(end - 1, 0);
    }
    let answers: Vec<Option<i128>> = operations.iter().map(|&o| overlay.apply(o)).collect();
    let touched = overlay
        .changed
        .first_key_value()
        .zip(overlay.changed.last_key_value());
    let window = touched.map(|((&from, _), (&to, _))| {
        (
            from,
            (from..=to).map(|at| overlay.byte(at)).collect::<Vec<u8>>(),
        )
    });
    if let Some((from, bytes)) = window {
        guard.set_range(p, key, from, &bytes, now_ms)?;
    }
    reply_fields(context, answers);
    Ok(())
}

fn reply_fields(context: &mut Context<'_>, answers: Vec<Option<i128>>) {
    let reply = &mut context.reply;
    reply.array(answers.len());
    for answer in answers {
        match answer {
            Some(number) => reply.integer(number as i64),
            None => reply.null(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_counted_and_found_as_one_by_one() {
        let value: Vec<u8> = (0..40u32)
            .map(|i| (i * 37 % 251) as u8)
            .chain([0; 9])
            .chain([0xFF; 9])
            .collect();
        let bit = |i: u64| value[(i / 8) as usize] >> (7 - i % 8) & 1 == 1;
        let total = value.len() as u64 * 8;
        for from in (0..total).step_by(5) {
            for to in (from + 1..=total).step_by(11) {
                let ones = (from..to).filter(|&i| bit(i)).count() as u64;
                assert_eq!(count_bits(&value, from, to), ones, "{from} {to}");
                for on in [false, true] {
                    let first = (from..to).find(|&i| bit(i) == on);
                    assert_eq!(find_bit(&value, on, from, to), first, "{on} {from} {to}");
                }
            }
        }
    }

    #[test]
    fn fields_wrap_saturate_and_fail_at_their_bounds() {
        let table = [
            (true, 8, 128, Some(-128), Some(127), None),
            (true, 8, -129, Some(127), Some(-128), None),
            (false, 8, 256, Some(0), Some(255), None),
            (false, 8, -1, Some(255), Some(0), None),
            (
                true,
                64,
                i128::from(i64::MAX) + 1,
                Some(i128::from(i64::MIN)),
                Some(i128::from(i64::MAX)),
                None,
            ),
            (false, 63, 5, Some(5), Some(5), Some(5)),
        ];
        for (signed, bits, value, wrap, saturate, fail) in table {
            let kind = Type { signed, bits };
            assert_eq!(Overflow::Wrap.fit(value, kind), wrap);
            assert_eq!(Overflow::Saturate.fit(value, kind), saturate);
            assert_eq!(Overflow::Fail.fit(value, kind), fail);
        }
    }
}
