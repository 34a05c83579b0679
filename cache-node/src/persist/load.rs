//! Reads a value as RDB files and `DUMP` hold it: the plain encodings that this server writes, and the compact ones of Redis 5 to 7.2.

/// A value that was read.
#[derive(Debug, Clone, PartialEq)]
pub enum Loaded {
    String(Vec<u8>),
    List(Vec<Vec<u8>>),
    Set(Vec<Vec<u8>>),
    Hash(Vec<(Vec<u8>, Vec<u8>)>),
    ZSet(Vec<(Vec<u8>, f64)>),
}

/// The bytes are no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ERR Bad data format")]
pub struct BadData;

/// Bytes of a compressed string when it is unpacked, at most.
const UNPACKED_MAX: u64 = crate::limits::BULK_MAX as u64;

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], BadData> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(BadData)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, BadData> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadData> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(BadData)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// A length, or the kind of a specially encoded string.
    fn length(&mut self) -> Result<Result<u64, u8>, BadData> {
        let first = self.byte()?;
        Ok(match first >> 6 {
            0 => Ok(u64::from(first)),
            1 => Ok(u64::from(first & 63) << 8 | u64::from(self.byte()?)),
            2 if first == 0x80 => Ok(u64::from(u32::from_be_bytes(self.array()?))),
            2 if first == 0x81 => Ok(u64::from_be_bytes(self.array()?)),
            3 => Err(first & 63),
            _ => return Err(BadData),
        })
    }

    /// A number of elements, each of which takes a byte at least.
    fn count(&mut self) -> Result<usize, BadData> {
        let count = self.length()?.map_err(|_| BadData)?;
        let count = usize::try_from(count).map_err(|_| BadData)?;
        if count > self.0.len() {
            Err(BadData)
        } else {
            Ok(count)
        }
    }

    fn string(&mut self) -> Result<Vec<u8>, BadData> {
        let number = |n: i64| Ok(n.to_string().into_bytes());
        match self.length()? {
            Ok(length) => {
                let length = usize::try_from(length).map_err(|_| BadData)?;
                Ok(self.take(length)?.to_vec())
            }
            Err(0) => number(i64::from(i8::from_le_bytes(self.array()?))),
            Err(1) => number(i64::from(i16::from_le_bytes(self.array()?))),
            Err(2) => number(i64::from(i32::from_le_bytes(self.array()?))),
            Err(3) => {
                let packed = self.count()?;
                let length = self.length()?.map_err(|_| BadData)?;
                if length > UNPACKED_MAX {
                    return Err(BadData);
                }
                unpack(self.take(packed)?, length as usize)
            }
            Err(_) => Err(BadData),
        }
    }
}

/// LZF: runs of literals, and copies of what came before.
fn unpack(packed: &[u8], length: usize) -> Result<Vec<u8>, BadData> {
    let mut input = Input(packed);
    let mut out: Vec<u8> = Vec::with_capacity(length.min(packed.len() * 64));
    while !input.0.is_empty() {
        let control = usize::from(input.byte()?);
        if control < 32 {
            out.extend_from_slice(input.take(control + 1)?);
        } else {
            let mut run = control >> 5;
            if run == 7 {
                run += usize::from(input.byte()?);
            }
            let back = ((control & 31) << 8 | usize::from(input.byte()?)) + 1;
            let from = out.len().checked_sub(back).ok_or(BadData)?;
            for i in from..from + run + 2 {
                out.push(out[i]);
            }
        }
        if out.len() > length {
            return Err(BadData);
        }
    }
    if out.len() == length {
        Ok(out)
    } else {
        Err(BadData)
    }
}

fn text(number: i64) -> Vec<u8> {
    number.to_string().into_bytes()
}

