//! The destination's side of a slot move. What comes is written as ordinary logged writes, so that this node's replicas follow.
//!
//! A topology may give us the slots before the stream is sealed (the source's seal had timed out). Then they are held back from clients until
//! the source has sent its last writes, or is gone for [`GRACE`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::{GIVES_UP, ImportRequest};
use crate::cluster::role::Role;
use crate::cluster::state::{ImportState, MovePhase, PROTOCOL};
use crate::cluster::topology::slot_set;
use crate::cluster::{Cluster, Import, slots};
use crate::log::SlotSet;
use crate::replicate::effects::{Source, apply_copied};
use crate::replicate::frame::{Frame, FrameReader, FrameWriter, kind, silent, unexpected};
use crate::store::SlotState;

/// A source that says nothing for so long is gone. It sends something every second.
const SILENCE: Duration = Duration::from_secs(15);
const ACK: Duration = Duration::from_millis(50);
/// How long a replica may take to acknowledge what was moved before it is sealed.
const REPLICATED: Duration = Duration::from_secs(3);
const ALIVE: Duration = Duration::from_secs(1);
/// How long slots that are ours are held back for a source that went away before its last writes.
const GRACE: Duration = Duration::from_secs(10);
/// How long a new session waits for an old one of the same move to end.
const REPLACE: Duration = Duration::from_secs(5);

/// Serves one move's stream until it ends.
pub async fn serve<R, W>(
    cluster: Arc<Cluster>,
    request: ImportRequest,
    mut input: FrameReader<R>,
    output: W,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut out = FrameWriter::new(output);
    let session = match begin(&cluster, &request).await {
        Ok(Begun::Import(session)) => session,
        Ok(Begun::Owned(json)) => {
            out.write(format!("+OK {PROTOCOL}\r\n").as_bytes()).await?;
            out.send(kind::OWNED, &[json.as_bytes()]).await?;
            return hang_up(input).await;
        }
        Err(why) => return out.write(format!("-{why}\r\n").as_bytes()).await,
    };
    session.drop_old_data().await;
    out.write(format!("+OK {PROTOCOL}\r\n").as_bytes()).await?;
    tracing::info!(id = request.id, from = request.from, "importing slots");
    let mut importer = Importer {
        session,
        out,
        applied: 0,
        acked: (0, Instant::now()),
    };
    let outcome = importer.run(&mut input).await;
    let over = outcome.is_ok();
    if let Err(error) = &outcome {
        tracing::warn!(id = request.id, %error, "the import's stream ended");
        let text = error.to_string();
        // The source may be gone; it copies anew in any case.
        let parts = [text.as_bytes()];
        let farewell = importer.out.send(GIVES_UP, &parts);
        let _ = timeout(Duration::from_secs(1), farewell).await;
    }
    drop(importer.session);
    if over { hang_up(input).await } else { outcome }
}

/// Lets the source read our last frame before the connection is closed.
async fn hang_up<R: AsyncRead + Unpin>(mut input: FrameReader<R>) -> io::Result<()> {
    let until_closed = async { while input.next().await.is_ok() {} };
    // A source that does not close is closed on.
    let _ = timeout(Duration::from_secs(2), until_closed).await;
    Ok(())
}

enum Begun {
    Import(Session),
    /// The slots are ours already, by this topology.
    Owned(String),
}

struct Session {
    cluster: Arc<Cluster>,
    id: String,
    number: u64,
    slots: SlotSet,
    nudge: Arc<Notify>,
}

/// Whether all of the slots are this node's shard's.
fn owns(inner: &crate::cluster::Inner, slots: &SlotSet) -> bool {
    let Some(known) = &inner.topology else {
        return false;
    };
    let owned = known
        .topology
        .shard(&inner.part.shard)
        .map(|s| slot_set(&s.slots));
    inner.part.role == Role::Primary
        && owned.is_some_and(|owned| slots.iter().all(|slot| owned.contains(slot)))
}

/// Registers the import, after an older session of the same move has ended.
async fn begin(cluster: &Arc<Cluster>, request: &ImportRequest) -> Result<Begun, String> {
    let slots = slot_set(&request.slots);
    let mut changes = cluster.changes();
    let deadline = Instant::now() + REPLACE;
    loop {
        changes.borrow_and_update();
        if let Some(begun) = try_begin(cluster, request, &slots)? {
            return Ok(begun);
        }
        tokio::time::timeout_at(deadline, changes.changed())
            .await
            .map_err(|_| "BUSY an older stream of this move does not end: try again".to_owned())
            // The sender lives as long as `cluster`.
            .map(drop)?;
    }
}

