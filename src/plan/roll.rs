//! Members whose template is not the wanted one get it, one at a time: replicas first, a primary only after it handed over. The first member that
//! does not become well stops the roll, and a corrected spec mends just that one first.

use crate::api::quantity::counted;
use crate::api::topology::{Role, Shard};

use super::handover::hand_over;
use super::view::View;
use super::{Desired, MemberObserved, Observed, Plan, Step, WaitReason};

/// Whether a roll has to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roll {
    /// All have the wanted template.
    Done,
    /// A step is planned, or something is waited for: nothing else disruptive may begin.
    UnderWay,
}

/// Members that do not run and have nothing to lose take the wanted template at once: the way out of an image that cannot be pulled. One a plan.
pub fn mend_broken(desired: &Desired, observed: &Observed, plan: &mut Plan) -> bool {
    let broken = observed.members.iter().find(|(name, member)| {
        desired.wants_member(name) && is_outdated(desired, member) && has_nothing_to_lose(member)
    });
    let Some((name, _)) = broken else {
        return false;
    };
    plan.steps.push(update(
        desired,
        name,
        "it does not run with the template that it has",
    ));
    true
}

fn is_outdated(desired: &Desired, member: &MemberObserved) -> bool {
    let workload = member.workload.as_ref();
    workload.is_some_and(|workload| {
        !workload.deleting && workload.template_hash != desired.template_hash
    })
}

/// No process runs, and none can come back with data in memory.
fn has_nothing_to_lose(member: &MemberObserved) -> bool {
    let stopped = member
        .pod
        .as_ref()
        .is_none_or(|pod| !pod.running && !pod.ready);
    member.connected().is_none() && stopped
}

fn update(desired: &Desired, member: &str, why: &str) -> Step {
    Step::UpdateMember {
        member: member.into(),
        template_hash: desired.template_hash.clone(),
        why: why.into(),
    }
}

/// Members with an older template that the spec wants.
pub fn outdated<'a>(desired: &Desired, observed: &'a Observed) -> Vec<&'a str> {
    observed
        .members
        .iter()
        .filter(|(name, member)| desired.wants_member(name) && is_outdated(desired, member))
        .map(|(name, _)| name.as_str())
        .collect()
}

/// Plans the next step of the roll.
pub fn roll(view: &View, plan: &mut Plan) -> Roll {
    let outdated = outdated(view.desired, view.observed);
    if outdated.is_empty() {
        return Roll::Done;
    }
    if let Some(name) = unwell_after_update(view) {
        wait_for(view, name, outdated.len(), plan);
        return Roll::UnderWay;
    }
    // Where something is broken already first: an earlier template may have broken it.
    let broken = |shard: &&Shard| {
        let mut members = shard.members.iter();
        members.any(|entry| outdated.contains(&entry.name.as_str()) && !view.is_well(&entry.name))
    };
    let (first, then): (Vec<&Shard>, Vec<&Shard>) = view.topology.shards.iter().partition(broken);
    for shard in first.into_iter().chain(then) {
        if let Some(step) = next_in_shard(view, shard, &outdated, plan) {
            plan.steps.extend(step);
            return Roll::UnderWay;
        }
    }
    // Those left are in no shard yet; they join first.
    Roll::UnderWay
}

/// A member that has the wanted template and is not well.
fn unwell_after_update<'a>(view: &View<'a>) -> Option<&'a str> {
    let updated = |(name, member): &(&'a String, &'a MemberObserved)| {
        view.desired.wants_member(name)
            && member
                .workload
                .as_ref()
                .is_some_and(|workload| workload.template_hash == view.desired.template_hash)
            && !view.is_well(name)
    };
    view.observed
        .members
        .iter()
        .find(updated)
        .map(|(name, _)| name.as_str())
}

fn wait_for(view: &View, name: &str, left: usize, plan: &mut Plan) {
    let member = view.member(name);
    let left = counted(left, "member");
    let changed_at_ms = member
        .and_then(|member| member.workload.as_ref())
        .map_or(0, |workload| workload.changed_at_ms);
    let problem = member.and_then(|member| member.pod.as_ref()?.problem.clone());
    let due_ms = changed_at_ms.saturating_add(view.desired.limits.roll_patience_ms);
    if problem.is_some() || view.now_ms >= due_ms {
        plan.wait(
            WaitReason::RollStuck,
            format!(
                "{name} does not become well with the new template ({}); {left} left with the old one; correct the spec to go on",
                problem.unwrap_or_else(|| "it takes too long".into())
            ),
        );
    } else {
        plan.wait(
            WaitReason::RollWaiting,
            format!("waits for {name} to be well; {left} left with the old template"),
        );
        plan.again_by(due_ms);
    }
}

/// The next step within a shard; none if the shard is done, an empty one if it has to wait.
fn next_in_shard(
    view: &View,
    shard: &Shard,
    outdated: &[&str],
    plan: &mut Plan,
) -> Option<Option<Step>> {
    let is_outdated = |name: &str| outdated.contains(&name);
    // Of equals the first; one that is not well before one that is.
    let replica = shard
        .members
        .iter()
        .filter(|entry| entry.role != Role::Primary && is_outdated(&entry.name))
        .min_by_key(|entry| view.is_well(&entry.name));
    let primary = shard.primary().filter(|entry| is_outdated(&entry.name));
    let next = replica.or(primary)?;
    if !view.others_well(shard, &next.name) {
        let unwell: Vec<&str> = shard
            .members
            .iter()
            .map(|entry| entry.name.as_str())
            .filter(|name| *name != next.name && !view.is_well(name))
            .collect();
        plan.wait(
            WaitReason::RollWaiting,
            format!(
                "shard {}: {} is restarted once {} is well",
                shard.name,
                next.name,
                unwell.join(", ")
            ),
        );
        return Some(None);
    }
    if next.role != Role::Primary {
        return Some(Some(update(
            view.desired,
            &next.name,
            "the template changed",
        )));
    }
    if shard.members.len() == 1 && view.desired.members_per_shard == 1 {
        return Some(Some(update(
            view.desired,
            &next.name,
            "the template changed; as it has no replica, its keys are lost",
        )));
    }
    match view.successor(shard) {
        Some(heir) => Some(Some(hand_over(
            view,
            shard,
            heir,
            "it is to be restarted with the new template",
        ))),
        None => {
            plan.wait(
                WaitReason::RollWaiting,
                format!(
                    "shard {}: {} is restarted once a replica is in sync and can take over",
                    shard.name, next.name
                ),
            );
            Some(None)
        }
    }
}
