//! The checker of plans: rules that no plan may break, whatever the planner thinks. Runs in tests, and before a plan is carried out.

use std::fmt;

use crate::api::names;
use crate::api::node_state::{NodeRole, NodeState};
use crate::api::topology::{Member, Role, Shard, Topology};

use super::structure::structure;
use super::view::View;
use super::{Desired, Observed, Plan, Step, TopologyChange, slots};

/// A rule that a plan breaks; such a plan must not be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All rules that the plan breaks.
pub fn check(desired: &Desired, observed: &Observed, plan: &Plan, now_ms: u64) -> Vec<Violation> {
    let mut checker = Checker {
        desired,
        observed,
        now_ms,
        violations: Vec::new(),
    };
    checker.whole(plan);
    for step in &plan.steps {
        checker.step(step);
    }
    checker.violations
}

struct Checker<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    now_ms: u64,
    violations: Vec<Violation>,
}

impl<'a> Checker<'a> {
    fn fail(&mut self, message: String) {
        self.violations.push(Violation(message));
    }

    fn whole(&mut self, plan: &Plan) {
        if (self.desired.paused || self.desired.deleting) && !plan.steps.is_empty() {
            self.fail("a paused or deleted Cache is changed".into());
        }
        let looks_after = |step: &Step| {
            matches!(
                step,
                Step::FetchTopology { .. } | Step::WriteTopology(_) | Step::PushTopology { .. }
            )
        };
        if self.desired.held && !plan.steps.iter().all(looks_after) {
            self.fail("a Cache with an invalid spec is changed".into());
        }
        if plan
            .steps
            .iter()
            .filter(|step| step.is_disruptive())
            .count()
            > 1
        {
            self.fail("more than one disruptive step".into());
        }
        if plan
            .steps
            .iter()
            .filter(|step| step.change().is_some())
            .count()
            > 1
        {
            self.fail("the topology is written more than once".into());
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::CreateMember {
                member,
                shard,
                index,
            } => {
                if names::parse_member(&self.desired.name, member) != Some((shard.as_str(), *index))
                {
                    self.fail(format!(
                        "{member} is not a name for member {index} of shard {shard}"
                    ));
                }
            }
            Step::UpdateMember { member, .. } => self.update(member),
            Step::DeleteMember { member, .. } => self.delete(member),
            Step::WriteTopology(change) => self.change(change, None, None),
            Step::Handover {
                shard,
                from,
                to,
                then,
                ..
            } => self.change(then, Some((shard, from, to)), None),
            Step::SealMove { id, then, .. } => self.change(then, None, Some(id)),
            Step::FetchTopology { .. }
            | Step::PushTopology { .. }
            | Step::PushRegions { .. }
            | Step::FetchSlotStats { .. }
            | Step::RecordMaintenance { .. } => {}
        }
    }

