//! Snapshots from the nodes' control ports.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
use serde::Deserialize;

use super::source::*;
use super::{Failure, Reason};
use crate::api::node_state::{NodeRole, NodeState, SyncState};
use crate::api::topology::{Role, WireMember, WireShard, WireTopology};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A node answers a READ when it has a chunk; a bucket walk under load takes far less.
const REPLY_TIMEOUT: Duration = Duration::from_secs(120);

/// The nodes of a topology, spoken to with the control password.
pub struct NodeSource {
    topology: WireTopology,
    password: String,
    /// Of the newest topology that was answered: what an older one calls a shard may lack slots, or have them still.
    epoch: AtomicU64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Begun {
    id: String,
    log_epoch: u64,
    offset: u64,
}

#[derive(Deserialize)]
struct Stat {
    keys: u64,
    done: bool,
}

impl NodeSource {
    /// `topology` is where to begin: the newest one is asked of the nodes it names.
    pub fn new(topology: WireTopology, password: String) -> Self {
        NodeSource {
            epoch: AtomicU64::new(topology.epoch),
            topology,
            password,
        }
    }

    /// By its address; a pod that was made anew has another, and is found by its name.
    async fn connect(&self, member: &WireMember) -> Result<MultiplexedConnection, Failure> {
        let Some(address) = member.address.as_ref().filter(|a| **a != member.host) else {
            return self.connect_to(member, &member.host).await;
        };
        match self.connect_to(member, address).await {
            Ok(connection) => Ok(connection),
            Err(failure) if member.host.is_empty() => Err(failure),
            Err(failure) => self.connect_to(member, &member.host).await.map_err(|also| {
                let message = format!("{}; {}", failure.message, also.message);
                Failure::new(also.reason, message)
            }),
        }
    }

    async fn connect_to(
        &self,
        member: &WireMember,
        host: &str,
    ) -> Result<MultiplexedConnection, Failure> {
        let info = ConnectionAddr::Tcp(host.to_owned(), member.control_port)
            .into_connection_info()
            .map_err(|e| Failure::node(&member.name, "connecting", &e))?
            .set_redis_settings(RedisConnectionInfo::default().set_password(self.password.clone()));
        let client =
            redis::Client::open(info).map_err(|e| Failure::node(&member.name, "connecting", &e))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(REPLY_TIMEOUT));
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|e| {
                let mut failure = Failure::node(&member.name, "connecting", &e);
                failure.message = format!("{} ({host}:{})", failure.message, member.control_port);
                failure
            })
    }

    async fn open_on(
        &self,
        shard: &WireShard,
        member: &WireMember,
    ) -> Result<Box<dyn SnapshotStream>, Failure> {
        let mut connection = self.connect(member).await?;
        let hello: NodeState = json(&mut connection, member, &["HELLO"]).await?;
        let epoch = self.epoch.load(Ordering::Relaxed);
        if let Some(why) = unfit(&hello, member, shard, epoch) {
            return Err(Failure::new(Reason::NodeUnreachable, why));
        }
        let begun: Begun = json(&mut connection, member, &["SNAPSHOT", "BEGIN"]).await?;
        Ok(Box::new(NodeSnapshot {
            connection,
            member: member.clone(),
            id: begun.id,
            start: SnapshotStart {
                member: member.name.clone(),
                log_epoch: begun.log_epoch,
                offset: begun.offset,
                bytes_guess: hello.bytes,
            },
        }))
    }
}

/// Why this node's copy is not that of the shard in the topology of this epoch, or newer.
fn unfit(hello: &NodeState, member: &WireMember, shard: &WireShard, epoch: u64) -> Option<String> {
    let name = &member.name;
    if hello.member != *name || hello.shard != shard.name {
        let (other, of) = (&hello.member, &hello.shard);
        return Some(format!(
            "{other} of shard {of} answers where {name} is expected"
        ));
    }
    let synced_replica =
        hello.role == NodeRole::Replica && hello.sync.state == SyncState::Streaming;
    if hello.role != NodeRole::Primary && !synced_replica {
        let (role, sync) = (hello.role, hello.sync.state);
        return Some(format!(
            "{name} holds no full copy now (role {role:?}, sync {sync:?})"
        ));
    }
    (hello.epoch < epoch).then(|| {
        let behind = hello.epoch;
        format!(
            "{name} knows the topology of epoch {behind} only, not {epoch}: it may hold other slots"
        )
    })
}

