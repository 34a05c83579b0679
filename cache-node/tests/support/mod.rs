//! Nodes in one process, each with its own runtime and a real control port; "killing" one drops its runtime with all connections.

// Each test file uses its part of this.
#![allow(dead_code)]

pub mod process;
pub mod redis;
pub mod traffic;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use cache_node::cluster::state::{MovePhase, NodeState, SyncPhase};
use cache_node::cluster::{Cluster, ClusterOptions};
use cache_node::config::passwords::Passwords;
use cache_node::control::client::Peer;
use cache_node::control::resp::Reply;
use cache_node::log::Log;
use cache_node::store::{ItemRef, Kind, SLOTS, SlotState, Store, StoreOptions};
use cache_node::wakers::Wakers;
use serde_json::{Value, json};

pub const PASSWORD: &str = "control-secret";

pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
}

/// Waits until a condition holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "not in 60 s: {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub struct TestNode {
    pub name: String,
    pub cluster: Arc<Cluster>,
    pub store: Arc<Store>,
    pub log: Arc<Log>,
    pub control: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
    _files: tempfile::TempDir,
}

impl TestNode {
    pub fn start(name: &str) -> Self {
        Self::start_with(name, 64 << 20, 0, None)
    }

    pub fn start_with(
        name: &str,
        backlog: usize,
        max_memory: u64,
        topology_file: Option<PathBuf>,
    ) -> Self {
        let files = tempfile::tempdir().unwrap();
        let password = files.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        let log = Arc::new(Log::new(backlog));
        let options = StoreOptions {
            max_memory,
            hash_seed: now_ms() ^ name.len() as u64,
        };
        let store = Arc::new(Store::new(options, log.clone()).unwrap());
        let options = ClusterOptions {
            member: name.into(),
            passwords: Some(Arc::new(Passwords::open(&password).unwrap())),
            data_dir: None,
        };
        let cluster = Cluster::new(
            options,
            store.clone(),
            log.clone(),
            Arc::new(Wakers::default()),
        );
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let control = listener.local_addr().unwrap();
        runtime.spawn(cache_node::control::serve(cluster.clone(), listener));
        runtime.spawn(cache_node::lifecycle::join(cluster.clone(), topology_file));
        Self {
            name: name.into(),
            cluster,
            store,
            log,
            control,
            runtime: Some(runtime),
            _files: files,
        }
    }

    /// As a crash: its connections break, nothing is said to anybody.
    pub fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    pub fn block_on<F: Future>(&self, f: F) -> F::Output {
        self.runtime.as_ref().unwrap().block_on(f)
    }

