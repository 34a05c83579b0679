//! A node's part in its cluster: the topology it holds, its role, the states of its slots, and what it says of itself.

mod apply;
pub mod bus;
mod handover;
pub mod regions;
pub mod role;
pub mod routing;
pub mod slots;
pub mod state;
pub mod topology;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

pub use apply::SetError;
use bus::Bus;
use regions::KnownRegions;
use role::{Myself, Part, Role};
pub use routing::{Routing, RoutingNode, RoutingShard};
use state::{ImportState, MoveState, NodeState, RegionState, ReplicaState, Sync, SyncPhase};
use topology::{Known, Member, Present};

use crate::config::passwords::Passwords;
use crate::log::{Log, Position, SlotSet};
use crate::moves::export::ExportControl;
use crate::persist::datadir::DataDir;
use crate::pubsub::PubSub;
use crate::replicate::history::History;
use crate::store::{SLOTS, SlotState, Store};
use crate::wakers::Wakers;

/// What a node of a cluster is started with.
#[derive(Debug)]
pub struct ClusterOptions {
    /// Its name in topologies.
    pub member: String,
    /// Those that the control port accepts; the first is shown to peers.
    pub passwords: Option<Arc<Passwords>>,
    /// Keeps the last topology; None: it is kept in memory only.
    pub data_dir: Option<DataDir>,
}

/// See the module's text. Standalone nodes have one too: it holds no topology, and all slots serve.
pub struct Cluster {
    pub member: String,
    /// What is in memory: new at each start.
    pub data_id: String,
    pub started_at_ms: u64,
    passwords: Option<Arc<Passwords>>,
    pub(crate) store: Arc<Store>,
    pub(crate) log: Arc<Log>,
    wakers: Arc<Wakers>,
    standalone: bool,
    data_dir: Option<DataDir>,
    routing: RwLock<Arc<Routing>>,
    pub(crate) inner: Mutex<Inner>,
    /// Held while slot states are computed and put into force, so that the last computed is the last in force.
    slots: Mutex<()>,
    /// Held while a topology is applied; guards the tasks that follow from it.
    tasks: tokio::sync::Mutex<Tasks>,
    /// The list of regions that was taken last.
    regions: tokio::sync::Mutex<Option<Arc<KnownRegions>>>,
    /// Counts changes that watchers are told of at once.
    changed: watch::Sender<u64>,
    /// Counts acknowledgements of replicas.
    acks: watch::Sender<u64>,
    /// Changes when this node becomes primary or ceases to be: sessions of replicas end. 0: not primary.
    term: watch::Sender<u64>,
    shutdown: watch::Sender<bool>,
    watchers: AtomicUsize,
    clients: OnceLock<Box<dyn Fn() -> u64 + Send + std::marker::Sync>>,
    /// Who has subscribed to what on this node.
    pub pubsub: Arc<PubSub>,
    pub bus: Bus,
    /// Connections that wait for acknowledgements of replicas.
    ack_waiters: AtomicUsize,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub topology: Option<Arc<Known>>,
    pub part: Part,
    pub fresh: bool,
    pub history: History,
    pub sync: Sync,
    pub replicas: BTreeMap<String, ReplicaProgress>,
    pub moves: BTreeMap<String, MoveState>,
    pub sealed: BTreeMap<String, SlotSet>,
    pub imports: BTreeMap<String, Import>,
    /// The handover that holds back writes.
    pub handover: Option<u64>,
    pub stopping: bool,
    /// Numbers handovers and sessions.
    pub next_id: u64,
}

/// A replica's session on its primary.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaProgress {
    pub session: u64,
    pub data_id: String,
    /// Where it connects from: true when the topology's address is of a pod that is gone.
    pub address: Option<IpAddr>,
    /// It went past its full sync and follows the log.
    pub synced: bool,
    pub epoch: u64,
    pub acked: u64,
    pub acked_at: Instant,
    /// Makes the session ask for an acknowledgement at once.
    pub ask: Arc<Notify>,
}

/// A move's session on its destination.
#[derive(Debug)]
pub(crate) struct Import {
    pub session: u64,
    pub slots: SlotSet,
    pub state: ImportState,
    /// Its slots became ours before it was sealed.
    pub held: bool,
    /// Its session is there.
    pub live: bool,
    /// Another session waits for this one to end.
    pub replaced: bool,
    /// Tells the session to end, or of a topology.
    pub nudge: Arc<Notify>,
}

