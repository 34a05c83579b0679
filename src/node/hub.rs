//! All links of all Caches, and what is remembered of each member between plans.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::aio::MultiplexedConnection;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::client::{self, Answer, Command, NodeError};
use super::link::{self, Dial, LinkEvent};
use super::now_ms;
use crate::api::node_state::NodeState;
use crate::api::topology::Topology;
use crate::plan::{Link, Observed, SlotStats};
use crate::platform::CacheKey;

/// Where a member's process is, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// None: it has none now.
    pub address: Option<String>,
    pub control_port: u16,
    /// Identifies the process (a container's ID); none while no process runs.
    pub process: Option<String>,
}

/// What is remembered of a member.
#[derive(Clone, Debug)]
pub struct MemberView {
    pub link: Link,
    /// As last heard.
    pub state: Option<NodeState>,
    /// The process that `state` came from has certainly ended.
    pub process_ended: bool,
    pub topology: Option<Topology>,
    pub push_error: Option<String>,
    /// Why the link is down, for people.
    pub trouble: Option<String>,
}

struct Entry {
    dial: watch::Sender<Dial>,
    task: JoinHandle<()>,
    connection: Option<MultiplexedConnection>,
    link: Link,
    state: Option<NodeState>,
    /// [`Target::process`] when `state` was heard.
    heard_from: Option<String>,
    topology: Option<Topology>,
    push_error: Option<PushError>,
    trouble: Option<String>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct PushError {
    epoch: u64,
    data_id: String,
    message: String,
}

#[derive(Default)]
struct CacheEntry {
    members: BTreeMap<String, Entry>,
    slot_stats: BTreeMap<String, SlotStats>,
}

type Caches = BTreeMap<CacheKey, CacheEntry>;

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Hub {
    caches: Arc<Mutex<Caches>>,
    changed: mpsc::UnboundedSender<CacheKey>,
}

impl Hub {
    /// The receiver names each Cache of which a node said something new, or whose link came or went.
    pub fn new() -> (Hub, mpsc::UnboundedReceiver<CacheKey>) {
        let (changed, receiver) = mpsc::unbounded_channel();
        let caches = Arc::default();
        (Hub { caches, changed }, receiver)
    }

    fn lock(&self) -> MutexGuard<'_, Caches> {
        // The data is whole between any two statements, so a panic elsewhere does not spoil it.
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds links to exactly these members of the Cache.
    pub fn follow(&self, key: &CacheKey, password: &str, targets: BTreeMap<String, Target>) {
        let mut caches = self.lock();
        let cache = caches.entry(key.clone()).or_default();
        cache
            .members
            .retain(|member, _| targets.contains_key(member));
        for (member, target) in targets {
            let dial = Dial {
                target,
                password: password.to_string(),
            };
            match cache.members.get(&member) {
                Some(entry) => {
                    entry.dial.send_if_modified(|now| {
                        let differs = *now != dial;
                        *now = dial;
                        differs
                    });
                }
                None => {
                    let entry = self.begin(key, &member, dial);
                    cache.members.insert(member, entry);
                }
            }
        }
    }

    fn begin(&self, key: &CacheKey, member: &str, dial: Dial) -> Entry {
        let (sender, receiver) = watch::channel(dial);
        let (hub, key, name) = (self.clone(), key.clone(), member.to_string());
        let tell = move |event| hub.happened(&key, &name, event);
        let task = tokio::spawn(link::run(member.to_string(), receiver, tell));
        Entry {
            dial: sender,
            task,
            connection: None,
            link: Link::Never { since_ms: now_ms() },
            state: None,
            heard_from: None,
            topology: None,
            push_error: None,
            trouble: None,
        }
    }

    fn happened(&self, key: &CacheKey, member: &str, event: LinkEvent) {
        let mut caches = self.lock();
        let entry = caches
            .get_mut(key)
            .and_then(|cache| cache.members.get_mut(member));
        let Some(entry) = entry else { return };
        let news = match event {
            LinkEvent::Connected(connection, state) => {
                entry.connection = Some(connection);
                entry.link = Link::Connected;
                entry.trouble = None;
                entry.hear(*state);
                true
            }
            LinkEvent::Heard(state) => entry.hear(*state),
            LinkEvent::Lost(error) => {
                let was = entry.link;
                entry.connection = None;
                entry.trouble = Some(error.to_string());
                if was == Link::Connected {
                    entry.link = Link::Lost { since_ms: now_ms() };
                }
                was == Link::Connected
            }
        };
        if news {
            // Fails only when nobody reconciles any more.
            let _ = self.changed.send(key.clone());
        }
    }

    /// What is remembered of each member.
    pub fn view(&self, key: &CacheKey) -> BTreeMap<String, MemberView> {
        let caches = self.lock();
        let Some(cache) = caches.get(key) else {
            return BTreeMap::new();
        };
        let view = |(member, entry): (&String, &Entry)| (member.clone(), entry.view());
        cache.members.iter().map(view).collect()
    }

