//! A node: what all of its threads share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use crate::cluster::{Cluster, ClusterOptions};
use crate::command::blocking::BlockedClients;
use crate::command::monitor::Monitors;
use crate::command::pause::Pause;
use crate::command::scripting::Scripting;
use crate::command::slowlog::SlowLog;
use crate::config::Config;
use crate::config::passwords::{BadPasswords, Passwords};
use crate::limits;
use crate::log::Log;
use crate::metrics::stats::Stats;
use crate::persist::datadir::DataDir;
use crate::pubsub::PubSub;
use crate::server::output_limit::OutputLimit;
use crate::server::registry::Registry;
use crate::store::compress::Setting;
use crate::store::notify::class;
use crate::store::{EventSink, Store, StoreOptions};
use crate::wakers::Wakers;

/// Settings that `CONFIG SET` changes while the node runs.
#[derive(Debug)]
pub struct Settings {
    pub max_clients: AtomicU32,
    /// Seconds after which an idle connection is closed; 0: never.
    pub timeout_s: AtomicU32,
    /// Seconds between probes on an idle connection; 0: none. For new connections.
    pub keepalive_s: AtomicU32,
    /// Bytes of one argument at most.
    pub bulk_max: AtomicU64,
    /// Bytes of received commands that wait for execution at most.
    pub input_max: AtomicU64,
    /// Of those who subscribe, monitor or track.
    pub pubsub_output: OutputLimit,
    /// Bytes of a sparse HyperLogLog at most.
    pub hll_sparse_max: AtomicU64,
}

/// Bits of [`Node::extras`]: what a command has to look after only while somebody wants it.
pub mod extra {
    pub const MONITOR: u32 = 1;
    pub const PAUSED: u32 = 2;
    pub const NOTIFY: u32 = 4;
    /// Every command is timed.
    pub const TIMED: u32 = 8;
}

/// See the module's text.
pub struct Node {
    pub config: Config,
    pub store: Arc<Store>,
    pub log: Arc<Log>,
    /// Its part in a cluster; a standalone node has one that serves all slots.
    pub cluster: Arc<Cluster>,
    pub settings: Settings,
    /// Of applications. None: no password is asked for.
    pub passwords: Option<Passwords>,
    pub stats: Stats,
    pub clients: Registry,
    /// Those that wait for keys.
    pub blocked: Arc<BlockedClients>,
    /// Lua scripts.
    pub scripting: Scripting,
    pub wakers: Arc<Wakers>,
    pub pubsub: Arc<PubSub>,
    pub monitors: Monitors,
    pub pause: Pause,
    pub slow: SlowLog,
    /// See [`extra`].
    extras: AtomicU32,
    /// 40 hex digits, new at each start.
    pub run_id: String,
    pub started_at_ms: u64,
    /// Someone waits for the log's credit: rung by who waits, answered by `wakers` when there is credit again.
    pub credit_wanted: Notify,
    /// A client has asked the node to stop.
    pub shutdown_wanted: Notify,
    /// Unix milliseconds of the background thread's last round.
    pub heartbeat_ms: AtomicU64,
    /// Set when the node stops: open connections are drained.
    pub stopping: AtomicBool,
    /// Where the ports are in fact (a port may be 0 in the configuration).
    pub addresses: parking_lot::Mutex<BTreeMap<&'static str, std::net::SocketAddr>>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Passwords(#[from] BadPasswords),
    #[error(
        "cannot reserve addresses for items: {0}; raise the process's limit of virtual memory (ulimit -v)"
    )]
    Memory(std::io::Error),
    #[error(transparent)]
    DataDir(std::io::Error),
}