/// None: an older session is there still, and was told to end.
fn try_begin(
    cluster: &Arc<Cluster>,
    request: &ImportRequest,
    slots: &SlotSet,
) -> Result<Option<Begun>, String> {
    let mut inner = cluster.inner.lock();
    let known = match &inner.topology {
        Some(known) if inner.part.role == Role::Primary => known.clone(),
        _ => return Err(format!("NOTPRIMARY {} is not a primary", cluster.member)),
    };
    let topology = &known.topology;
    if topology.cluster_id != request.cluster_id {
        return Err(format!(
            "FOREIGNDATA this is a node of cluster {:?}",
            topology.cluster_id
        ));
    }
    let old = inner.imports.get(&request.id);
    if let Some(old) = old
        && old.live
    {
        old.nudge.notify_one();
        let id = request.id.clone();
        if let Some(old) = inner.imports.get_mut(&id) {
            old.replaced = true;
        }
        return Ok(None);
    }
    let held = old.is_some_and(|old| old.held);
    if owns(&inner, slots) && !held {
        return Ok(Some(Begun::Owned(known.json.clone())));
    }
    let here = &inner.part.shard;
    let listed = topology
        .moves
        .iter()
        .any(|m| m.id == request.id && m.to == *here && m.slot_set() == *slots);
    if !listed && !held {
        let epoch = topology.epoch;
        return Err(format!(
            "STALEEPOCH epoch {epoch} here has no move {:?} to this shard",
            request.id
        ));
    }
    if inner.handover.is_some() {
        return Err("BUSY a handover is under way".into());
    }
    inner.next_id += 1;
    let number = inner.next_id;
    let nudge = Arc::new(Notify::new());
    let import = Import {
        session: number,
        slots: slots.clone(),
        state: ImportState {
            id: request.id.clone(),
            state: MovePhase::Copying,
            keys: 0,
        },
        held,
        live: true,
        replaced: false,
        nudge: nudge.clone(),
    };
    inner.imports.insert(request.id.clone(), import);
    drop(inner);
    cluster.refresh_slots();
    cluster.note_change();
    Ok(Some(Begun::Import(Session {
        cluster: cluster.clone(),
        id: request.id.clone(),
        number,
        slots: slots.clone(),
        nudge,
    })))
}

impl Session {
    fn with<T>(&self, f: impl FnOnce(&mut Import) -> T) -> Option<T> {
        let mut inner = self.cluster.inner.lock();
        let import = inner.imports.get_mut(&self.id);
        import.filter(|i| i.session == self.number).map(f)
    }

    /// Drops what an earlier copy left, as logged writes.
    async fn drop_old_data(&self) {
        for slot in self.slots.iter() {
            if slots::clear(&self.cluster.store, slot, SlotState::Importing, false) > 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut grace = false;
        {
            let mut inner = self.cluster.inner.lock();
            let here = inner.imports.get_mut(&self.id);
            if let Some(import) = here.filter(|i| i.session == self.number) {
                import.live = false;
                grace = import.held;
                if !grace {
                    inner.imports.remove(&self.id);
                }
            }
        }
        self.cluster.note_change();
        if grace && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(release_later(
                self.cluster.clone(),
                self.id.clone(),
                self.number,
            ));
        }
    }
}

/// Serves held slots although the source is gone, unless it comes back in time.
async fn release_later(cluster: Arc<Cluster>, id: String, number: u64) {
    sleep(GRACE).await;
    {
        let mut inner = cluster.inner.lock();
        match inner.imports.get(&id) {
            Some(import) if import.session == number => inner.imports.remove(&id),
            _ => return,
        };
    }
    tracing::error!(
        id,
        "the source of a move went away before its last writes; serving the slots with what came"
    );
    cluster.refresh_slots();
    cluster.note_change();
}

struct Importer<W> {
    session: Session,
    out: FrameWriter<W>,
    /// Bytes of effects.
    applied: u64,
    /// The last count that was acknowledged, and when.
    acked: (u64, Instant),
}

