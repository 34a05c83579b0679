//! Where a key lives: its slot, and its position in the slot's table.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Slots of a cluster, as in Redis.
pub const SLOTS: u16 = 16_384;
/// Neighbouring slots that share one lock.
pub const SLOTS_PER_DOMAIN: u16 = 16;
/// Lock domains.
pub const DOMAINS: usize = (SLOTS / SLOTS_PER_DOMAIN) as usize;
/// Bits of a position.
pub const POS_BITS: u32 = 48;
/// One past the last position of a slot.
pub const POS_END: u64 = 1 << POS_BITS;

/// A key's slot and hash. The upper 48 bits of the hash are its position, which orders a slot's table and is the cursor of SCAN,
/// snapshots and slot moves; the lowest 8 bits are the tag that a bucket keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    pub slot: u16,
    pub hash: u64,
}

impl Point {
    pub fn new(key: &[u8], seed: u64) -> Self {
        Self {
            slot: slot_of(key),
            hash: hash_of(key, seed),
        }
    }

    pub fn pos(self) -> u64 {
        self.hash >> 16
    }

    pub fn tag(self) -> u8 {
        self.hash as u8
    }
}

/// The hash of a key, seeded so that nobody outside can choose keys that collide.
pub fn hash_of(key: &[u8], seed: u64) -> u64 {
    xxh3_64_with_seed(key, seed)
}

/// The slot of a key: CRC16 of its hash tag, or of all of it (Redis Cluster specification).
pub fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) % SLOTS
}

/// What is between the first `{` and the next `}` when that is not empty, else the whole key.
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&b| b == b'{') else {
        return key;
    };
    match key[open + 1..].iter().position(|&b| b == b'}') {
        None | Some(0) => key,
        Some(len) => &key[open + 1..open + 1 + len],
    }
}

/// CRC16/XMODEM, one table look-up a byte.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0u16, |crc, &b| {
        (crc << 8) ^ CRC16_TABLE[usize::from((crc >> 8) as u8 ^ b)]
    })
}

static CRC16_TABLE: [u16; 256] = crc16_table();

const fn crc16_table() -> [u16; 256] {
    let mut table = [0u16; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = (i as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 {
                (crc << 1) ^ 0x1021
            } else {
                crc << 1
            };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}

/// The lock domain of a slot.
pub fn domain_of(slot: u16) -> usize {
    usize::from(slot / SLOTS_PER_DOMAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_the_cluster_specification() {
        // The specification's check value, and slots a redis-server gives.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        for (key, slot) in [
            (&b""[..], 0),
            (b"foo", 12182),
            (b"bar", 5061),
            (b"{user1000}.following", 3443),
            (b"{user1000}.followers", 3443),
            (b"foo{}{bar}", 8363),
            (b"foo{{bar}}zap", 4015),
            (b"foo{bar}{zap}", 5061),
        ] {
            assert_eq!(slot_of(key), slot, "{}", String::from_utf8_lossy(key));
        }
    }
}
