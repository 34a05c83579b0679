//! The PodDisruptionBudget: drains take one member at a time, so that a shard's copies are never evicted together.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::labels::{Owner, cache_labels, member_selector};
use crate::plan::Desired;

pub fn disruption_budget(desired: &Desired) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: Owner::cache(desired).metadata(desired.name.clone(), cache_labels(&desired.name)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(member_selector(&desired.name)),
                ..LabelSelector::default()
            }),
            // A member that does not become ready must not hold up a drain of its node.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
