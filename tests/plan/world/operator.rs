//! The driver: observes, plans, checks, and carries steps out, one effect at a time. It may crash between any two.

use std::collections::BTreeMap;

use cache_operator::api::node_state::NodeState;
use cache_operator::api::topology::Topology;
use cache_operator::plan::{
    self, Link, MemberObserved, Observed, Plan, Pod, SlotStats, Step, TopologyChange, Workload,
    check,
};
use rand::Rng;

use super::{BAD_IMAGE, End, WorkloadSim, World};

/// What an operator remembers between plans; a new one remembers nothing.
#[derive(Clone, Debug, Default)]
pub struct OperatorSim {
    pub since_ms: u64,
    heard: BTreeMap<String, Heard>,
    slot_stats: BTreeMap<String, SlotStats>,
}

#[derive(Clone, Debug, Default)]
struct Heard {
    link: Link,
    state: Option<NodeState>,
    /// Pod and data of the process that sent `state`.
    process: Option<(String, String)>,
    topology: Option<Topology>,
    push_error: Option<(u64, String)>,
}

/// The operator died, or somebody else wrote.
#[derive(Debug)]
pub struct Aborted;

impl OperatorSim {
    pub fn new(since_ms: u64) -> OperatorSim {
        OperatorSim {
            since_ms,
            ..OperatorSim::default()
        }
    }
}

impl World {
    pub fn operator_tick(&mut self) -> Option<Plan> {
        self.listen();
        let observed = self.observe()?;
        let desired = self.desired();
        let plan = plan::plan(&desired, &observed, self.now_ms);
        let violations = check::check(&desired, &observed, &plan, self.now_ms);
        assert!(
            violations.is_empty(),
            "{violations:?}\n{plan}\n{}",
            self.story()
        );
        assert_eq!(
            plan,
            plan::plan(&desired, &observed, self.now_ms),
            "the plan depends on more than its arguments"
        );
        for line in plan
            .to_string()
            .lines()
            .filter(|line| !line.starts_with("nothing"))
        {
            self.note(format!("plan: {line}"));
        }
        self.image = Some(desired.image.clone());
        for step in &plan.steps {
            if self.carry_out(step).is_err() {
                break;
            }
        }
        Some(plan)
    }

    /// Keeps the control connections.
    pub fn listen(&mut self) {
        let Some(mut operator) = self.operator.take() else {
            return;
        };
        let names: Vec<String> = self.workloads.keys().cloned().collect();
        operator
            .heard
            .retain(|name, _| self.workloads.contains_key(name));
        for name in names {
            let heard = operator.heard.entry(name.clone()).or_insert(Heard {
                link: Link::Never {
                    since_ms: self.now_ms,
                },
                ..Heard::default()
            });
            let state = self.reachable(&name).map(|node| self.state_of(&name, node));
            let Some(state) = state else {
                heard.link = match heard.link {
                    Link::Connected => Link::Lost {
                        since_ms: self.now_ms,
                    },
                    down => down,
                };
                continue;
            };
            let delayed = self.lag && self.random.random_bool(0.2) && heard.link == Link::Connected;
            let same_process = heard
                .state
                .as_ref()
                .is_some_and(|old| old.data_id == state.data_id);
            if delayed && same_process {
                continue;
            }
            if !same_process
                || heard
                    .state
                    .as_ref()
                    .is_some_and(|old| old.epoch != state.epoch)
            {
                heard.topology = None;
            }
            if !same_process {
                heard.push_error = None;
            }
            heard.link = Link::Connected;
            heard.process = self
                .pods
                .get(&name)
                .map(|pod| (pod.uid.clone(), state.data_id.clone()));
            heard.state = Some(state);
        }
        self.operator = Some(operator);
    }

    pub fn observe(&self) -> Option<Observed> {
        let operator = self.operator.as_ref()?;
        let listed = self
            .stored
            .iter()
            .flat_map(|topology| topology.members())
            .map(|(_, member)| member.name.clone());
        let mut members = BTreeMap::new();
        for name in self.workloads.keys().cloned().chain(listed) {
            members.insert(name.clone(), self.observe_member(&name, operator));
        }
        Some(Observed {
            topology: self.stored.clone(),
            members,
            maintenance: self.maintenance.clone(),
            slot_stats: operator.slot_stats.clone(),
            kube_nodes: BTreeMap::new(),
        })
    }

