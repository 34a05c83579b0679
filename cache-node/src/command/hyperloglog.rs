//! `PFADD`, `PFCOUNT`, `PFMERGE`: HyperLogLogs in strings, in Redis's format, so that they may be copied to and from one.
//!
//! ```text
//! "HYLL", encoding u8 (0: dense, 1: sparse), 3 zero bytes, cached count u64le (highest bit: not valid), registers
//! dense:  16,384 registers of 6 bits, the lowest bits first
//! sparse: 00nnnnnn: n+1 zeroes; 01nnnnnn nnnnnnnn: n+1 zeroes; 1vvvvvnn: n+1 registers of v+1
//! ```

use std::sync::atomic::Ordering;

use super::access::Access;
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::node::Node;
use crate::protocol::Args;
use crate::store::compress::Value;
use crate::store::{Guard, Point};

pub const COMMANDS: &[Command] = &[
    Command::new("pfadd", -2, Group::HyperLogLog, pfadd)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST))
        .keys(1, 1, 1)
        .doc("2.8.9", "O(1) to add every element.", "Adds the specified elements to the specified HyperLogLog."),
    Command::new("pfcount", -2, Group::HyperLogLog, pfcount)
        .flags(Flags::READONLY)
        .keys(1, -1, 1)
        .doc("2.8.9", "O(1) with a very small average constant time when called with a single key. O(N) with N being the number of keys, and much bigger constant times, when called with multiple keys.", "Return the approximated cardinality of the set(s) observed by the HyperLogLog at key(s)."),
    Command::new("pfmerge", -2, Group::HyperLogLog, pfmerge)
        .flags(Flags::WRITE.and(Flags::DENYOOM))
        .keys(1, -1, 1)
        .doc("2.8.9", "O(N) to merge N HyperLogLogs, but with high constant times.", "Merge N different HyperLogLogs into a single one."),
];

const REGISTERS: usize = 1 << PRECISION;
const PRECISION: u32 = 14;
const HEAD: usize = 16;
const DENSE: usize = HEAD + REGISTERS * 6 / 8;
/// The largest register of the sparse form.
const SPARSE_VALUE_MAX: u8 = 32;

const INVALID: &str = "WRONGTYPE Key is not a valid HyperLogLog string value.";
const CORRUPTED: &str = "INVALIDOBJ Corrupted HLL object detected";

/// How registers are written: dense, or sparse up to so many bytes.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    dense: bool,
    sparse_max: usize,
}

/// The form of what is dense already or not, by the node's setting.
pub fn form(node: &Node, dense: bool) -> Form {
    let sparse_max = node.settings.hll_sparse_max.load(Ordering::Relaxed);
    Form {
        dense,
        sparse_max: usize::try_from(sparse_max).unwrap_or(usize::MAX),
    }
}

/// The registers, one a byte.
#[derive(Clone)]
pub struct Registers(pub Box<[u8; REGISTERS]>);

impl Default for Registers {
    fn default() -> Self {
        Self(Box::new([0; REGISTERS]))
    }
}

impl Registers {
    /// Reads a string. Gives whether it is dense too.
    pub fn read(bytes: &[u8]) -> Result<(Self, bool), Stop> {
        if bytes.len() < HEAD || !bytes.starts_with(b"HYLL") || bytes[4] > 1 {
            return Err(INVALID.into());
        }
        let mut registers = Self::default();
        let body = &bytes[HEAD..];
        if bytes[4] == 0 {
            if bytes.len() != DENSE {
                return Err(INVALID.into());
            }
            for (i, register) in registers.0.iter_mut().enumerate() {
                let (byte, shift) = (i * 6 / 8, i * 6 % 8);
                let next = body.get(byte + 1).copied().unwrap_or(0);
                *register = (u16::from_le_bytes([body[byte], next]) >> shift & 63) as u8;
            }
            return Ok((registers, true));
        }
        registers.read_sparse(body)?;
        Ok((registers, false))
    }

