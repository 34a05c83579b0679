//! Sorted sets: packed in the order of score and member; else a tree in that order beside an index by member.
//!
//! An entry of the order is the score's bits, mapped so that their bytes are in the order of scores, and the member: so the order of bytes is
//! the order of the set, ties by member. A long member is in the index alone: its entry of the order has the first bytes of it, and names the
//! entry of the index, which is asked where those bytes are not enough.

use std::cmp::Ordering;
use std::sync::Arc;

use super::super::budget::Budget;
use super::keyed::Keyed;
use super::tree::Tree;
use super::{Either, Object, Owned, Tools, View, packed};

const SCORE: usize = 8;
/// Members up to here are in the order as they are.
const SHORT: usize = 128;
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
    index: Keyed,
    order: Tree,
}

/// The bytes of a score, in the order of scores. Zeros are one, as they are equal.
fn score_key(score: f64) -> [u8; SCORE] {
    let bits = (score + 0.0).to_bits();
    let ordered = match bits >> 63 {
        0 => bits | 1 << 63,
        _ => !bits,
    };
    ordered.to_be_bytes()
}

fn score_of(key: [u8; SCORE]) -> f64 {
    let ordered = u64::from_be_bytes(key);
    f64::from_bits(match ordered >> 63 {
        0 => !ordered,
        _ => ordered & !(1 << 63),
    })
}

fn entry(member: &[u8], score: f64) -> Vec<u8> {
    let mut entry = Vec::with_capacity(SCORE + member.len());
    entry.extend_from_slice(&score_key(score));
    entry.extend_from_slice(member);
    entry
}

/// Member and score of a packed entry.
fn parts(entry: &[u8]) -> (&[u8], f64) {
    match entry.split_first_chunk::<SCORE>() {
        Some((key, member)) => (member, score_of(*key)),
        None => (&[], 0.0),
    }
}

