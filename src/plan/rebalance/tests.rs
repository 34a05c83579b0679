use serde_json::json;

use super::*;
use crate::api::topology::Topology;
use crate::plan::{Desired, Limits, Observed, SlotStats};
use crate::validate;

fn desired() -> Desired {
    let cache = serde_json::from_value(json!({
        "apiVersion": "cache.clusterdb.io/v1alpha1", "kind": "Cache",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u", "generation": 1},
        "spec": {"shards": 2, "resources": {"limits": {"memory": "1Gi"}}},
    }))
    .unwrap();
    let context = validate::Context {
        default_image: "example/cache-node:1".into(),
        addressing: crate::api::topology::Addressing::Pods {
            service: "orders-nodes".into(),
            namespace: "shop".into(),
        },
        regions: Vec::new(),
        limits: Limits::default(),
    };
    validate::cache(&cache, &context).unwrap()
}

/// Two shards, eight slots each, and what is in them: (slot, keys, bytes).
struct Shards {
    topology: Topology,
    slots: Vec<(u16, u64, u64)>,
}

impl Shards {
    fn new(slots: &[(u16, u64, u64)]) -> Self {
        let topology = json!({"clusterID": "c", "epoch": 1, "shards": [
            {"name": "0", "slots": [[0, 7]], "members": []},
            {"name": "1", "slots": [[8, 15]], "members": []},
        ]});
        Shards {
            topology: serde_json::from_value(topology).unwrap(),
            slots: slots.to_vec(),
        }
    }

    fn owner(&self, slot: u16) -> &str {
        let owns = |range: &SlotRange| range.contains(slot);
        let shard = self
            .topology
            .shards
            .iter()
            .find(|s| s.slots.iter().any(owns));
        &shard.unwrap().name
    }

    fn next(&self) -> Balance {
        let mut observed = Observed {
            topology: Some(self.topology.clone()),
            ..Observed::default()
        };
        for &(slot, keys, bytes) in &self.slots {
            let stats = observed.slot_stats.entry(self.owner(slot).into());
            let stats: &mut SlotStats = stats.or_default();
            stats.slots.push(SlotStat(slot, keys, bytes));
        }
        let desired = desired();
        let view = View {
            desired: &desired,
            observed: &observed,
            topology: &self.topology,
            now_ms: 0,
        };
        next(&view, 10)
    }

    fn carry_out(&mut self, transfer: &Transfer) {
        let of = |slots: &[SlotRange]| -> Vec<u16> {
            slots.iter().flat_map(|range| range.0..=range.1).collect()
        };
        let moved = of(&transfer.slots);
        for shard in &mut self.topology.shards {
            let mut slots = of(&shard.slots);
            slots.retain(|slot| !moved.contains(slot));
            if shard.name == transfer.to {
                slots.extend(&moved);
            }
            shard.slots = normalized(slots.into_iter().map(|s| SlotRange(s, s)).collect());
        }
    }

    fn keys(&self, shard: &str) -> u64 {
        let in_it = |slot: &&(u16, u64, u64)| self.owner(slot.0) == shard;
        self.slots.iter().filter(in_it).map(|slot| slot.1).sum()
    }
}

fn transfer(balance: Balance) -> Transfer {
    match balance {
        Balance::Move(transfer) => transfer,
        Balance::Balanced { over_percent } => panic!("balanced, {over_percent} percent over"),
        Balance::Stuck { why, .. } => panic!("stuck: {why}"),
    }
}

#[test]
fn few_keys_are_noise() {
    let shards = Shards::new(&[(0, 150, 1 << 20), (8, 1, 10)]);
    assert!(matches!(
        shards.next(),
        Balance::Balanced { over_percent: 0 }
    ));
}

#[test]
fn many_keys_move_though_bytes_are_even() {
    let hot: Vec<_> = (0..4).map(|slot| (slot, 1000, 100_000)).collect();
    let mut slots = hot;
    slots.extend((8..12).map(|slot| (slot, 100, 100_000)));
    let moved = transfer(Shards::new(&slots).next());
    assert_eq!((&moved.from[..], &moved.to[..]), ("0", "1"));
    assert!(moved.slots.iter().all(|range| range.1 < 8), "{moved:?}");
}

#[test]
fn many_bytes_move_though_keys_are_even() {
    let mut slots: Vec<_> = (0..4).map(|slot| (slot, 500, 1_000)).collect();
    slots.extend((8..12).map(|slot| (slot, 500, 900_000)));
    let moved = transfer(Shards::new(&slots).next());
    assert_eq!((&moved.from[..], &moved.to[..]), ("1", "0"));
}

#[test]
fn one_slot_that_holds_everything_is_stuck_and_says_so() {
    let shards = Shards::new(&[(3, 100_000, 10_000_000), (9, 1, 100)]);
    match shards.next() {
        Balance::Stuck { over_percent, why } => {
            assert!(over_percent > 90);
            assert!(why.contains("shard 0"), "{why}");
        }
        _ => panic!("a move would only turn it round"),
    }
}

#[test]
fn moves_come_to_an_end() {
    let mut slots: Vec<_> = (0..8)
        .map(|s| (s, 400 + u64::from(s) * 37, 4_000))
        .collect();
    slots.extend((8..16).map(|slot| (slot, 20, 6_000)));
    let mut shards = Shards::new(&slots);
    let mut moves = 0;
    loop {
        match shards.next() {
            Balance::Move(moved) => shards.carry_out(&moved),
            Balance::Balanced { over_percent } => {
                assert!(over_percent <= 10);
                break;
            }
            Balance::Stuck { .. } => break,
        }
        moves += 1;
        assert!(moves < 16, "it goes on for ever");
    }
    assert!(moves > 0);
    let (most, least) = (shards.keys("0"), shards.keys("1"));
    assert!(
        most.max(least) * 100 <= most.min(least) * 150,
        "{most} {least}"
    );
}
