//! A Cache of real processes, and questions to them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use cache_operator::api::node_state::{NodeRole, NodeState};
use cache_operator::api::topology::WireTopology;
use cache_operator::api::{Cache, Role};
use cache_operator::local::{
    CacheFolder, Fuse, Local, Operator, edit_spec, is_settled, read_cache, read_members, write_spec,
};
use cache_operator::plan::Limits;
use redis::cluster_async::ClusterConnection;

pub const NAME: &str = "web";
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

pub struct World {
    operator: Option<Operator>,
    pub local: Local,
    temp: tempfile::TempDir,
}

/// The server program, or a reason why no test here can run.
fn node_program() -> PathBuf {
    if let Some(path) = std::env::var_os("CACHE_NODE_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().expect("this test's path");
    let beside = own
        .ancestors()
        .nth(2)
        .expect("a target folder")
        .join("cache-node");
    assert!(
        beside.is_file(),
        "no {}: run `cargo build -p cache-node`, or set CACHE_NODE_BIN",
        beside.display()
    );
    beside
}

/// Each world its own ports, so that tests of one process do not meet; other processes are passed over by probing.
fn first_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 100).expect("below 100") * 100;
    10_000 + offset + NEXT.fetch_add(1, Ordering::Relaxed) * 40
}

/// Quick to give up on a primary, and few but big moves.
pub fn limits() -> Limits {
    Limits {
        failover_grace_ms: 500,
        slots_per_move_max: 16_384,
        ..Limits::default()
    }
}

/// A test that fails shows what the members said.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

impl World {
    pub async fn start(shards: i32, replicas: i32) -> World {
        let mut world = World::prepare(shards, replicas);
        world.operate(Fuse::default());
        world.settled().await;
        world
    }

    /// With a spec, and nobody to look after it.
    pub fn prepare(shards: i32, replicas: i32) -> World {
        // Shown with `RUST_LOG=info cargo test … -- --nocapture`; only the first of a process takes effect.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let temp = tempfile::tempdir().expect("a folder");
        let local = Local::start(
            &temp.path().join("state"),
            node_program(),
            first_port(),
            limits(),
        )
        .expect("a state directory");
        let spec = format!(
            "{{apiVersion: cache.clusterdb.io/v1alpha1, kind: Cache, metadata: {{name: {NAME}}}, \
             spec: {{shards: {shards}, replicasPerShard: {replicas}, resources: {{limits: {{memory: 256Mi}}}}}}}}"
        );
        let cache: Cache = serde_yaml::from_str(&spec).expect("a Cache");
        write_spec(&local.folder().cache(NAME), &cache).expect("a spec");
        World {
            operator: None,
            local,
            temp,
        }
    }

    pub fn folder(&self) -> CacheFolder {
        self.local.folder().cache(NAME)
    }

    pub fn scratch(&self) -> &std::path::Path {
        self.temp.path()
    }

    pub fn operate(&mut self, fuse: Fuse) {
        assert!(self.operator.is_none(), "one loop a Cache");
        self.operator = Some(self.local.operate(NAME, fuse).expect("a loop"));
    }

    pub async fn kill_operator(&mut self) {
        self.operator.take().expect("a loop").kill().await;
    }

    pub async fn operator_burnt(&self) {
        self.operator.as_ref().expect("a loop").burnt().await;
    }

    pub fn scale(&self, shards: i32) {
        edit_spec(&self.folder(), |spec| spec.shards = shards).expect("edited");
    }

    pub fn cache(&self) -> Cache {
        read_cache(&self.folder()).expect("a Cache")
    }

