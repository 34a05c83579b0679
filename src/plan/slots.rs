//! The assignment of slots: few contiguous ranges, and no slot moved that need not be.

use std::collections::BTreeMap;

use crate::api::SlotRange;
use crate::api::names::SLOTS;
use crate::api::topology::Topology;

/// Slots that should go from one shard to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub from: String,
    pub to: String,
    pub slots: Vec<SlotRange>,
}

impl Transfer {
    pub fn count(&self) -> u32 {
        count(&self.slots)
    }
}

pub fn count(ranges: &[SlotRange]) -> u32 {
    ranges.iter().map(|range| range.count()).sum()
}

/// One contiguous range for each of `shards`, sizes differing by one at most.
pub fn even(shards: u16) -> Vec<Vec<SlotRange>> {
    let total = u32::from(SLOTS);
    let shards = u32::from(shards.max(1));
    let bound = |index: u32| index * total / shards;
    let range = |index: u32| {
        let last = bound(index + 1) - 1;
        vec![SlotRange(to_slot(bound(index)), to_slot(last))]
    };
    (0..shards).map(range).collect()
}

fn to_slot(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(SLOTS - 1)
}

/// Ascending, with neighbours joined.
pub fn normalized(mut ranges: Vec<SlotRange>) -> Vec<SlotRange> {
    ranges.sort();
    let mut joined: Vec<SlotRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if u32::from(last.1) + 1 >= u32::from(range.0) => {
                last.1 = last.1.max(range.1)
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// `ranges` without `taken`.
pub fn without(ranges: &[SlotRange], taken: &[SlotRange]) -> Vec<SlotRange> {
    let mut left: Vec<SlotRange> = ranges.to_vec();
    for cut in taken {
        let mut next = Vec::with_capacity(left.len() + 1);
        for range in left {
            if cut.1 < range.0 || cut.0 > range.1 {
                next.push(range);
                continue;
            }
            if range.0 < cut.0 {
                next.push(SlotRange(range.0, cut.0 - 1));
            }
            if cut.1 < range.1 {
                next.push(SlotRange(cut.1 + 1, range.1));
            }
        }
        left = next;
    }
    normalized(left)
}

/// `ranges` and `added`.
pub fn with(ranges: &[SlotRange], added: &[SlotRange]) -> Vec<SlotRange> {
    normalized(ranges.iter().chain(added).copied().collect())
}

/// At most `most` slots of `ranges`, from the end on which the next cut joins it.
pub fn first_slots(ranges: &[SlotRange], most: u32) -> Vec<SlotRange> {
    let mut left = most;
    let mut taken = Vec::new();
    for range in ranges {
        if left == 0 {
            break;
        }
        let size = range.count().min(left);
        taken.push(SlotRange(range.0, to_slot(u32::from(range.0) + size - 1)));
        left -= size;
    }
    taken
}

/// Who owns what once the moves under way are done.
pub fn after_moves(topology: &Topology) -> BTreeMap<String, Vec<SlotRange>> {
    let mut owned: BTreeMap<String, Vec<SlotRange>> = topology
        .shards
        .iter()
        .map(|shard| (shard.name.clone(), normalized(shard.slots.clone())))
        .collect();
    for moving in &topology.moves {
        if let Some(from) = owned.get_mut(&moving.from) {
            *from = without(from, &moving.slots);
        }
        if let Some(to) = owned.get_mut(&moving.to) {
            *to = with(to, &moving.slots);
        }
    }
    owned
}

/// What has to move so that the slots lie evenly on `keep` and nowhere else: as little as possible, in few ranges.
pub fn spread(owned: &BTreeMap<String, Vec<SlotRange>>, keep: &[String]) -> Vec<Transfer> {
    let mut ranges = owned.clone();
    let targets = targets(&ranges, keep);
    let surplus = |ranges: &BTreeMap<String, Vec<SlotRange>>, shard: &String| {
        let has = i64::from(ranges.get(shard).map_or(0, |owned| count(owned)));
        has - i64::from(targets.get(shard).copied().unwrap_or(0))
    };
    let mut transfers: Vec<Transfer> = Vec::new();
    let donors: Vec<String> = by_number(ranges.keys().cloned().collect());
    for from in &donors {
        for to in &by_number(keep.to_vec()) {
            let amount = surplus(&ranges, from).min(-surplus(&ranges, to));
            let Ok(amount) = u32::try_from(amount) else {
                continue;
            };
            if amount == 0 {
                continue;
            }
            let has = ranges.get(from).cloned().unwrap_or_default();
            let receiver = ranges.get(to).cloned().unwrap_or_default();
            let slots = choose(&has, &receiver, amount);
            ranges.insert(from.clone(), without(&has, &slots));
            ranges.insert(to.clone(), with(&receiver, &slots));
            transfers.push(Transfer {
                from: from.clone(),
                to: to.clone(),
                slots,
            });
        }
    }
    transfers
}

/// How many slots each kept shard ends with. Those that have most keep the odd ones, which saves moves.
fn targets(owned: &BTreeMap<String, Vec<SlotRange>>, keep: &[String]) -> BTreeMap<String, u32> {
    let total: u32 = owned.values().map(|ranges| count(ranges)).sum();
    let shards = u32::try_from(keep.len()).unwrap_or(1).max(1);
    let has = |shard: &String| owned.get(shard).map_or(0, |ranges| count(ranges));
    let mut order = by_number(keep.to_vec());
    order.sort_by_key(|shard| std::cmp::Reverse(has(shard)));
    let odd = total % shards;
    let target = |index: usize| {
        total / shards + u32::from(u32::try_from(index).is_ok_and(|index| index < odd))
    };
    order
        .into_iter()
        .enumerate()
        .map(|(index, shard)| (shard, target(index)))
        .collect()
}

fn by_number(mut shards: Vec<String>) -> Vec<String> {
    shards.sort_by_key(|shard| shard.parse::<u16>().unwrap_or(u16::MAX));
    shards
}

/// `amount` slots of a donor: first where they continue a range of the receiver, then small ranges whole, then the end of the smallest that suffices.
fn choose(donor: &[SlotRange], receiver: &[SlotRange], amount: u32) -> Vec<SlotRange> {
    let mut left = normalized(donor.to_vec());
    let mut has = normalized(receiver.to_vec());
    let mut chosen = Vec::new();
    let mut wanted = amount.min(count(&left));
    while wanted > 0 {
        let Some(range) = neighbour(&left, &has, wanted).or_else(|| detached(&left, wanted)) else {
            break;
        };
        wanted -= range.count();
        left = without(&left, &[range]);
        has = with(&has, &[range]);
        chosen.push(range);
    }
    normalized(chosen)
}

fn neighbour(left: &[SlotRange], has: &[SlotRange], wanted: u32) -> Option<SlotRange> {
    for range in left {
        let size = range.count().min(wanted);
        let begins_after = has
            .iter()
            .any(|own| u32::from(own.1) + 1 == u32::from(range.0));
        if begins_after {
            return Some(SlotRange(range.0, to_slot(u32::from(range.0) + size - 1)));
        }
        let ends_before = has
            .iter()
            .any(|own| u32::from(range.1) + 1 == u32::from(own.0));
        if ends_before {
            return Some(SlotRange(to_slot(u32::from(range.1) + 1 - size), range.1));
        }
    }
    None
}

fn detached(left: &[SlotRange], wanted: u32) -> Option<SlotRange> {
    let whole = left
        .iter()
        .filter(|range| range.count() <= wanted)
        .max_by_key(|range| range.count());
    let part = left
        .iter()
        .filter(|range| range.count() > wanted)
        .min_by_key(|range| range.count());
    // A range that suffices is cut at its end; several small ones would be more ranges.
    match (part, whole) {
        (Some(range), _) => Some(SlotRange(to_slot(u32::from(range.1) + 1 - wanted), range.1)),
        (None, whole) => whole.copied(),
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn names(shards: u16) -> Vec<String> {
        (0..shards).map(|shard| shard.to_string()).collect()
    }

    fn apply(owned: &mut BTreeMap<String, Vec<SlotRange>>, transfers: &[Transfer]) {
        for transfer in transfers {
            let from = owned.get(&transfer.from).cloned().unwrap_or_default();
            owned.insert(transfer.from.clone(), without(&from, &transfer.slots));
            let to = owned.get(&transfer.to).cloned().unwrap_or_default();
            owned.insert(transfer.to.clone(), with(&to, &transfer.slots));
        }
    }

    #[test]
    fn even_covers_each_slot_once() {
        for shards in 1..=128 {
            let all: Vec<SlotRange> = even(shards).into_iter().flatten().collect();
            assert_eq!(count(&all), u32::from(SLOTS));
            assert_eq!(normalized(all.clone()), vec![SlotRange(0, SLOTS - 1)]);
            let sizes: Vec<u32> = all.iter().map(|range| range.count()).collect();
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn three_to_five_to_two_moves_only_what_must() {
        let mut owned: BTreeMap<String, Vec<SlotRange>> =
            names(3).into_iter().zip(even(3)).collect();
        let out = spread(&owned, &names(5));
        assert_eq!(out.iter().map(Transfer::count).sum::<u32>(), 3277 + 3276);
        assert!(
            out.iter()
                .all(|transfer| ["3", "4"].contains(&transfer.to.as_str()))
        );
        apply(&mut owned, &out);
        assert_eq!(spread(&owned, &names(5)), vec![]);
        let back = spread(&owned, &names(2));
        assert!(
            back.iter()
                .all(|transfer| ["2", "3", "4"].contains(&transfer.from.as_str()))
        );
        apply(&mut owned, &back);
        assert_eq!(owned["2"], vec![]);
        assert_eq!((count(&owned["0"]), count(&owned["1"])), (8192, 8192));
    }

    /// Over random scalings: every slot stays owned once, moves are minimal, a second look changes nothing, ranges stay few.
    #[test]
    fn random_scalings() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut shards = random.random_range(1..=16u16);
            let mut owned: BTreeMap<String, Vec<SlotRange>> =
                names(shards).into_iter().zip(even(shards)).collect();
            for _ in 0..8 {
                let next = random.random_range(1..=16u16);
                let transfers = spread(&owned, &names(next));
                let moved: u32 = transfers.iter().map(Transfer::count).sum();
                assert_eq!(
                    moved,
                    least_possible(&owned, next),
                    "seed {seed}: {shards} to {next}"
                );
                apply(&mut owned, &transfers);
                let all: Vec<SlotRange> = owned.values().flatten().copied().collect();
                assert_eq!(count(&all), u32::from(SLOTS), "seed {seed}");
                assert_eq!(
                    normalized(all),
                    vec![SlotRange(0, SLOTS - 1)],
                    "seed {seed}"
                );
                assert_eq!(spread(&owned, &names(next)), vec![], "seed {seed}");
                let ranges: usize = owned.values().map(Vec::len).sum();
                assert!(
                    ranges <= 128,
                    "seed {seed}: {ranges} ranges on {next} shards"
                );
                owned.retain(|_, ranges| !ranges.is_empty());
                shards = next;
            }
        }
    }

    /// What the shards hold beyond their fair share, the odd slots left to the fullest.
    fn least_possible(owned: &BTreeMap<String, Vec<SlotRange>>, shards: u16) -> u32 {
        let kept = names(shards);
        let mut sizes: Vec<u32> = kept
            .iter()
            .map(|shard| owned.get(shard).map_or(0, |ranges| count(ranges)))
            .collect();
        sizes.sort_by_key(|size| std::cmp::Reverse(*size));
        let (share, odd) = (u32::from(SLOTS / shards), usize::from(SLOTS % shards));
        let missing =
            |(index, size): (usize, &u32)| (share + u32::from(index < odd)).saturating_sub(*size);
        sizes.iter().enumerate().map(missing).sum()
    }
}
