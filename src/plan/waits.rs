//! What each member that is not well is waited for, in words.

use crate::api::node_state::SyncState;
use crate::api::topology::{Role, Topology};

use super::view::View;
use super::{Desired, Link, MemberObserved, Observed, Plan, WaitReason};

/// Appends what every wanted member that is not well waits for, unless it is said already.
pub fn members(
    desired: &Desired,
    observed: &Observed,
    topology: Option<&Topology>,
    now_ms: u64,
    plan: &mut Plan,
) {
    let view = topology.map(|topology| View {
        desired,
        observed,
        topology,
        now_ms,
    });
    for (name, member) in &observed.members {
        let listed = topology.and_then(|topology| topology.find(name));
        let concerned = desired.wants_member(name) || listed.is_some();
        if !concerned || view.is_some_and(|view| view.serves(name)) {
            continue;
        }
        let role = listed.map(|(_, entry)| entry.role);
        let (reason, what) = why(observed, member, role, topology.is_some());
        if !plan
            .waiting
            .iter()
            .any(|waiting| waiting.message.contains(name.as_str()))
        {
            plan.wait(reason, format!("{name}: {what}"));
        }
    }
}

/// Why a member is not well.
pub fn why(
    observed: &Observed,
    member: &MemberObserved,
    role: Option<Role>,
    has_topology: bool,
) -> (WaitReason, String) {
    let Some(pod) = &member.pod else {
        return (WaitReason::MembersStarting, "has no pod yet".into());
    };
    if let Some(problem) = &pod.problem {
        return (WaitReason::MemberProblem, problem.clone());
    }
    let node = pod.node.as_deref().unwrap_or_default();
    let node_down = observed
        .kube_nodes
        .get(node)
        .is_some_and(|node| !node.ready);
    if node_down && member.link != Link::Connected {
        return (
            WaitReason::MemberUnreachable,
            format!("its node {node} is not ready"),
        );
    }
    let Some(state) = member.connected() else {
        return match member.link {
            _ if pod.deleting => (WaitReason::MemberStopping, "is stopping".into()),
            _ if !pod.running => (WaitReason::MembersStarting, "is starting".into()),
            Link::Lost { .. } => (
                WaitReason::MemberUnreachable,
                "runs, but its control port cannot be reached".into(),
            ),
            _ => (
                WaitReason::MembersStarting,
                "runs, and is not connected yet".into(),
            ),
        };
    };
    if state.stopping || pod.deleting {
        return (WaitReason::MemberStopping, "is stopping".into());
    }
    if !has_topology || state.epoch == 0 {
        return (WaitReason::MembersStarting, "has no topology yet".into());
    }
    match (role, state.sync.state) {
        (Some(Role::Replica | Role::Learner), SyncState::Connecting) => {
            let primary = or(&state.sync.primary, "its primary");
            (
                WaitReason::Syncing,
                format!("is not connected to {primary}"),
            )
        }
        (Some(Role::Learner), _) | (Some(Role::Replica), SyncState::Full) => {
            let sync = &state.sync;
            let progress = if sync.keys_total > 0 {
                format!(
                    ", {} of {} keys",
                    sync.keys_done.min(sync.keys_total),
                    sync.keys_total
                )
            } else {
                String::new()
            };
            (
                WaitReason::Syncing,
                format!("copies from {}{progress}", or(&sync.primary, "its primary")),
            )
        }
        _ if !state.waiting_for.is_empty() => (
            WaitReason::MembersStarting,
            format!("waits for {}", state.waiting_for),
        ),
        _ => (WaitReason::MembersStarting, "is about to serve".into()),
    }
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}
