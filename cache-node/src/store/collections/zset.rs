//! Sorted sets: packed in the order of score and member; else a tree in that order beside an index by member ([`Scores`]).

pub use super::scores::entry_bytes;
use super::scores::{SCORE, Scores, entry, parts, score_key, score_of};
use super::{Either, Object, Owned, Tools, View, packed};

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

    /// As [`super::hash::Hash::scan`].
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
    use std::sync::Arc;

    use super::super::super::budget::Budget;
    use super::super::super::tests::Lcg;
    use super::super::keyed::Keyed;
    use super::super::scores::SHORT;
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
