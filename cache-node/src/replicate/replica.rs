//! A replica's side of replication. What it holds is whole (`!fresh`) or says that it is not: from the moment a full sync drops the old data
//! until its end, the node is fresh again, so that nobody makes it primary.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep};

use super::effects::{Source, apply_copied, apply_records};
use super::frame::{Frame, FrameReader, FrameWriter, kind, silent, unexpected};
use super::history::History;
use super::{Begin, SyncRequest};
use crate::cluster::state::{PROTOCOL, SyncPhase};
use crate::cluster::topology::Member;
use crate::cluster::{Cluster, slots};
use crate::control::client::Peer;
use crate::control::resp::Reply;
use crate::log::Position;
use crate::store::{SLOTS, SlotState};

/// A primary that says nothing for so long is gone. It sends something every second.
const SILENCE: Duration = Duration::from_secs(10);
/// An acknowledgement follows what is applied within it.
const ACK: Duration = Duration::from_millis(50);
/// And comes so often in any case.
const ALIVE: Duration = Duration::from_secs(1);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(3);

/// Follows a primary until the task is aborted, which happens between frames only.
pub async fn follow(cluster: Arc<Cluster>, primary: Member) {
    let mut wait = RETRY_MIN;
    loop {
        let begun = Instant::now();
        let error = match session(&cluster, &primary).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if begun.elapsed() > RETRY_MAX {
            wait = RETRY_MIN;
        }
        tracing::info!(primary = primary.name, %error, "not following; trying again");
        {
            let mut inner = cluster.inner.lock();
            inner.sync.state = SyncPhase::Connecting;
            inner.sync.error = error.to_string();
        }
        cluster.note_change();
        sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

async fn session(cluster: &Arc<Cluster>, primary: &Member) -> io::Result<std::convert::Infallible> {
    let mut peer = Peer::reach(primary, &cluster.password()?).await?;
    let request = serde_json::to_vec(&request(cluster)).map_err(io::Error::other)?;
    let full = match peer.ask(&[b"CACHE.NODE", b"SYNC", &request]).await? {
        Reply::Simple(word) if word == "CONTINUE" => false,
        Reply::Simple(word) if word == "FULL" => true,
        other => {
            return Err(io::Error::other(format!(
                "unexpected reply to SYNC: {other:?}"
            )));
        }
    };
    let (stream, buffer) = peer.into_parts();
    let (input, output) = stream.into_split();
    if !full {
        cluster.now_streaming();
    }
    let receiver = Receiver {
        cluster: cluster.clone(),
        full,
        output: FrameWriter::new(output),
        acked: (0, Instant::now()),
    };
    receiver.run(FrameReader::new(input, buffer)).await
}

fn request(cluster: &Cluster) -> SyncRequest {
    let at = cluster.log.position();
    let inner = cluster.inner.lock();
    let at = if inner.fresh { Position::default() } else { at };
    let topology = inner.topology.as_ref().map(|k| &k.topology);
    SyncRequest {
        protocol: PROTOCOL,
        member: cluster.member.clone(),
        data_id: cluster.data_id.clone(),
        cluster_id: topology.map_or(String::new(), |t| t.cluster_id.clone()),
        epoch: topology.map_or(0, |t| t.epoch),
        log_epoch: at.epoch,
        offset: at.offset,
    }
}

struct Receiver<W> {
    cluster: Arc<Cluster>,
    /// A full sync is under way.
    full: bool,
    output: FrameWriter<W>,
    /// The last offset that was acknowledged, and when.
    acked: (u64, Instant),
}

impl<W: AsyncWrite + Unpin> Receiver<W> {
    async fn run<R: AsyncRead + Unpin>(
        mut self,
        mut input: FrameReader<R>,
    ) -> io::Result<std::convert::Infallible> {
        let mut heard = Instant::now();
        let mut tick = tokio::time::interval(ACK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                frame = input.next() => {
                    heard = Instant::now();
                    self.take(&frame?).await?;
                }
                _ = tick.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err(silent(SILENCE));
                    }
                    let (offset, at) = self.acked;
                    if offset != self.offset() || at.elapsed() >= ALIVE {
                        self.ack().await?;
                    }
                }
            }
        }
    }

    /// What is held: nothing while a full sync is under way.
    fn offset(&self) -> u64 {
        if self.full {
            0
        } else {
            self.cluster.log.position().offset
        }
    }

    async fn ack(&mut self) -> io::Result<()> {
        let offset = self.offset();
        self.output
            .send(kind::ACK, &[&offset.to_le_bytes()])
            .await?;
        self.acked = (offset, Instant::now());
        Ok(())
    }

    async fn take(&mut self, frame: &Frame) -> io::Result<()> {
        match (frame.kind, self.full) {
            (kind::BEGIN, true) => self.begin_full(frame).await,
            (kind::EFFECTS, true) => {
                let applied = apply_copied(&self.cluster.store, &frame.payload, Source::Primary);
                let applied = applied.map_err(io::Error::other)?;
                self.cluster.inner.lock().sync.keys_done += applied;
                Ok(())
            }
            (kind::POSITION, full) => {
                let [epoch, offset] = frame.numbers()?;
                let at = Position { epoch, offset };
                if full {
                    self.end_full(at);
                    self.ack().await
                } else {
                    self.begin_epoch(at)
                }
            }
            (kind::LOG, false) => self.take_log(frame),
            (kind::HEARTBEAT, full) => {
                if let (Ok(end), false) = (frame.number(), full) {
                    let lag = end.saturating_sub(self.offset());
                    self.cluster.inner.lock().sync.lag_bytes = lag;
                }
                Ok(())
            }
            (kind::ASK, _) => self.ack().await,
            _ => Err(unexpected(frame)),
        }
    }

    /// Drops the old data: from here on until [`Self::end_full`] this node holds nothing whole.
    async fn begin_full(&self, frame: &Frame) -> io::Result<()> {
        let begin: Begin = serde_json::from_slice(&frame.payload).map_err(io::Error::other)?;
        self.cluster.now_incomplete(SyncPhase::Full);
        self.cluster.inner.lock().sync.keys_total = begin.keys_total;
        for slot in 0..SLOTS {
            // Nothing is served while `fresh`, so all slots are in this state.
            if slots::clear(&self.cluster.store, slot, SlotState::None, true) > 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    fn end_full(&mut self, at: Position) {
        self.full = false;
        self.cluster.log.begin_history(at, false);
        {
            let mut inner = self.cluster.inner.lock();
            inner.history = History::from(at);
            inner.fresh = false;
        }
        tracing::info!(
            log_epoch = at.epoch,
            offset = at.offset,
            "the full sync is complete"
        );
        self.cluster.now_streaming();
    }

    fn begin_epoch(&self, at: Position) -> io::Result<()> {
        let here = self.cluster.log.position();
        if at.offset != here.offset || at.epoch <= here.epoch {
            return Err(io::Error::other(format!(
                "epoch {at:?} cannot follow {here:?}"
            )));
        }
        self.cluster.log.begin_history(at, true);
        self.cluster.inner.lock().history.advance(at);
        Ok(())
    }

    /// Applies log records and keeps them. Nothing is awaited, so the store and the log's end agree.
    fn take_log(&self, frame: &Frame) -> io::Result<()> {
        let (offset, records) = frame
            .payload
            .split_first_chunk::<8>()
            .ok_or_else(|| unexpected(frame))?;
        let (offset, here) = (
            u64::from_le_bytes(*offset),
            self.cluster.log.position().offset,
        );
        if offset != here {
            return Err(io::Error::other(format!(
                "the log goes on at {offset}, not at {here}"
            )));
        }
        if let Err(error) = apply_records(&self.cluster.store, records) {
            // A part of a record may be applied: only a full sync mends that.
            self.cluster.now_incomplete(SyncPhase::Connecting);
            return Err(io::Error::other(error));
        }
        self.cluster.log.append_raw(records);
        Ok(())
    }
}

impl Cluster {
    /// This node holds a whole copy and follows the log.
    fn now_streaming(&self) {
        {
            let mut inner = self.inner.lock();
            inner.sync.state = SyncPhase::Streaming;
            inner.sync.error.clear();
        }
        self.refresh_slots();
        self.note_change();
    }

    /// What this node holds is not whole any more.
    fn now_incomplete(&self, phase: SyncPhase) {
        {
            let mut inner = self.inner.lock();
            inner.fresh = true;
            inner.history = History::default();
            inner.sync.state = phase;
            inner.sync.error.clear();
            inner.sync.keys_done = 0;
            inner.sync.lag_bytes = 0;
        }
        self.log.begin_history(Position::default(), false);
        self.refresh_slots();
        self.note_change();
    }
}
