//! Messages between the nodes of a cluster.

mod support;

use std::sync::Arc;

use cache_node::pubsub::{Kind, Subscriptions};
use cache_node::server::mail::Mail;
use cache_node::server::registry::Client;
use cache_node::store::{SlotState, slot_of};
use serde_json::json;
use support::{TestNode, wait_until};

fn subscriber(node: &TestNode, id: u64, kind: Kind, name: &[u8]) -> (Arc<Client>, Subscriptions) {
    let address = ([127, 0, 0, 1], 1).into();
    let client = Arc::new(Client::new(id, address, address, 0));
    let mut all = Subscriptions::new(node.cluster.pubsub.clone(), client.clone());
    all.add(kind, name);
    (client, all)
}

/// The last words of the messages in a box.
fn take(client: &Client) -> Vec<String> {
    let last = |mail: Mail| match mail {
        Mail::Push(body) => {
            let text = String::from_utf8_lossy(&body).into_owned();
            text.trim_end()
                .rsplit("\r\n")
                .next()
                .unwrap_or_default()
                .to_owned()
        }
        other => format!("{other:?}"),
    };
    client.mail.take().into_iter().map(last).collect()
}

#[test]
fn messages_reach_the_subscribers_of_all_nodes_in_order() {
    let nodes: Vec<TestNode> = ["a-0", "a-1", "b-0"].map(TestNode::start).into();
    let member = |i: usize, role: &str| {
        let node = &nodes[i];
        json!({"name": node.name, "dataID": node.cluster.data_id, "role": role, "host": "127.0.0.1",
               "address": "127.0.0.1", "port": 7000 + i, "controlPort": node.control.port()})
    };
    let topology = json!({"clusterID": "c", "epoch": 1, "shards": [
        {"name": "a", "slots": [[0, 8191]], "bootstrap": true, "members": [member(0, "Primary"), member(1, "Replica")]},
        {"name": "b", "slots": [[8192, 16383]], "bootstrap": true, "members": [member(2, "Primary")]},
    ]})
    .to_string();
    for node in &nodes {
        node.block_on(node.cluster.set_topology(topology.as_bytes()))
            .unwrap();
    }
    let (all, _keep): (Vec<_>, Vec<_>) = nodes
        .iter()
        .enumerate()
        .map(|(i, n)| subscriber(n, i as u64, Kind::Channel, b"news"))
        .unzip();
    let mut received = vec![Vec::new(); 3];
    // A connection that is not there yet loses what is sent: some is sent until it is.
    let mut sent = 0;
    wait_until("messages arrive at the other nodes", || {
        nodes[0]
            .cluster
            .spread(Kind::Channel, b"news", sent.to_string().as_bytes());
        sent += 1;
        for (i, client) in all.iter().enumerate() {
            received[i].extend(take(client));
        }
        received[1].len() > 100 && received[2].len() > 100
    });
    assert!(received[0].is_empty(), "a node sends nothing to itself");
    for received in &received[1..] {
        let numbers: Vec<u64> = received.iter().map(|n| n.parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|w| w[0] < w[1]), "{numbers:?}");
    }
    // A replica serves nothing before it is in sync: who subscribed earlier would be told that the slot has left.
    let slot = slot_of(b"bar");
    wait_until("the replica serves the slot", || {
        nodes[1].store.lock(slot).slot_state(slot) == SlotState::ReadOnly
    });
    let (sharded, _keep_too): (Vec<_>, Vec<_>) = nodes
        .iter()
        .enumerate()
        .map(|(i, n)| subscriber(n, 10 + i as u64, Kind::Shard, b"bar"))
        .unzip();
    nodes[0].cluster.spread(Kind::Shard, b"bar", b"x");
    wait_until("the replica has it", || sharded[1].mail.has_any());
    assert_eq!(take(&sharded[1]), ["x"]);
    // What was sent after it to all has come, so it has not gone to the other shard.
    nodes[0].cluster.spread(Kind::Channel, b"news", b"last");
    wait_until("the last has come", || {
        take(&all[2]).contains(&"last".to_owned())
    });
    assert!(!take(&sharded[2]).contains(&"x".to_owned()));
}
