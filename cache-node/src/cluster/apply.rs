//! Taking a topology: admission, then its effects in an order in which no slot is served by two and none by a node without its data.

use std::sync::Arc;

use thiserror::Error;
use tokio::sync::watch;

use super::role::{Part, Refusal, Role, admit, decide_role};
use super::state::{Sync, SyncPhase};
use super::topology::{BadTopology, Known, Member, Move, new_owners};
use super::{Cluster, ExportTask, Inner, Routing, Tasks, slots};
use crate::lifecycle::push;
use crate::log::{Position, SlotSet, WalkConsumer};
use crate::moves::export;
use crate::replicate::history::History;
use crate::replicate::replica;

/// Why a topology was not taken. The first word is the error code.
#[derive(Debug, Error)]
pub enum SetError {
    #[error("BADTOPOLOGY {0}")]
    Bad(#[from] BadTopology),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("ERR this node runs standalone and takes no topology: start it with --member")]
    Standalone,
}

impl Cluster {
    /// Takes a topology, or says why not. When this returns, its roles and slot states are in force.
    pub async fn set_topology(self: &Arc<Self>, json: &[u8]) -> Result<(), SetError> {
        if self.is_standalone() {
            return Err(SetError::Standalone);
        }
        let offered = Known::parse(json)?;
        let mut tasks = self.tasks.lock().await;
        if !self.admits(&offered)? {
            return Ok(());
        }
        let next = decide_role(&offered.topology, self.inner.lock().me(self));
        if !keeps_following(&tasks, &next) {
            self.stop_following(&mut tasks).await;
            // A sync may have begun or ended up to now.
            if let Err(refusal) = self.admits(&offered) {
                self.follow(&mut tasks);
                return Err(refusal.into());
            }
        }
        let known = Arc::new(offered);
        self.keep(&mut tasks, known.clone());
        self.adopt(&mut tasks, known).await;
        Ok(())
    }

    fn admits(&self, offered: &Known) -> Result<bool, Refusal> {
        let inner = self.inner.lock();
        admit(inner.topology.as_deref(), offered, inner.me(self))
    }

    /// Has the data directory keep the topology, soon: a slow disk must not hold back a change of owner.
    fn keep(self: &Arc<Self>, tasks: &mut Tasks, known: Arc<Known>) {
        if self.data_dir.is_none() {
            return;
        }
        match &tasks.keeper {
            Some(keeper) => drop(keeper.send_replace(known)),
            None => {
                let (keeper, latest) = watch::channel(known);
                tasks.keeper = Some(keeper);
                tokio::spawn(keep_latest(self.clone(), latest));
            }
        }
    }

    async fn adopt(self: &Arc<Self>, tasks: &mut Tasks, known: Arc<Known>) {
        let (was, part, before) = {
            let mut inner = self.inner.lock();
            let part = decide_role(&known.topology, inner.me(self));
            let was = std::mem::replace(&mut inner.part, part.clone());
            let before = inner.topology.replace(known.clone());
            inner.handover = None;
            if part.role != Role::Primary {
                inner.replicas.clear();
            }
            (was, part, before)
        };
        tracing::info!(epoch = known.topology.epoch, role = ?part.role, shard = %part.shard, "took a topology");
        let exports = self.stop_exports(tasks, &known, &part).await;
        self.hold_incomplete_imports();
        if part.role == Role::Primary && was.role != Role::Primary {
            self.become_primary(&known);
        } else if part.role == Role::Primary {
            self.store.set_expire_locally(true);
            if is_followed(&known, &part.shard) {
                self.ensure_log();
            }
        }
        let routing = Arc::new(Routing::new(&known, &self.member));
        let drop = self.refresh_slots_and(|| *self.routing.write() = routing);
        if let (Some(before), Role::Primary) = (before, was.role) {
            self.tell_new_owners(&before, &known, &was.shard);
        }
        if was.role == Role::Primary && part.role != Role::Primary {
            self.store.set_expire_locally(false);
            self.term.send_replace(0);
            self.log.settle().await;
        }
        self.follow(tasks);
        self.start_exports(tasks, exports);
        self.release_log();
        self.note_change();
        self.nudge_imports();
        let keys = slots::drop_data(&self.store, &drop).await;
        if keys > 0 {
            tracing::info!(keys, "dropped the data of slots that other shards own");
        }
        self.note_change();
    }

    /// From now on clients are sent to the slots' new owners: these are told, as they may not have this topology yet and would send them
    /// back. Whoever pushes it may have ended in between.
    fn tell_new_owners(self: &Arc<Self>, before: &Known, known: &Arc<Known>, shard: &str) {
        for owner in new_owners(&before.topology, &known.topology, shard) {
            let (cluster, known, owner) = (self.clone(), known.clone(), owner.clone());
            tokio::spawn(async move {
                if let Err(error) = push(&cluster, &owner, &known.json).await {
                    tracing::debug!(owner = owner.name, %error, "could not tell the new owner of slots");
                }
            });
        }
    }

    /// Begins a history of this node's own. Its slots do not serve yet.
    fn become_primary(&self, known: &Known) {
        let epoch = known.topology.epoch;
        let mut inner = self.inner.lock();
        if inner.fresh {
            // What a sync that broke off left behind.
            let mut guard = self.store.lock_all();
            guard.replay();
            guard.clear_all();
        }
        let at = Position {
            epoch,
            offset: self.log.position().offset,
        };
        if inner.fresh {
            inner.history = History::from(at);
        } else {
            inner.history.advance(at);
        }
        self.log.begin_history(at, !inner.fresh);
        inner.fresh = false;
        inner.sync = Sync::default();
        self.store.set_expire_locally(true);
        if is_followed(known, &inner.part.shard) && !self.log.is_active() {
            // Nothing was written since this history began, so no offset is to be skipped.
            self.log.activate(&self.store);
        }
        drop(inner);
        self.term.send_replace(epoch);
    }

