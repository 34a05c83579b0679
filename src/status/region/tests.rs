use serde_json::{Value, json};

use super::*;
use crate::api::cache::Cache;
use crate::api::topology::Addressing;
use crate::plan::Limits;
use crate::validate;

const NOW: u64 = 1_800_000_000_000;

fn region(name: &str, spec: Value) -> CacheRegion {
    let mut spec = spec;
    spec["cacheRef"] = json!({"name": "main"});
    serde_json::from_value(json!({
        "apiVersion": "cache.clusterdb.io/v1alpha1", "kind": "CacheRegion", "spec": spec,
        "metadata": {"name": name, "namespace": "n", "generation": 3},
    }))
    .unwrap()
}

fn topology() -> Topology {
    let member = |name: &str, role: &str| json!({"name": name, "dataID": name, "role": role});
    serde_json::from_value(json!({"clusterID": "c", "epoch": 1, "moves": [], "shards": [
        {"name": "0", "slots": [[0, 8191]], "bootstrap": false,
         "members": [member("main-0-0", "Primary"), member("main-0-1", "Replica")]},
        {"name": "1", "slots": [[8192, 16383]], "bootstrap": false, "members": [member("main-1-0", "Primary")]},
    ]}))
    .unwrap()
}

/// A Cache with these regions, and the words of its nodes.
struct Scene {
    all: Vec<CacheRegion>,
    states: BTreeMap<String, NodeState>,
    paused: bool,
}

impl Scene {
    fn new(all: Vec<CacheRegion>) -> Scene {
        let mut scene = Scene {
            all,
            states: BTreeMap::new(),
            paused: false,
        };
        let hash = scene.desired().regions.hash();
        for (name, role) in [
            ("main-0-0", NodeRole::Primary),
            ("main-0-1", NodeRole::Replica),
            ("main-1-0", NodeRole::Primary),
        ] {
            let told = RegionState {
                name: "session".into(),
                keys: 100,
                bytes: 1 << 20,
                hits: 3,
                misses: 1,
                ..RegionState::default()
            };
            let state = NodeState {
                role,
                features: vec![FEATURE_REGIONS.into()],
                regions_hash: hash.clone(),
                regions: vec![told],
                ..NodeState::default()
            };
            scene.states.insert(name.into(), state);
        }
        scene
    }

    fn cache(&self) -> Cache {
        serde_json::from_value(json!({
            "apiVersion": "cache.clusterdb.io/v1alpha1", "kind": "Cache",
            "metadata": {"name": "main", "namespace": "n"},
            "spec": {"shards": 2, "paused": self.paused, "resources": {"limits": {"memory": "256Mi"}}},
        }))
        .unwrap()
    }

    fn desired(&self) -> Desired {
        let context = validate::Context {
            default_image: "i".into(),
            addressing: Addressing::Pods {
                service: "s".into(),
                namespace: "n".into(),
            },
            limits: Limits::default(),
            regions: self.all.clone(),
        };
        validate::cache(&self.cache(), &context).unwrap()
    }

    fn status(&self, region: &CacheRegion) -> CacheRegionStatus {
        let desired = self.desired();
        let wanted = validate::regions::of_cache(&self.cache().spec, &self.all);
        let topology = topology();
        let seen = CacheSeen::Valid {
            desired: &desired,
            verdict: &wanted.verdicts[region.metadata.name.as_ref().unwrap()],
            topology: Some(&topology),
            states: &self.states,
        };
        status(region, &seen, NOW)
    }
}

fn condition_of<'a>(status: &'a CacheRegionStatus, kind: &str) -> &'a Condition {
    status.conditions.iter().find(|c| c.type_ == kind).unwrap()
}

fn ready(status: &CacheRegionStatus) -> (&str, &str, &str) {
    let ready = condition_of(status, READY);
    (&ready.status, &ready.reason, &ready.message)
}

#[test]
fn a_region_that_all_nodes_enforce_is_ready_with_the_primaries_figures() {
    let session = region("session", json!({"size": "500Mi"}));
    let scene = Scene::new(vec![session.clone()]);
    let status = scene.status(&session);
    assert_eq!(ready(&status), ("True", "Enforced", "3 nodes enforce it"));
    assert_eq!(status.nodes, ["main-0-0", "main-0-1", "main-1-0"]);
    assert_eq!(
        (status.keys, status.used.as_deref()),
        (Some(200), Some("2 MiB"))
    );
    assert_eq!(
        (status.hit_percent, status.size.as_deref()),
        (Some(75), Some("500Mi"))
    );
    assert_eq!(status.key_prefix.as_deref(), Some("session:"));
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(condition_of(&status, CONFLICTING).status, "False");
    // 500 MiB in two shards of 192.
    let over = condition_of(&status, OVERSUBSCRIBED);
    assert!(
        over.message.contains("500 MiB") && over.message.contains("384 MiB"),
        "{over:?}"
    );
    // The same again is no news, and keeps its times.
    let mut again = session.clone();
    again.status = Some(status.clone());
    assert_eq!(scene.status(&again), status);
}

