//! The RDB file format, version 10 (Redis 7.0, docs/decisions): what a snapshot is written in, and redis-server loads.
//!
//! ```text
//! REDIS0010, AUX fields, SELECTDB 0, RESIZEDB keys expires, entries, EOF, CRC64 of all before (u64le)
//! entry: [0xFC expiry as Unix milliseconds, u64le] type key value; strings are length-prefixed
//! value: string (0); or the number of elements, then those: list (1), set (2), sorted set (5: member, score f64le), hash (4: field, value)
//! ```

use crc::{CRC_64_REDIS, Crc, Digest, Table};

use crate::store::Kind;
use crate::store::collections::Element;

const AUX: u8 = 0xFA;
const RESIZEDB: u8 = 0xFB;
const EXPIRY_MS: u8 = 0xFC;
const SELECTDB: u8 = 0xFE;
const EOF: u8 = 0xFF;

static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

/// The checksum of a file, fed in its order.
pub struct Checksum(Digest<'static, u64, Table<16>>);

impl Default for Checksum {
    fn default() -> Self {
        Self(CRC.digest())
    }
}

impl Checksum {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The file's last 8 bytes.
    pub fn finish(self) -> [u8; 8] {
        self.0.finalize().to_le_bytes()
    }
}

/// The file's head. The counts are hints for the loader.
pub fn write_head(to: &mut Vec<u8>, aux: &[(&str, &str)], keys: u64, expires: u64) {
    to.extend_from_slice(b"REDIS0010");
    for (name, value) in aux {
        to.push(AUX);
        write_string(to, name.as_bytes());
        write_string(to, value.as_bytes());
    }
    to.push(SELECTDB);
    write_length(to, 0);
    to.push(RESIZEDB);
    write_length(to, keys);
    write_length(to, expires);
}

/// The type of a value.
pub fn type_of(kind: Kind) -> u8 {
    match kind {
        Kind::String => 0,
        Kind::List => 1,
        Kind::Set => 2,
        Kind::Hash => 4,
        Kind::ZSet => 5,
    }
}

/// An entry up to its value, which follows: a string's bytes or a collection's elements, of which there are `length`.
pub fn write_entry_head(
    to: &mut Vec<u8>,
    key: &[u8],
    kind: Kind,
    length: usize,
    expires_at: Option<u64>,
) {
    if let Some(time) = expires_at {
        to.push(EXPIRY_MS);
        to.extend_from_slice(&time.to_le_bytes());
    }
    to.push(type_of(kind));
    write_string(to, key);
    write_length(to, length as u64);
}

pub fn write_element(to: &mut Vec<u8>, element: &Element<'_>) {
    match element {
        Element::One(one) => write_string(to, one),
        Element::Pair(field, value) => {
            write_string(to, field);
            write_string(to, value);
        }
        Element::Scored(member, score) => {
            write_string(to, member);
            to.extend_from_slice(&score.to_le_bytes());
        }
    }
}

/// The mark behind the entries; the checksum follows it.
pub fn write_end(to: &mut Vec<u8>) {
    to.push(EOF);
}

pub fn write_string(to: &mut Vec<u8>, text: &[u8]) {
    write_length(to, text.len() as u64);
    to.extend_from_slice(text);
}

/// 6 bits in one byte, 14 in two, else a mark and the number in 4 or 8 bytes, big-endian.
pub fn write_length(to: &mut Vec<u8>, length: u64) {
    if length < 1 << 6 {
        to.push(length as u8);
    } else if length < 1 << 14 {
        to.extend_from_slice(&(0x4000 | length as u16).to_be_bytes());
    } else if let Ok(length) = u32::try_from(length) {
        to.push(0x80);
        to.extend_from_slice(&length.to_be_bytes());
    } else {
        to.push(0x81);
        to.extend_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_shortest_form() {
        let table: [(u64, &[u8]); 7] = [
            (0, &[0]),
            (63, &[63]),
            (64, &[0x40, 64]),
            (16_383, &[0x7F, 0xFF]),
            (16_384, &[0x80, 0, 0, 0x40, 0]),
            (u64::from(u32::MAX), &[0x80, 0xFF, 0xFF, 0xFF, 0xFF]),
            (1 << 32, &[0x81, 0, 0, 0, 1, 0, 0, 0, 0]),
        ];
        for (length, bytes) in table {
            let mut to = Vec::new();
            write_length(&mut to, length);
            assert_eq!(to, bytes, "{length}");
        }
    }

    #[test]
    fn the_checksum_is_the_one_of_redis() {
        let mut sum = Checksum::default();
        sum.update(b"1234");
        sum.update(b"56789");
        assert_eq!(sum.finish(), 0xe9c6d914c4b8d9ca_u64.to_le_bytes());
    }
}
