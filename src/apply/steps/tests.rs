//! The order of effects, with nodes in this process and a store that does as it is told.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::*;
use crate::api::cache::{CacheStatus, MaintenanceStatus};
use crate::api::topology::{Addressing, Member, Shard};
use crate::node::Hub;
use crate::node::fake::{FakeNode, PASSWORD, state};
use crate::plan::steps::Told;
use crate::plan::{Limits, Link, Observed, Waiting};
use crate::platform::CacheKey;

/// What the store answers to a swap.
#[derive(Clone, Copy)]
enum Store {
    Takes,
    Conflicts,
    Silent,
}

struct FakePlatform {
    key: CacheKey,
    hub: Hub,
    store: Store,
    leads: bool,
    done: Arc<Mutex<Vec<String>>>,
}

impl FakePlatform {
    fn note(&self, what: impl Into<String>) {
        self.done.lock().unwrap().push(what.into());
    }
}

#[async_trait]
impl Platform for FakePlatform {
    fn key(&self) -> &CacheKey {
        &self.key
    }

    fn hub(&self) -> &Hub {
        &self.hub
    }

    fn may_act(&self) -> bool {
        self.leads
    }

    async fn ensure(&self, _: &Desired, _: Option<&Topology>) -> Result<Vec<Waiting>, Error> {
        unreachable!("steps do not ensure")
    }

    async fn observe(&self, _: &Desired) -> Result<Observed, Error> {
        unreachable!("steps do not observe")
    }

    async fn create_member(&self, _: &Desired, member: &str, _: &str, _: u8) -> Result<(), Error> {
        self.note(format!("create {member}"));
        match member {
            "larder-9-9" => Err(Error::Other("no room".into())),
            _ => Ok(()),
        }
    }

    async fn publish_regions(&self, _: &Desired) -> Result<(), Error> {
        self.note("publish regions");
        Ok(())
    }

    async fn update_member(&self, _: &Desired, member: &str) -> Result<(), Error> {
        self.note(format!("update {member}"));
        Ok(())
    }

    async fn delete_member(&self, _: &Desired, member: &str) -> Result<(), Error> {
        self.note(format!("delete {member}"));
        Ok(())
    }

    async fn store_topology(
        &self,
        topology: &Topology,
        replaces: Option<u64>,
    ) -> Result<Stored, Error> {
        self.note(format!("store {} for {replaces:?}", topology.epoch));
        match self.store {
            Store::Takes => Ok(Stored::Yes),
            Store::Conflicts => Ok(Stored::Conflict),
            Store::Silent => Err(Error::Timeout {
                what: "write".into(),
                seconds: 1,
            }),
        }
    }

    async fn publish_topology(&self, _: &Desired, topology: &Topology) -> Result<(), Error> {
        self.note(format!("publish {}", topology.epoch));
        Ok(())
    }

    async fn record_maintenance(&self, _: &MaintenanceStatus) -> Result<(), Error> {
        Ok(())
    }

    async fn write_status(&self, _: &CacheStatus) -> Result<(), Error> {
        unreachable!("steps write no status")
    }

    fn tell(&self, told: Vec<Told>) {
        for told in told {
            self.note(format!("tell {}", told.reason));
        }
    }
}

struct World {
    platform: FakePlatform,
    nodes: Vec<FakeNode>,
    desired: Desired,
}

const MEMBERS: [&str; 2] = ["larder-0-0", "larder-0-1"];