    pub fn spawn<F: Future<Output: Send> + Send + 'static>(
        &self,
        f: F,
    ) -> tokio::task::JoinHandle<F::Output> {
        self.runtime.as_ref().unwrap().spawn(f)
    }

    pub fn state(&self) -> NodeState {
        self.cluster.state()
    }

    /// A command on its control port.
    pub fn ask(&self, command: &[&str]) -> Result<String, String> {
        let address = (self.control.ip().to_string(), self.control.port());
        let mut words: Vec<&[u8]> = vec![b"CACHE.NODE"];
        words.extend(command.iter().map(|w| w.as_bytes()));
        self.block_on(async {
            let mut peer = Peer::connect(&address, PASSWORD.as_bytes()).await?;
            peer.ask_within(&words, Duration::from_secs(60)).await
        })
        .map(|reply| match reply {
            Reply::Bulk(bytes) => String::from_utf8(bytes).unwrap(),
            Reply::Simple(text) => text,
            other => format!("{other:?}"),
        })
        .map_err(|e| e.to_string())
    }

    pub fn push(&self, topology: &Topology) {
        let reply = self.ask(&["TOPOLOGY", "SET", &topology.json()]);
        assert_eq!(reply.as_deref(), Ok("OK"), "{}", self.name);
    }

    pub fn wait_streaming(&self) {
        wait_until(
            &format!("{} streams: {:?}", self.name, self.state()),
            || self.state().sync.state == SyncPhase::Streaming,
        );
    }

    pub fn wait_move(&self, id: &str, phase: MovePhase) {
        wait_until(
            &format!("move {id} is {phase:?}: {:?}", self.state().moves),
            || {
                self.state()
                    .moves
                    .iter()
                    .any(|m| m.id == id && m.state == phase)
            },
        );
    }

    /// Waits until a replica has acknowledged the end of this node's log.
    pub fn wait_caught_up(&self, replica: &TestNode) {
        self.block_on(self.log.settle());
        wait_until(
            &format!("{} catches up: {:?}", replica.name, replica.state()),
            || {
                let (a, b) = (self.state(), replica.state());
                (a.log_epoch, a.offset) == (b.log_epoch, b.offset) && !b.fresh
            },
        );
    }

    /// Writes as a client would: refused (false) unless the slot serves.
    pub fn try_write(&self, key: &[u8], value: Option<&[u8]>, expires_at: Option<u64>) -> bool {
        let p = self.store.point(key);
        if !self.log.has_credit() {
            return false;
        }
        let given = value.map(|value| self.store.pack(key, value));
        let mut guard = self.store.lock(p.slot);
        if guard.slot_state(p.slot) != SlotState::Serve {
            return false;
        }
        match &given {
            Some(given) => guard.set_given(p, key, given, expires_at).unwrap(),
            None => drop(guard.remove(p, key, now_ms())),
        }
        true
    }

    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let p = self.store.point(key);
        let mut guard = self.store.lock(p.slot);
        guard
            .get(p, key, now_ms())
            .map(|item| item.value().to_vec())
    }

    /// Strings that it holds compressed.
    pub fn compressed(&self) -> usize {
        let mut count = 0;
        for slot in 0..SLOTS {
            let mut guard = self.store.lock(slot);
            let mut pos = Some(0);
            while let Some(at) = pos {
                pos = guard.walk(slot, at, 1000, 0, &mut |item| {
                    count += usize::from(item.is_compressed());
                });
            }
        }
        count
    }

    /// Everything it holds, with expiries.
    pub fn contents(&self) -> Contents {
        let mut all = BTreeMap::new();
        for slot in 0..SLOTS {
            let mut guard = self.store.lock(slot);
            let mut pos = Some(0);
            while let Some(at) = pos {
                pos = guard.walk(slot, at, 1000, 0, &mut |item| {
                    let value = (shown(item), item.expires_at());
                    assert!(all.insert(item.key().to_vec(), value).is_none());
                });
            }
        }
        all
    }

    /// Slots that serve reads and writes.
    pub fn serving(&self) -> Vec<u16> {
        let serves = |slot: &u16| self.store.lock(*slot).slot_state(*slot) == SlotState::Serve;
        (0..SLOTS).filter(serves).collect()
    }
}

/// A string's bytes; a collection as text, the same whatever its encoding.
pub fn shown(item: ItemRef<'_>) -> Vec<u8> {
    if item.kind() == Kind::String {
        return item.value().to_vec();
    }
    let elements = item.view().elements(item.kind(), 0);
    let mut elements: Vec<String> = elements.map(|e| format!("{e:?}")).collect();
    if matches!(item.kind(), Kind::Hash | Kind::Set) {
        elements.sort();
    }
    format!("{}: {}", item.kind().name(), elements.join(" ")).into_bytes()
}

pub type Contents = BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>;

/// A topology under construction.
#[derive(Clone)]
pub struct Topology {
    pub epoch: u64,
    pub shards: Vec<Value>,
    pub moves: Vec<Value>,
}

impl Topology {
    pub fn new(epoch: u64) -> Self {
        Self {
            epoch,
            shards: Vec::new(),
            moves: Vec::new(),
        }
    }

    /// The first node is the primary.
    pub fn shard(mut self, name: &str, slots: &[(u16, u16)], nodes: &[&dyn Listed]) -> Self {
        let role = |i: usize| if i == 0 { "Primary" } else { "Replica" };
        let members: Vec<Value> = nodes
            .iter()
            .enumerate()
            .map(|(i, n)| n.entry(role(i)))
            .collect();
        self.shards
            .push(json!({"name": name, "slots": slots, "bootstrap": false, "members": members}));
        self
    }

