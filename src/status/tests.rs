use super::*;
use crate::api::cache::Cache;
use crate::plan::Limits;
use crate::validate;

fn desired() -> Desired {
    let cache: Cache = serde_json::from_value(serde_json::json!({
        "apiVersion": "cache.clusterdb.io/v1alpha1", "kind": "Cache",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u", "generation": 7},
        "spec": {"shards": 3, "resources": {"limits": {"memory": "1Gi"}}},
    }))
    .unwrap();
    let context = validate::Context {
        default_image: "example/cache-node:1".into(),
        addressing: Addressing::Pods {
            service: "orders-nodes".into(),
            namespace: "shop".into(),
        },
        limits: Limits::default(),
        regions: Vec::new(),
    };
    validate::cache(&cache, &context).unwrap()
}

fn condition<'a>(status: &'a CacheStatus, kind: &str) -> &'a crate::api::common::Condition {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .unwrap()
}

#[test]
fn a_new_cache_says_what_it_waits_for() {
    let (desired, observed) = (desired(), Observed::default());
    let plan = plan::plan(&desired, &observed, 1_000);
    let status = status(&desired, &observed, &plan, &Outcome::default(), None, 1_000);
    assert_eq!(status.phase, Some(Phase::Creating));
    assert_eq!(status.ready_shards.as_deref(), Some("0/3"));
    assert_eq!(status.endpoint.as_deref(), Some("orders.shop.svc:6379"));
    assert_eq!(condition(&status, "Ready").status, "False");
    assert_eq!(condition(&status, "Degraded").status, "False");
    assert_eq!(condition(&status, "Progressing").status, "True");
    assert_eq!(condition(&status, "Ready").observed_generation, Some(7));
}

#[test]
fn the_time_of_a_transition_stays_until_there_is_one() {
    let (desired, observed) = (desired(), Observed::default());
    let plan = plan::plan(&desired, &observed, 1_000);
    let first = status(&desired, &observed, &plan, &Outcome::default(), None, 1_000);
    let later = status(
        &desired,
        &observed,
        &plan,
        &Outcome::default(),
        Some(&first),
        90_000,
    );
    assert_eq!(first, later, "nothing changed, so nothing is written");
    let failed = Outcome {
        failed: Some(("create orders-0-0".into(), "quota exceeded".into())),
        ..Outcome::default()
    };
    let broken = status(&desired, &observed, &plan, &failed, Some(&first), 90_000);
    assert_eq!(condition(&broken, "Degraded").reason, "StepFailed");
    assert!(
        condition(&broken, "Degraded")
            .message
            .contains("quota exceeded")
    );
    assert_ne!(
        condition(&broken, "Degraded").last_transition_time,
        condition(&first, "Degraded").last_transition_time
    );
}

#[test]
fn an_invalid_spec_is_told_and_keeps_the_topology() {
    let previous = CacheStatus {
        topology: Some(Topology::default()),
        ..CacheStatus::default()
    };
    let error = Invalid {
        errors: vec![validate::FieldError::new("spec.shards", 0, "use 1 to 128")],
    };
    let status = invalid(8, &error, Some(&previous), 5_000, None);
    assert_eq!(status.phase, Some(Phase::Invalid));
    assert!(
        condition(&status, "Ready")
            .message
            .contains("spec.shards \"0\": use 1 to 128")
    );
    assert_eq!(status.topology, previous.topology);
}

/// The HPA asks the scale subresource for the selector, counts the ready pods that match, and writes ceil(ratio × pods) into `spec.shards`. So the
/// selector must match one pod a shard: with all members it would multiply by the replicas too.
#[test]
fn the_selector_matches_one_pod_a_shard() {
    let desired = desired();
    let selector = names::one_pod_a_shard_selector(&desired.name);
    let terms: Vec<(&str, &str)> = selector
        .split(',')
        .map(|term| term.split_once('=').unwrap())
        .collect();
    let mut matched = 0u16;
    for shard in desired.shard_names() {
        for index in 0..desired.members_per_shard {
            let labels = names::member_labels(&desired.name, &shard, index);
            matched += u16::from(
                terms
                    .iter()
                    .all(|(key, value)| labels.get(*key).is_some_and(|has| has == value)),
            );
        }
    }
    assert_eq!(matched, desired.shards);
    let other = names::member_labels("orders2", "0", 0);
    assert!(
        !terms
            .iter()
            .all(|(key, value)| other.get(*key).is_some_and(|has| has == value))
    );

    let hpa = |pods: u16, use_percent: u32, target_percent: u32| {
        (u32::from(pods) * use_percent).div_ceil(target_percent)
    };
    assert_eq!(
        hpa(matched, 100, 50),
        6,
        "twice the target on each: twice the shards"
    );
    assert_eq!(hpa(matched, 50, 50), 3, "on target: as many as there are");
    assert_eq!(hpa(matched, 20, 50), 2);
}

#[test]
fn counters_alone_are_no_news() {
    let member = |keys| MemberStatus {
        name: "a".into(),
        keys,
        ..MemberStatus::default()
    };
    let with = |keys| CacheStatus {
        members: vec![member(keys)],
        ..CacheStatus::default()
    };
    assert!(same_but_counters(&with(1), &with(2)));
    let ready = CacheStatus {
        members: vec![MemberStatus {
            ready: true,
            ..member(1)
        }],
        ..CacheStatus::default()
    };
    assert!(!same_but_counters(&with(1), &ready));
}