    fn view<'v>(&self, topology: &'v Topology) -> View<'v>
    where
        'a: 'v,
    {
        View {
            desired: self.desired,
            observed: self.observed,
            topology,
            now_ms: self.now_ms,
        }
    }

    /// Never two members of one shard down; never a primary that could have handed over.
    fn update(&mut self, member: &str) {
        let Some(topology) = &self.observed.topology else {
            return;
        };
        let view = self.view(topology);
        let runs = self
            .observed
            .members
            .get(member)
            .is_some_and(|seen| seen.may_run());
        let Some((shard, entry)) = topology.find(member).filter(|_| runs) else {
            return;
        };
        let alone = shard.members.len() == 1;
        let primary_down = entry.role == Role::Primary && !alone;
        let two_down = !view.others_well(shard, member);
        if primary_down {
            self.fail(format!(
                "{member} is restarted while it is primary of shard {}",
                shard.name
            ));
        }
        if two_down {
            self.fail(format!(
                "{member} is restarted while another member of shard {} is not well",
                shard.name
            ));
        }
    }

    fn delete(&mut self, member: &str) {
        let listed = match &self.observed.topology {
            Some(topology) => topology.find(member).is_some(),
            None => true,
        };
        if listed || self.desired.wants_member(member) {
            self.fail(format!("{member} is deleted though it is listed or wanted"));
        }
    }

    fn change(
        &mut self,
        change: &TopologyChange,
        handover: Option<(&str, &str, &str)>,
        sealed: Option<&str>,
    ) {
        let new = &change.topology;
        self.violations.extend(structure(new));
        let Some(old) = &self.observed.topology else {
            if change.replaces.is_some() {
                self.fail("a topology is replaced that is not stored".into());
            }
            self.first(new);
            return;
        };
        if change.replaces != Some(old.epoch) {
            self.fail(format!(
                "replaces {:?}, but epoch {} is stored",
                change.replaces, old.epoch
            ));
        }
        if old.cluster_id != new.cluster_id {
            self.fail("the clusterID changes".into());
        }
        let newest = self
            .observed
            .members
            .values()
            .filter_map(|member| Some(member.connected()?.epoch))
            .max();
        let newest = newest.unwrap_or(0).max(old.epoch);
        if new.epoch != newest + 1 {
            self.fail(format!("epoch {} does not follow {newest}", new.epoch));
        }
        // What nodes decided among themselves is taken as it is.
        if self.is_nodes_own(new) {
            return;
        }
        self.slots_stay(old, new, sealed);
        for shard in &new.shards {
            self.shard(old, shard, handover);
        }
    }

    fn is_nodes_own(&self, new: &Topology) -> bool {
        self.observed.members.values().any(|member| {
            member.topology.as_ref().is_some_and(|theirs| {
                theirs.epoch + 1 == new.epoch
                    && theirs.shards == new.shards
                    && theirs.moves == new.moves
            })
        })
    }

    /// The first topology is made only when no node holds any, and every process that runs was heard.
    fn first(&mut self, new: &Topology) {
        let known = self
            .observed
            .members
            .values()
            .filter_map(|member| member.connected());
        let newest = known.map(|state| state.epoch).max().unwrap_or(0);
        if newest > 0 {
            if new.epoch != newest + 1 || !self.is_nodes_own(new) {
                self.fail(format!(
                    "a first topology is made though nodes hold epoch {newest}"
                ));
            }
            return;
        }
        let unheard = self
            .observed
            .members
            .iter()
            .find(|(_, member)| member.may_run() && member.connected().is_none());
        if let Some((name, _)) = unheard {
            let name = name.clone();
            self.fail(format!(
                "a first topology is made though {name} runs unheard"
            ));
        }
    }

    /// Slots change their owner only by the switch of a sealed move.
    fn slots_stay(&mut self, old: &Topology, new: &Topology, sealed: Option<&str>) {
        let mut expected = old.clone();
        if let Some(moving) = old
            .moves
            .iter()
            .find(|moving| Some(moving.id.as_str()) == sealed)
        {
            if let Some(from) = expected.shard_mut(&moving.from) {
                from.slots = slots::without(&from.slots, &moving.slots);
            }
            if let Some(to) = expected.shard_mut(&moving.to) {
                to.slots = slots::with(&to.slots, &moving.slots);
            }
            if new.moves.iter().any(|other| other.id == moving.id) {
                self.fail(format!("move {} is switched and stays listed", moving.id));
            }
        } else if let Some(id) = sealed {
            self.fail(format!("move {id} is sealed but not listed"));
        }
        for shard in &expected.shards {
            let after = new
                .shard(&shard.name)
                .map(|shard| shard.slots.as_slice())
                .unwrap_or_default();
            if after != shard.slots {
                self.fail(format!(
                    "slots of shard {} change without a sealed move",
                    shard.name
                ));
            }
        }
        for shard in &new.shards {
            if expected.shard(&shard.name).is_none() && !shard.slots.is_empty() {
                self.fail(format!("shard {} begins with slots", shard.name));
            }
        }
    }

    /// No member is made primary that may lack what others hold.
    fn shard(&mut self, old: &Topology, shard: &Shard, handover: Option<(&str, &str, &str)>) {
        let before = old.shard(&shard.name);
        let Some(primary) = shard.primary() else {
            if before.is_some_and(|before| before.primary().is_some()) {
                self.fail(format!("shard {} loses its primary", shard.name));
            }
            return;
        };
        let same = before
            .and_then(Shard::primary)
            .is_some_and(|old| old.name == primary.name && old.data_id == primary.data_id);
        if same && before.is_some_and(|before| before.bootstrap || !shard.bootstrap) {
            return;
        }
        let Some(state) = self.observed.connected(&primary.name) else {
            self.fail(format!(
                "{} becomes primary without being heard",
                primary.name
            ));
            return;
        };
        if state.data_id != primary.data_id {
            self.fail(format!(
                "{} becomes primary with data that it does not hold",
                primary.name
            ));
        }
        match (before, handover) {
            (None, _) if shard.slots.is_empty() && shard.bootstrap => {}
            (Some(_), Some((name, from, to))) if name == shard.name => {
                self.handed_over(old, shard, from, to)
            }
            (Some(before), _) if shard.bootstrap => self.begun_anew(old, before),
            (Some(before), _) => self.promoted(old, before, primary, state),
            (None, _) => self.fail(format!(
                "shard {} begins with slots or without leave",
                shard.name
            )),
        }
    }

    fn handed_over(&mut self, old: &Topology, shard: &Shard, from: &str, to: &str) {
        let view = self.view(old);
        let primary = shard.primary().map(|member| member.name.as_str());
        let before = old.shard(&shard.name);
        let fits = before
            .and_then(Shard::primary)
            .is_some_and(|member| member.name == from)
            && primary == Some(to);
        let synced = before.is_some_and(|before| view.is_synced(before, to));
        if !fits || !synced {
            self.fail(format!(
                "shard {}: {from} hands over to {to}, which is not its synced replica",
                shard.name
            ));
        }
    }

    /// Only when no member can hold any of the shard's data.
    fn begun_anew(&mut self, old: &Topology, before: &Shard) {
        let view = self.view(old);
        let holder = before.members.iter().find(|member| {
            let state = self.observed.connected(&member.name);
            match state {
                Some(state) => {
                    let primary_data = member.role == Role::Primary
                        && state.data_id == member.data_id
                        && !state.fresh;
                    primary_data
                        || view
                            .copies(before)
                            .iter()
                            .any(|(copy, _)| copy.name == member.name)
                }
                None => !member.data_id.is_empty() && !view.is_gone(&member.name),
            }
        });
        if let Some(holder) = holder {
            let name = holder.name.clone();
            self.fail(format!(
                "shard {} begins anew though {name} may hold its data",
                before.name
            ));
        }
    }

    fn promoted(&mut self, old: &Topology, before: &Shard, primary: &Member, state: &NodeState) {
        let view = self.view(old);
        if state.fresh
            || !view
                .copies(before)
                .iter()
                .any(|(copy, _)| copy.name == primary.name)
        {
            self.fail(format!(
                "{} becomes primary without a consistent copy",
                primary.name
            ));
        }
        let lost = before.primary();
        let former = lost.map_or("", |member| member.name.as_str());
        let better = view.copies(before).into_iter().find(|(copy, other)| {
            copy.name != primary.name
                && other.position() > state.position()
                && self.is_called_synced(lost, other)
        });
        if let Some((better, _)) = better {
            let name = better.name.clone();
            self.fail(format!(
                "{} becomes primary though {name} holds more",
                primary.name
            ));
        }
        if matches!(
            view.primary_state(before),
            super::view::PrimaryState::There(_)
        ) {
            self.fail(format!(
                "{} becomes primary though {former} is there",
                primary.name
            ));
        }
    }

    /// Whether nothing the former primary said speaks against a copy. A process that restarted since says nothing about it.
    fn is_called_synced(&self, lost: Option<&Member>, copy: &NodeState) -> bool {
        let last = lost
            .and_then(|lost| Some((lost, self.observed.members.get(&lost.name)?.state.as_ref()?)))
            .filter(|(lost, last)| last.role == NodeRole::Primary && last.data_id == lost.data_id)
            .map(|(_, last)| last);
        last.is_none_or(|last| {
            last.replicas.iter().any(|replica| {
                replica.member == copy.member && replica.data_id == copy.data_id && replica.synced
            })
        })
    }
}