    /// Makes every later write logged.
    pub(crate) fn ensure_log(&self) {
        self.ensure_log_for(&mut self.inner.lock());
    }

    /// Begins a copy of slots, and makes every later write logged.
    pub(crate) fn attach_walk(&self, slots: SlotSet) -> WalkConsumer {
        let mut inner = self.inner.lock();
        self.ensure_log_for(&mut inner);
        self.log.attach_walk(slots)
    }

    /// The lock is held while the log is turned on or off, so that two do not do it at once.
    fn ensure_log_for(&self, _inner: &mut Inner) {
        if self.log.is_active() {
            return;
        }
        // What was written until now is in no log: an offset of before must not be continued.
        let at = self.log.position();
        let skipped = Position {
            offset: at.offset + 1,
            ..at
        };
        self.log.begin_history(skipped, false);
        self.log.activate(&self.store);
    }

    /// Stops logging when nobody follows and the topology lists nobody who may come back: a member that is briefly away goes on from the
    /// backlog.
    pub(crate) fn release_log(&self) {
        let inner = self.inner.lock();
        let may_follow = match &inner.topology {
            Some(known) if inner.part.role == Role::Primary => {
                is_followed(known, &inner.part.shard)
            }
            // What a replica holds of the log is its primary's.
            _ => true,
        };
        let follows = !inner.replicas.is_empty() || self.log.has_walks();
        if self.log.is_active() && !may_follow && !follows {
            self.log.deactivate(&self.store);
            tracing::info!("nobody follows this node: writes are not logged any more");
        }
    }

    async fn stop_following(&self, tasks: &mut Tasks) {
        if let Some((_, task)) = tasks.follow.take() {
            task.abort();
            // Aborted or not, it is over.
            let _ = task.await;
        }
        self.inner.lock().sync = Sync::default();
    }

    /// Follows the primary of the present part, unless that is under way.
    fn follow(self: &Arc<Self>, tasks: &mut Tasks) {
        let mut inner = self.inner.lock();
        let Some(primary) = inner.part.primary.clone() else {
            return;
        };
        if tasks
            .follow
            .as_ref()
            .is_some_and(|(whom, _)| *whom == primary)
        {
            return;
        }
        inner.sync = Sync {
            state: SyncPhase::Connecting,
            primary: primary.name.clone(),
            ..Sync::default()
        };
        let task = tokio::spawn(replica::follow(self.clone(), primary.clone()));
        tasks.follow = Some((primary, task));
    }

    /// Ends the exports that the topology has no more, and gives those that it has and that are to be started.
    async fn stop_exports(
        &self,
        tasks: &mut Tasks,
        known: &Known,
        part: &Part,
    ) -> Vec<(Move, Member)> {
        let mut wanted: Vec<(Move, Member)> = Vec::new();
        if part.role == Role::Primary {
            for m in known.topology.moves.iter().filter(|m| m.from == part.shard) {
                if let Some(to) = known.topology.shard(&m.to).and_then(|s| s.primary()) {
                    wanted.push((m.clone(), to.clone()));
                }
            }
        }
        let ids: Vec<String> = tasks.exports.keys().cloned().collect();
        for id in ids {
            let stays = tasks.exports.get(&id).is_some_and(|export| {
                let same = |(m, to): &(Move, Member)| m.id == id && *to == export.to;
                wanted.iter().any(same)
            });
            if stays {
                wanted.retain(|(m, _)| m.id != id);
                continue;
            }
            if let Some(export) = tasks.exports.remove(&id) {
                export.task.abort();
                let _ = export.task.await;
            }
            let mut inner = self.inner.lock();
            inner.sealed.remove(&id);
            inner.moves.remove(&id);
        }
        wanted
    }

    fn start_exports(self: &Arc<Self>, tasks: &mut Tasks, wanted: Vec<(Move, Member)>) {
        for (m, to) in wanted {
            self.ensure_log();
            let (control, commands) = export::control();
            let id = m.id.clone();
            let task = tokio::spawn(export::run(self.clone(), m, to.clone(), commands));
            tasks.exports.insert(id, ExportTask { to, control, task });
        }
    }

    /// Who seals a move on this node.
    pub(crate) async fn export(&self, id: &str) -> Option<export::ExportControl> {
        let tasks = self.tasks.lock().await;
        tasks.exports.get(id).map(|e| e.control.clone())
    }
}

/// Writes the latest topology to the data directory, again when there is a later one.
async fn keep_latest(cluster: Arc<Cluster>, mut latest: watch::Receiver<Arc<Known>>) {
    loop {
        let known = latest.borrow_and_update().clone();
        if let Some(data_dir) = &cluster.data_dir
            && let Err(error) = data_dir.save_topology(&known.json).await
        {
            // The operator, the ConfigMap and the peers have it too.
            tracing::warn!(%error, "cannot keep the topology; going on without");
        }
        if latest.changed().await.is_err() {
            return;
        }
    }
}

/// The log costs nothing until the shard has another member or a move leaves it.
fn is_followed(known: &Known, shard: &str) -> bool {
    let topology = &known.topology;
    topology.shard(shard).is_some_and(|s| s.members.len() > 1)
        || topology.moves.iter().any(|m| m.from == shard)
}

fn keeps_following(tasks: &Tasks, next: &Part) -> bool {
    match (&tasks.follow, &next.primary) {
        (Some((whom, _)), Some(primary)) => whom == primary,
        (None, _) => true,
        (Some(_), None) => false,
    }
}
