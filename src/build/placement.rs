//! Where members' pods go: copies of a shard apart from each other first, then all members of the Cache, as far as possible.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, PodAffinityTerm, PodAntiAffinity, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::labels::member_selector;
use crate::api::names::LABEL_SHARD;
use crate::plan::Desired;

const HOST: &str = "kubernetes.io/hostname";

fn shard_selector(cache: &str, shard: &str) -> BTreeMap<String, String> {
    let mut selector = member_selector(cache);
    selector.insert(LABEL_SHARD.into(), shard.into());
    selector
}

fn matching(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector {
        match_labels: Some(labels),
        ..LabelSelector::default()
    }
}

/// The spec's constraints if it has any, else soft ones: a cache on fewer nodes is better than none.
pub fn spread(desired: &Desired, shard: &str) -> Vec<TopologySpreadConstraint> {
    if !desired.pod.topology_spread_constraints.is_empty() {
        return desired.pod.topology_spread_constraints.clone();
    }
    // One only: the API server takes none twice for the same key. The anti-affinity spreads the shards.
    vec![TopologySpreadConstraint {
        max_skew: 1,
        topology_key: HOST.into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        label_selector: Some(matching(shard_selector(&desired.name, shard))),
        ..TopologySpreadConstraint::default()
    }]
}

/// The spec's affinity, with a soft anti-affinity between a shard's copies unless the spec has one of its own.
pub fn affinity(desired: &Desired, shard: &str) -> Affinity {
    let mut affinity = desired.pod.affinity.clone().unwrap_or_default();
    affinity.pod_anti_affinity.get_or_insert_with(|| {
        let term = |weight, labels| WeightedPodAffinityTerm {
            weight,
            pod_affinity_term: PodAffinityTerm {
                topology_key: HOST.into(),
                label_selector: Some(matching(labels)),
                ..PodAffinityTerm::default()
            },
        };
        PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                term(100, shard_selector(&desired.name, shard)),
                term(10, member_selector(&desired.name)),
            ]),
            ..PodAntiAffinity::default()
        }
    });
    affinity
}
