//! The objects, built from a Cache whose every name differs from the product's, so that a swapped one shows.

use serde_json::{Value, json};

use super::*;
use crate::api::Cache;
use crate::api::topology::{Addressing, Member, Role, Shard, SlotRange, Topology};
use crate::plan::{Desired, Limits};
use crate::validate::Context;

fn desired(change: impl FnOnce(&mut Value)) -> Desired {
    let mut manifest = json!({
        "apiVersion": "cache.clusterdb.io/v1alpha1",
        "kind": "Cache",
        "metadata": {"name": "larder", "namespace": "kitchen", "uid": "u-1", "generation": 3},
        "spec": {
            "shards": 2,
            "image": "registry.example/pantry:9",
            "resources": {"limits": {"memory": "256Mi", "cpu": "1"}},
            "auth": {"secret": {"name": "cook", "key": "secretword"}},
            "pod": {
                "labels": {"team": "soup"},
                "annotations": {"note": "salt"},
                "nodeSelector": {"disk": "none"},
                "serviceAccountAnnotations": {"cloud/role": "reader"},
            },
        },
    });
    change(&mut manifest);
    let cache: Cache = serde_json::from_value(manifest).unwrap();
    let context = Context {
        default_image: "registry.example/default:1".into(),
        addressing: Addressing::Pods {
            service: "larder-nodes".into(),
            namespace: "kitchen".into(),
        },
        limits: Limits::default(),
        regions: Vec::new(),
    };
    crate::validate::cache(&cache, &context).unwrap()
}

fn member() -> MemberIdentity {
    MemberIdentity {
        name: "larder-1-2".into(),
        shard: "1".into(),
        index: 2,
    }
}

fn json_of(object: impl serde::Serialize) -> Value {
    serde_json::to_value(object).unwrap()
}

fn built(desired: &Desired) -> Value {
    json_of(stateful_set(desired, &member(), "2026-01-02T03:04:05Z"))
}

#[test]
fn a_member_is_one_pod_with_its_own_names() {
    let desired = desired(|_| {});
    let set = built(&desired);
    let hash = desired.template_hash.as_str();
    assert_eq!(set["metadata"]["name"], "larder-1-2");
    assert_eq!(set["metadata"]["namespace"], "kitchen");
    let labels = json!({
        "app.kubernetes.io/name": "clusterdb-cache",
        "app.kubernetes.io/instance": "larder",
        "app.kubernetes.io/managed-by": "cache-operator",
        "app.kubernetes.io/component": "node",
        "cache.clusterdb.io/cache": "larder",
        "cache.clusterdb.io/shard": "1",
        "cache.clusterdb.io/member": "larder-1-2",
        "cache.clusterdb.io/member-index": "2",
    });
    assert_eq!(set["metadata"]["labels"], labels);
    assert_eq!(
        set["metadata"]["annotations"],
        json!({
            "cache.clusterdb.io/template-hash": hash,
            "cache.clusterdb.io/template-changed-at": "2026-01-02T03:04:05Z",
        })
    );
    assert_eq!(
        set["metadata"]["ownerReferences"],
        json!([{
            "apiVersion": "cache.clusterdb.io/v1alpha1", "kind": "Cache", "name": "larder", "uid": "u-1",
            "controller": true, "blockOwnerDeletion": true,
        }])
    );
    let spec = &set["spec"];
    assert_eq!(spec["replicas"], 1);
    assert_eq!(spec["serviceName"], "larder-nodes");
    assert_eq!(spec["podManagementPolicy"], "Parallel");
    let template = &spec["template"]["metadata"];
    assert!(diff::covers(&template["labels"], &labels));
    assert_eq!(template["labels"]["team"], "soup");
    assert_eq!(
        template["annotations"],
        json!({"note": "salt", "cache.clusterdb.io/template-hash": hash, "cache.clusterdb.io/cache-uid": "u-1"})
    );
    for (key, value) in spec["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&template["labels"][key], value, "the selector must match");
    }
}

#[test]
fn a_members_pod_is_confined() {
    let set = built(&desired(|_| {}));
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "larder");
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(
        pod["securityContext"],
        json!({"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"}})
    );
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "registry.example/pantry:9");
    assert_eq!(
        container["securityContext"],
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
    );
    assert_eq!(
        container["resources"],
        json!({"limits": {"cpu": "1", "memory": "256Mi"}, "requests": {"memory": "256Mi"}})
    );
    assert_eq!(pod["nodeSelector"], json!({"disk": "none"}));
    assert_eq!(pod["terminationGracePeriodSeconds"], 30);
}