/// Replicas first: a snapshot costs its node work, and a primary has its clients. Learners have no copy.
fn candidates(shard: &WireShard) -> Vec<&WireMember> {
    let mut members: Vec<_> = shard
        .members
        .iter()
        .filter(|m| m.role != Role::Learner)
        .collect();
    members.sort_by_key(|m| (m.role == Role::Primary, m.name.clone()));
    members
}

#[async_trait]
impl SnapshotSource for NodeSource {
    async fn topology(&self) -> Result<WireTopology, Failure> {
        let members = self.topology.shards.iter().flat_map(|s| &s.members);
        let answers = futures::future::join_all(members.map(async |member| {
            let mut connection = self.connect(member).await?;
            json::<Option<WireTopology>>(&mut connection, member, &["TOPOLOGY", "GET"]).await
        }))
        .await;
        let mut newest: Option<WireTopology> = None;
        let mut last_failure = None;
        for answer in answers {
            match answer {
                Ok(Some(found)) if found.cluster_id == self.topology.cluster_id => {
                    if newest.as_ref().is_none_or(|n| n.epoch < found.epoch) {
                        newest = Some(found);
                    }
                }
                Ok(_) => {}
                Err(failure) => last_failure = Some(failure),
            }
        }
        match (newest, last_failure) {
            (Some(found), _) => {
                self.epoch.fetch_max(found.epoch, Ordering::Relaxed);
                Ok(found)
            }
            (None, Some(failure)) => Err(failure),
            (None, None) => Err(Failure::new(
                Reason::NodeUnreachable,
                format!(
                    "no node knows a topology of cluster {}",
                    self.topology.cluster_id
                ),
            )),
        }
    }

    async fn open(
        &self,
        shard: &WireShard,
        attempt: usize,
    ) -> Result<Box<dyn SnapshotStream>, Failure> {
        let mut members = candidates(shard);
        if members.is_empty() {
            return Err(Failure::new(
                Reason::NodeUnreachable,
                format!("shard {} has no member with a copy", shard.name),
            ));
        }
        let count = members.len();
        members.rotate_left(attempt % count);
        let mut failures: Vec<Failure> = Vec::new();
        for member in members {
            match self.open_on(shard, member).await {
                Ok(stream) => return Ok(stream),
                Err(failure) => failures.push(failure),
            }
        }
        let reason = failures[0].reason;
        let told: Vec<String> = failures.into_iter().map(|f| f.message).collect();
        Err(Failure::new(
            reason,
            format!("no snapshot of shard {}: {}", shard.name, told.join("; ")),
        ))
    }
}

struct NodeSnapshot {
    connection: MultiplexedConnection,
    member: WireMember,
    id: String,
    start: SnapshotStart,
}

#[async_trait]
impl SnapshotStream for NodeSnapshot {
    fn start(&self) -> &SnapshotStart {
        &self.start
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        command(&["SNAPSHOT", "READ", &self.id])
            .query_async(&mut self.connection)
            .await
            .map_err(|e| Failure::node(&self.member.name, "reading the snapshot", &e))
    }

    async fn finish(&mut self) -> Result<SnapshotEnd, Failure> {
        let stat: Stat = json(
            &mut self.connection,
            &self.member,
            &["SNAPSHOT", "STAT", &self.id],
        )
        .await?;
        if !stat.done {
            return Err(Failure::new(
                Reason::SnapshotFailed,
                format!(
                    "{} says that its snapshot is not done after its end",
                    self.member.name
                ),
            ));
        }
        Ok(SnapshotEnd { keys: stat.keys })
    }
}