#[derive(Default)]
pub(crate) struct Tasks {
    follow: Option<(Member, JoinHandle<()>)>,
    exports: BTreeMap<String, ExportTask>,
    /// The topology that the data directory is to keep.
    keeper: Option<watch::Sender<Arc<Known>>>,
}

struct ExportTask {
    to: Member,
    control: ExportControl,
    task: JoinHandle<()>,
}

impl Cluster {
    /// A node that is in a cluster, or will be: it serves nothing before a topology says so.
    pub fn new(
        options: ClusterOptions,
        store: Arc<Store>,
        log: Arc<Log>,
        wakers: Arc<Wakers>,
    ) -> Arc<Self> {
        store.set_expire_locally(false);
        Self::build(options, store, log, wakers, false)
    }

    /// A node by itself: all slots serve, the control port has no topology to take.
    pub fn standalone(
        passwords: Option<Arc<Passwords>>,
        store: Arc<Store>,
        log: Arc<Log>,
        wakers: Arc<Wakers>,
    ) -> Arc<Self> {
        for first in (0..SLOTS).step_by(16) {
            let mut guard = store.lock(first);
            for slot in first..first + 16 {
                guard.set_slot_state(slot, SlotState::Serve);
            }
        }
        let options = ClusterOptions {
            member: String::new(),
            passwords,
            data_dir: None,
        };
        Self::build(options, store, log, wakers, true)
    }

    fn build(
        options: ClusterOptions,
        store: Arc<Store>,
        log: Arc<Log>,
        wakers: Arc<Wakers>,
        standalone: bool,
    ) -> Arc<Self> {
        let routing = RwLock::new(Arc::new(Routing::empty(&options.member)));
        Arc::new(Self {
            data_id: uuid::Uuid::new_v4().to_string(),
            started_at_ms: now_ms(),
            member: options.member,
            passwords: options.passwords,
            data_dir: options.data_dir,
            store,
            log,
            wakers,
            standalone,
            routing,
            inner: Mutex::new(Inner {
                fresh: !standalone,
                part: Part {
                    waiting_for: "a topology".into(),
                    ..Part::default()
                },
                next_id: 1,
                ..Inner::default()
            }),
            slots: Mutex::new(()),
            tasks: tokio::sync::Mutex::default(),
            regions: tokio::sync::Mutex::default(),
            changed: watch::Sender::new(0),
            acks: watch::Sender::new(0),
            term: watch::Sender::new(0),
            shutdown: watch::Sender::new(false),
            watchers: AtomicUsize::new(0),
            clients: OnceLock::new(),
            pubsub: Arc::default(),
            bus: Bus::default(),
            ack_waiters: AtomicUsize::new(0),
        })
    }

    pub fn is_standalone(&self) -> bool {
        self.standalone
    }

    /// Whether it is a password of the control port.
    pub(crate) fn accepts(&self, password: &[u8]) -> bool {
        self.passwords.as_ref().is_some_and(|p| p.check(password))
    }

    /// The password that peers are shown.
    pub(crate) fn password(&self) -> std::io::Result<Vec<u8>> {
        let none = || std::io::Error::other("no control password: give --control-password-file");
        self.passwords.as_ref().map(|p| p.first()).ok_or_else(none)
    }

    /// Where clients find what. Cheap; a topology swaps it as a whole.
    pub fn routing(&self) -> Arc<Routing> {
        self.routing.read().clone()
    }

    /// How the state learns the number of application clients.
    pub fn count_clients_by(&self, count: impl Fn() -> u64 + Send + std::marker::Sync + 'static) {
        // The first one stays.
        let _ = self.clients.set(Box::new(count));
    }

    pub fn role(&self) -> Role {
        self.inner.lock().part.role
    }

    /// The topology that is held.
    pub fn known(&self) -> Option<Arc<Known>> {
        self.inner.lock().topology.clone()
    }