    /// Adds what is remembered to what was seen.
    pub fn add_to(&self, key: &CacheKey, observed: &mut Observed) {
        for (name, view) in self.view(key) {
            let Some(member) = observed.members.get_mut(&name) else {
                continue;
            };
            member.link = view.link;
            member.state = view.state;
            member.process_ended = view.process_ended;
            member.topology = view.topology;
            member.push_error = view.push_error;
        }
        if let Some(cache) = self.lock().get(key) {
            observed.slot_stats = cache.slot_stats.clone();
        }
    }

    /// Lets go of the Cache's links and memories.
    pub fn forget(&self, key: &CacheKey) {
        self.lock().remove(key);
    }

    pub async fn call<A: Answer>(
        &self,
        key: &CacheKey,
        member: &str,
        command: Command<'_>,
    ) -> Result<A, NodeError> {
        let connection = self
            .lock()
            .get(key)
            .and_then(|cache| cache.members.get(member)?.connection.clone());
        let Some(mut connection) = connection else {
            let member = member.to_string();
            return Err(NodeError::NotConnected { member });
        };
        client::call(&mut connection, &command).await
    }

    /// Sends a topology, and remembers a refusal.
    pub async fn push(
        &self,
        key: &CacheKey,
        member: &str,
        topology: &crate::api::topology::WireTopology,
    ) -> Result<(), NodeError> {
        let sent: Result<(), NodeError> =
            self.call(key, member, Command::TopologySet(topology)).await;
        if let Some(entry) = self
            .lock()
            .get_mut(key)
            .and_then(|cache| cache.members.get_mut(member))
        {
            entry.push_error = match &sent {
                Err(error @ NodeError::Refused { .. }) => Some(PushError {
                    epoch: topology.epoch,
                    data_id: entry.data_id().to_string(),
                    message: error.to_string(),
                }),
                _ => None,
            };
        }
        sent
    }

    /// Asks a member for its topology, and remembers the answer.
    pub async fn fetch_topology(&self, key: &CacheKey, member: &str) -> Result<(), NodeError> {
        let topology = self.call(key, member, Command::TopologyGet).await?;
        if let Some(entry) = self
            .lock()
            .get_mut(key)
            .and_then(|cache| cache.members.get_mut(member))
        {
            entry.topology = topology;
        }
        Ok(())
    }

    /// Asks a shard's primary for its slots' statistics, and remembers the answer.
    pub async fn fetch_slot_stats(
        &self,
        key: &CacheKey,
        shard: &str,
        member: &str,
    ) -> Result<(), NodeError> {
        // Before the question: a newer topology makes the answer old.
        let epoch = self
            .view(key)
            .get(member)
            .and_then(|view| view.state.as_ref())
            .map_or(0, |state| state.epoch);
        let slots = self.call(key, member, Command::SlotStats).await?;
        if let Some(cache) = self.lock().get_mut(key) {
            let stats = SlotStats {
                at_ms: now_ms(),
                epoch,
                slots,
            };
            cache.slot_stats.insert(shard.to_string(), stats);
        }
        Ok(())
    }
}

impl Entry {
    fn data_id(&self) -> &str {
        self.state.as_ref().map_or("", |state| &state.data_id)
    }

    /// Takes a state in; whether it says something that a plan may hang on.
    fn hear(&mut self, state: NodeState) -> bool {
        let old = self.state.take();
        let news = old
            .as_ref()
            .is_none_or(|old| without_counts(old) != without_counts(&state));
        let other_process = old.as_ref().is_some_and(|old| old.data_id != state.data_id);
        let other_epoch = old.as_ref().is_some_and(|old| old.epoch != state.epoch);
        if other_process || other_epoch {
            self.topology = None;
        }
        if other_process {
            self.push_error = None;
        }
        self.heard_from = self.dial.borrow().target.process.clone();
        self.state = Some(state);
        news
    }

    fn view(&self) -> MemberView {
        let process = &self.dial.borrow().target.process;
        let process_ended = self.link != Link::Connected
            && self.state.is_some()
            && (process.is_none() || *process != self.heard_from);
        let push_error = self
            .push_error
            .as_ref()
            .filter(|error| error.data_id == self.data_id())
            .map(|error| format!("epoch {}: {}", error.epoch, error.message));
        MemberView {
            link: self.link,
            state: self.state.clone(),
            process_ended,
            topology: self.topology.clone(),
            push_error,
            trouble: self.trouble.clone(),
        }
    }
}

/// What heartbeats change all the time and no plan waits for at once.
fn without_counts(state: &NodeState) -> NodeState {
    let mut state = state.clone();
    state.offset = 0;
    state.keys = 0;
    state.bytes = 0;
    state.expired = 0;
    state.clients = 0;
    state.sync.keys_done = 0;
    state.sync.keys_total = 0;
    state.sync.lag_bytes = 0;
    // Which regions a node enforces is news, what they hold is not.
    state.regions.clear();
    for replica in &mut state.replicas {
        replica.offset = 0;
    }
    for moving in &mut state.moves {
        moving.keys_done = 0;
        moving.keys_total = 0;
        moving.bytes_done = 0;
    }
    for import in &mut state.imports {
        import.keys = 0;
    }
    state
}
