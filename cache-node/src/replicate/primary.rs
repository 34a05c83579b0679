//! A primary's side of replication: one session for each replica.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{interval, timeout};

use super::frame::{FrameReader, FrameWriter, kind, unexpected};
use super::history::History;
use super::{Begin, SyncRequest};
use crate::cluster::role::Role;
use crate::cluster::state::EFFECTS_PROTOCOL;
use crate::cluster::{Cluster, ReplicaProgress, now_ms};
use crate::log::{LogReader, OldFollower, Position, SlotSet, WalkConsumer, WalkEvent};

/// A replica that says nothing for so long is gone: writers may be waiting for it. It says something every second.
const SILENCE: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Bytes of log in a frame, unless one record has more.
const FRAME: usize = 256 * 1024;

struct Session {
    cluster: Arc<Cluster>,
    id: u64,
    member: String,
    history: History,
    ask: Arc<Notify>,
    /// Acknowledged from here on, the replica holds a whole copy. `u64::MAX`: its full sync is under way.
    whole_from: AtomicU64,
    /// For a replica of before protocol 2.
    old: Option<OldFollower>,
}

/// How a replica goes on.
enum Way {
    Continue(LogReader, Position),
    Full,
}

/// Serves one replica until the connection ends, this node is no longer primary, or the replica connects anew.
pub async fn serve<R, W>(
    cluster: Arc<Cluster>,
    request: SyncRequest,
    from: Option<IpAddr>,
    input: FrameReader<R>,
    output: W,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut out = FrameWriter::new(output);
    let mut term = cluster.term();
    let session = match begin(cluster, &request, from) {
        Ok(session) => session,
        Err(why) => return out.write(format!("-{why}\r\n").as_bytes()).await,
    };
    let way = session.way(&request);
    let full = matches!(way, Way::Full);
    tracing::info!(replica = session.member, full, "a replica follows");
    let outcome = tokio::select! {
        outcome = session.stream(way, &mut out) => outcome,
        outcome = session.take_acks(input) => outcome,
        _ = term.changed() => Ok(()),
    };
    if let Err(error) = &outcome {
        tracing::warn!(replica = session.member, %error, "a replica is gone");
    }
    outcome
}

/// Registers the replica. An error says why it cannot follow this node.
fn begin(
    cluster: Arc<Cluster>,
    request: &SyncRequest,
    address: Option<IpAddr>,
) -> Result<Session, String> {
    let mut inner = cluster.inner.lock();
    let topology = match &inner.topology {
        Some(known) if inner.part.role == Role::Primary => &known.topology,
        _ => return Err(format!("NOTPRIMARY {} is not a primary", cluster.member)),
    };
    if topology.cluster_id != request.cluster_id {
        let id = &topology.cluster_id;
        return Err(format!("FOREIGNDATA this is a node of cluster {id:?}"));
    }
    if topology.epoch < request.epoch {
        let epoch = topology.epoch;
        return Err(format!("STALEEPOCH this node is at epoch {epoch} still"));
    }
    let of_shard = topology
        .find(&request.member)
        .is_some_and(|(shard, _)| shard.name == inner.part.shard);
    if !of_shard || request.member == cluster.member {
        return Err(format!(
            "ERR {} is no other member of this shard",
            request.member
        ));
    }
    inner.next_id += 1;
    let id = inner.next_id;
    let ask = Arc::new(Notify::new());
    let progress = ReplicaProgress {
        session: id,
        data_id: request.data_id.clone(),
        address,
        synced: false,
        epoch: 0,
        acked: 0,
        acked_at: Instant::now(),
        ask: ask.clone(),
    };
    if let Some(old) = inner.replicas.insert(request.member.clone(), progress) {
        // The old session looks whether it is still registered.
        old.ask.notify_one();
    }
    let history = inner.history.clone();
    drop(inner);
    cluster.note_change();
    let old = (request.protocol < EFFECTS_PROTOCOL)
        .then(|| cluster.log.admit_old_follower(&cluster.store));
    Ok(Session {
        old,
        cluster,
        id,
        member: request.member.clone(),
        history,
        ask,
        whole_from: AtomicU64::new(u64::MAX),
    })
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut inner = self.cluster.inner.lock();
        if inner
            .replicas
            .get(&self.member)
            .is_some_and(|r| r.session == self.id)
        {
            inner.replicas.remove(&self.member);
        }
        drop(inner);
        self.cluster.release_log();
        self.cluster.note_change();
        self.cluster.note_ack();
    }
}

impl Session {
    fn way(&self, request: &SyncRequest) -> Way {
        self.cluster.ensure_log();
        let log = &self.cluster.log;
        let at = Position {
            epoch: request.log_epoch,
            offset: request.offset,
        };
        let ours = at.epoch > 0 && self.history.went_through(at, log.position().offset);
        match log.reader(at.offset) {
            // What was logged before may hold effects that an old replica does not know.
            Some(reader) if ours && self.old.is_none() => Way::Continue(reader, at),
            _ => Way::Full,
        }
    }

    async fn stream<W: AsyncWrite + Unpin>(
        &self,
        way: Way,
        out: &mut FrameWriter<W>,
    ) -> io::Result<()> {
        let (reader, at) = match way {
            Way::Continue(reader, at) => {
                out.write(b"+CONTINUE\r\n").await?;
                self.whole_from.store(at.offset, Ordering::Release);
                // Its answer marks it as synced.
                out.send(kind::ASK, &[]).await?;
                (reader, at)
            }
            Way::Full => {
                out.write(b"+FULL\r\n").await?;
                self.copy(out).await?
            }
        };
        self.follow_log(reader, at, out).await
    }

