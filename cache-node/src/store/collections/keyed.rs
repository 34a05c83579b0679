//! A tree of distinct keys with a payload each, in the order of the keys' seeded hashes: hashes, sets, and the index of sorted sets.
//!
//! An entry is `hash u32be, key length (LEB128), key, payload`; so bytes are in the order of (hash, key), and what begins with the key's
//! part is the key's entry. The hash is the cursor of `HSCAN` and its kind: keys that stay are given exactly once.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::super::budget::Budget;
use super::tree::{Iter, Tree};

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Keyed {
    tree: Tree,
    seed: u64,
}

/// Entries up to here are put together on the stack.
const SHORT: usize = 192;

fn hash(key: &[u8], seed: u64) -> u32 {
    (xxh3_64_with_seed(key, seed) >> 32) as u32
}

/// Puts together a key's entry, and tells how long its leading part is, which is the key's.
fn with_entry<R>(key: &[u8], seed: u64, payload: &[u8], f: impl FnOnce(&[u8], usize) -> R) -> R {
    let mut short = [0; SHORT];
    let mut long = Vec::new();
    let most = 4 + 5 + key.len() + payload.len();
    let entry = match most > SHORT {
        true => {
            long.resize(most, 0);
            &mut long[..]
        }
        false => &mut short[..],
    };
    entry[..4].copy_from_slice(&hash(key, seed).to_be_bytes());
    let (mut length, mut at) = (key.len(), 4);
    while length >= 0x80 {
        entry[at] = length as u8 | 0x80;
        (length, at) = (length >> 7, at + 1);
    }
    entry[at] = length as u8;
    let head = at + 1 + key.len();
    entry[at + 1..head].copy_from_slice(key);
    let end = head + payload.len();
    entry[head..end].copy_from_slice(payload);
    f(&entry[..end], head)
}

/// The key and the payload of an entry.
fn parts(entry: &[u8]) -> (&[u8], &[u8]) {
    let (mut length, mut shift, mut at) = (0usize, 0, 4);
    loop {
        let byte = entry[at];
        length |= usize::from(byte & 0x7F) << shift;
        (shift, at) = (shift + 7, at + 1);
        if byte & 0x80 == 0 {
            return entry[at..].split_at(length);
        }
    }
}

fn hash_of(entry: &[u8]) -> u32 {
    u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]])
}

impl Keyed {
    pub fn new(budget: &Arc<Budget>, seed: u64) -> Self {
        Self {
            tree: Tree::new(budget),
            seed,
        }
    }

    pub fn len(&self) -> usize {
        self.tree.len()
    }

    pub fn bytes(&self) -> usize {
        self.tree.bytes()
    }