    fn read_sparse(&mut self, body: &[u8]) -> Result<(), Stop> {
        let (mut at, mut i) = (0, 0);
        while let Some(&byte) = body.get(i) {
            let (run, value) = match byte >> 6 {
                0 => (usize::from(byte & 63) + 1, 0),
                1 => {
                    i += 1;
                    let low = body.get(i).ok_or(CORRUPTED)?;
                    ((usize::from(byte & 63) << 8 | usize::from(*low)) + 1, 0)
                }
                _ => (usize::from(byte & 3) + 1, (byte >> 2 & 31) + 1),
            };
            self.0.get_mut(at..at + run).ok_or(CORRUPTED)?.fill(value);
            at += run;
            i += 1;
        }
        match at {
            REGISTERS => Ok(()),
            _ => Err(CORRUPTED.into()),
        }
    }

    /// The string: sparse where that is allowed and small.
    pub fn write(&self, form: Form) -> Vec<u8> {
        let sparse = match form.dense {
            true => None,
            false => self.write_sparse(form.sparse_max),
        };
        if let Some(bytes) = sparse {
            return bytes;
        }
        let mut bytes = head(0);
        bytes.resize(DENSE + 1, 0);
        for (i, &register) in self.0.iter().enumerate() {
            let (byte, shift) = (HEAD + i * 6 / 8, i * 6 % 8);
            let word = u16::from(register) << shift;
            bytes[byte] |= word as u8;
            bytes[byte + 1] |= (word >> 8) as u8;
        }
        bytes.truncate(DENSE);
        bytes
    }

    fn write_sparse(&self, most: usize) -> Option<Vec<u8>> {
        let mut bytes = head(1);
        let mut i = 0;
        while i < REGISTERS {
            let value = self.0[i];
            let same = self.0[i..].iter().take_while(|&&r| r == value).count();
            i += same;
            let mut left = same;
            while left > 0 {
                let run = match value {
                    0 => left,
                    _ => left.min(4),
                };
                match (value, run) {
                    (0, 1..=64) => bytes.push((run - 1) as u8),
                    (0, _) => bytes.extend_from_slice(&(0x4000 | (run - 1) as u16).to_be_bytes()),
                    (1..=SPARSE_VALUE_MAX, _) => {
                        bytes.push(0x80 | (value - 1) << 2 | (run - 1) as u8);
                    }
                    _ => return None,
                }
                left -= run;
            }
            if bytes.len() > HEAD.saturating_add(most) {
                return None;
            }
        }
        Some(bytes)
    }

    /// Whether a register has grown.
    pub fn add(&mut self, element: &[u8]) -> bool {
        let hash = murmur(element);
        let register = &mut self.0[hash as usize & (REGISTERS - 1)];
        let rest = hash >> PRECISION | 1 << (64 - PRECISION);
        let run = rest.trailing_zeros() as u8 + 1;
        let grows = run > *register;
        *register = run.max(*register);
        grows
    }

    fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0.iter()) {
            *mine = (*mine).max(*theirs);
        }
    }

    /// The estimate of O. Ertl, "New cardinality estimation algorithms for HyperLogLog sketches", in the steps that Redis takes.
    pub fn count(&self) -> u64 {
        const Q: usize = 64 - PRECISION as usize;
        let mut histogram = [0u32; 64];
        self.0.iter().for_each(|&r| histogram[usize::from(r)] += 1);
        let m = REGISTERS as f64;
        let mut z = m * tau((m - f64::from(histogram[Q + 1])) / m);
        for j in (1..=Q).rev() {
            z += f64::from(histogram[j]);
            z *= 0.5;
        }
        z += m * sigma(f64::from(histogram[0]) / m);
        (0.721_347_520_444_481_7 * m * m / z).round() as u64
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if before == z {
            return z / 3.0;
        }
    }
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if before == z {
            return z;
        }
    }
}

fn head(encoding: u8) -> Vec<u8> {
    let mut bytes = b"HYLL".to_vec();
    bytes.push(encoding);
    // The cached count is not valid: it is computed when it is asked for.
    bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80]);
    bytes
}

/// MurmurHash64A with Redis's seed.
fn murmur(bytes: &[u8]) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    const SEED: u64 = 0xadc8_3b19;
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(M);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mut k = u64::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 47;
        hash = (hash ^ k.wrapping_mul(M)).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(M);
    }
    hash ^= hash >> 47;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 47
}