    /// A full sync. Gives where the log goes on.
    async fn copy<W: AsyncWrite + Unpin>(
        &self,
        out: &mut FrameWriter<W>,
    ) -> io::Result<(LogReader, Position)> {
        let log = &self.cluster.log;
        let walk = self.cluster.attach_walk(SlotSet::all());
        let begin = Begin {
            log_epoch: log.position().epoch,
            keys_total: self.cluster.store.stats().keys,
        };
        let begin = serde_json::to_vec(&begin).map_err(io::Error::other)?;
        out.send(kind::BEGIN, &[&begin]).await?;
        let copy = async {
            walk.copy(&self.cluster.store, now_ms, |_| {}).await;
            std::future::pending().await
        };
        let at = tokio::select! {
            at = self.forward(&walk, out) => at?,
            never = copy => never,
        };
        let Some(reader) = log.reader(at.offset) else {
            return Err(io::Error::other(
                "the log's backlog is too small for the copy's end",
            ));
        };
        drop(walk);
        self.whole_from.store(at.offset, Ordering::Release);
        self.send_position(at, out).await?;
        Ok((reader, at))
    }

    /// Sends what the walk yields, up to the copy's end.
    async fn forward<W: AsyncWrite + Unpin>(
        &self,
        walk: &WalkConsumer,
        out: &mut FrameWriter<W>,
    ) -> io::Result<Position> {
        loop {
            match timeout(HEARTBEAT, walk.next()).await {
                Ok(Some(WalkEvent::Commands(commands))) => {
                    out.send(kind::EFFECTS, &[&commands]).await?;
                }
                Ok(Some(WalkEvent::Mark { position, .. })) => return Ok(position),
                Ok(None) => {
                    return Err(io::Error::other(
                        "the replica is slower than the writes during its full sync",
                    ));
                }
                Err(_) => self.heartbeat(out).await?,
            }
        }
    }

    async fn send_position<W: AsyncWrite + Unpin>(
        &self,
        at: Position,
        out: &mut FrameWriter<W>,
    ) -> io::Result<()> {
        let (epoch, offset) = (at.epoch.to_le_bytes(), at.offset.to_le_bytes());
        out.send(kind::POSITION, &[&epoch, &offset]).await
    }

    async fn heartbeat<W: AsyncWrite + Unpin>(&self, out: &mut FrameWriter<W>) -> io::Result<()> {
        let end = self.cluster.log.position().offset.to_le_bytes();
        out.send(kind::HEARTBEAT, &[&end]).await?;
        out.send(kind::ASK, &[]).await
    }

    /// Streams the log, telling the replica where epochs begin.
    async fn follow_log<W: AsyncWrite + Unpin>(
        &self,
        mut reader: LogReader,
        mut at: Position,
        out: &mut FrameWriter<W>,
    ) -> io::Result<()> {
        let mut beat = interval(HEARTBEAT);
        loop {
            let next = self.history.next_start(at.epoch);
            if let Some(next) = next
                && next.offset <= at.offset
            {
                at.epoch = next.epoch;
                self.send_position(at, out).await?;
                continue;
            }
            tokio::select! {
                records = reader.next(FRAME) => {
                    let Some(records) = records else {
                        return Err(io::Error::other("the replica fell behind the backlog"));
                    };
                    let mut rest = &records.bytes[..];
                    if let Some(next) = next && next.offset < records.offset + rest.len() as u64 {
                        // An epoch begins between records, so this cuts none.
                        let (before, after) = rest.split_at((next.offset - records.offset) as usize);
                        self.send_log(&mut at, before, out).await?;
                        at.epoch = next.epoch;
                        self.send_position(at, out).await?;
                        rest = after;
                    }
                    self.send_log(&mut at, rest, out).await?;
                }
                _ = self.ask.notified() => out.send(kind::ASK, &[]).await?,
                _ = beat.tick() => self.heartbeat(out).await?,
            }
        }
    }

    async fn send_log<W: AsyncWrite + Unpin>(
        &self,
        at: &mut Position,
        bytes: &[u8],
        out: &mut FrameWriter<W>,
    ) -> io::Result<()> {
        if !bytes.is_empty() {
            out.send(kind::LOG, &[&at.offset.to_le_bytes(), bytes])
                .await?;
            at.offset += bytes.len() as u64;
        }
        Ok(())
    }

    /// Takes acknowledgements until the replica is silent or replaced.
    async fn take_acks<R: AsyncRead + Unpin>(&self, mut input: FrameReader<R>) -> io::Result<()> {
        loop {
            let frame = input.next_within(SILENCE).await?;
            if frame.kind != kind::ACK {
                return Err(unexpected(&frame));
            }
            let offset = frame.number()?;
            let whole = offset >= self.whole_from.load(Ordering::Acquire);
            let turned = {
                let mut inner = self.cluster.inner.lock();
                let ours = inner.replicas.get_mut(&self.member);
                let Some(progress) = ours.filter(|r| r.session == self.id) else {
                    return Ok(());
                };
                let turned = whole && !progress.synced;
                progress.acked_at = Instant::now();
                if whole {
                    progress.synced = true;
                    progress.acked = offset;
                    progress.epoch = self.history.epoch_at(offset);
                }
                turned
            };
            self.cluster.note_ack();
            if turned {
                self.cluster.note_change();
            }
        }
    }
}
