use super::*;

fn context() -> Context {
    Context {
        default_image: "example/cache-node:2".into(),
        addressing: Addressing::Pods {
            service: "orders-nodes".into(),
            namespace: "shop".into(),
        },
        limits: Limits::default(),
        regions: Vec::new(),
    }
}

fn manifest(spec: serde_json::Value) -> Cache {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "cache.clusterdb.io/v1alpha1", "kind": "Cache",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u", "generation": 4},
        "spec": spec,
    }))
    .unwrap()
}

fn minimal() -> serde_json::Value {
    serde_json::json!({"shards": 3, "resources": {"limits": {"memory": "1Gi"}}})
}

#[test]
fn defaults_follow_from_little() {
    let desired = cache(&manifest(minimal()), &context()).unwrap();
    assert_eq!((desired.shards, desired.members_per_shard), (3, 2));
    assert_eq!(desired.max_memory_bytes, 768 << 20);
    assert_eq!(desired.resources.requests["memory"].0, "1Gi");
    assert_eq!(desired.image, "example/cache-node:2");
    assert_eq!(desired.auth.name, "orders-auth");
    assert!(desired.auth.generated);
    assert!(desired.wants_member("orders-2-1"));
    assert!(!desired.wants_member("orders-2-2"));
    assert!(!desired.wants_member("orders-3-0"));
}

#[test]
fn headroom_is_a_quarter_and_64_mib_at_least() {
    assert_eq!(derived_max_memory(128 << 20), 64 << 20);
    assert_eq!(derived_max_memory(256 << 20), 192 << 20);
    assert_eq!(derived_max_memory(8 << 30), 6 << 30);
}

#[test]
fn integers_are_quantities_too() {
    let spec = serde_json::json!({"resources": {"limits": {"memory": 1073741824, "cpu": 2}}});
    let desired = cache(&manifest(spec), &context()).unwrap();
    assert_eq!(desired.max_memory_bytes, 768 << 20);
    assert_eq!(desired.resources.limits["cpu"].0, "2");
}

#[test]
fn an_operators_newer_image_is_not_taken_unasked() {
    let mut object = manifest(minimal());
    object.status = Some(crate::api::CacheStatus {
        image: Some("example/cache-node:1".into()),
        ..Default::default()
    });
    let before = cache(&object, &context()).unwrap();
    assert_eq!(before.image, "example/cache-node:1");
    assert_eq!(
        before.update_available.as_deref(),
        Some("example/cache-node:2")
    );

    object.metadata.annotations =
        Some([(names::ANNOTATION_UPDATE.to_string(), "once".to_string())].into());
    let allowed = cache(&object, &context()).unwrap();
    assert_eq!(allowed.image, "example/cache-node:2");
    assert!(!allowed.update_taken);
    assert_ne!(allowed.template_hash, before.template_hash);

    object.status.as_mut().unwrap().image = Some("example/cache-node:2".into());
    assert!(cache(&object, &context()).unwrap().update_taken);
}

#[test]
fn only_what_needs_a_restart_changes_the_template() {
    let before = cache(&manifest(minimal()), &context())
        .unwrap()
        .template_hash;
    let with = |change: serde_json::Value| {
        let mut spec = minimal();
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        cache(&manifest(spec), &context()).unwrap().template_hash
    };
    assert_eq!(
        before,
        with(serde_json::json!({"shards": 5, "replicasPerShard": 2, "paused": true}))
    );
    assert_eq!(
        before,
        with(serde_json::json!({"pod": {"serviceAccountAnnotations": {"a": "b"}}}))
    );
    assert_ne!(
        before,
        with(serde_json::json!({"pod": {"labels": {"a": "b"}}}))
    );
    assert_ne!(before, with(serde_json::json!({"image": "other"})));
    let mut restarted = manifest(minimal());
    restarted.metadata.annotations =
        Some([(names::ANNOTATION_RESTART.to_string(), "1".to_string())].into());
    assert_ne!(before, cache(&restarted, &context()).unwrap().template_hash);
}

/// What the hash is made of must stay as it is from one operator to the next: another hash restarts every member of every Cache.
#[test]
fn an_operators_upgrade_rolls_nothing() {
    let hash = cache(&manifest(minimal()), &context())
        .unwrap()
        .template_hash;
    assert_eq!(hash, "ea295bef71696430");
}