    fn observe_member(&self, name: &str, operator: &OperatorSim) -> MemberObserved {
        let (shard, index) =
            cache_operator::api::names::parse_member("orders", name).unwrap_or(("", 0));
        let heard = operator.heard.get(name);
        let pod = self.pods.get(name);
        // As Kubernetes sees it: another pod, or another container in it.
        let process =
            pod.and_then(|pod| Some((pod.uid.clone(), pod.node.as_ref()?.data_id.clone())));
        let cut = self.cut.contains(name);
        MemberObserved {
            shard: shard.into(),
            index,
            workload: self.workloads.get(name).map(|workload| Workload {
                template_hash: workload.hash.clone(),
                deleting: workload.deleting,
                changed_at_ms: workload.changed_at_ms,
            }),
            pod: pod.map(|pod| Pod {
                uid: pod.uid.clone(),
                template_hash: pod.hash.clone(),
                running: pod.node.is_some(),
                ready: pod.node.is_some() && !cut,
                deleting: pod.deleting_until.is_some(),
                node: None,
                address: Some(format!("10.0.0.{}", pod.uid)),
                problem: (pod.image == BAD_IMAGE).then(|| "the image cannot be pulled".to_string()),
            }),
            link: heard.map_or(
                Link::Never {
                    since_ms: operator.since_ms,
                },
                |heard| heard.link,
            ),
            state: heard.and_then(|heard| heard.state.clone()),
            process_ended: heard
                .is_some_and(|heard| heard.process.is_some() && heard.process != process && !cut),
            topology: heard.and_then(|heard| heard.topology.clone()),
            push_error: heard.and_then(|heard| heard.push_error.as_ref()).and_then(
                |(epoch, error)| {
                    let current = self
                        .stored
                        .as_ref()
                        .is_some_and(|topology| topology.epoch == *epoch);
                    current.then(|| error.clone())
                },
            ),
        }
    }

    /// A place where the operator may die.
    fn boundary(&mut self) -> Result<(), Aborted> {
        let here = self.boundaries;
        self.boundaries += 1;
        if self.crash_at == Some(here) {
            self.note("fault: the operator crashes");
            self.start_operator();
            let victim = self
                .killed_with_operator
                .and_then(|end| self.primary_at(end));
            if let Some(victim) = victim {
                self.kill_process(&victim);
            }
            return Err(Aborted);
        }
        Ok(())
    }

    fn primary_at(&self, end: End) -> Option<String> {
        let topology = self.stored.as_ref()?;
        let shard = match (topology.moves.first(), end) {
            (Some(moving), End::Source) => topology.shard(&moving.from)?,
            (Some(moving), End::Destination) => topology.shard(&moving.to)?,
            (None, End::Source) => topology.shards.first()?,
            (None, End::Destination) => topology.shards.last()?,
        };
        Some(shard.primary()?.name.clone())
    }

    fn carry_out(&mut self, step: &Step) -> Result<(), Aborted> {
        self.boundary()?;
        match step {
            Step::CreateMember { member, .. } => self.give_template(member),
            Step::UpdateMember { member, .. } => self.give_template(member),
            Step::DeleteMember { member, .. } => {
                if let Some(workload) = self.workloads.get_mut(member) {
                    workload.deleting = true;
                }
            }
            Step::FetchTopology { members } => {
                for member in members {
                    let topology = self
                        .reachable(member)
                        .and_then(|node| node.topology.clone());
                    if let Some(heard) = self
                        .operator
                        .as_mut()
                        .and_then(|operator| operator.heard.get_mut(member))
                    {
                        heard.topology = topology;
                    }
                }
            }
            Step::WriteTopology(change) => self.store_and_push(change)?,
            Step::PushTopology { topology, to } => self.push(topology, to)?,
            Step::PushRegions { regions, to } => {
                for member in to {
                    if self.reachable(member).is_some()
                        && let Some(node) = self.node_mut(member)
                    {
                        node.regions = Some(regions.hash());
                    }
                }
            }
            Step::Handover {
                from,
                to,
                then,
                timeout_ms,
                ..
            } => {
                self.hand_over(from, to, *timeout_ms)?;
                self.boundary()?;
                self.store_and_push(then)?;
            }
            Step::SealMove {
                id,
                primary,
                then,
                timeout_ms,
            } => {
                self.seal(id, primary, *timeout_ms)?;
                self.boundary()?;
                self.store_and_push(then)?;
            }
            Step::FetchSlotStats { from } => self.fetch_slot_stats(from),
            Step::RecordMaintenance { status, .. } => self.maintenance = status.clone(),
        }
        self.boundary()
    }

