//! From StatefulSets, pods and nodes to what the planner knows of members. Pure.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{self as core, ContainerStatus};
use kube::ResourceExt;

use crate::api::names::{ANNOTATION_TEMPLATE, CONTROL_PORT};
use crate::build::diff::{ANNOTATION_APPLIED, covers, stamped};
use crate::build::{ANNOTATION_CHANGED_AT, CONTAINER, MemberIdentity, stateful_set};
use crate::node::Target;
use crate::plan::{Desired, KubeNode, Pod, Workload};

/// The template hash of a StatefulSet that someone else has changed: none that is ever wanted.
const DRIFTED: &str = "changed-by-others";

pub fn workload(desired: &Desired, member: &MemberIdentity, set: &StatefulSet) -> Workload {
    let annotation = |name: &str| set.annotations().get(name).cloned();
    let changed_at = annotation(ANNOTATION_CHANGED_AT);
    let template_hash = if is_drifted(desired, member, set, changed_at.as_deref()) {
        DRIFTED.into()
    } else {
        annotation(ANNOTATION_TEMPLATE).unwrap_or_default()
    };
    Workload {
        template_hash,
        deleting: set.metadata.deletion_timestamp.is_some(),
        changed_at_ms: changed_at
            .and_then(|text| text.parse::<Timestamp>().ok())
            .and_then(|time| u64::try_from(time.as_millisecond()).ok())
            .unwrap_or(0),
    }
}

/// Whether it is not any more as this operator applied it. One that another version of the operator applied is left as it is: a new operator
/// restarts no pod.
fn is_drifted(
    desired: &Desired,
    member: &MemberIdentity,
    set: &StatefulSet,
    changed_at: Option<&str>,
) -> bool {
    if set.annotations().get(ANNOTATION_TEMPLATE) != Some(&desired.template_hash) {
        return false;
    }
    let built = stateful_set(desired, member, changed_at.unwrap_or_default());
    let (Ok(built), Ok(stored)) = (stamped(&built), serde_json::to_value(set)) else {
        return false;
    };
    let applied =
        |value: &serde_json::Value| value["metadata"]["annotations"][ANNOTATION_APPLIED].clone();
    applied(&built) == applied(&stored) && !covers(&stored, &built)
}

pub fn pod(pod: &core::Pod) -> Pod {
    let status = pod.status.clone().unwrap_or_default();
    let is = |kind: &str| {
        let conditions = status.conditions.iter().flatten();
        let mut of_kind = conditions.filter(|condition| condition.type_ == kind);
        of_kind
            .next()
            .is_some_and(|condition| condition.status == "True")
    };
    Pod {
        uid: pod.uid().unwrap_or_default(),
        template_hash: pod
            .annotations()
            .get(ANNOTATION_TEMPLATE)
            .cloned()
            .unwrap_or_default(),
        running: container(pod, CONTAINER).is_some_and(is_running),
        ready: is("Ready"),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        address: status.pod_ip.clone(),
        // A pod on its way out may well have ended.
        problem: match pod.metadata.deletion_timestamp {
            Some(_) => None,
            None => problem(pod, CONTAINER),
        },
    }
}

fn container<'a>(pod: &'a core::Pod, name: &str) -> Option<&'a ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == name)
}

fn is_running(status: &ContainerStatus) -> bool {
    status
        .state
        .as_ref()
        .is_some_and(|state| state.running.is_some())
}

/// Where the member's process is, and which it is.
pub fn target(pod: Option<&core::Pod>) -> Target {
    let running = pod
        .and_then(|pod| container(pod, CONTAINER))
        .filter(|status| is_running(status));
    Target {
        address: pod.and_then(|pod| pod.status.as_ref()?.pod_ip.clone()),
        control_port: CONTROL_PORT,
        process: running.and_then(|status| status.container_id.clone()),
    }
}

/// Why it does not run, in Kubernetes' words; none while it is on its way.
pub fn problem(pod: &core::Pod, name: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let words = |reason: Option<&String>, message: Option<&String>| {
        let parts: Vec<&str> = [reason, message]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        parts.join(": ")
    };
    let failed = words(status.reason.as_ref(), status.message.as_ref());
    if status.phase.as_deref() == Some("Failed") && !failed.is_empty() {
        return Some(failed);
    }
    let unschedulable = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    if let Some(condition) = unschedulable {
        return Some(words(condition.reason.as_ref(), condition.message.as_ref()));
    }
    let container = container(pod, name)?;
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        // The kubelet's words for what is simply not finished yet.
        let under_way = matches!(
            waiting.reason.as_deref(),
            None | Some("ContainerCreating" | "PodInitializing")
        );
        let last = container
            .last_state
            .as_ref()
            .and_then(|last| last.terminated.as_ref());
        let said = last
            .and_then(|last| last.message.as_deref())
            .map(str::trim)
            .unwrap_or_default();
        let mut text = words(waiting.reason.as_ref(), waiting.message.as_ref());
        if !said.is_empty() {
            text = format!("{text}; it said: {said}");
        }
        return (!under_way).then_some(text);
    }
    let ended = state.terminated.as_ref()?;
    Some(format!(
        "ended with exit code {}{}",
        ended.exit_code,
        ended
            .reason
            .as_ref()
            .map(|reason| format!(" ({reason})"))
            .unwrap_or_default()
    ))
}

pub fn kube_node(node: &core::Node) -> KubeNode {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable);
    KubeNode {
        ready,
        unschedulable: unschedulable.unwrap_or(false),
    }
}

#[cfg(test)]
mod tests;