/// The entries of a listpack.
fn listpack(bytes: &[u8]) -> Result<Vec<Vec<u8>>, BadData> {
    let mut input = Input(bytes);
    let total = u32::from_le_bytes(input.array()?);
    input.array::<2>()?;
    if total as usize != bytes.len() {
        return Err(BadData);
    }
    let mut entries = Vec::new();
    loop {
        let before = input.0.len();
        let first = input.byte()?;
        let entry = match first {
            0xFF => break,
            0..=0x7F => text(i64::from(first)),
            0x80..=0xBF => input.take(usize::from(first & 63))?.to_vec(),
            0xC0..=0xDF => {
                let raw = i64::from(first & 31) << 8 | i64::from(input.byte()?);
                text(raw << 51 >> 51)
            }
            0xE0..=0xEF => {
                let length = usize::from(first & 15) << 8 | usize::from(input.byte()?);
                input.take(length)?.to_vec()
            }
            0xF0 => {
                let length = u32::from_le_bytes(input.array()?) as usize;
                input.take(length)?.to_vec()
            }
            0xF1 => text(i64::from(i16::from_le_bytes(input.array()?))),
            0xF2 => {
                let [a, b, c] = input.array()?;
                text(i64::from(i32::from_le_bytes([0, a, b, c]) >> 8))
            }
            0xF3 => text(i64::from(i32::from_le_bytes(input.array()?))),
            0xF4 => text(i64::from_le_bytes(input.array()?)),
            _ => return Err(BadData),
        };
        entries.push(entry);
        // How to go back: as many bytes as the entry's length needs in groups of 7 bits.
        let back = match before - input.0.len() {
            0..=127 => 1,
            128..=16_383 => 2,
            16_384..=2_097_151 => 3,
            2_097_152..=268_435_455 => 4,
            _ => 5,
        };
        input.take(back)?;
    }
    if input.0.is_empty() {
        Ok(entries)
    } else {
        Err(BadData)
    }
}

/// The entries of a ziplist, which came before listpacks.
fn ziplist(bytes: &[u8]) -> Result<Vec<Vec<u8>>, BadData> {
    let mut input = Input(bytes);
    let total = u32::from_le_bytes(input.array()?);
    input.array::<6>()?;
    if total as usize != bytes.len() {
        return Err(BadData);
    }
    let mut entries = Vec::new();
    loop {
        match input.byte()? {
            0xFF => break,
            0xFE => drop(input.array::<4>()?),
            _ => {}
        }
        let first = input.byte()?;
        entries.push(match first >> 6 {
            0 => input.take(usize::from(first & 63))?.to_vec(),
            1 => {
                let length = usize::from(first & 63) << 8 | usize::from(input.byte()?);
                input.take(length)?.to_vec()
            }
            2 => {
                let length = u32::from_be_bytes(input.array()?) as usize;
                input.take(length)?.to_vec()
            }
            _ => match first {
                0xC0 => text(i64::from(i16::from_le_bytes(input.array()?))),
                0xD0 => text(i64::from(i32::from_le_bytes(input.array()?))),
                0xE0 => text(i64::from_le_bytes(input.array()?)),
                0xF0 => {
                    let [a, b, c] = input.array()?;
                    text(i64::from(i32::from_le_bytes([0, a, b, c]) >> 8))
                }
                0xFE => text(i64::from(i8::from_le_bytes(input.array()?))),
                0xF1..=0xFD => text(i64::from(first & 15) - 1),
                _ => return Err(BadData),
            },
        });
    }
    if input.0.is_empty() {
        Ok(entries)
    } else {
        Err(BadData)
    }
}

fn intset(bytes: &[u8]) -> Result<Vec<Vec<u8>>, BadData> {
    let mut input = Input(bytes);
    let width = u32::from_le_bytes(input.array()?);
    let count = u32::from_le_bytes(input.array()?) as usize;
    if input.0.len() != count.checked_mul(width as usize).ok_or(BadData)? {
        return Err(BadData);
    }
    (0..count)
        .map(|_| {
            Ok(text(match width {
                2 => i64::from(i16::from_le_bytes(input.array()?)),
                4 => i64::from(i32::from_le_bytes(input.array()?)),
                8 => i64::from_le_bytes(input.array()?),
                _ => return Err(BadData),
            }))
        })
        .collect()
}

/// Fields with values, or members with the texts of scores.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn pairs(entries: Vec<Vec<u8>>) -> Result<Pairs, BadData> {
    if !entries.len().is_multiple_of(2) {
        return Err(BadData);
    }
    let mut entries = entries.into_iter();
    let mut pairs = Vec::new();
    while let (Some(a), Some(b)) = (entries.next(), entries.next()) {
        pairs.push((a, b));
    }
    Ok(pairs)
}

fn scored(pairs: Pairs) -> Result<Vec<(Vec<u8>, f64)>, BadData> {
    let score = |text: &[u8]| crate::protocol::double::parse(text).ok_or(BadData);
    pairs
        .into_iter()
        .map(|(member, text)| Ok((member, score(&text)?)))
        .collect()
}