    /// Where a key is, or where it belongs, by the leading part of its entry.
    fn find(&self, head: &[u8]) -> (usize, Option<&[u8]>) {
        let (at, entry) = self.tree.find_even(head);
        let entry = entry.or_else(|| self.tree.get(at));
        (at, entry.filter(|entry| entry.starts_with(head)))
    }

    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let found = |head: &[u8], length| {
            let entry = match self.tree.get_even(head) {
                Some(entry) => entry,
                // It may begin the next leaf.
                None => self.find(head).1?,
            };
            entry.starts_with(head).then(|| &entry[length..])
        };
        with_entry(key, self.seed, b"", found)
    }

    /// Sets a key's payload. Whether the key is new.
    pub fn put(&mut self, key: &[u8], payload: &[u8]) -> bool {
        with_entry(key, self.seed, payload, |entry, head| {
            let (at, found) = self.find(&entry[..head]);
            match found.is_some() {
                true => {
                    self.tree.replace(at, entry);
                    false
                }
                false => {
                    self.tree.insert(at, entry);
                    true
                }
            }
        })
    }

    /// Adds a key without a payload. Whether it is new.
    pub fn add(&mut self, key: &[u8]) -> bool {
        with_entry(key, self.seed, b"", |entry, _| {
            let (at, found) = self.find(entry);
            let new = found.is_none();
            if new {
                self.tree.insert(at, entry);
            }
            new
        })
    }

    pub fn remove(&mut self, key: &[u8]) -> bool {
        with_entry(key, self.seed, b"", |head, _| {
            let (at, found) = self.find(head);
            let there = found.is_some();
            if there {
                self.tree.remove(at);
            }
            there
        })
    }

    /// By which a key is found with [`Keyed::of_hash`].
    pub fn hash(&self, key: &[u8]) -> u32 {
        hash(key, self.seed)
    }

    /// The keys of a hash, and their payloads: most often one.
    pub fn of_hash(&self, hash: u32) -> impl Iterator<Item = (&[u8], &[u8])> {
        let (from, _) = self.tree.find_even(&hash.to_be_bytes());
        let entries = self.tree.iter_from(from);
        entries
            .take_while(move |entry| hash_of(entry) == hash)
            .map(parts)
    }

    /// The key and payload at an index in the order of hashes.
    pub fn at(&self, index: usize) -> Option<(&[u8], &[u8])> {
        self.tree.get(index).map(parts)
    }

    pub fn iter_from(&self, index: usize) -> Pairs<'_> {
        Pairs(self.tree.iter_from(index))
    }

    /// Gives at least `count` entries from a cursor on, unless the end is reached. Gives the next cursor, 0 at the end.
    pub fn scan<'t>(
        &'t self,
        cursor: u64,
        count: usize,
        mut each: impl FnMut(&'t [u8], &'t [u8]),
    ) -> u64 {
        let Ok(cursor) = u32::try_from(cursor) else {
            return 0;
        };
        let (from, _) = self.tree.find_even(&cursor.to_be_bytes());
        let mut last = None;
        for (seen, entry) in self.tree.iter_from(from).enumerate() {
            let hash = hash_of(entry);
            // Keys of one hash are given together.
            if seen >= count && last != Some(hash) {
                return u64::from(hash);
            }
            last = Some(hash);
            let (key, payload) = parts(entry);
            each(key, payload);
        }
        0
    }
}

/// Keys and payloads in the order of hashes.
#[derive(Debug, Clone)]
pub struct Pairs<'t>(Iter<'t>);

impl<'t> Iterator for Pairs<'t> {
    type Item = (&'t [u8], &'t [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(parts)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::super::tests::Lcg;
    use super::*;

    #[test]
    fn it_is_the_map_of_its_keys() {
        let budget = Arc::new(Budget::new(0));
        let (mut keyed, mut model) = (Keyed::new(&budget, 7), BTreeMap::new());
        let mut random = Lcg(5);
        for _ in 0..20_000 {
            let n = random.below(3_000);
            // Keys of which one begins as another, of every length's form.
            let key = match n % 3 {
                0 => vec![b'k'; n as usize / 3],
                _ => n.to_string().into_bytes(),
            };
            match random.below(3) {
                0 => assert_eq!(keyed.remove(&key), model.remove(&key).is_some()),
                _ => {
                    let payload = random.below(100).to_string().into_bytes();
                    let new = keyed.put(&key, &payload);
                    assert_eq!(new, model.insert(key, payload).is_none());
                }
            }
        }
        assert_eq!(keyed.len(), model.len());
        for (key, payload) in &model {
            assert_eq!(keyed.get(key), Some(&payload[..]));
        }
        let all: BTreeMap<_, _> = keyed
            .iter_from(0)
            .map(|(k, v)| (k.to_vec(), v.to_vec()))
            .collect();
        assert_eq!(all, model);
        assert_eq!(keyed.at(3), keyed.iter_from(3).next());
    }

    #[test]
    fn a_scan_gives_what_stays_exactly_once() {
        let budget = Arc::new(Budget::new(0));
        let mut keyed = Keyed::new(&budget, 9);
        let stays = |i: u64| i.to_string().into_bytes();
        for i in 0..3_000 {
            keyed.put(&stays(i), b"");
        }
        for count in [1, 10, 1_000] {
            let (mut random, mut cursor) = (Lcg(count as u64), 0);
            let mut seen: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
            loop {
                cursor = keyed.scan(cursor, count, |key, _| {
                    *seen.entry(key.to_vec()).or_default() += 1;
                });
                if cursor == 0 {
                    break;
                }
                for _ in 0..5 {
                    let passing = format!("p{}", random.below(2_000)).into_bytes();
                    if !keyed.put(&passing, b"") {
                        keyed.remove(&passing);
                    }
                }
            }
            for i in 0..3_000 {
                assert_eq!(seen.get(&stays(i)), Some(&1), "{i} with {count}");
            }
        }
    }
}