    /// Whether the node serves, as `/readyz` says it: else what it waits for.
    pub fn readiness(&self) -> Result<(), String> {
        if self.standalone {
            return Ok(());
        }
        let inner = self.inner.lock();
        match inner.part.role {
            Role::Primary if !inner.stopping => Ok(()),
            Role::Primary => Err("a new primary: this node stops".into()),
            // A learner that holds a whole copy is as good: without an operator nobody calls it a replica, and restarts must go on.
            role if role.follows() && !inner.fresh && inner.sync.state == SyncPhase::Streaming => {
                Ok(())
            }
            _ => Err(inner.waiting_for()),
        }
    }

    /// Whether an operator (or anybody else) holds a WATCH open.
    pub fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn watch_opened(&self, change: isize) {
        if change > 0 {
            self.watchers.fetch_add(1, Ordering::Relaxed);
        } else {
            self.watchers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts the changes that watchers are told of at once.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn note_change(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    pub(crate) fn acks(&self) -> watch::Receiver<u64> {
        self.acks.subscribe()
    }

    pub(crate) fn note_ack(&self) {
        self.acks.send_modify(|n| *n += 1);
        if self.ack_waiters.load(Ordering::Acquire) > 0 {
            self.wakers.wake_all();
        }
    }

    /// Counts one more, or one less, who waits for acknowledgements.
    pub fn waits_for_acks(&self, more: bool) {
        match more {
            true => self.ack_waiters.fetch_add(1, Ordering::AcqRel),
            false => self.ack_waiters.fetch_sub(1, Ordering::AcqRel),
        };
    }

    /// Asks replicas to acknowledge what they hold at once.
    pub fn ask_for_acks(&self) {
        let inner = self.inner.lock();
        inner.replicas.values().for_each(|r| r.ask.notify_one());
    }

    /// How many replicas hold the log up to an offset.
    pub fn replicas_that_hold(&self, at: u64) -> usize {
        let inner = self.inner.lock();
        let holds = |r: &&ReplicaProgress| r.synced && r.acked >= at;
        inner.replicas.values().filter(holds).count()
    }

    pub(crate) fn term(&self) -> watch::Receiver<u64> {
        self.term.subscribe()
    }

    /// Asks the process to stop, as SIGTERM does.
    pub fn request_shutdown(&self) {
        self.shutdown.send_replace(true);
    }

    /// Becomes true when somebody asked the process to stop over the control port.
    pub fn shutdown_requested(&self) -> watch::Receiver<bool> {
        self.shutdown.subscribe()
    }

    /// The topology of the data directory.
    pub(crate) fn kept_topology(&self) -> Option<Known> {
        self.data_dir.as_ref()?.load_topology()
    }

    /// Marks the process as about to stop.
    pub(crate) fn set_stopping(&self) {
        self.inner.lock().stopping = true;
        self.note_change();
    }

    /// Computes the states of all slots and puts them into force; wakes those who wait for them.
    pub(crate) fn refresh_slots(&self) -> SlotSet {
        self.refresh_slots_and(|| {})
    }

    fn refresh_slots_and(&self, between: impl FnOnce()) -> SlotSet {
        let _last = self.slots.lock();
        let targets = {
            let inner = self.inner.lock();
            let mut sealed = SlotSet::none();
            let mut held = SlotSet::none();
            for slot in inner.sealed.values().flat_map(SlotSet::iter) {
                sealed.insert(slot);
            }
            for import in inner.imports.values().filter(|i| i.held) {
                for slot in import.slots.iter() {
                    held.insert(slot);
                }
            }
            slots::targets(&slots::View {
                topology: inner.topology.as_ref().map(|k| &k.topology),
                part: &inner.part,
                fresh: inner.fresh,
                paused: inner.handover.is_some(),
                sealed,
                held,
            })
        };
        slots::enforce(&self.store, &targets, between);
        let is_served = |slot: u16| {
            let state = targets.states[usize::from(slot)];
            !matches!(state, SlotState::None | SlotState::Importing)
        };
        self.pubsub.leave_slots(is_served);
        self.wakers.wake_all();
        targets.drop
    }

    /// What `HELLO` and `WATCH` answer.
    pub fn state(&self) -> NodeState {
        let stats = self.store.stats();
        let position = self.log.position();
        let inner = self.inner.lock();
        let known = inner.topology.as_ref();
        let role = inner.part.role;
        let position = if inner.fresh {
            Position::default()
        } else {
            position
        };
        NodeState {
            protocol: state::PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            features: state::FEATURES.map(String::from).into(),
            member: self.member.clone(),
            data_id: self.data_id.clone(),
            fresh: inner.fresh,
            started_at_ms: self.started_at_ms,
            cluster_id: known.map_or(String::new(), |k| k.topology.cluster_id.clone()),
            epoch: known.map_or(0, |k| k.topology.epoch),
            topology_hash: known.map_or(String::new(), |k| k.hash.clone()),
            shard: inner.part.shard.clone(),
            role,
            serving: self.standalone || role == Role::Primary || (role.follows() && !inner.fresh),
            waiting_for: if self.standalone {
                String::new()
            } else {
                inner.waiting_for()
            },
            log_epoch: position.epoch,
            offset: position.offset,
            sync: inner.sync.clone(),
            replicas: inner.replica_states(),
            moves: inner.moves.values().cloned().collect(),
            imports: inner.imports.values().map(|i| i.state.clone()).collect(),
            keys: stats.keys,
            // What connections and buffers hold comes and goes while nothing is written: it would never be quiet.
            bytes: stats.bytes - stats.other_bytes,
            max_bytes: stats.max_bytes,
            expired: stats.expired,
            clients: self.clients.get().map_or(0, |count| count()),
            stopping: inner.stopping,
            writes_paused: inner.handover.is_some(),
            regions_hash: self.store.regions_hash(),
            regions: self
                .store
                .region_stats()
                .into_iter()
                .map(RegionState::from)
                .collect(),
        }
    }

    /// `[slot, keys, bytes]` of owned slots that hold keys.
    pub fn slot_stats(&self) -> Vec<(u16, u64, u64)> {
        let mut stats = Vec::new();
        for slot in 0..SLOTS {
            let guard = self.store.lock(slot);
            let state = guard.slot_state(slot);
            let keys = guard.slot_len(slot) as u64;
            if keys > 0 && !matches!(state, SlotState::None | SlotState::Importing) {
                stats.push((slot, keys, guard.slot_bytes(slot)));
            }
        }
        stats
    }
}

impl Inner {
    fn me<'a>(&self, cluster: &'a Cluster) -> Myself<'a> {
        Myself {
            member: &cluster.member,
            data_id: &cluster.data_id,
            fresh: self.fresh,
        }
    }

    /// Data ID and address of each synced replica.
    pub(crate) fn present(&self) -> BTreeMap<String, Present> {
        let synced = self.replicas.iter().filter(|(_, r)| r.synced);
        let present = |r: &ReplicaProgress| Present {
            data_id: r.data_id.clone(),
            address: r.address,
        };
        synced.map(|(name, r)| (name.clone(), present(r))).collect()
    }

    fn replica_states(&self) -> Vec<ReplicaState> {
        let state = |(member, r): (&String, &ReplicaProgress)| ReplicaState {
            member: member.clone(),
            data_id: r.data_id.clone(),
            synced: r.synced,
            log_epoch: r.epoch,
            offset: r.acked,
        };
        self.replicas.iter().map(state).collect()
    }

    /// One line; empty when nothing is waited for.
    fn waiting_for(&self) -> String {
        if self.part.role == Role::Primary {
            return String::new();
        }
        if !self.part.role.follows() {
            return self.part.waiting_for.clone();
        }
        let Some(primary) = &self.part.primary else {
            return format!("a primary of shard {:?}", self.part.shard);
        };
        let name = &primary.name;
        match self.sync.state {
            SyncPhase::Streaming if self.part.role == Role::Learner => {
                format!("a topology that makes this synced learner of {name} a replica")
            }
            SyncPhase::Streaming => String::new(),
            SyncPhase::Full => format!(
                "the full sync from {name}: {} of about {} keys; the data here is incomplete",
                self.sync.keys_done, self.sync.keys_total
            ),
            _ if self.sync.error.is_empty() => format!("a connection to {name}"),
            _ if self.fresh => {
                format!(
                    "a sync from {name}, no whole data here: {}",
                    self.sync.error
                )
            }
            _ => format!("a connection to {name}: {}", self.sync.error),
        }
    }
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}
