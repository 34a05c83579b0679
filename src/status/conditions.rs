//! Conditions as kstatus and people read them. `Ready`: every key can be read and written, and every shard has the copies that it should have.
//! `Progressing`: the operator is at work or waits for something that comes by itself. `Degraded`: something is broken, and needs help or time.

use jiff::Timestamp;

use crate::api::cache::{CacheStatus, Phase};
use crate::api::common::{Condition, Time};
use crate::plan::view::View;
use crate::plan::{Desired, Observed, Plan};

use crate::api::quantity::counted;

use super::{Outcome, shortened, trouble, unserved};

pub const READY: &str = "Ready";
pub const PROGRESSING: &str = "Progressing";
pub const DEGRADED: &str = "Degraded";
pub const UPDATE_AVAILABLE: &str = "UpdateAvailable";

/// Reasons of conditions beside those of [`crate::plan::WaitReason`] and of what steps tell.
pub const REASONS: &[&str] = &[
    "AsExpected",
    "Creating",
    "Deleting",
    "InvalidSpec",
    "MembersNotReady",
    "NewerImage",
    "Paused",
    "Serving",
    "Settled",
    "SlotsUnserved",
    "StepFailed",
    "Stuck",
    "Working",
];

/// A condition's status, reason and message.
#[derive(Clone, Debug)]
pub struct Finding {
    pub is: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Finding {
    fn new(is: bool, reason: &'static str, message: impl Into<String>) -> Finding {
        Finding {
            is,
            reason,
            message: message.into(),
        }
    }
}

/// What is to be said of a Cache.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub phase: Phase,
    pub ready: Finding,
    pub progressing: Finding,
    pub degraded: Finding,
}

impl Verdict {
    pub fn of(
        desired: &Desired,
        observed: &Observed,
        plan: &Plan,
        outcome: &Outcome,
        view: Option<&View>,
        previous: Option<&CacheStatus>,
    ) -> Verdict {
        let ready = ready(desired, plan, outcome, view);
        let progressing = progressing(desired, plan, outcome);
        let degraded = degraded(plan, outcome, view);
        let phase = phase(
            desired,
            observed,
            plan,
            [&ready, &progressing, &degraded],
            previous,
        );
        Verdict {
            phase,
            ready,
            progressing,
            degraded,
        }
    }
}

fn ready(desired: &Desired, plan: &Plan, outcome: &Outcome, view: Option<&View>) -> Finding {
    let Some(view) = view else {
        let message =
            first_wait(plan, outcome).unwrap_or_else(|| "the members are being made".into());
        return Finding::new(false, "Creating", message);
    };
    let unserved = unserved(view.topology, view);
    if unserved > 0 {
        let shards: Vec<&str> = view
            .topology
            .shards
            .iter()
            .filter(|shard| !shard.slots.is_empty() && view.primary_that_serves(shard).is_none())
            .map(|shard| shard.name.as_str())
            .collect();
        let message = format!(
            "{unserved} slots are not served: shard {} has no primary",
            shards.join(", ")
        );
        return Finding::new(false, "SlotsUnserved", message);
    }
    let unwell: Vec<String> = view
        .topology
        .members()
        .filter(|(shard, entry)| !shard.slots.is_empty() && !view.serves(&entry.name))
        .map(|(_, entry)| entry.name.clone())
        .collect();
    // A roll takes one member of a shard at a time, and the others serve.
    if !unwell.is_empty() && plan.report.members_to_roll == 0 {
        return Finding::new(
            false,
            "MembersNotReady",
            format!("waits for {}", unwell.join(", ")),
        );
    }
    let shards = view.topology.shards.len();
    let replicas = desired.members_per_shard - 1;
    Finding::new(
        true,
        "Serving",
        format!(
            "all slots are served by {}, with {} each",
            counted(shards, "shard"),
            counted(usize::from(replicas), "replica")
        ),
    )
}

fn progressing(desired: &Desired, plan: &Plan, outcome: &Outcome) -> Finding {
    if desired.deleting {
        return Finding::new(true, "Deleting", "the Cache is being deleted");
    }
    if desired.paused {
        return Finding::new(false, "Paused", "spec.paused is true: nothing is changed");
    }
    let calm = outcome
        .waiting
        .iter()
        .chain(&plan.waiting)
        .find(|waiting| !waiting.reason.is_trouble());
    if let Some(waiting) = calm {
        return Finding::new(true, waiting.reason.as_str(), waiting.message.clone());
    }
    if let Some(told) = plan
        .steps
        .iter()
        .find_map(|step| step.told().into_iter().next())
    {
        return Finding::new(true, told.reason, told.message);
    }
    let at_work = plan.report.scaling || plan.report.rebalancing || plan.report.members_to_roll > 0;
    match trouble(plan, outcome) {
        Some(waiting) => Finding::new(false, "Stuck", waiting.message.clone()),
        None if at_work => Finding::new(true, "Working", plan.report.pending.join("; ")),
        None => Finding::new(false, "Settled", "all is as the spec asks"),
    }
}

