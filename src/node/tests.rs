//! Links and commands against a node that lives in this process.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, timeout};

use super::fake::{FakeNode, PASSWORD, state};
use super::*;
use crate::api::node_state::{NodeRole, SlotStat};
use crate::api::topology::{Addressing, Topology};
use crate::plan::Link;
use crate::platform::CacheKey;

const MEMBER: &str = "larder-0-0";

struct World {
    hub: Hub,
    changed: UnboundedReceiver<CacheKey>,
    key: CacheKey,
}

fn world() -> World {
    let (hub, changed) = Hub::new();
    World {
        hub,
        changed,
        key: CacheKey::new("kitchen", "larder"),
    }
}

impl World {
    fn follow(&self, password: &str, target: Target) {
        let targets = [(MEMBER.to_string(), target)].into();
        self.hub.follow(&self.key, password, targets);
    }

    fn view(&self) -> MemberView {
        self.hub.view(&self.key).remove(MEMBER).unwrap()
    }

    /// Waits until what is remembered is as asked.
    async fn until(&self, what: &str, is: impl Fn(&MemberView) -> bool) -> MemberView {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let view = self.view();
            if is(&view) {
                return view;
            }
            assert!(Instant::now() < deadline, "not {what}: {view:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn connected(&self) -> MemberView {
        self.until("connected", |view| view.link == Link::Connected)
            .await
    }
}

#[tokio::test]
async fn news_comes_at_once_and_counts_do_not_disturb() {
    let node = FakeNode::start(state(MEMBER, "d1", 3)).await;
    let mut world = world();
    world.follow(PASSWORD, node.target("c1"));
    let view = world.connected().await;
    assert_eq!(view.state.unwrap().data_id, "d1");
    assert_eq!(world.changed.recv().await, Some(world.key.clone()));

    let mut counted = state(MEMBER, "d1", 3);
    counted.keys = 7;
    node.tell(counted.clone());
    world
        .until("counted", |view| {
            view.state.as_ref().is_some_and(|state| state.keys == 7)
        })
        .await;
    assert!(world.changed.try_recv().is_err(), "a count is no news");

    counted.role = NodeRole::Primary;
    node.tell(counted);
    let told = timeout(Duration::from_secs(5), world.changed.recv()).await;
    assert_eq!(told.unwrap(), Some(world.key.clone()));
    assert_eq!(world.view().state.unwrap().role, NodeRole::Primary);
}

#[tokio::test]
async fn a_wrong_password_is_said_and_nothing_is_believed() {
    let node = FakeNode::start(state(MEMBER, "d1", 3)).await;
    let world = world();
    world.follow("salt", node.target("c1"));
    let view = world.until("refused", |view| view.trouble.is_some()).await;
    assert!(matches!(view.link, Link::Never { .. }));
    assert!(view.trouble.unwrap().contains("WRONGPASS"));
    assert!(view.state.is_none() && !view.process_ended);
}

#[tokio::test]
async fn another_members_answer_is_not_taken() {
    let node = FakeNode::start(state("larder-0-1", "d1", 3)).await;
    let world = world();
    world.follow(PASSWORD, node.target("c1"));
    let view = world.until("refused", |view| view.trouble.is_some()).await;
    assert!(view.trouble.unwrap().contains("larder-0-1"));
    assert!(view.state.is_none());
}

#[tokio::test]
async fn a_closed_connection_is_lost_and_made_again() {
    let mut node = FakeNode::start(state(MEMBER, "d1", 3)).await;
    let mut world = world();
    world.follow(PASSWORD, node.target("c1"));
    world.connected().await;
    while world.changed.try_recv().is_ok() {}
    node.cut();
    let told = timeout(Duration::from_secs(5), world.changed.recv()).await;
    assert_eq!(told.unwrap(), Some(world.key.clone()));
    world.connected().await;
}

#[tokio::test]
async fn a_silent_node_is_lost_within_seconds() {
    let node = FakeNode::start(state(MEMBER, "d1", 3)).await;
    let world = world();
    world.follow(PASSWORD, node.target("c1"));
    world.connected().await;
    let since = Instant::now();
    world
        .until("lost", |view| matches!(view.link, Link::Lost { .. }))
        .await;
    let took = since.elapsed();
    assert!(
        took > Duration::from_secs(2) && took < Duration::from_secs(6),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_process_has_ended_when_another_runs_or_none() {
    let node = FakeNode::start(state(MEMBER, "d1", 3)).await;
    let world = world();
    let target = node.target("c1");
    world.follow(PASSWORD, target.clone());
    world.connected().await;
    drop(node);
    let lost = world
        .until("lost", |view| matches!(view.link, Link::Lost { .. }))
        .await;
    assert!(!lost.process_ended, "as far as is known, it runs");
    assert_eq!(lost.state.as_ref().unwrap().data_id, "d1", "remembered");
    for process in [None, Some("c2".to_string())] {
        world.follow(
            PASSWORD,
            Target {
                process,
                ..target.clone()
            },
        );
        assert!(world.view().process_ended);
    }
    world.follow(PASSWORD, target);
    assert!(!world.view().process_ended);
}

#[tokio::test]
async fn a_refused_push_is_remembered_until_one_is_taken() {
    let node = FakeNode::start(state(MEMBER, "d1", 3)).await;
    let world = world();
    world.follow(PASSWORD, node.target("c1"));
    world.connected().await;
    let topology = Topology {
        epoch: 2,
        ..Topology::default()
    };
    let addressing = Addressing::Pods {
        service: "s".into(),
        namespace: "n".into(),
    };
    let wire = topology.to_wire(&addressing);
    node.reply("TOPOLOGY SET", "-STALEEPOCH 2 is older than 3\r\n");
    let refused = world.hub.push(&world.key, MEMBER, &wire).await.unwrap_err();
    assert!(
        matches!(&refused, NodeError::Refused { code, .. } if code == "STALEEPOCH"),
        "{refused:?}"
    );
    assert!(refused.surely_not_done());
    let error = world.view().push_error.unwrap();
    assert_eq!(error, "epoch 2: STALEEPOCH 2 is older than 3");
    node.reply("TOPOLOGY SET", "+OK\r\n");
    world.hub.push(&world.key, MEMBER, &wire).await.unwrap();
    assert_eq!(world.view().push_error, None);
}

#[tokio::test]
async fn answers_are_remembered() {
    let node = FakeNode::start(state(MEMBER, "d1", 3)).await;
    let world = world();
    world.follow(PASSWORD, node.target("c1"));
    world.connected().await;
    node.reply("SLOTSTATS", "$23\r\n[[5,10,200],[9,1,4096]]\r\n");
    world
        .hub
        .fetch_slot_stats(&world.key, "0", MEMBER)
        .await
        .unwrap();
    node.reply(
        "TOPOLOGY GET",
        "$27\r\n{\"clusterID\":\"c\",\"epoch\":9}\r\n",
    );
    world.hub.fetch_topology(&world.key, MEMBER).await.unwrap();
    let mut observed = crate::plan::Observed::default();
    observed.members.insert(MEMBER.into(), Default::default());
    world.hub.add_to(&world.key, &mut observed);
    assert_eq!(
        observed.slot_stats["0"].slots,
        [SlotStat(5, 10, 200), SlotStat(9, 1, 4096)]
    );
    assert_eq!(observed.slot_stats["0"].epoch, 3);
    let member = &observed.members[MEMBER];
    assert_eq!(member.topology.as_ref().unwrap().epoch, 9);
    assert_eq!(member.link, Link::Connected);
    // Forgotten with the epoch that it was asked at.
    node.tell(state(MEMBER, "d1", 4));
    world.until("epoch 4", |view| view.topology.is_none()).await;
}

#[tokio::test]
async fn an_unconnected_member_is_not_asked() {
    let world = world();
    let answer: Result<(), NodeError> = world.hub.call(&world.key, MEMBER, Command::Resume).await;
    assert!(matches!(answer, Err(NodeError::NotConnected { .. })));
}