/// The registers of a key, and whether they are dense; None: there is no such key.
pub fn find(
    guard: &mut Guard<'_>,
    p: Point,
    key: &[u8],
    now_ms: u64,
) -> Result<Option<(Registers, bool)>, Stop> {
    let item = guard.string(p, key, now_ms)?;
    item.map(|item| Registers::read(&item.value().bytes()))
        .transpose()
}

fn pfadd(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let key = args.at(1);
    let (mut guard, p) = context.write_plain(key)?;
    let now_ms = context.now_ms;
    let found = find(&mut guard, p, key, now_ms)?;
    let absent = found.is_none();
    let (mut registers, dense) = found.unwrap_or_default();
    let grown = args.from(2).iter().filter(|e| registers.add(e)).count();
    let changed = absent || grown > 0;
    if changed {
        store(
            &mut guard,
            p,
            key,
            &registers,
            form(context.node, dense),
            now_ms,
        )?;
    }
    context.reply.integer(i64::from(changed));
    Ok(())
}

/// Stores registers, with the expiry that the key has, or a new key's.
pub fn store(
    guard: &mut Guard<'_>,
    p: Point,
    key: &[u8],
    registers: &Registers,
    form: Form,
    now_ms: u64,
) -> Result<(), Stop> {
    let expires_at = match guard.get(p, key, now_ms) {
        Some(item) => item.expires_at(),
        None => guard.default_expiry(p, key, now_ms),
    };
    Ok(guard.set(p, key, &registers.write(form), expires_at)?)
}

fn pfcount(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (mut guard, points) = context.lock_all_args(args, Access::Read)?;
    let mut all = Registers::default();
    let mut later = Vec::new();
    for (&p, key) in points.iter().zip(args.from(1).iter()) {
        let item = guard.string(p, key, context.now_ms)?;
        match item.map(|item| item.value()) {
            None => {}
            Some(Value::Plain(value)) => all.merge(&Registers::read(&value)?.0),
            Some(Value::Packed(packed)) => later.push(packed.keep()),
        }
    }
    // The estimate is made without the lock.
    drop(guard);
    for packed in later {
        all.merge(&Registers::read(&packed.unpack())?.0);
    }
    context.reply.integer(all.count() as i64);
    Ok(())
}

fn pfmerge(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    context.expand(args.from(1).iter())?;
    let (mut guard, points) = context.lock_all_args(args, Access::Write)?;
    let now_ms = context.now_ms;
    let (mut all, mut any_dense) = (Registers::default(), false);
    for (&p, key) in points.iter().zip(args.from(1).iter()) {
        if let Some((registers, dense)) = find(&mut guard, p, key, now_ms)? {
            all.merge(&registers);
            any_dense |= dense;
        }
    }
    store(
        &mut guard,
        points[0],
        args.at(1),
        &all,
        form(context.node, any_dense),
        now_ms,
    )?;
    context.reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_configured(dense: bool) -> Form {
        Form {
            dense,
            sparse_max: crate::limits::HLL_SPARSE_MAX as usize,
        }
    }

    #[test]
    fn registers_come_back_from_both_forms() {
        for elements in [0, 1, 50, 400, 5_000, 200_000] {
            let mut registers = Registers::default();
            for i in 0..elements {
                registers.add(format!("element:{i}").as_bytes());
            }
            let estimate = registers.count() as f64;
            let error = (estimate - f64::from(elements)).abs();
            assert!(
                error <= f64::from(elements) * 0.03,
                "{elements}: {estimate}"
            );
            for dense in [false, true] {
                let bytes = registers.write(as_configured(dense));
                let (read, is_dense) = Registers::read(&bytes).unwrap_or_default();
                assert!(read.0 == registers.0);
                assert_eq!(is_dense, dense || elements >= 5_000);
                assert_eq!(is_dense, bytes.len() == DENSE);
            }
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        let sparse = Registers::default().write(as_configured(false));
        assert_eq!(sparse.len(), HEAD + 2);
        for bytes in [&b""[..], b"HYLL", &sparse[..HEAD], &sparse[..HEAD + 1]] {
            assert!(Registers::read(bytes).is_err(), "{bytes:?}");
        }
        let mut long = sparse;
        long.push(0);
        assert!(Registers::read(&long).is_err());
    }
}