#[test]
fn a_members_process_is_told_its_name_and_where_its_secrets_are() {
    let desired = desired(|_| {});
    let set = built(&desired);
    let pod = &set["spec"]["template"]["spec"];
    let arguments: Vec<&str> = pod["containers"][0]["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|argument| argument.as_str().unwrap())
        .collect();
    for expected in [
        "--cluster",
        "--member=larder-1-2",
        "--advertise-host=larder-1-2-0.larder-nodes.kitchen.svc",
        "--max-memory=201326592",
        "--password-file=/etc/cache/auth/password",
        "--control-password-file=/etc/cache/control/password",
        "--topology-file=/etc/cache/topology/topology.json",
    ] {
        assert!(arguments.contains(&expected), "{expected} in {arguments:?}");
    }
    let volume = |name: &str| {
        let volumes = pod["volumes"].as_array().unwrap();
        volumes
            .iter()
            .find(|volume| volume["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(volume("auth")["secret"]["secretName"], "cook");
    assert_eq!(
        volume("auth")["secret"]["items"],
        json!([{"key": "secretword", "path": "password"}])
    );
    assert_eq!(volume("control")["secret"]["secretName"], "larder-control");
    assert_eq!(volume("topology")["configMap"]["name"], "larder-topology");
    assert_eq!(volume("topology")["configMap"]["optional"], true);
    assert_eq!(volume("data")["emptyDir"]["sizeLimit"], "64Mi");
}

#[test]
fn copies_of_a_shard_spread_unless_the_spec_says_otherwise() {
    let pod = |desired: &Desired| built(desired)["spec"]["template"]["spec"].clone();
    let own = pod(&desired(|_| {}));
    let shard = json!({"cache.clusterdb.io/cache": "larder", "app.kubernetes.io/component": "node", "cache.clusterdb.io/shard": "1"});
    let anti =
        &own["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(
        anti[0]["podAffinityTerm"]["labelSelector"]["matchLabels"],
        shard
    );
    assert_eq!(
        anti[0]["podAffinityTerm"]["topologyKey"],
        "kubernetes.io/hostname"
    );
    assert_eq!(
        own["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
        shard
    );
    assert_eq!(
        own["topologySpreadConstraints"][0]["whenUnsatisfiable"],
        "ScheduleAnyway"
    );

    let given = pod(&desired(|manifest| {
        manifest["spec"]["pod"]["topologySpreadConstraints"] = json!([
            {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}
        ]);
        manifest["spec"]["pod"]["affinity"] = json!({"podAntiAffinity": {}});
    }));
    assert_eq!(
        given["topologySpreadConstraints"].as_array().unwrap().len(),
        1
    );
    assert_eq!(given["topologySpreadConstraints"][0]["topologyKey"], "rack");
    assert_eq!(given["affinity"], json!({"podAntiAffinity": {}}));
}

#[test]
fn services_by_number_of_shards() {
    let names = |services: &Services| -> Vec<String> {
        let name = |service: &k8s_openapi::api::core::v1::Service| service.metadata.name.clone();
        services.wanted.iter().filter_map(name).collect()
    };
    let two = services(&desired(|_| {}));
    assert_eq!(names(&two), ["larder", "larder-nodes"]);
    assert_eq!(two.unwanted, ["larder-rw", "larder-ro"]);
    let one = services(&desired(|manifest| manifest["spec"]["shards"] = json!(1)));
    assert_eq!(
        names(&one),
        ["larder", "larder-nodes", "larder-rw", "larder-ro"]
    );
    assert!(one.unwanted.is_empty());
    let role = |index: usize| {
        json_of(&one.wanted[index])["spec"]["selector"]["cache.clusterdb.io/role"].clone()
    };
    assert_eq!((role(2), role(3)), (json!("primary"), json!("replica")));
    let headless = json_of(&one.wanted[1]);
    assert_eq!(headless["spec"]["clusterIP"], "None");
    assert_eq!(headless["spec"]["publishNotReadyAddresses"], true);
    let ports = |service: &Value| -> Vec<i64> {
        let ports = service["spec"]["ports"].as_array().unwrap();
        ports
            .iter()
            .map(|port| port["port"].as_i64().unwrap())
            .collect()
    };
    // The control port is not for clients.
    assert_eq!(ports(&json_of(&one.wanted[0])), [6379]);
    assert_eq!(ports(&headless), [6379, 7379, 9121]);
}

#[test]
fn the_rest_of_a_cache() {
    let desired = desired(|_| {});
    let account = json_of(service_account(&desired));
    assert_eq!(account["metadata"]["name"], "larder");
    assert_eq!(
        account["metadata"]["annotations"],
        json!({"cloud/role": "reader"})
    );
    let budget = json_of(disruption_budget(&desired));
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    assert_eq!(
        budget["spec"]["selector"]["matchLabels"],
        json!({"cache.clusterdb.io/cache": "larder", "app.kubernetes.io/component": "node"})
    );
    let secret = json_of(password_secret(
        &desired,
        control_secret_name("larder"),
        "pepper",
    ));
    assert_eq!(secret["metadata"]["name"], "larder-control");
    assert_eq!(secret["data"], json!({"password": "cGVwcGVy"}));
    let topology = Topology {
        cluster_id: "c".into(),
        epoch: 4,
        shards: vec![Shard {
            name: "1".into(),
            slots: vec![SlotRange(0, 16383)],
            bootstrap: false,
            members: vec![Member {
                name: "larder-1-2".into(),
                data_id: "d".into(),
                role: Role::Primary,
                address: None,
            }],
        }],
        moves: vec![],
    };
    let map = json_of(topology_config_map(&desired, &topology));
    assert_eq!(map["metadata"]["name"], "larder-topology");
    let text = map["data"]["topology.json"].as_str().unwrap();
    assert!(
        text.contains(r#""host":"larder-1-2-0.larder-nodes.kitchen.svc""#),
        "{text}"
    );
}

#[test]
fn a_backups_job_gets_its_secrets_as_files() {
    let s3 = serde_json::from_value(json!({
        "bucket": "jars", "prefix": "shelf/", "region": "eu-3", "endpoint": "http://s3.example:7070",
        "forcePathStyle": true, "credentialsSecret": {"name": "keys"},
    }))
    .unwrap();
    let pod: crate::api::cache::PodSettings = serde_json::from_value(json!({
        "nodeSelector": {"kubernetes.io/os": "linux"}, "priorityClassName": "calm",
        "tolerations": [{"key": "dedicated", "operator": "Exists"}], "imagePullSecrets": [{"name": "pull"}],
    }))
    .unwrap();
    let run = BackupRunSpec {
        owner: Owner {
            kind: "CacheBackup",
            namespace: "kitchen".into(),
            name: "weekly".into(),
            uid: "u-2".into(),
        },
        name: "weekly-17",
        cache: "larder",
        cache_uid: "u-1",
        image: "registry.example/cook:3",
        s3: &s3,
        pod: &pod,
    };
    let job = json_of(backup_job(&run));
    assert_eq!(job["metadata"]["name"], "weekly-17");
    assert_eq!(job["metadata"]["ownerReferences"][0]["kind"], "CacheBackup");
    assert_eq!(job["metadata"]["ownerReferences"][0]["uid"], "u-2");
    assert_eq!(
        job["metadata"]["labels"]["cache.clusterdb.io/backup"],
        "weekly"
    );
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(job["spec"]["backoffLimit"], 0);
    assert_eq!(pod["restartPolicy"], "Never");
    assert_eq!(pod["serviceAccountName"], "larder");
    assert_eq!(pod["nodeSelector"]["kubernetes.io/os"], "linux");
    assert_eq!(pod["tolerations"][0]["key"], "dedicated");
    assert_eq!(pod["priorityClassName"], "calm");
    assert_eq!(pod["imagePullSecrets"][0]["name"], "pull");
    let resources = &pod["containers"][0]["resources"];
    assert_eq!(resources["requests"]["memory"], "64Mi");
    assert_eq!(resources["limits"], json!({"memory": "256Mi"}));
    // Not a member: no Service or budget may match it.
    let labels = &job["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["app.kubernetes.io/component"], "backup");
    let words: Vec<String> = serde_json::from_value(pod["containers"][0]["args"].clone()).unwrap();
    use clap::Parser;
    let cli = crate::config::Cli::try_parse_from(
        std::iter::once("cache-operator".to_string()).chain(words),
    )
    .unwrap();
    let crate::config::Command::BackupJob(args) = cli.command else {
        panic!("not a backup")
    };
    assert_eq!(
        (args.bucket.as_str(), args.prefix.as_str()),
        ("jars", "shelf/")
    );
    assert_eq!(
        (args.cache.as_str(), args.snapshot.as_str()),
        ("larder", "weekly-17")
    );
    assert_eq!(args.endpoint.as_deref(), Some("http://s3.example:7070"));
    assert!(args.path_style);
    let mount = |path: &std::path::Path| {
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        let found = mounts
            .iter()
            .find(|mount| path.starts_with(mount["mountPath"].as_str().unwrap()));
        found.unwrap()["name"].clone()
    };
    assert_eq!(mount(&args.topology_file), "topology");
    assert_eq!(mount(&args.control_password_file), "control");
    assert_eq!(mount(args.credentials_dir.as_deref().unwrap()), "s3");
    let volumes = pod["volumes"].as_array().unwrap();
    let secret = |name: &str| {
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == name)
            .unwrap();
        volume["secret"]["secretName"].clone()
    };
    assert_eq!(
        (secret("s3"), secret("control")),
        (json!("keys"), json!("larder-control"))
    );
}