    fn give_template(&mut self, member: &str) {
        let desired = self.desired();
        let workload = WorkloadSim {
            hash: desired.template_hash,
            image: desired.image,
            changed_at_ms: self.now_ms,
            deleting: false,
        };
        self.workloads.insert(member.into(), workload);
    }

    fn store_and_push(&mut self, change: &TopologyChange) -> Result<(), Aborted> {
        if self.stored.as_ref().map(|topology| topology.epoch) != change.replaces {
            return Err(Aborted);
        }
        self.stored = Some(change.topology.clone());
        self.boundary()?;
        self.push(&change.topology, &change.push)
    }

    fn push(&mut self, topology: &Topology, to: &[String]) -> Result<(), Aborted> {
        for member in to {
            if self.cut.contains(member) {
                continue;
            }
            let answer = self
                .node_mut(member)
                .map(|node| node.set_topology(topology));
            if let Some(Err(error)) = answer {
                self.note(format!(
                    "{member} refuses epoch {}: {error}",
                    topology.epoch
                ));
                if let Some(heard) = self
                    .operator
                    .as_mut()
                    .and_then(|operator| operator.heard.get_mut(member))
                {
                    heard.push_error = Some((topology.epoch, error.into()));
                }
            }
            self.boundary()?;
        }
        Ok(())
    }

    fn hand_over(&mut self, from: &str, to: &str, timeout_ms: u64) -> Result<(), Aborted> {
        let source = self
            .reachable(from)
            .filter(|node| node.is_primary())
            .cloned()
            .ok_or(Aborted)?;
        if !self.is_streaming_from(to, &source) {
            return Err(Aborted);
        }
        if let Some(heir) = self.node_mut(to) {
            heir.data.clone_from(&source.data);
            (heir.log_epoch, heir.offset) = (source.log_epoch, source.offset);
        }
        let until = self.now_ms + timeout_ms;
        if let Some(node) = self.node_mut(from) {
            node.paused_until_ms = until;
        }
        Ok(())
    }

    fn seal(&mut self, id: &str, primary: &str, timeout_ms: u64) -> Result<(), Aborted> {
        let source = self
            .reachable(primary)
            .filter(|node| node.is_primary())
            .cloned()
            .ok_or(Aborted)?;
        let topology = source.topology.clone().ok_or(Aborted)?;
        let moving = topology
            .moves
            .iter()
            .find(|moving| moving.id == id)
            .ok_or(Aborted)?;
        let to = topology
            .shard(&moving.to)
            .and_then(|shard| shard.primary())
            .ok_or(Aborted)?;
        let streaming = self
            .state_of(primary, &source)
            .move_state(id)
            .is_some_and(|state| {
                state.state == cache_operator::api::node_state::MovePhase::Streaming
            });
        if !streaming
            || self
                .reachable(&to.name)
                .is_none_or(|node| !node.imports.contains_key(id))
        {
            return Err(Aborted);
        }
        self.drain(primary, &to.name, moving);
        self.replicate_imports(&to.name);
        let until = self.now_ms + timeout_ms;
        if let Some(node) = self.node_mut(primary) {
            node.sealed.insert(id.into(), until);
        }
        Ok(())
    }

    fn fetch_slot_stats(&mut self, from: &[(String, String)]) {
        let epoch = self.stored.as_ref().map_or(0, |topology| topology.epoch);
        for (shard, member) in from {
            let Some(slots) = self.reachable(member).map(|node| node.slot_stats()) else {
                continue;
            };
            let stats = SlotStats {
                at_ms: self.now_ms,
                epoch,
                slots,
            };
            if let Some(operator) = &mut self.operator {
                operator.slot_stats.insert(shard.clone(), stats);
            }
        }
    }
}
