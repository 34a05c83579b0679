//! `status`: what users read. Pure: from what is wanted, seen, planned and done to the status, with the previous one for what has to be kept.

mod conditions;
pub mod region;

pub use conditions::REASONS;

use crate::api::cache::{CacheStatus, MemberStatus, Phase};
use crate::api::names;
use crate::api::topology::{Addressing, Topology};
use crate::plan::view::View;
use crate::plan::{self, Desired, MemberObserved, Observed, Plan, WaitReason, Waiting};
use crate::validate::Invalid;

use conditions::{Conditions, Verdict};

/// What came of carrying out the plan.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What the platform waits for, beside the planner: a Secret that is not there, and the like.
    pub waiting: Vec<Waiting>,
    /// The step that failed, and why.
    pub failed: Option<(String, String)>,
}

/// The longest message of a member or a pending action, in bytes.
const MESSAGE_MAX: usize = 1000;
const PENDING_MAX: usize = 32;

/// The status of a Cache whose spec is valid. `status.topology` is what was observed as stored.
pub fn status(
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    outcome: &Outcome,
    previous: Option<&CacheStatus>,
    now_ms: u64,
) -> CacheStatus {
    let topology = observed.topology.as_ref();
    let view = topology.map(|topology| View {
        desired,
        observed,
        topology,
        now_ms,
    });
    let serving = view.map_or(0, |view| serving_shards(&view));
    let total = topology.map_or(usize::from(desired.shards), |topology| {
        topology.shards.len()
    });
    let members = members(desired, observed, view.as_ref());
    let verdict = Verdict::of(desired, observed, plan, outcome, view.as_ref(), previous);
    CacheStatus {
        observed_generation: Some(desired.generation),
        phase: Some(verdict.phase),
        endpoint: Some(endpoint(desired)),
        shards: i32::try_from(topology.map_or(0, |topology| topology.shards.len()))
            .unwrap_or(i32::MAX),
        ready_shards: Some(format!("{serving}/{total}")),
        selector: Some(names::one_pod_a_shard_selector(&desired.name)),
        image: Some(desired.image.clone()),
        conditions: Conditions {
            previous,
            generation: desired.generation,
            now_ms,
        }
        .of(&verdict, desired),
        members,
        pending_actions: pending(plan, outcome),
        maintenance: maintenance(observed),
        topology: observed.topology.clone(),
    }
}

/// The status of a Cache whose spec cannot be carried out: says why, beside what is seen; unless that could be looked at, what was.
pub fn invalid(
    generation: i64,
    error: &Invalid,
    previous: Option<&CacheStatus>,
    now_ms: u64,
    seen: Option<CacheStatus>,
) -> CacheStatus {
    let mut status = seen.or_else(|| previous.cloned()).unwrap_or_default();
    status.observed_generation = Some(generation);
    status.phase = Some(Phase::Invalid);
    status.pending_actions = error
        .errors
        .iter()
        .take(PENDING_MAX)
        .map(|error| shortened(&format!("correct {error}")))
        .collect();
    status.conditions = Conditions {
        previous,
        generation,
        now_ms,
    }
    .invalid(&error.to_string());
    status
}

/// Whether two statuses differ in nothing but keys, bytes and offsets, which change all the time under load.
pub fn same_but_counters(a: &CacheStatus, b: &CacheStatus) -> bool {
    let still = |status: &CacheStatus| {
        let mut status = status.clone();
        for member in &mut status.members {
            (member.keys, member.bytes, member.offset) = (0, 0, 0);
        }
        status
    };
    still(a) == still(b)
}

fn serving_shards(view: &View) -> usize {
    view.topology
        .shards
        .iter()
        .filter(|shard| view.primary_that_serves(shard).is_some())
        .count()
}

/// Where cluster clients connect to.
fn endpoint(desired: &Desired) -> String {
    match &desired.addressing {
        Addressing::Pods { namespace, .. } => {
            format!("{}.{namespace}.svc:{}", desired.name, names::PORT)
        }
        Addressing::Local { .. } => {
            let endpoint = desired.addressing.endpoint(&desired.member_name("0", 0));
            format!("{}:{}", endpoint.host, endpoint.port)
        }
    }
}

fn members(desired: &Desired, observed: &Observed, view: Option<&View>) -> Vec<MemberStatus> {
    let member = |(name, member): (&String, &MemberObserved)| {
        let entry = view
            .and_then(|view| view.topology.find(name))
            .map(|(_, entry)| entry);
        if member.workload.is_none() && entry.is_none() {
            return None;
        }
        let ready = view.is_some_and(|view| view.serves(name));
        let state = member.connected();
        let leaving = entry.is_none() && !desired.wants_member(name);
        let message = match (ready, leaving) {
            (true, _) => String::new(),
            (false, true) => "is on its way out".into(),
            (false, false) => {
                plan::why(
                    observed,
                    member,
                    entry.map(|entry| entry.role),
                    view.is_some(),
                )
                .1
            }
        };
        let count = |value: Option<u64>| i64::try_from(value.unwrap_or(0)).unwrap_or(i64::MAX);
        Some(MemberStatus {
            name: name.clone(),
            shard: member.shard.clone(),
            role: entry.map(|entry| entry.role),
            ready,
            pod: member.pod.as_ref().map(|_| names::pod(name)),
            node: member.pod.as_ref().and_then(|pod| pod.node.clone()),
            keys: count(state.map(|state| state.keys)),
            bytes: count(state.map(|state| state.bytes)),
            offset: count(state.map(|state| state.offset)),
            message: shortened(&message),
        })
    };
    observed.members.iter().filter_map(member).collect()
}

fn pending(plan: &Plan, outcome: &Outcome) -> Vec<String> {
    let failed = outcome
        .failed
        .iter()
        .map(|(step, error)| format!("tries again to {step}: {error}"));
    let waiting = outcome
        .waiting
        .iter()
        .chain(&plan.waiting)
        .map(|waiting| waiting.message.clone());
    failed
        .chain(plan.report.pending.iter().cloned())
        .chain(waiting)
        .take(PENDING_MAX)
        .map(|text| shortened(&text))
        .collect()
}

fn maintenance(observed: &Observed) -> Option<crate::api::cache::MaintenanceStatus> {
    let status = &observed.maintenance;
    (*status != Default::default()).then(|| status.clone())
}

fn shortened(text: &str) -> String {
    if text.len() <= MESSAGE_MAX {
        return text.into();
    }
    let end = (0..=MESSAGE_MAX)
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    format!("{} …", &text[..end])
}

/// The slots that no primary serves.
fn unserved(topology: &Topology, view: &View) -> u32 {
    topology
        .shards
        .iter()
        .filter(|shard| view.primary_that_serves(shard).is_none())
        .map(|shard| shard.slot_count())
        .sum()
}

/// The first trouble among what is waited for.
fn trouble<'a>(plan: &'a Plan, outcome: &'a Outcome) -> Option<&'a Waiting> {
    let all = || outcome.waiting.iter().chain(&plan.waiting);
    // What endangers data first.
    let grave = |waiting: &&Waiting| {
        matches!(
            waiting.reason,
            WaitReason::ForeignData | WaitReason::NoCandidate
        )
    };
    all()
        .find(grave)
        .or_else(|| all().find(|waiting| waiting.reason.is_trouble()))
}

#[cfg(test)]
mod tests;