fn command(words: &[&str]) -> redis::Cmd {
    let mut command = redis::cmd("CACHE.NODE");
    for word in words {
        command.arg(*word);
    }
    command
}

/// Runs a `CACHE.NODE` command whose reply is JSON; a null reply reads as JSON `null`.
async fn json<T: serde::de::DeserializeOwned>(
    connection: &mut MultiplexedConnection,
    member: &WireMember,
    words: &[&str],
) -> Result<T, Failure> {
    let what = words.join(" ");
    let text: Option<String> = command(words)
        .query_async(connection)
        .await
        .map_err(|e| Failure::node(&member.name, &what, &e))?;
    serde_json::from_str(text.as_deref().unwrap_or("null")).map_err(|e| {
        Failure::new(
            Reason::SnapshotFailed,
            format!(
                "{} answered {what} with what is not the protocol's JSON: {e}",
                member.name
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::node_state::Sync;

    #[test]
    fn replicas_are_asked_before_the_primary_and_learners_never() {
        let member = |name: &str, role| WireMember {
            name: name.into(),
            role,
            ..WireMember::default()
        };
        let shard = WireShard {
            members: vec![
                member("m-0-0", Role::Primary),
                member("m-0-1", Role::Learner),
                member("m-0-3", Role::Replica),
                member("m-0-2", Role::Replica),
            ],
            ..WireShard::default()
        };
        let order: Vec<_> = candidates(&shard).iter().map(|m| m.name.as_str()).collect();
        assert_eq!(order, ["m-0-2", "m-0-3", "m-0-0"]);
    }

    #[test]
    fn a_node_whose_slots_may_be_others_is_passed_over() {
        let shard = WireShard {
            name: "1".into(),
            ..WireShard::default()
        };
        let member = WireMember {
            name: "m-1-0".into(),
            ..WireMember::default()
        };
        let good = NodeState {
            member: "m-1-0".into(),
            shard: "1".into(),
            role: NodeRole::Primary,
            epoch: 7,
            ..NodeState::default()
        };
        let replica = |state| NodeState {
            role: NodeRole::Replica,
            sync: Sync {
                state,
                ..Sync::default()
            },
            ..good.clone()
        };
        let older = NodeState {
            epoch: 6,
            ..good.clone()
        };
        let newer = NodeState {
            epoch: 8,
            ..good.clone()
        };
        let of_another_shard = NodeState {
            shard: "0".into(),
            ..good.clone()
        };
        let another = NodeState {
            member: "m-0-0".into(),
            ..good.clone()
        };
        let table = [
            (good.clone(), None),
            (newer, None),
            (replica(SyncState::Streaming), None),
            (replica(SyncState::Full), Some("no full copy")),
            (older, Some("epoch 6 only, not 7")),
            (of_another_shard, Some("of shard 0")),
            (another, Some("m-0-0")),
        ];
        for (state, expected) in table {
            let why = unfit(&state, &member, &shard, 7);
            match expected {
                None => assert_eq!(why, None),
                Some(text) => assert!(why.is_some_and(|why| why.contains(text)), "{text}"),
            }
        }
    }

    #[tokio::test]
    async fn an_unreachable_node_is_named_with_its_address() {
        // A port that was free a moment ago, on loopback.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("loopback")
            .port();
        let topology: WireTopology = serde_json::from_value(serde_json::json!({
            "clusterID": "c", "epoch": 1, "shards": [{"name": "0", "slots": [[0, 16383]], "members": [
                {"name": "m-0-0", "role": "Primary", "address": "127.0.0.1", "controlPort": port}]}]
        }))
        .expect("topology");
        let failure = NodeSource::new(topology, "p".into())
            .topology()
            .await
            .expect_err("down");
        assert_eq!(failure.reason, Reason::NodeUnreachable);
        assert!(failure.message.contains("m-0-0"), "{failure}");
        assert!(failure.message.contains(&port.to_string()), "{failure}");
    }
}
