//! What a node does with each slot: a pure function of its part, the topology and the pauses; and putting it into force.

use super::role::{Part, Role};
use super::topology::Topology;
use crate::log::SlotSet;
use crate::store::point::SLOTS_PER_DOMAIN;
use crate::store::{SLOTS, SlotState, Store};

/// What decides the states of slots.
#[derive(Debug)]
pub struct View<'a> {
    pub topology: Option<&'a Topology>,
    pub part: &'a Part,
    /// It holds no whole copy of its shard's data.
    pub fresh: bool,
    /// A handover holds back all writes.
    pub paused: bool,
    /// Slots of sealed moves.
    pub sealed: SlotSet,
    /// Slots that became ours while their import is not complete.
    pub held: SlotSet,
}

/// See [`targets`].
#[derive(Debug, PartialEq, Eq)]
pub struct Targets {
    pub states: Box<[SlotState]>,
    /// Slots whose data is another shard's now.
    pub drop: SlotSet,
}

pub fn targets(view: &View<'_>) -> Targets {
    let mut targets = Targets {
        states: vec![SlotState::None; usize::from(SLOTS)].into(),
        drop: SlotSet::none(),
    };
    let Some(topology) = view.topology else {
        return targets;
    };
    let role = view.part.role;
    if role == Role::None || (role != Role::Primary && view.fresh) {
        return targets;
    }
    let importing: SlotSet = topology
        .moves
        .iter()
        .filter(|m| m.to == view.part.shard)
        .flat_map(|m| m.slots.iter())
        .flat_map(|r| r.0..=r.1)
        .collect();
    for (slot, owner) in (0..SLOTS).zip(topology.owners()) {
        let owner = owner.and_then(|o| topology.shards.get(usize::from(o)));
        let ours = owner.is_some_and(|shard| shard.name == view.part.shard);
        let state = match (role, ours) {
            (Role::Primary, true) if view.held.contains(slot) => SlotState::Importing,
            (Role::Primary, true) if view.paused || view.sealed.contains(slot) => {
                SlotState::WritePaused
            }
            (Role::Primary, true) => SlotState::Serve,
            // While paused nothing may be written, so imports break off too.
            (Role::Primary, false) if importing.contains(slot) && !view.paused => {
                SlotState::Importing
            }
            (Role::Primary, false) => {
                if owner.is_some() && !importing.contains(slot) {
                    targets.drop.insert(slot);
                }
                SlotState::None
            }
            (_, true) => SlotState::ReadOnly,
            (_, false) => SlotState::None,
        };
        targets.states[usize::from(slot)] = state;
    }
    targets
}

fn serves(state: SlotState) -> bool {
    !matches!(state, SlotState::None | SlotState::Importing)
}

/// Puts the states into force, each under the lock of its slot: first those that serve, then (after `between`, which swaps the routing)
/// those that do not, so that nobody is sent to a node that does not serve yet.
pub fn enforce(store: &Store, targets: &Targets, between: impl FnOnce()) {
    enforce_those(store, targets, serves);
    between();
    enforce_those(store, targets, |state| !serves(state));
}

fn enforce_those(store: &Store, targets: &Targets, which: impl Fn(SlotState) -> bool) {
    for first in (0..SLOTS).step_by(usize::from(SLOTS_PER_DOMAIN)) {
        let mut guard = store.lock(first);
        for slot in first..first + SLOTS_PER_DOMAIN {
            let state = targets.states[usize::from(slot)];
            if which(state) {
                guard.set_slot_state(slot, state);
            }
        }
    }
}

/// Drops the data of slots that nobody is served from here. Short lock sections; yields between them.
pub async fn drop_data(store: &Store, slots: &SlotSet) -> u64 {
    let mut keys = 0;
    for slot in slots.iter() {
        let dropped = clear(store, slot, SlotState::None, false);
        keys += dropped as u64;
        if dropped > 0 {
            tokio::task::yield_now().await;
        }
    }
    keys
}