async fn world(store: Store) -> World {
    let (hub, _) = Hub::new();
    let key = CacheKey::new("kitchen", "larder");
    let mut nodes = Vec::new();
    for member in MEMBERS {
        nodes.push(FakeNode::start(state(member, "d", 1)).await);
    }
    let targets = MEMBERS
        .iter()
        .zip(&nodes)
        .map(|(member, node)| (member.to_string(), node.target("c")));
    hub.follow(&key, PASSWORD, targets.collect());
    while hub
        .view(&key)
        .values()
        .any(|view| view.link != Link::Connected)
    {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let manifest = serde_json::json!({
        "apiVersion": "cache.clusterdb.io/v1alpha1", "kind": "Cache",
        "metadata": {"name": "larder", "namespace": "kitchen", "uid": "u"},
        "spec": {"resources": {"limits": {"memory": "256Mi"}}},
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
    World {
        platform: FakePlatform {
            key,
            hub,
            store,
            leads: true,
            done: Arc::default(),
        },
        nodes,
        desired: crate::validate::cache(&serde_json::from_value(manifest).unwrap(), &context)
            .unwrap(),
    }
}

impl World {
    async fn run(&self, steps: &[Step]) -> Applied {
        run(&self.platform, &self.desired, steps).await
    }

    fn done(&self) -> Vec<String> {
        self.platform.done.lock().unwrap().clone()
    }

    fn asked(&self, node: usize) -> Vec<String> {
        self.nodes[node].asked()
    }
}

fn change(epoch: u64) -> TopologyChange {
    let member = |name: &&str| Member {
        name: name.to_string(),
        ..Member::default()
    };
    TopologyChange {
        topology: Topology {
            epoch,
            shards: vec![Shard {
                name: "0".into(),
                members: MEMBERS.iter().map(member).collect(),
                ..Shard::default()
            }],
            ..Topology::default()
        },
        replaces: Some(epoch - 1),
        reasons: Vec::new(),
        push: MEMBERS.map(String::from).into(),
    }
}

fn handover() -> Step {
    Step::Handover {
        shard: "0".into(),
        from: MEMBERS[0].into(),
        to: MEMBERS[1].into(),
        timeout_ms: 700,
        then: change(2),
    }
}

#[tokio::test]
async fn a_topology_is_stored_then_published_then_pushed() {
    let world = world(Store::Takes).await;
    let applied = world.run(&[Step::WriteTopology(change(2))]).await;
    assert_eq!((applied.done, &applied.failed), (1, &None));
    assert_eq!(world.done(), ["store 2 for Some(1)", "publish 2"]);
    assert_eq!(world.asked(0), ["TOPOLOGY SET"]);
    assert_eq!(world.asked(1), ["TOPOLOGY SET"]);
}

#[tokio::test]
async fn nothing_is_pushed_that_is_not_stored() {
    let world = world(Store::Conflicts).await;
    let applied = world
        .run(&[Step::WriteTopology(change(2)), handover()])
        .await;
    assert!(applied.conflict && applied.done == 0);
    assert_eq!(world.done(), ["store 2 for Some(1)"]);
    assert!(world.asked(0).is_empty() && world.asked(1).is_empty());
}

#[tokio::test]
async fn a_handover_pauses_stores_and_pushes() {
    let world = world(Store::Takes).await;
    let applied = world.run(&[handover()]).await;
    assert_eq!((applied.done, &applied.failed), (1, &None));
    assert_eq!(world.asked(0), ["HANDOVER larder-0-1 700", "TOPOLOGY SET"]);
    assert_eq!(world.done(), ["store 2 for Some(1)", "publish 2"]);
}

#[tokio::test]
async fn a_pause_is_taken_back_if_the_swap_surely_failed_only() {
    let conflict = world(Store::Conflicts).await;
    assert!(conflict.run(&[handover()]).await.conflict);
    assert_eq!(conflict.asked(0), ["HANDOVER larder-0-1 700", "RESUME"]);

    // It may be stored: were writes to go on, they could be lost.
    let unknown = world(Store::Silent).await;
    assert!(unknown.run(&[handover()]).await.failed.is_some());
    assert_eq!(unknown.asked(0), ["HANDOVER larder-0-1 700"]);

    let seal = world(Store::Conflicts).await;
    let step = Step::SealMove {
        id: "m1-0".into(),
        primary: MEMBERS[1].into(),
        timeout_ms: 900,
        then: change(2),
    };
    seal.run(&[step]).await;
    assert_eq!(seal.asked(1), ["MOVE SEAL m1-0 900", "MOVE UNSEAL m1-0"]);
}

#[tokio::test]
async fn a_refused_handover_stores_nothing() {
    let world = world(Store::Takes).await;
    world.nodes[0].reply(
        "HANDOVER",
        "-HANDOVERFAILED larder-0-1 is too far behind\r\n",
    );
    let applied = world.run(&[handover()]).await;
    let (step, why) = applied.failed.unwrap();
    assert!(
        step.starts_with("hand over from larder-0-0") && why.contains("too far behind"),
        "{step}: {why}"
    );
    assert!(world.done().is_empty());
}

#[tokio::test]
async fn a_failed_push_does_not_hinder_the_next() {
    let world = world(Store::Takes).await;
    world.nodes[0].reply("TOPOLOGY SET", "-STALEEPOCH no\r\n");
    let applied = world.run(&[Step::WriteTopology(change(2))]).await;
    assert!(applied.failed.unwrap().1.contains("larder-0-0: STALEEPOCH"));
    assert_eq!(world.asked(1), ["TOPOLOGY SET"]);
}

#[tokio::test]
async fn steps_end_at_the_first_failure_and_without_the_lease() {
    let mut world = world(Store::Takes).await;
    let create = |member: &str| Step::CreateMember {
        member: member.into(),
        shard: "0".into(),
        index: 0,
    };
    let steps = [
        create("larder-0-0"),
        create("larder-9-9"),
        create("larder-0-1"),
    ];
    let applied = world.run(&steps).await;
    assert_eq!(applied.done, 1);
    assert_eq!(
        world.done(),
        [
            "create larder-0-0",
            "tell MemberCreated",
            "create larder-9-9"
        ]
    );
    world.platform.leads = false;
    let applied = world.run(&steps[..1]).await;
    assert_eq!(applied.done, 0);
    assert_eq!(world.done().len(), 3);
}
