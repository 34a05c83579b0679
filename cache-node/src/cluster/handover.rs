//! Pausing all writes so that a replica can hold the whole log and become primary.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Cluster;
use super::role::Role;
use crate::log::Position;

impl Cluster {
    /// Pauses writes and waits up to `timeout` until `member` holds the whole log. Writes stay paused until a newer topology,
    /// [`Cluster::resume`], or `hold` after this returns. An error says why not; then writes go on. With `instead`, it takes the place of one under way:
    /// it comes from an operator whose predecessor was killed. Without, one under way is left alone.
    pub async fn handover(
        self: &Arc<Self>,
        member: &str,
        timeout: Duration,
        hold: Duration,
        instead: bool,
    ) -> Result<Position, String> {
        let id = self.begin_handover(member, instead)?;
        self.store.set_expire_locally(false);
        self.refresh_slots();
        self.note_change();
        let deadline = Instant::now() + timeout;
        let outcome = match timeout_at(deadline, self.drain_to(id, member)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!(
                "{member} did not take the rest of the log in {} ms: give it more time, or choose another replica",
                timeout.as_millis()
            )),
        };
        match outcome {
            Ok(position) => {
                let cluster = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(hold).await;
                    if cluster.end_handover(Some(id)) {
                        tracing::warn!("no newer topology came after the handover: writes go on");
                    }
                });
                Ok(position)
            }
            Err(why) => {
                self.end_handover(Some(id));
                Err(why)
            }
        }
    }

    /// Ends a handover's pause, if there is one.
    pub fn resume(&self) {
        self.end_handover(None);
    }

    fn begin_handover(&self, member: &str, instead: bool) -> Result<u64, String> {
        let mut inner = self.inner.lock();
        if inner.part.role != Role::Primary {
            return Err("this node is not a primary: ask the shard's primary".into());
        }
        if inner.handover.is_some() && !instead {
            return Err("another handover is under way: RESUME ends it".into());
        }
        match inner.replicas.get(member) {
            None => return Err(format!("{member} does not follow this node")),
            Some(replica) if !replica.synced => {
                return Err(format!("{member} is not synced yet: wait until it is"));
            }
            Some(_) => {}
        }
        inner.next_id += 1;
        let id = inner.next_id;
        inner.handover = Some(id);
        Ok(id)
    }

    /// All writes are paused: waits until the replica has acknowledged the log's end.
    async fn drain_to(&self, id: u64, member: &str) -> Result<Position, String> {
        let mut acks = self.acks();
        let end = self.log.settle().await;
        loop {
            acks.borrow_and_update();
            let ask = {
                let inner = self.inner.lock();
                if inner.handover != Some(id) {
                    return Err("a newer topology, a newer handover or RESUME ended it".into());
                }
                match inner.replicas.get(member) {
                    Some(r) if r.synced && r.acked >= end.offset => return Ok(end),
                    Some(r) if r.synced => r.ask.clone(),
                    _ => return Err(format!("the connection to {member} broke")),
                }
            };
            ask.notify_one();
            // The sender lives as long as `self`; the pause keeps an unheard question from lasting.
            let _ = tokio::time::timeout(Duration::from_millis(50), acks.changed()).await;
        }
    }

    /// Waits until a synced replica has acknowledged all that was written before the call; without a synced replica there is no such wait.
    pub(crate) async fn replicated(&self) {
        let mut acks = self.acks();
        let end = self.log.settle().await;
        loop {
            acks.borrow_and_update();
            let asked: Vec<_> = {
                let inner = self.inner.lock();
                let synced = || inner.replicas.values().filter(|r| r.synced);
                if synced().count() == 0 || synced().any(|r| r.acked >= end.offset) {
                    return;
                }
                synced().map(|r| r.ask.clone()).collect()
            };
            for ask in asked {
                ask.notify_one();
            }
            // As in `drain_to`.
            let _ = tokio::time::timeout(Duration::from_millis(50), acks.changed()).await;
        }
    }

    /// Ends the handover of this number, or any. Gives whether there was one.
    fn end_handover(&self, id: Option<u64>) -> bool {
        {
            let mut inner = self.inner.lock();
            let same = inner.handover.is_some() && (id.is_none() || inner.handover == id);
            if !same {
                return false;
            }
            inner.handover = None;
            if inner.part.role == Role::Primary {
                self.store.set_expire_locally(true);
            }
        }
        self.refresh_slots();
        self.note_change();
        true
    }
}
