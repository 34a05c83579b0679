//! A big sorted set: an index by member beside a tree in the order of score and member.
//!
//! An entry of the order is the score's bits, mapped so that their bytes are in the order of scores, and the member: so the order of bytes is
//! the order of the set, ties by member. A long member is in the index alone: its entry of the order has the first bytes of it, and names the
//! entry of the index, which is asked where those bytes are not enough.

use std::cmp::Ordering;
use std::sync::Arc;

use super::super::budget::Budget;
use super::keyed::Keyed;
use super::tree::Tree;

pub const SCORE: usize = 8;
/// Members up to here are in the order as they are.
pub const SHORT: usize = 128;
/// What names a long member's entry of the index: its hash, and which of those with this hash it is.
const NAME: usize = 8;
/// An entry of the order that is longer is a long member's.
const HEAD: usize = SCORE + SHORT;

/// Bytes that a member takes, with its score, in both trees.
pub fn entry_bytes(member: &[u8]) -> usize {
    member.len() + member.len().min(SHORT + NAME) + 64
}

/// A big sorted set.
#[derive(Debug, Clone)]
pub struct Scores {
    /// Member to score; of a long one also to which it is of those with its hash.
    pub index: Keyed,
    pub order: Tree,
}

/// The bytes of a score, in the order of scores. Zeros are one, as they are equal.
pub fn score_key(score: f64) -> [u8; SCORE] {
    let bits = (score + 0.0).to_bits();
    let ordered = match bits >> 63 {
        0 => bits | 1 << 63,
        _ => !bits,
    };
    ordered.to_be_bytes()
}

pub fn score_of(key: [u8; SCORE]) -> f64 {
    let ordered = u64::from_be_bytes(key);
    f64::from_bits(match ordered >> 63 {
        0 => !ordered,
        _ => ordered & !(1 << 63),
    })
}

pub fn entry(member: &[u8], score: f64) -> Vec<u8> {
    let mut entry = Vec::with_capacity(SCORE + member.len());
    entry.extend_from_slice(&score_key(score));
    entry.extend_from_slice(member);
    entry
}

/// Member and score of a packed entry.
pub fn parts(entry: &[u8]) -> (&[u8], f64) {
    match entry.split_first_chunk::<SCORE>() {
        Some((key, member)) => (member, score_of(*key)),
        None => (&[], 0.0),
    }
}

impl Scores {
    pub fn new(budget: &Arc<Budget>, seed: u64) -> Self {
        Self {
            index: Keyed::new(budget, seed),
            order: Tree::new(budget),
        }
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn bytes(&self) -> usize {
        self.index.bytes() + self.order.bytes()
    }

    pub fn score(&self, member: &[u8]) -> Option<f64> {
        let key = self.index.get(member)?.first_chunk()?;
        Some(score_of(*key))
    }

    /// Member and score of an entry of the order.
    pub fn parts<'s>(&'s self, entry: &'s [u8]) -> (&'s [u8], f64) {
        match entry.len() > HEAD {
            true => (self.long(entry), parts(entry).1),
            false => parts(entry),
        }
    }

    /// The long member of an entry of the order.
    fn long(&self, entry: &[u8]) -> &[u8] {
        let Some((hash, which)) = entry[HEAD..].split_first_chunk() else {
            return &[];
        };
        let mut all = self.index.of_hash(u32::from_be_bytes(*hash));
        let named = all.find(|(_, payload)| payload.get(SCORE..) == Some(which));
        debug_assert!(
            named.is_some(),
            "the index has every long member of the order"
        );
        named.map_or(&[], |(member, _)| member)
    }

    /// A name for a long member that no other one of its hash has.
    fn new_name(&self, member: &[u8]) -> [u8; 4] {
        let hash = self.index.hash(member);
        let mut which = 0u32;
        while self
            .index
            .of_hash(hash)
            .any(|(_, payload)| payload.get(SCORE..) == Some(&which.to_be_bytes()[..]))
        {
            which += 1;
        }
        which.to_be_bytes()
    }

    /// Where a member of a score is in the order, or belongs.
    pub fn place(&self, score: [u8; SCORE], member: &[u8]) -> usize {
        let mut head = [0; HEAD];
        let shown = member.len().min(SHORT);
        head[..SCORE].copy_from_slice(&score);
        head[SCORE..][..shown].copy_from_slice(&member[..shown]);
        let head = &head[..SCORE + shown];
        let is_long = member.len() > SHORT;
        self.order
            .search(u64::from_be_bytes(score), |entry| match is_long {
                false => entry < head,
                true if entry.len() <= HEAD => entry <= head,
                true => match entry[..HEAD].cmp(head) {
                    Ordering::Equal => self.long(entry) < member,
                    order => order == Ordering::Less,
                },
            })
    }

    pub fn put(&mut self, member: &[u8], score: f64) {
        let key = score_key(score);
        let is_long = member.len() > SHORT;
        let mut payload = [0; SCORE + 4];
        let held = if is_long { SCORE + 4 } else { SCORE };
        match self.index.get(member) {
            Some(old) => {
                payload[..held].copy_from_slice(&old[..held]);
                let Some(old) = payload.first_chunk().filter(|old| **old != key) else {
                    return;
                };
                let at = self.place(*old, member);
                self.order.remove(at);
            }
            None if is_long => payload[SCORE..].copy_from_slice(&self.new_name(member)),
            None => {}
        }
        payload[..SCORE].copy_from_slice(&key);
        let at = self.place(key, member);
        let mut entry = [0; HEAD + NAME];
        let shown = member.len().min(SHORT);
        entry[..SCORE].copy_from_slice(&key);
        entry[SCORE..][..shown].copy_from_slice(&member[..shown]);
        if is_long {
            entry[HEAD..][..4].copy_from_slice(&self.index.hash(member).to_be_bytes());
            entry[HEAD + 4..].copy_from_slice(&payload[SCORE..]);
            self.order.insert(at, &entry);
        } else {
            self.order.insert(at, &entry[..SCORE + shown]);
        }
        self.index.put(member, &payload[..held]);
    }

    pub fn remove(&mut self, member: &[u8]) -> bool {
        let Some(score) = self.score(member) else {
            return false;
        };
        let at = self.place(score_key(score), member);
        self.order.remove(at);
        self.index.remove(member)
    }
}