#[test]
fn every_mistake_names_field_value_and_mend() {
    let cases = [
        (
            serde_json::json!({"resources": {"limits": {"memory": "10GB"}}}),
            "spec.resources.limits.memory \"10GB\"",
            "512Mi",
        ),
        (
            serde_json::json!({"resources": {"limits": {"memory": "64Mi"}}}),
            "spec.resources.limits.memory \"64 MiB\"",
            "at least 128Mi",
        ),
        (
            serde_json::json!({}),
            "spec.resources.limits.memory",
            "needs a bound",
        ),
        (
            serde_json::json!({"policy": {"maxMemoryPerShard": "1Mi"}}),
            "spec.policy.maxMemoryPerShard \"1 MiB\"",
            "16Mi",
        ),
        (
            serde_json::json!({"resources": {"limits": {"memory": "256Mi"}}, "policy": {"maxMemoryPerShard": "250Mi"}}),
            "spec.policy.maxMemoryPerShard \"250 MiB\"",
            "at most 192 MiB",
        ),
        (
            serde_json::json!({"resources": {"limits": {"memory": "1Gi"}, "requests": {"memory": "2Gi"}}}),
            "spec.resources.requests.memory \"2Gi\"",
            "lower it",
        ),
        (
            serde_json::json!({"shards": 0, "resources": {"limits": {"memory": "1Gi"}}}),
            "spec.shards \"0\"",
            "1 to 128",
        ),
        (
            serde_json::json!({"replicasPerShard": 9, "resources": {"limits": {"memory": "1Gi"}}}),
            "spec.replicasPerShard \"9\"",
            "0 to 5",
        ),
        (
            serde_json::json!({"image": "a b", "resources": {"limits": {"memory": "1Gi"}}}),
            "spec.image \"a b\"",
            "one image reference",
        ),
        (
            serde_json::json!({"pod": {"labels": {"a b": "c"}}, "resources": {"limits": {"memory": "1Gi"}}}),
            "spec.pod.labels \"a b\"",
            "example.org/name",
        ),
        (
            serde_json::json!({"maintenance": {"schedule": "0 3 * *", "tasks": [{"rebalance": {}}]}, "resources": {"limits": {"memory": "1Gi"}}}),
            "spec.maintenance.schedule \"0 3 * *\"",
            "write five",
        ),
        (
            serde_json::json!({"maintenance": {"schedule": "0 3 * * *", "tasks": [{}]}, "resources": {"limits": {"memory": "1Gi"}}}),
            "spec.maintenance.tasks[0]",
            "rebalance",
        ),
    ];
    for (spec, at, mend) in cases {
        let error = cache(&manifest(spec.clone()), &context())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(at) && error.contains(mend),
            "{spec}: {error}"
        );
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let error = cache(
        &manifest(serde_json::json!({"shards": 500, "replicasPerShard": 7})),
        &context(),
    )
    .unwrap_err();
    assert_eq!(error.errors.len(), 3, "{error}");
}

#[test]
fn what_there_is_is_held_while_the_spec_is_invalid() {
    let mut object = manifest(serde_json::json!({"shards": 500, "paused": true}));
    assert!(cache(&object, &context()).is_err());
    assert!(held(&object, &context()).is_none(), "nothing was begun");
    object.status = serde_json::from_value(serde_json::json!({
        "image": "example/cache-node:1",
        "topology": {"clusterID": "c", "epoch": 3, "shards": [
            {"name": "0", "slots": [[0, 8191]], "members": [
                {"name": "orders-0-0", "role": "Primary", "dataID": "a"},
                {"name": "orders-0-2", "role": "Replica", "dataID": "b"}]},
            {"name": "1", "slots": [[8192, 16383]], "members": [{"name": "orders-1-0", "role": "Primary", "dataID": "c"}]}]}
    }))
    .unwrap();
    let held = held(&object, &context()).unwrap();
    assert_eq!((held.shards, held.members_per_shard), (2, 3));
    assert_eq!(held.image, "example/cache-node:1");
    assert!(held.held && held.paused && !held.update_taken);
    assert_eq!(held.update_available, None);
}