impl Node {
    /// A node by its configuration, which is valid. A standalone one serves all slots at once; a member serves what its topology will say.
    pub fn new(config: Config) -> Result<Self, StartError> {
        let open = |path: &Option<PathBuf>| path.as_deref().map(Passwords::open).transpose();
        let log = Arc::new(Log::new(if config.cluster {
            config.log_backlog()
        } else {
            0
        }));
        let options = StoreOptions {
            max_memory: config.max_memory,
            hash_seed: uuid::Uuid::new_v4().as_u64_pair().0,
        };
        let store = Arc::new(Store::new(options, log.clone()).map_err(StartError::Memory)?);
        store.set_policy(config.max_memory_policy);
        store.set_max_items(config.max_items);
        store.compression.set(Setting {
            method: config.compression,
            // It is valid, so it fits.
            min_size: config.compression_min_size as u32,
        });
        let wakers = Arc::new(Wakers::default());
        let control_passwords = open(&config.control_password_file)?.map(Arc::new);
        let cluster = if config.cluster {
            let data_dir = config.data_dir.as_deref().map(DataDir::open).transpose();
            let options = ClusterOptions {
                member: config.member().to_owned(),
                passwords: control_passwords,
                data_dir: data_dir.map_err(StartError::DataDir)?,
            };
            Cluster::new(options, store.clone(), log.clone(), wakers.clone())
        } else {
            Cluster::standalone(
                control_passwords,
                store.clone(),
                log.clone(),
                wakers.clone(),
            )
        };
        let blocked = Arc::new(BlockedClients::new(store.clone(), wakers.clone()));
        let id = |u: uuid::Uuid| u.simple().to_string();
        let pubsub = cluster.pubsub.clone();
        store.send_events_to(events_to(pubsub.clone()));
        Ok(Self {
            passwords: open(&config.password_file)?,
            settings: Settings {
                max_clients: AtomicU32::new(config.max_clients),
                timeout_s: AtomicU32::new(0),
                keepalive_s: AtomicU32::new(limits::KEEPALIVE_S),
                bulk_max: AtomicU64::new(limits::BULK_MAX as u64),
                input_max: AtomicU64::new(limits::INPUT_MAX as u64),
                pubsub_output: OutputLimit::default(),
                hll_sparse_max: AtomicU64::new(limits::HLL_SPARSE_MAX),
            },
            pubsub,
            monitors: Monitors::default(),
            pause: Pause::default(),
            slow: SlowLog::default(),
            extras: AtomicU32::new(0),
            store,
            log,
            cluster,
            stats: Stats::default(),
            clients: Registry::default(),
            blocked,
            scripting: Scripting::default(),
            wakers,
            run_id: format!(
                "{}{}",
                id(uuid::Uuid::new_v4()),
                &id(uuid::Uuid::new_v4())[..8]
            ),
            started_at_ms: now_ms(),
            credit_wanted: Notify::new(),
            shutdown_wanted: Notify::new(),
            heartbeat_ms: AtomicU64::new(now_ms()),
            stopping: AtomicBool::new(false),
            addresses: parking_lot::Mutex::default(),
            config,
        })
    }

    /// Whether keys are spread over several nodes: commands are bound to slots that this node serves.
    pub fn is_cluster(&self) -> bool {
        self.config.cluster
    }

    /// See [`extra`].
    pub fn extras(&self) -> u32 {
        self.extras.load(Ordering::Relaxed)
    }

    pub fn set_extra(&self, bit: u32, on: bool) {
        match on {
            true => self.extras.fetch_or(bit, Ordering::Relaxed),
            false => self.extras.fetch_and(!bit, Ordering::Relaxed),
        };
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The port of applications in fact.
    pub fn port(&self) -> u16 {
        self.addresses
            .lock()
            .get("application")
            .map_or(self.config.port, |a| a.port())
    }
}

/// Publishes keyspace notifications.
fn events_to(pubsub: Arc<PubSub>) -> EventSink {
    Box::new(move |wanted, event, key| {
        if wanted & class::KEYSPACE != 0 {
            let channel = [b"__keyspace@0__:", key].concat();
            pubsub.publish(&channel, event.as_bytes());
        }
        if wanted & class::KEYEVENT != 0 {
            let channel = format!("__keyevent@0__:{event}");
            pubsub.publish(channel.as_bytes(), key);
        }
    })
}

/// Unix milliseconds.
pub fn now_ms() -> u64 {
    now_us() / 1000
}

/// Unix microseconds.
pub fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_micros() as u64)
}