fn degraded(plan: &Plan, outcome: &Outcome, view: Option<&View>) -> Finding {
    if let Some(waiting) = trouble(plan, outcome) {
        return Finding::new(true, waiting.reason.as_str(), waiting.message.clone());
    }
    if let Some((step, error)) = &outcome.failed {
        return Finding::new(true, "StepFailed", format!("could not {step}: {error}"));
    }
    let down = view.and_then(|view| {
        let bootstrapping = view.topology.shards.iter().any(|shard| shard.bootstrap);
        let unserved = unserved(view.topology, view);
        (unserved > 0 && !bootstrapping && view.behind().is_empty()).then_some(unserved)
    });
    match down {
        Some(slots) => Finding::new(
            true,
            "SlotsUnserved",
            format!("{slots} slots are not served"),
        ),
        None => Finding::new(false, "AsExpected", "nothing is broken"),
    }
}

fn first_wait(plan: &Plan, outcome: &Outcome) -> Option<String> {
    let all = || outcome.waiting.iter().chain(&plan.waiting);
    let first = trouble(plan, outcome).or_else(|| all().next());
    first.map(|waiting| waiting.message.clone())
}

fn phase(
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    [ready, progressing, degraded]: [&Finding; 3],
    previous: Option<&CacheStatus>,
) -> Phase {
    if desired.deleting {
        return Phase::Deleting;
    }
    if desired.paused {
        return Phase::Paused;
    }
    let was = previous.and_then(|status| status.phase);
    // Invalid from the start: never served.
    let never_served = matches!(was, None | Some(Phase::Creating)) || observed.topology.is_none();
    if never_served && !ready.is {
        return Phase::Creating;
    }
    if degraded.is {
        return Phase::Degraded;
    }
    if plan.report.members_to_roll > 0 {
        return Phase::Updating;
    }
    if plan.report.rebalancing {
        return Phase::Rebalancing;
    }
    if plan.report.scaling {
        return Phase::Scaling;
    }
    match (ready.is, progressing.is) {
        (true, _) => Phase::Ready,
        (false, _) => Phase::Degraded,
    }
}

/// Makes conditions, keeping the time of the last transition where nothing changed.
pub struct Conditions<'a> {
    pub previous: Option<&'a CacheStatus>,
    pub generation: i64,
    pub now_ms: u64,
}

impl Conditions<'_> {
    pub fn of(&self, verdict: &Verdict, desired: &Desired) -> Vec<Condition> {
        let mut conditions = vec![
            self.condition(READY, &verdict.ready),
            self.condition(PROGRESSING, &verdict.progressing),
            self.condition(DEGRADED, &verdict.degraded),
        ];
        if let Some(image) = &desired.update_available {
            let message = format!(
                "this operator's image is {image}; annotate the Cache with {}=once, or always, to roll it",
                crate::api::names::ANNOTATION_UPDATE
            );
            conditions
                .push(self.condition(UPDATE_AVAILABLE, &Finding::new(true, "NewerImage", message)));
        }
        conditions
    }

    /// Whether the Cache serves is not asked for an invalid spec: `Ready` says what must be mended.
    pub fn invalid(&self, message: &str) -> Vec<Condition> {
        vec![
            self.condition(READY, &Finding::new(false, "InvalidSpec", message)),
            self.condition(
                PROGRESSING,
                &Finding::new(
                    false,
                    "InvalidSpec",
                    "lost primaries are replaced; nothing else is changed until the spec is corrected",
                ),
            ),
            self.condition(DEGRADED, &Finding::new(true, "InvalidSpec", message)),
        ]
    }

    fn condition(&self, kind: &str, finding: &Finding) -> Condition {
        let status = if finding.is { "True" } else { "False" };
        let before = self
            .previous
            .and_then(|status| {
                status
                    .conditions
                    .iter()
                    .find(|condition| condition.type_ == kind)
            })
            .filter(|condition| condition.status == status);
        Condition {
            type_: kind.into(),
            status: status.into(),
            reason: finding.reason.into(),
            message: shortened(&finding.message),
            observed_generation: Some(self.generation),
            last_transition_time: before.map_or_else(
                || self.now(),
                |condition| condition.last_transition_time.clone(),
            ),
        }
    }

    fn now(&self) -> Time {
        let seconds = i64::try_from(self.now_ms / 1000).unwrap_or(0);
        Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH))
    }
}

#[cfg(test)]
mod tests {
    /// The reasons that this file gives, as it is written.
    #[test]
    fn each_reason_is_listed() {
        let source = include_str!("conditions.rs");
        let code = source.split("#[cfg(test)]").next().unwrap();
        let mut given: Vec<&str> = code
            .split("Finding::new(")
            .skip(1)
            .filter_map(|call| {
                let (before, rest) = call.split_once('"')?;
                let literal = before.trim().ends_with(',') && before.matches(',').count() == 1;
                literal.then(|| rest.split('"').next())?
            })
            .collect();
        given.sort_unstable();
        given.dedup();
        assert_eq!(given, super::REASONS);
    }
}
