use serde_json::{Value, json};

use super::*;
use crate::api::topology::Addressing;
use crate::plan::Limits;

fn pod_with(status: Value) -> core::Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "larder-0-0-0", "uid": "p", "annotations": {"cache.clusterdb.io/template-hash": "t"}},
        "spec": {"containers": [], "nodeName": "stove"},
        "status": status,
    }))
    .unwrap()
}

fn container(state: Value) -> Value {
    json!({"name": "cache-node", "image": "", "imageID": "", "ready": false, "restartCount": 1, "containerID": "c://1", "state": state})
}

#[test]
fn a_running_pod() {
    let status = json!({
        "phase": "Running", "podIP": "10.1.1.1",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [container(json!({"running": {}}))],
    });
    let seen = pod_with(status);
    let expected = Pod {
        uid: "p".into(),
        template_hash: "t".into(),
        running: true,
        ready: true,
        deleting: false,
        node: Some("stove".into()),
        address: Some("10.1.1.1".into()),
        problem: None,
    };
    assert_eq!(pod(&seen), expected);
    assert_eq!(target(Some(&seen)).process.as_deref(), Some("c://1"));
    assert_eq!(target(None).process, None);
}

#[test]
fn why_a_pod_does_not_run() {
    let waiting = |reason: &str| json!({"waiting": {"reason": reason, "message": "details"}});
    let cases = [
        (
            json!({"containerStatuses": [container(waiting("ImagePullBackOff"))]}),
            Some("ImagePullBackOff: details"),
        ),
        (
            json!({"containerStatuses": [container(waiting("ContainerCreating"))]}),
            None,
        ),
        (json!({"phase": "Pending"}), None),
        (
            json!({"containerStatuses": [container(json!({"terminated": {"exitCode": 3, "reason": "Error"}}))]}),
            Some("ended with exit code 3 (Error)"),
        ),
        (
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]}),
            Some("Unschedulable: 0/3 nodes"),
        ),
        (
            json!({"phase": "Failed", "reason": "Evicted", "message": "disk"}),
            Some("Evicted: disk"),
        ),
    ];
    for (status, expected) in cases {
        let seen = pod_with(status.clone());
        assert_eq!(pod(&seen).problem.as_deref(), expected, "{status}");
        assert!(!pod(&seen).running, "{status}");
        assert_eq!(target(Some(&seen)).process, None, "{status}");
    }
}

fn desired() -> Desired {
    let manifest = json!({
        "apiVersion": "cache.clusterdb.io/v1alpha1", "kind": "Cache",
        "metadata": {"name": "larder", "namespace": "kitchen", "uid": "u"},
        "spec": {"shards": 1, "resources": {"limits": {"memory": "1024Mi", "cpu": "1000m"}}},
    });
    let context = crate::validate::Context {
        default_image: "pantry:1".into(),
        addressing: Addressing::Pods {
            service: "larder-nodes".into(),
            namespace: "kitchen".into(),
        },
        limits: Limits::default(),
        regions: Vec::new(),
    };
    crate::validate::cache(&serde_json::from_value(manifest).unwrap(), &context).unwrap()
}

#[test]
fn a_template_that_others_changed_shows_and_defaults_do_not() {
    let desired = desired();
    let member = MemberIdentity {
        name: "larder-0-0".into(),
        shard: "0".into(),
        index: 0,
    };
    let at = "2026-01-02T03:04:05Z";
    let mut stored = stamped(&stateful_set(&desired, &member, at)).unwrap();
    let seen = |stored: &Value| {
        workload(
            &desired,
            &member,
            &serde_json::from_value(stored.clone()).unwrap(),
        )
    };
    // As the API server gives it back.
    stored["spec"]["template"]["spec"]["dnsPolicy"] = json!("ClusterFirst");
    let container = &mut stored["spec"]["template"]["spec"]["containers"][0];
    container["resources"]["limits"] = json!({"memory": "1Gi", "cpu": "1"});
    container["terminationMessagePath"] = json!("/dev/termination-log");
    let expected = Workload {
        template_hash: desired.template_hash.clone(),
        deleting: false,
        changed_at_ms: 1_767_323_045_000,
    };
    assert_eq!(seen(&stored), expected);

    let mut scaled = stored.clone();
    scaled["spec"]["replicas"] = json!(0);
    assert_ne!(seen(&scaled).template_hash, desired.template_hash);

    // Applied by another version, which built it in another way.
    let mut older = scaled;
    older["metadata"]["annotations"][ANNOTATION_APPLIED] = json!("other");
    assert_eq!(seen(&older).template_hash, desired.template_hash);
}

#[test]
fn nodes() {
    let node = |ready: &str, unschedulable: bool| {
        let node = json!({"metadata": {"name": "stove"}, "spec": {"unschedulable": unschedulable}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        kube_node(&serde_json::from_value(node).unwrap())
    };
    assert_eq!(
        node("True", false),
        KubeNode {
            ready: true,
            unschedulable: false
        }
    );
    assert_eq!(
        node("Unknown", true),
        KubeNode {
            ready: false,
            unschedulable: true
        }
    );
}
