//! Which slots to move so that no shard holds far more keys or bytes than the others.
//!
//! Both measures count: a move is taken only if it lowers the sum over shards of (share of keys)² + (share of bytes)². That sum falls with every
//! move, so a run ends.

use std::collections::BTreeMap;

use crate::api::node_state::SlotStat;
use crate::api::{SlotRange, names::SLOTS};

use super::slots::{Transfer, normalized};
use super::view::View;

/// Below this many keys a shard, counts are noise.
const KEYS_PER_SHARD_MIN: u64 = 100;

pub enum Balance {
    Balanced {
        over_percent: u64,
    },
    /// Above the threshold, but no move would help.
    Stuck {
        over_percent: u64,
        why: String,
    },
    Move(Transfer),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    keys: u64,
    bytes: u64,
}

impl Load {
    fn of(self, measure: Measure) -> u64 {
        match measure {
            Measure::Keys => self.keys,
            Measure::Bytes => self.bytes,
        }
    }

    fn add(&mut self, slot: &SlotStat) {
        self.keys += slot.1;
        self.bytes += slot.2;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Keys,
    Bytes,
}

/// What to move next so that no shard is above the average by more than `threshold` percent.
pub fn next(view: &View, threshold: u32) -> Balance {
    let stats = &view.observed.slot_stats;
    let loads: BTreeMap<&str, Load> = view
        .topology
        .shards
        .iter()
        .map(|shard| {
            let mut load = Load::default();
            for slot in stats.get(&shard.name).iter().flat_map(|stats| &stats.slots) {
                load.add(slot);
            }
            (shard.name.as_str(), load)
        })
        .collect();
    let shards = u64::try_from(loads.len()).unwrap_or(1).max(1);
    let total = |measure| loads.values().map(|load| load.of(measure)).sum::<u64>();
    if total(Measure::Keys) / shards < KEYS_PER_SHARD_MIN {
        return Balance::Balanced { over_percent: 0 };
    }
    let over = |measure| {
        let average = (total(measure) / shards).max(1);
        let most = loads
            .values()
            .map(|load| load.of(measure))
            .max()
            .unwrap_or(0);
        most.saturating_sub(average) * 100 / average
    };
    let measure = if over(Measure::Bytes) >= over(Measure::Keys) {
        Measure::Bytes
    } else {
        Measure::Keys
    };
    let over_percent = over(measure);
    if over_percent <= u64::from(threshold) {
        return Balance::Balanced { over_percent };
    }
    let average = total(measure) / shards;
    let fullest = loads.iter().rev().max_by_key(|(_, load)| load.of(measure));
    let emptiest = loads.iter().min_by_key(|(_, load)| load.of(measure));
    let (Some((from, full)), Some((to, empty))) = (fullest, emptiest) else {
        return Balance::Balanced { over_percent };
    };
    let wanted = (full.of(measure) - average)
        .min(average.saturating_sub(empty.of(measure)))
        .max(1);
    let slots = stats
        .get(*from)
        .map(|stats| stats.slots.as_slice())
        .unwrap_or_default();
    let owned = view
        .topology
        .shard(from)
        .map(|shard| shard.slots.clone())
        .unwrap_or_default();
    let totals = Load {
        keys: total(Measure::Keys),
        bytes: total(Measure::Bytes),
    };
    let most_slots = view.desired.limits.slots_per_move_max;
    let helps = |moved: Load| potential_falls(*full, *empty, moved, totals);
    let run = best_run(slots, &owned, measure, wanted, most_slots, &helps);
    match run {
        Some(slots) => Balance::Move(Transfer {
            from: (*from).into(),
            to: (*to).into(),
            slots,
        }),
        None => Balance::Stuck {
            over_percent,
            why: format!(
                "a few slots of shard {from} hold most of it, and moving them would only make another shard the fullest"
            ),
        },
    }
}

/// Whether moving `moved` lowers (share of keys)² + (share of bytes)² of the two shards. Shares are in millionths.
fn potential_falls(from: Load, to: Load, moved: Load, totals: Load) -> bool {
    let share = |part: u64, total: u64| u128::from(part) * 1_000_000 / u128::from(total.max(1));
    let potential = |load: Load| {
        let (keys, bytes) = (
            share(load.keys, totals.keys),
            share(load.bytes, totals.bytes),
        );
        keys * keys + bytes * bytes
    };
    let after_from = Load {
        keys: from.keys - moved.keys.min(from.keys),
        bytes: from.bytes - moved.bytes.min(from.bytes),
    };
    let after_to = Load {
        keys: to.keys + moved.keys,
        bytes: to.bytes + moved.bytes,
    };
    potential(after_from) + potential(after_to) < potential(from) + potential(to)
}

/// Neighbouring slots that together weigh as near to `wanted` as can be without exceeding it; else the heaviest single slot that helps.
fn best_run(
    stats: &[SlotStat],
    owned: &[SlotRange],
    measure: Measure,
    wanted: u64,
    most_slots: u32,
    helps: &dyn Fn(Load) -> bool,
) -> Option<Vec<SlotRange>> {
    let mut loads = vec![Load::default(); usize::from(SLOTS)];
    for slot in stats.iter().filter(|slot| slot.0 < SLOTS) {
        loads[usize::from(slot.0)].add(slot);
    }
    let mut best: Option<(u64, SlotRange)> = None;
    for range in owned {
        // A window that grows at its end and shrinks at its start as soon as it weighs too much.
        let mut window = Load::default();
        let mut first = range.0;
        for last in range.0..=range.1 {
            let added = loads[usize::from(last)];
            window.keys += added.keys;
            window.bytes += added.bytes;
            while first <= last
                && (window.of(measure) > wanted || u32::from(last - first) + 1 > most_slots)
            {
                window.keys -= loads[usize::from(first)].keys;
                window.bytes -= loads[usize::from(first)].bytes;
                first += 1;
            }
            let weight = window.of(measure);
            if first <= last
                && weight > 0
                && best.is_none_or(|(most, _)| weight > most)
                && helps(window)
            {
                best = Some((weight, SlotRange(first, last)));
            }
        }
    }
    if best.is_none() {
        let heaviest = stats
            .iter()
            .filter(|slot| owned.iter().any(|range| range.contains(slot.0)))
            .map(|slot| {
                (
                    Load {
                        keys: slot.1,
                        bytes: slot.2,
                    },
                    slot.0,
                )
            })
            .filter(|(load, _)| helps(*load))
            .max_by_key(|(load, slot)| (load.of(measure), std::cmp::Reverse(*slot)));
        best = heaviest.map(|(load, slot)| (load.of(measure), SlotRange(slot, slot)));
    }
    best.map(|(_, range)| normalized(vec![range]))
}

#[cfg(test)]
#[path = "rebalance/tests.rs"]
mod tests;