impl<W: AsyncWrite + Unpin> Importer<W> {
    async fn run<R: AsyncRead + Unpin>(&mut self, input: &mut FrameReader<R>) -> io::Result<()> {
        let mut heard = Instant::now();
        let mut tick = tokio::time::interval(ACK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let nudge = self.session.nudge.clone();
        loop {
            tokio::select! {
                frame = input.next() => {
                    heard = Instant::now();
                    if self.take(&frame?).await? {
                        return Ok(());
                    }
                }
                () = nudge.notified() => {
                    if self.on_nudge().await? {
                        return Ok(());
                    }
                }
                _ = tick.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err(silent(SILENCE));
                    }
                    let (applied, at) = self.acked;
                    if applied != self.applied || at.elapsed() >= ALIVE {
                        self.ack().await?;
                    }
                }
            }
        }
    }

    async fn ack(&mut self) -> io::Result<()> {
        self.out
            .send(kind::ACK, &[&self.applied.to_le_bytes()])
            .await?;
        self.acked = (self.applied, Instant::now());
        Ok(())
    }

    /// Gives whether the stream is over.
    async fn take(&mut self, frame: &Frame) -> io::Result<bool> {
        match frame.kind {
            kind::BEGIN | kind::HEARTBEAT => {}
            kind::ASK => self.ack().await?,
            kind::EFFECTS => self.apply(frame).await?,
            kind::COMPLETE => {
                self.session.with(|i| i.state.state = MovePhase::Streaming);
                self.session.cluster.note_change();
                self.ack().await?;
            }
            kind::SEAL => return self.seal().await,
            kind::UNSEAL => return self.unseal().await,
            _ => return Err(unexpected(frame)),
        }
        Ok(false)
    }

    async fn apply(&mut self, frame: &Frame) -> io::Result<()> {
        let cluster = &self.session.cluster;
        while !cluster.log.has_credit() {
            // Our own replicas are behind.
            sleep(Duration::from_millis(2)).await;
        }
        let applied = apply_copied(&cluster.store, &frame.payload, Source::Move);
        let applied = applied.map_err(io::Error::other)?;
        self.applied += frame.payload.len() as u64;
        self.session.with(|i| i.state.keys += applied);
        Ok(())
    }

    /// Everything is here. If the slots are ours already, they serve from now on. The source drops its copy after the seal, so a replica
    /// that follows has to hold what came first.
    async fn seal(&mut self) -> io::Result<bool> {
        if timeout(REPLICATED, self.session.cluster.replicated())
            .await
            .is_err()
        {
            return Err(io::Error::other(
                "no replica of the destination took the moved slots in time",
            ));
        }
        let was_held = self.session.with(|i| {
            i.state.state = MovePhase::Sealed;
            std::mem::take(&mut i.held)
        });
        if was_held == Some(true) {
            self.session.cluster.refresh_slots();
        }
        self.session.cluster.note_change();
        self.out.send(kind::SEALED, &[]).await?;
        Ok(was_held != Some(false))
    }

    /// Forgets the seal, unless the slots became ours by it.
    async fn unseal(&mut self) -> io::Result<bool> {
        let owned = {
            let mut inner = self.session.cluster.inner.lock();
            let owned = owns(&inner, &self.session.slots);
            let import = inner.imports.get_mut(&self.session.id);
            match import.filter(|i| i.session == self.session.number) {
                Some(import) if !owned => {
                    import.state.state = MovePhase::Streaming;
                    None
                }
                _ => inner.topology.clone(),
            }
        };
        match owned {
            Some(known) => {
                self.out.send(kind::OWNED, &[known.json.as_bytes()]).await?;
                Ok(true)
            }
            None => {
                self.session.cluster.note_change();
                self.out.send(kind::UNSEALED, &[]).await?;
                Ok(false)
            }
        }
    }

    /// A topology came, or another session takes over. Gives whether the stream is over.
    async fn on_nudge(&mut self) -> io::Result<bool> {
        let (owned, over) = {
            let inner = self.session.cluster.inner.lock();
            let import = inner.imports.get(&self.session.id);
            let Some(import) = import.filter(|i| i.session == self.session.number) else {
                return Ok(true);
            };
            if import.replaced {
                return Ok(true);
            }
            let owned = owns(&inner, &self.session.slots);
            let listed = inner.topology.as_ref().is_some_and(|known| {
                known
                    .topology
                    .moves
                    .iter()
                    .any(|m| m.id == self.session.id && m.to == inner.part.shard)
            });
            let primary = inner.part.role == Role::Primary;
            let json = inner
                .topology
                .as_ref()
                .filter(|_| owned)
                .map(|k| k.json.clone());
            (
                json,
                !primary || (owned && !import.held) || (!owned && !listed),
            )
        };
        if let Some(json) = owned {
            self.out.send(kind::OWNED, &[json.as_bytes()]).await?;
        }
        Ok(over)
    }
}

impl Cluster {
    /// After a topology was taken, before its slots serve: those whose import is not sealed are held back.
    pub(crate) fn hold_incomplete_imports(&self) {
        let mut inner = self.inner.lock();
        let ids: Vec<String> = inner.imports.keys().cloned().collect();
        for id in ids {
            let slots = inner.imports.get(&id).map(|i| i.slots.clone());
            let owned = slots.is_some_and(|slots| owns(&inner, &slots));
            if let Some(import) = inner.imports.get_mut(&id) {
                let sealed = import.state.state == MovePhase::Sealed;
                import.held = owned && !sealed;
                if import.held {
                    tracing::warn!(
                        id,
                        "slots became ours before their import was sealed; waiting for the source's last writes"
                    );
                }
            }
        }
    }

    /// Tells the sessions of imports of a new topology.
    pub(crate) fn nudge_imports(&self) {
        for import in self.inner.lock().imports.values() {
            import.nudge.notify_one();
        }
    }
}