    /// Waits until the spec is carried out, by the status and by the nodes: a node that stopped is no news of the status at once.
    pub async fn settled(&self) {
        let begun = Instant::now();
        loop {
            self.until("the spec is carried out", |world| {
                is_settled(&world.cache())
            })
            .await;
            if self.nodes_hold_the_topology().await && is_settled(&self.cache()) {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "the nodes do not take the stored topology"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    async fn nodes_hold_the_topology(&self) -> bool {
        let stored = self.cache().status.and_then(|s| s.topology);
        let Some(stored) = stored.map(|t| t.epoch) else {
            return false;
        };
        for (member, file) in read_members(&self.folder()).expect("members") {
            if !file.created || file.deleting {
                continue;
            }
            if self.state(&member).await.map(|s| s.epoch) != Some(stored) {
                return false;
            }
        }
        true
    }

    /// What is in the member's memory, by the stored topology.
    pub fn data_id(&self, member: &str) -> String {
        let topology = self
            .cache()
            .status
            .and_then(|s| s.topology)
            .expect("a topology");
        topology.find(member).expect("the member").1.data_id.clone()
    }

    /// Waits until a member whose memory was lost is a synced replica again.
    pub async fn came_back(&self, member: &str, lost_data_id: &str) {
        self.until("the member is a replica again", |world| {
            let cache = world.cache();
            let topology = cache.status.as_ref().and_then(|s| s.topology.as_ref());
            let entry = topology
                .and_then(|t| t.find(member))
                .map(|(_, entry)| entry);
            is_settled(&cache)
                && entry.is_some_and(|m| m.data_id != lost_data_id && m.role == Role::Replica)
        })
        .await;
    }

    pub async fn until(&self, what: &str, mut holds: impl FnMut(&World) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            if begun.elapsed() > PATIENCE {
                let status = serde_yaml::to_string(&self.cache().status).expect("a status");
                panic!("{what}: not within {PATIENCE:?}\n{status}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The end of each member's log.
    pub fn logs(&self) -> String {
        let mut out = String::new();
        for member in read_members(&self.folder()).expect("members").keys() {
            let text = std::fs::read_to_string(self.folder().member(member).join("log"))
                .unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(15)..];
            out.push_str(&format!("--- {member}\n{}\n", tail.join("\n")));
        }
        out
    }

    pub async fn client(&self) -> ClusterConnection {
        let nodes: Vec<String> = read_members(&self.folder())
            .expect("members")
            .values()
            .filter(|m| m.created && !m.deleting)
            .map(|m| format!("redis://127.0.0.1:{}/", m.port))
            .collect();
        redis::cluster::ClusterClient::builder(nodes)
            .connection_timeout(Duration::from_secs(1))
            .response_timeout(Duration::from_secs(3))
            .retries(64)
            .min_retry_wait(10)
            .max_retry_wait(300)
            .build()
            .expect("a client")
            .get_async_connection()
            .await
            .expect("a connection")
    }

    /// A connection to one node's application port.
    pub async fn direct(&self, member: &str) -> redis::aio::MultiplexedConnection {
        let port = read_members(&self.folder()).expect("members")[member].port;
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).expect("a client");
        client
            .get_multiplexed_async_connection()
            .await
            .expect("a connection")
    }

    async fn control(&self, member: &str) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        let port = read_members(&self.folder()).expect("members")[member].control_port;
        let password =
            std::fs::read_to_string(self.folder().control_password()).expect("a password");
        let info =
            redis::IntoConnectionInfo::into_connection_info(format!("redis://127.0.0.1:{port}/"))?
                .set_redis_settings(
                    redis::RedisConnectionInfo::default().set_password(password.trim()),
                );
        redis::Client::open(info)?
            .get_multiplexed_async_connection()
            .await
    }

    /// Runs a command of the control protocol.
    pub async fn ask<T: redis::FromRedisValue>(
        &self,
        member: &str,
        words: &[&str],
    ) -> redis::RedisResult<T> {
        let mut command = redis::cmd("CACHE.NODE");
        command.arg(words);
        command.query_async(&mut self.control(member).await?).await
    }

    pub async fn state(&self, member: &str) -> Option<NodeState> {
        let text: String = self.ask(member, &["HELLO"]).await.ok()?;
        Some(serde_json::from_str(&text).expect("a state"))
    }

    /// The name of a shard's primary, by the stored topology.
    pub fn primary(&self, shard: &str) -> String {
        let topology = self
            .cache()
            .status
            .expect("a status")
            .topology
            .expect("a topology");
        topology
            .shard(shard)
            .expect("the shard")
            .primary()
            .expect("a primary")
            .name
            .clone()
    }

    /// Asks the nodes: all hold one topology, each slot is one shard's, whose primary serves. Answers slots a shard.
    pub async fn each_slot_is_owned_once(&self) -> BTreeMap<String, u32> {
        let mut agreed: Option<WireTopology> = None;
        let mut primaries = BTreeMap::new();
        for (member, file) in read_members(&self.folder()).expect("members") {
            if !file.created || file.deleting {
                continue;
            }
            let state = self.state(&member).await.expect("the node answers");
            let text: String = self
                .ask(&member, &["TOPOLOGY", "GET"])
                .await
                .expect("a topology");
            let held: WireTopology = serde_json::from_str(&text).expect("a topology");
            let first = agreed.get_or_insert_with(|| held.clone());
            assert_eq!(*first, held, "{member} holds another topology");
            if state.role == NodeRole::Primary {
                assert!(
                    state.serving,
                    "{member} is primary and does not serve: {}",
                    state.waiting_for
                );
                let other = primaries.insert(state.shard.clone(), member.clone());
                assert_eq!(other, None, "shard {} has two primaries", state.shard);
            }
        }
        let mut owners = vec![0; 16_384];
        let topology = agreed.expect("a topology");
        for shard in &topology.shards {
            for slot in shard.slots.iter().flat_map(|r| r.0..=r.1) {
                owners[usize::from(slot)] += 1;
            }
            assert!(
                shard.slots.is_empty() || primaries.contains_key(&shard.name),
                "shard {} has no primary",
                shard.name
            );
        }
        assert!(owners.iter().all(|n| *n == 1), "each slot has one owner");
        let count =
            |s: &cache_operator::api::topology::WireShard| s.slots.iter().map(|r| r.count()).sum();
        topology
            .shards
            .iter()
            .map(|s| (s.name.clone(), count(s)))
            .collect()
    }
}