#[test]
fn what_is_missing_is_named() {
    let session = region("session", json!({}));
    let mut scene = Scene::new(vec![session.clone()]);
    scene.states.remove("main-0-1");
    scene.states.get_mut("main-1-0").unwrap().regions_hash = "older".into();
    let status = scene.status(&session);
    assert_eq!(
        ready(&status),
        ("False", "NodesWaiting", "waits for main-0-1, main-1-0")
    );
    assert_eq!(status.nodes, ["main-0-0"]);
    scene.states.get_mut("main-1-0").unwrap().features.clear();
    let status = scene.status(&session);
    assert_eq!(ready(&status).1, "NodesTooOld");
    assert!(ready(&status).2.contains("main-1-0"));
    let mut scene = Scene::new(vec![session.clone()]);
    scene.paused = true;
    scene.states.clear();
    assert_eq!(ready(&scene.status(&session)).1, "Paused");
    let missing = super::status(&session, &CacheSeen::Missing, NOW);
    assert_eq!(ready(&missing).1, "CacheNotFound");
    assert!(ready(&missing).2.contains("main"));
    assert_eq!(
        ready(&super::status(&session, &CacheSeen::Invalid, NOW)).1,
        "CacheInvalid"
    );
}

#[test]
fn figures_stay_while_a_primary_is_away() {
    let mut session = region("session", json!({}));
    let mut scene = Scene::new(vec![session.clone()]);
    session.status = Some(scene.status(&session));
    scene.states.remove("main-1-0");
    let status = scene.status(&session);
    assert_eq!((status.keys, status.hit_percent), (Some(200), Some(75)));
    // A replica that is about to take over tells no figures of a primary.
    scene.states.get_mut("main-0-0").unwrap().role = NodeRole::Learner;
    assert_eq!(scene.status(&session).keys, Some(200));
}

#[test]
fn conflicts_and_mistakes_say_the_mend() {
    let all = vec![
        region("a", json!({"keyPrefix": "x:"})),
        region("b", json!({"keyPrefix": "x:"})),
        region("c", json!({"size": "10GB"})),
    ];
    let scene = Scene::new(all.clone());
    let b = scene.status(&all[1]);
    assert_eq!(ready(&b).1, "Conflicting");
    assert!(ready(&b).2.contains("CacheRegion a") && ready(&b).2.contains("spec.keyPrefix"));
    assert_eq!(condition_of(&b, CONFLICTING).status, "True");
    assert!(b.nodes.is_empty() && b.keys.is_none());
    let c = scene.status(&all[2]);
    assert_eq!(ready(&c).1, "InvalidSpec");
    assert!(ready(&c).2.contains("spec.size"));
    for status in [&b, &c] {
        assert!(REASONS.contains(&ready(status).1));
    }
}

#[test]
fn figures_alone_are_written_seldom() {
    let figures = |keys: i64, hits: i64| CacheRegionStatus {
        keys: Some(keys),
        used_bytes: Some(keys * 100),
        hit_percent: Some(hits),
        ..CacheRegionStatus::default()
    };
    let old = figures(1_000, 50);
    let other = CacheRegionStatus {
        nodes: vec!["main-0-0".into()],
        ..old.clone()
    };
    for (new, since_ms, expected) in [
        (&old, u64::MAX, false),
        (&other, 0, true),
        (&figures(5_000, 50), 29_999, false),
        (&figures(5_000, 50), 30_000, true),
        (&figures(1_001, 50), 30_000, false),
        (&figures(1_001, 50), 120_000, true),
        (&figures(1_010, 50), 30_000, true),
        (&figures(1_000, 51), 30_000, true),
        (&figures(0, 50), 30_000, true),
    ] {
        assert_eq!(
            is_news(&old, new, since_ms),
            expected,
            "{new:?} after {since_ms}"
        );
    }
    assert!(is_news(&figures(0, 0), &figures(1, 0), 30_000));
}