    pub fn bootstrap(mut self) -> Self {
        self.shards
            .iter_mut()
            .for_each(|s| s["bootstrap"] = true.into());
        self
    }

    pub fn moving(mut self, id: &str, slots: (u16, u16), from: &str, to: &str) -> Self {
        self.moves
            .push(json!({"id": id, "slots": [slots], "from": from, "to": to}));
        self
    }

    pub fn json(&self) -> String {
        json!({"clusterID": "c1", "epoch": self.epoch, "shards": self.shards, "moves": self.moves})
            .to_string()
    }
}

/// What a topology may list.
pub trait Listed {
    fn entry(&self, role: &str) -> Value;
}

impl Listed for TestNode {
    fn entry(&self, role: &str) -> Value {
        json!({
            "name": self.name, "dataID": self.cluster.data_id, "role": role, "host": "localhost",
            "address": self.control.ip().to_string(), "port": 6379, "controlPort": self.control.port(),
        })
    }
}

impl<T: Listed> Listed for Arc<T> {
    fn entry(&self, role: &str) -> Value {
        (**self).entry(role)
    }
}

/// What writers believe to have written.
#[derive(Default)]
pub struct Ledger {
    /// The last acknowledged value of each key; None: deleted.
    pub last: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pub writes: u64,
}

/// Threads that write keys of their own to whichever node serves the slot, one write after the other's acknowledgement.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Ledger>>,
}

impl Load {
    pub fn start(nodes: &[&Arc<TestNode>], threads: usize, keys: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..threads)
            .map(|thread| {
                let nodes: Vec<Arc<TestNode>> = nodes.iter().map(|n| (*n).clone()).collect();
                let stop = stop.clone();
                std::thread::spawn(move || write(thread, keys, &nodes, &stop))
            })
            .collect();
        Self { stop, threads }
    }

    pub fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Ledger::default();
        for thread in self.threads {
            let one = thread.join().unwrap();
            all.writes += one.writes;
            all.last.extend(one.last);
        }
        all
    }
}

fn write(thread: usize, keys: usize, nodes: &[Arc<TestNode>], stop: &AtomicBool) -> Ledger {
    let mut ledger = Ledger::default();
    let mut random = thread as u64 + 1;
    'writes: while !stop.load(Ordering::Relaxed) {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let key = format!("k{thread}:{}", (random >> 33) as usize % keys).into_bytes();
        let value = match random >> 20 & 15 {
            0 => None,
            1 => Some(vec![b'x'; 20_000]),
            _ => Some(format!("{thread}:{}", ledger.writes).into_bytes()),
        };
        let mut tries = 0u32;
        while !nodes
            .iter()
            .any(|n| n.try_write(&key, value.as_deref(), None))
        {
            if stop.load(Ordering::Relaxed) {
                break 'writes;
            }
            tries += 1;
            if tries > 100 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        ledger.last.insert(key, value);
        ledger.writes += 1;
        if ledger.writes.is_multiple_of(64) {
            // Two cores for everything: let the others come to it.
            std::thread::sleep(Duration::from_micros(300));
        }
    }
    ledger
}

/// Every acknowledged write is on the node that serves its slot, and nowhere twice.
pub fn verify(ledger: &Ledger, nodes: &[&TestNode]) {
    let mut held: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for node in nodes {
        let serving = node.serving();
        for (key, (value, _)) in node.contents() {
            let slot = node.store.point(&key).slot;
            assert!(
                serving.binary_search(&slot).is_ok(),
                "{} holds {key:?} and does not serve it",
                node.name
            );
            assert!(
                held.insert(key.clone(), value).is_none(),
                "{key:?} is held twice"
            );
        }
    }
    for (key, value) in &ledger.last {
        let key_text = String::from_utf8_lossy(key);
        let short = |v: Option<&Vec<u8>>| {
            v.map(|v| String::from_utf8_lossy(&v[..v.len().min(20)]).into_owned())
        };
        assert_eq!(
            held.get(key),
            value.as_ref(),
            "{key_text}: {:?}, written {:?}",
            short(held.get(key)),
            short(value.as_ref())
        );
        held.remove(key);
    }
    assert!(held.is_empty(), "{} keys that nobody wrote", held.len());
}
