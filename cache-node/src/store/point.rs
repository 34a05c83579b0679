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
    if !contains(key, b'{') {
        return key;
    }
    let Some(open) = key.iter().position(|&b| b == b'{') else {
        return key;
    };
    match key[open + 1..].iter().position(|&b| b == b'}') {
        None | Some(0) => key,
        Some(len) => &key[open + 1..open + 1 + len],
    }
}

/// Whether a byte is there, eight at a time.
fn contains(bytes: &[u8], wanted: u8) -> bool {
    const ONES: u64 = u64::MAX / 255;
    let (words, rest) = bytes.as_chunks::<8>();
    let any = words.iter().any(|word| {
        let zero_where_wanted = u64::from_ne_bytes(*word) ^ (ONES * u64::from(wanted));
        zero_where_wanted.wrapping_sub(ONES) & !zero_where_wanted & (ONES << 7) != 0
    });
    any || rest.contains(&wanted)
}

/// CRC16/XMODEM, eight bytes at a time.
fn crc16(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<8>();
    let crc = words.iter().fold(0u16, |crc, word| {
        let [high, low] = crc.to_be_bytes();
        let mut word = *word;
        word[0] ^= high;
        word[1] ^= low;
        word.iter()
            .zip(CRC16_TABLES.iter().rev())
            .fold(0, |sum, (&b, table)| sum ^ table[usize::from(b)])
    });
    rest.iter().fold(crc, |crc, &b| {
        (crc << 8) ^ CRC16_TABLES[0][usize::from((crc >> 8) as u8 ^ b)]
    })
}

/// The CRC of each byte, followed by as many zero bytes as the table's number.
static CRC16_TABLES: [[u16; 256]; 8] = crc16_tables();

const fn crc16_tables() -> [[u16; 256]; 8] {
    let mut tables = [[0u16; 256]; 8];
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
        tables[0][i] = crc;
        i += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut i = 0;
        while i < 256 {
            let crc = tables[zeros - 1][i];
            tables[zeros][i] = (crc << 8) ^ tables[0][(crc >> 8) as usize];
            i += 1;
        }
        zeros += 1;
    }
    tables
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

    #[test]
    fn eight_bytes_at_a_time_are_as_one_at_a_time() {
        let mut random = crate::store::tests::Lcg(3);
        for round in 0..3000 {
            let bytes: Vec<u8> = (0..round % 40).map(|_| random.below(256) as u8).collect();
            let crc = bytes.iter().fold(0u16, |mut crc, &b| {
                crc ^= u16::from(b) << 8;
                for _ in 0..8 {
                    crc = (crc << 1) ^ if crc & 0x8000 != 0 { 0x1021 } else { 0 };
                }
                crc
            });
            assert_eq!(crc16(&bytes), crc, "{bytes:?}");
            assert_eq!(contains(&bytes, b'{'), bytes.contains(&b'{'), "{bytes:?}");
        }
    }
}