impl Scores {
    fn new(budget: &Arc<Budget>, seed: u64) -> Self {
        Self {
            index: Keyed::new(budget, seed),
            order: Tree::new(budget),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.index.bytes() + self.order.bytes()
    }

    fn score(&self, member: &[u8]) -> Option<f64> {
        let key = self.index.get(member)?.first_chunk()?;
        Some(score_of(*key))
    }

    /// Member and score of an entry of the order.
    fn parts<'s>(&'s self, entry: &'s [u8]) -> (&'s [u8], f64) {
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
    fn place(&self, score: [u8; SCORE], member: &[u8]) -> usize {
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

    fn put(&mut self, member: &[u8], score: f64) {
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

    fn remove(&mut self, member: &[u8]) -> bool {
        let Some(score) = self.score(member) else {
            return false;
        };
        let at = self.place(score_key(score), member);
        self.order.remove(at);
        self.index.remove(member)
    }
}

/// A sorted set to be read.
#[derive(Debug, Clone, Copy)]
pub struct ZSet<'a>(pub View<'a>);

impl<'a> ZSet<'a> {
    fn scores(self) -> Result<&'a Scores, &'a [u8]> {
        match self.0 {
            View::Packed(run) => Err(run),
            View::Big(Object::ZSet(scores)) => Ok(scores),
            View::Big(_) => Err(&[]),
        }
    }

    pub fn len(self) -> usize {
        match self.scores() {
            Ok(scores) => scores.len(),
            Err(run) => packed::count(run),
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    pub fn score(self, member: &[u8]) -> Option<f64> {
        match self.scores() {
            Ok(scores) => scores.score(member),
            Err(run) => packed::values(run)
                .map(parts)
                .find(|(m, _)| *m == member)
                .map(|(_, s)| s),
        }
    }

    /// The member's index in the order, and its score.
    pub fn rank(self, member: &[u8]) -> Option<(usize, f64)> {
        match self.scores() {
            Ok(scores) => {
                let score = scores.score(member)?;
                Some((scores.place(score_key(score), member), score))
            }
            Err(run) => {
                let mut all = packed::values(run).map(parts).enumerate();
                let (rank, (_, score)) = all.find(|(_, (m, _))| *m == member)?;
                Some((rank, score))
            }
        }
    }

    pub fn at(self, index: usize) -> Option<(&'a [u8], f64)> {
        match self.scores() {
            Ok(scores) => scores.order.get(index).map(|entry| scores.parts(entry)),
            Err(run) => packed::get(run, index).map(parts),
        }
    }

    /// The number of leading members for which `before` is true; it must be true for none behind one for which it is false.
    pub fn partition_point(self, mut before: impl FnMut(&[u8], f64) -> bool) -> usize {
        match self.scores() {
            Ok(scores) => scores.order.partition_point(|entry| {
                let (member, score) = scores.parts(entry);
                before(member, score)
            }),
            Err(run) => {
                let all = packed::values(run).map(parts);
                all.take_while(|&(member, score)| before(member, score))
                    .count()
            }
        }
    }

    pub fn iter_from(self, index: usize) -> impl Iterator<Item = (&'a [u8], f64)> {
        match self.scores() {
            Ok(scores) => {
                let entries = scores.order.iter_from(index);
                Either::Big(entries.map(|entry| scores.parts(entry)))
            }
            Err(run) => Either::Packed(packed::values(run).skip(index).map(parts)),
        }
    }

    /// From an index back to the first.
    pub fn iter_back(self, index: usize) -> impl Iterator<Item = (&'a [u8], f64)> {
        match self.scores() {
            Ok(scores) => {
                let entries = scores.order.iter_back(index);
                Either::Big(entries.map(|entry| scores.parts(entry)))
            }
            Err(run) => {
                let all: Vec<_> = packed::values(run)
                    .take(index.saturating_add(1))
                    .map(parts)
                    .collect();
                Either::Packed(all.into_iter().rev())
            }
        }
    }

    /// As [`Keyed::scan`]; a packed one is given at once.
    pub fn scan(self, cursor: u64, count: usize, mut each: impl FnMut(&'a [u8], f64)) -> u64 {
        match self.scores() {
            Ok(scores) => scores.index.scan(cursor, count, |member, key| {
                if let Some(key) = key.first_chunk() {
                    each(member, score_of(*key));
                }
            }),
            Err(run) => {
                packed::values(run).map(parts).for_each(|(m, s)| each(m, s));
                0
            }
        }
    }
}

/// Sets a member's score.
pub fn put(zset: &mut Owned, member: &[u8], score: f64, tools: &Tools<'_>) {
    let limits = tools.limits;
    if let Owned::Packed(run) = zset {
        let found = packed::entries(run).find(|(_, e)| e.get(SCORE..) == Some(member));
        let found = found.map(|(range, _)| range);
        let count = packed::count(run) + usize::from(found.is_none());
        let fits = member.len() <= limits.zset_value
            && count <= limits.zset_entries
            && run.len() + member.len() + SCORE + 5 <= packed::BYTES_MAX;
        if fits || (found.is_some() && member.len() <= limits.zset_value) {
            if let Some(range) = found {
                packed::cut(run, range, 1);
            }
            let entry = entry(member, score);
            let at = packed::values(run).take_while(|e| *e < &entry[..]).count();
            packed::insert(run, at, &entry);
            return;
        }
        let mut scores = Scores::new(tools.budget, tools.seed);
        for (member, score) in packed::values(run).map(parts) {
            scores.put(member, score);
        }
        *zset = Owned::Big(Box::new(Object::ZSet(scores)));
    }
    if let Owned::Big(object) = zset
        && let Object::ZSet(scores) = &mut **object
    {
        scores.put(member, score);
    }
}

/// Whether the member was there.
pub fn remove(zset: &mut Owned, member: &[u8]) -> bool {
    match zset {
        Owned::Packed(run) => {
            let found = packed::entries(run).find(|(_, e)| e.get(SCORE..) == Some(member));
            let range = found.map(|(range, _)| range);
            if let Some(range) = range.clone() {
                packed::cut(run, range, 1);
            }
            range.is_some()
        }
        Owned::Big(object) => match &mut **object {
            Object::ZSet(scores) => scores.remove(member),
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::super::tests::Lcg;
    use super::super::test_tools;
    use super::*;

    #[test]
    fn the_bytes_of_scores_are_in_their_order() {
        let scores = [
            f64::NEG_INFINITY,
            f64::MIN,
            -1.5,
            -1.0,
            -f64::MIN_POSITIVE,
            0.0,
            5e-324,
            1.0,
            1.0 + f64::EPSILON,
            1e300,
            f64::INFINITY,
        ];
        for pair in scores.windows(2) {
            assert!(score_key(pair[0]) < score_key(pair[1]), "{pair:?}");
        }
        for score in scores {
            assert_eq!(score_of(score_key(score)), score);
        }
        assert_eq!(score_key(-0.0), score_key(0.0));
    }

    /// Long members that begin alike, some with the same hash, beside short ones that are beginnings of them.
    #[test]
    fn long_members_are_in_it_once_and_in_order() {
        let budget = Arc::new(Budget::new(0));
        let tools = test_tools(&budget);
        let index = Keyed::new(&budget, tools.seed);
        let name = |n: u32| format!("{}{n}", "x".repeat(SHORT)).into_bytes();
        let mut by_hash: Vec<(u32, u32)> =
            (0..300_000).map(|n| (index.hash(&name(n)), n)).collect();
        by_hash.sort_unstable();
        let alike = by_hash.windows(2).filter(|w| w[0].0 == w[1].0);
        let mut members: Vec<Vec<u8>> = alike.flat_map(|w| [name(w[0].1), name(w[1].1)]).collect();
        assert!(members.len() > 4, "no two of one hash among so many");
        members.extend((0..200).map(name));
        members.extend((SHORT - 3..SHORT + 3).map(|n| vec![b'x'; n]));
        members.push(vec![b'y'; 10_000]);
        let mut random = Lcg(7);
        let (mut zset, mut model) = (Owned::empty(), BTreeMap::<Vec<u8>, f64>::new());
        let mut kept = None;
        for step in 0..6_000 {
            let member = &members[random.below(members.len() as u64) as usize];
            match random.below(4) {
                0 => assert_eq!(remove(&mut zset, member), model.remove(member).is_some()),
                _ => {
                    let score = random.below(3) as f64;
                    put(&mut zset, member, score, &tools);
                    model.insert(member.clone(), score);
                }
            }
            if step == 3_000
                && let Owned::Big(object) = &zset
            {
                kept = Some((Owned::Big(object.clone()), model.clone()));
            }
        }
        for (zset, model) in [(zset, model), kept.unwrap()] {
            let mut order: Vec<(f64, &[u8])> =
                model.iter().map(|(m, s)| (*s, m.as_slice())).collect();
            order.sort_by(|a, b| a.partial_cmp(b).unwrap());
            let view = ZSet(zset.view());
            assert!(view.iter_from(0).eq(order.iter().map(|&(s, m)| (m, s))));
            let back = order.iter().rev().map(|&(s, m)| (m, s));
            assert!(view.iter_back(order.len() - 1).eq(back));
            for (rank, &(score, member)) in order.iter().enumerate() {
                assert_eq!(view.rank(member), Some((rank, score)));
                assert_eq!(view.at(rank), Some((member, score)));
                let below = view.partition_point(|m, s| (s, m) < (score, member));
                assert_eq!(below, rank);
            }
            let mut scanned = BTreeMap::new();
            let cursor = view.scan(0, usize::MAX, |m, s| {
                scanned.insert(m.to_vec(), s);
            });
            assert_eq!(cursor, 0);
            assert_eq!(scanned, model);
        }
        assert_eq!(budget.used(), index.bytes() as u64);
    }

    #[test]
    fn a_long_member_takes_little_more_than_its_bytes() {
        let budget = Arc::new(Budget::new(0));
        let mut zset = Owned::empty();
        put(&mut zset, &[7; 16_384], 1.0, &test_tools(&budget));
        let Owned::Big(object) = &zset else {
            panic!("it is big");
        };
        assert_eq!(object.bytes() as u64, budget.used());
        assert!(object.bytes() < 16_384 + 1_024, "{}", object.bytes());
    }

    #[test]
    fn it_is_an_ordered_map_packed_and_big() {
        let budget = Arc::new(Budget::new(0));
        let tools = test_tools(&budget);
        for (seed, members) in [(1, 50), (2, 128), (3, 900)] {
            let mut random = Lcg(seed);
            let (mut zset, mut model) = (Owned::empty(), BTreeMap::<Vec<u8>, f64>::new());
            for _ in 0..6_000 {
                let member = format!("m{}", random.below(members)).into_bytes();
                match random.below(4) {
                    0 => assert_eq!(remove(&mut zset, &member), model.remove(&member).is_some()),
                    _ => {
                        let score = random.below(40) as f64 / 4.0 - 5.0;
                        put(&mut zset, &member, score, &tools);
                        model.insert(member.clone(), score);
                    }
                }
                let view = ZSet(zset.view());
                assert_eq!(view.score(&member), model.get(&member).copied());
                assert_eq!(view.len(), model.len());
            }
            assert_eq!(matches!(zset, Owned::Big(_)), members > 128);
            let mut order: Vec<(f64, &[u8])> =
                model.iter().map(|(m, s)| (*s, m.as_slice())).collect();
            order.sort_by(|a, b| a.partial_cmp(b).unwrap());
            let view = ZSet(zset.view());
            assert!(view.iter_from(0).eq(order.iter().map(|&(s, m)| (m, s))));
            let last = order.len() - 1;
            assert!(
                view.iter_back(last)
                    .eq(order.iter().rev().map(|&(s, m)| (m, s)))
            );
            for (rank, &(score, member)) in order.iter().enumerate() {
                assert_eq!(view.rank(member), Some((rank, score)));
                assert_eq!(view.at(rank), Some((member, score)));
            }
            for bound in [-6.0, -2.25, 0.0, 3.1, 9.0] {
                let below = order.iter().filter(|(s, _)| *s < bound).count();
                assert_eq!(view.partition_point(|_, s| s < bound), below);
            }
            let (mut cursor, mut scanned) = (0, BTreeMap::new());
            loop {
                cursor = view.scan(cursor, 7, |m, s| {
                    scanned.insert(m.to_vec(), s);
                });
                if cursor == 0 {
                    break;
                }
            }
            assert_eq!(scanned, model);
        }
    }
}