/// Drops what a slot holds while it is in a state; `quietly`: not as a logged write. Gives the keys that were dropped.
pub fn clear(store: &Store, slot: u16, state: SlotState, quietly: bool) -> usize {
    let mut guard = store.lock(slot);
    let keys = guard.slot_len(slot);
    if keys == 0 || guard.slot_state(slot) != state {
        return 0;
    }
    if quietly {
        guard.replay();
    }
    guard.clear_slot(slot);
    keys
}

#[cfg(test)]
mod tests {
    use super::super::topology::tests::two;
    use super::*;

    fn part(role: Role, shard: &str) -> Part {
        Part {
            role,
            shard: shard.into(),
            ..Part::default()
        }
    }

    fn view<'a>(topology: &'a Topology, part: &'a Part) -> View<'a> {
        View {
            topology: Some(topology),
            part,
            fresh: false,
            paused: false,
            sealed: SlotSet::none(),
            held: SlotSet::none(),
        }
    }

    /// Slots 0-8191 are shard 0's, of which 0-9 and 20-29 are moving to shard 1.
    #[test]
    fn states_follow_part_move_and_pause() {
        let topology = two();
        let sealed: SlotSet = (0..10).chain(20..30).collect();
        let none = SlotSet::none;
        let (source, destination) = (part(Role::Primary, "0"), part(Role::Primary, "1"));
        let (replica, nobody) = (part(Role::Replica, "0"), part(Role::None, ""));
        use SlotState::{Importing, None, ReadOnly, Serve, WritePaused};
        // part, fresh, paused, sealed, held; the states of slots 5, 15 and 9000
        let table = [
            (&source, false, false, none(), none(), [Serve, Serve, None]),
            (
                &source,
                false,
                false,
                sealed.clone(),
                none(),
                [WritePaused, Serve, None],
            ),
            (
                &source,
                false,
                true,
                none(),
                none(),
                [WritePaused, WritePaused, None],
            ),
            (
                &destination,
                false,
                false,
                none(),
                none(),
                [Importing, None, Serve],
            ),
            (
                &destination,
                false,
                true,
                none(),
                none(),
                [None, None, WritePaused],
            ),
            (
                &replica,
                false,
                false,
                none(),
                none(),
                [ReadOnly, ReadOnly, None],
            ),
            (&replica, true, false, none(), none(), [None, None, None]),
            (&nobody, false, false, none(), none(), [None, None, None]),
        ];
        for (part, fresh, paused, sealed, held, expected) in table {
            let t = targets(&View {
                fresh,
                paused,
                sealed,
                held,
                ..view(&topology, part)
            });
            assert_eq!(
                [t.states[5], t.states[15], t.states[9000]],
                expected,
                "{part:?}"
            );
        }
        let mut switched = topology.clone();
        switched.epoch += 1;
        switched.moves.clear();
        switched.shards[0].slots = vec![super::super::topology::SlotRange(10, 8191)];
        switched.shards[1]
            .slots
            .insert(0, super::super::topology::SlotRange(0, 9));
        let held = View {
            held: sealed,
            ..view(&switched, &destination)
        };
        assert_eq!(targets(&held).states[5], Importing);
        assert_eq!(targets(&view(&switched, &destination)).states[5], Serve);
    }

    #[test]
    fn data_of_other_shards_is_dropped_by_primaries_only() {
        let topology = two();
        let dropped = |role, shard: &str| -> Vec<u16> {
            targets(&view(&topology, &part(role, shard)))
                .drop
                .iter()
                .collect()
        };
        assert_eq!(
            dropped(Role::Primary, "0"),
            (8192..SLOTS).collect::<Vec<_>>()
        );
        // Not what is being imported.
        let others: Vec<u16> = (10..20).chain(30..8192).collect();
        assert_eq!(dropped(Role::Primary, "1"), others);
        assert!(dropped(Role::Replica, "0").is_empty());
        // A slot without an owner keeps its data.
        let mut unassigned = topology.clone();
        unassigned.shards[1].slots.clear();
        let t = targets(&view(&unassigned, &part(Role::Primary, "0")));
        assert!(t.drop == SlotSet::none());
    }
}