/// Reads a value of an RDB type. As in Redis, bytes behind it are passed over.
pub fn read_value(bytes: &[u8]) -> Result<Loaded, BadData> {
    let mut input = Input(bytes);
    let loaded = match input.byte()? {
        0 => Loaded::String(input.string()?),
        kind @ 1..=2 => {
            let count = input.count()?;
            let all = (0..count)
                .map(|_| input.string())
                .collect::<Result<_, _>>()?;
            if kind == 1 {
                Loaded::List(all)
            } else {
                Loaded::Set(all)
            }
        }
        3 => {
            let count = input.count()?;
            let all = (0..count).map(|_| Ok((input.string()?, text_score(&mut input)?)));
            Loaded::ZSet(all.collect::<Result<_, _>>()?)
        }
        4 => {
            let count = input.count()?;
            let all = (0..count).map(|_| Ok((input.string()?, input.string()?)));
            Loaded::Hash(all.collect::<Result<_, _>>()?)
        }
        5 => {
            let count = input.count()?;
            let all = (0..count).map(|_| Ok((input.string()?, f64::from_le_bytes(input.array()?))));
            Loaded::ZSet(all.collect::<Result<_, _>>()?)
        }
        10 => Loaded::List(ziplist(&input.string()?)?),
        11 => Loaded::Set(intset(&input.string()?)?),
        12 => Loaded::ZSet(scored(pairs(ziplist(&input.string()?)?)?)?),
        13 => Loaded::Hash(pairs(ziplist(&input.string()?)?)?),
        kind @ (14 | 18) => {
            let count = input.count()?;
            let mut all = Vec::new();
            for _ in 0..count {
                let plain = kind == 18 && input.length()? == Ok(1);
                let node = input.string()?;
                match (kind, plain) {
                    (14, _) => all.extend(ziplist(&node)?),
                    (_, true) => all.push(node),
                    (_, false) => all.extend(listpack(&node)?),
                }
            }
            Loaded::List(all)
        }
        16 => Loaded::Hash(pairs(listpack(&input.string()?)?)?),
        17 => Loaded::ZSet(scored(pairs(listpack(&input.string()?)?)?)?),
        20 => Loaded::Set(listpack(&input.string()?)?),
        _ => return Err(BadData),
    };
    let empty = match &loaded {
        Loaded::String(_) => false,
        Loaded::List(all) | Loaded::Set(all) => all.is_empty(),
        Loaded::Hash(all) => all.is_empty(),
        Loaded::ZSet(all) => all.is_empty() || all.iter().any(|(_, score)| score.is_nan()),
    };
    if empty { Err(BadData) } else { Ok(loaded) }
}

/// A score of the old form: its length and text.
fn text_score(input: &mut Input<'_>) -> Result<f64, BadData> {
    match input.byte()? {
        253 => Err(BadData),
        254 => Ok(f64::INFINITY),
        255 => Ok(f64::NEG_INFINITY),
        length => {
            let text = input.take(usize::from(length))?;
            crate::protocol::double::parse(text).ok_or(BadData)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_strings_are_unpacked() {
        // Five letters, then a copy of 9 from 5 back.
        let packed = [4, b'a', b'b', b'c', b'd', b'e', 7 << 5, 0, 4];
        assert_eq!(unpack(&packed, 14).as_deref(), Ok(&b"abcdeabcdeabcd"[..]));
        assert_eq!(unpack(&packed, 13), Err(BadData));
        assert_eq!(unpack(&[0x20, 9], 3), Err(BadData));
    }

    #[test]
    fn damaged_values_are_refused_and_never_panic() {
        let mut whole = vec![4, 2];
        for word in ["f", "value", "g", "other"] {
            whole.push(word.len() as u8);
            whole.extend_from_slice(word.as_bytes());
        }
        assert!(matches!(read_value(&whole), Ok(Loaded::Hash(pairs)) if pairs.len() == 2));
        for end in 0..whole.len() {
            assert_eq!(read_value(&whole[..end]), Err(BadData), "{end}");
        }
        let mut state = 1u64;
        for _ in 0..200_000 {
            let bytes: Vec<u8> = (0..24)
                .map(|_| {
                    state = state
                        .wrapping_mul(6364136223846793005)
                        .wrapping_add(1442695040888963407);
                    (state >> 33) as u8 % if state.is_multiple_of(3) { 21 } else { 255 }
                })
                .collect();
            let _ = read_value(&bytes);
        }
    }
}
