//! The source's side of a slot move.
//!
//! While the move is sealed the destination may have become the owner already, so writes go on only when the destination has said that it
//! has not: it answers an unseal, or, after a broken connection, accepts a new copy. Until then they wait.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{GIVES_UP, ImportRequest};
use crate::cluster::state::{EFFECTS_PROTOCOL, MovePhase, MoveState, PROTOCOL};
use crate::cluster::topology::{Member, Move};
use crate::cluster::{Cluster, now_ms};
use crate::control::client::Peer;
use crate::control::resp::Reply;
use crate::log::{SlotSet, WalkConsumer, WalkEvent};
use crate::replicate::Begin;
use crate::replicate::frame::{Frame, FrameReader, FrameWriter, kind, silent, unexpected};

/// A destination that says nothing for so long is gone: writers may be waiting for it. It says something every second.
const SILENCE: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_secs(1);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

type Sealed = Result<(u64, u64), String>;

/// What is asked of an export.
#[derive(Debug)]
pub enum Command {
    Seal(Duration, oneshot::Sender<Sealed>),
    Unseal(oneshot::Sender<Result<(), String>>),
}

/// Reaches an export's task.
#[derive(Debug, Clone)]
pub struct ExportControl(mpsc::Sender<Command>);

pub fn control() -> (ExportControl, mpsc::Receiver<Command>) {
    let (sender, receiver) = mpsc::channel(4);
    (ExportControl(sender), receiver)
}

/// Pauses writes to a move's slots and has the destination hold all of them. Gives keys and bytes.
pub async fn seal(cluster: &Cluster, id: &str, time: Duration) -> Sealed {
    let (reply, answer) = oneshot::channel();
    send(cluster, id, Command::Seal(time, reply)).await?;
    answer.await.map_err(|_| ended(id))?
}

/// Cancels a seal: writes go on when this returns.
pub async fn unseal(cluster: &Cluster, id: &str) -> Result<(), String> {
    let (reply, answer) = oneshot::channel();
    send(cluster, id, Command::Unseal(reply)).await?;
    answer.await.map_err(|_| ended(id))?
}

fn ended(id: &str) -> String {
    format!("move {id:?} ended: a newer topology, or its connection broke")
}

async fn send(cluster: &Cluster, id: &str, command: Command) -> Result<(), String> {
    let Some(control) = cluster.export(id).await else {
        return Err(format!(
            "{} exports no move {id:?}: ask the source's primary, with a topology that lists the move",
            cluster.member
        ));
    };
    control.0.send(command).await.map_err(|_| ended(id))
}

/// Runs a move until the topology has it no more (the task is aborted then).
pub async fn run(
    cluster: Arc<Cluster>,
    m: Move,
    to: Member,
    mut commands: mpsc::Receiver<Command>,
) {
    let slots = m.slot_set();
    let mut wait = RETRY_MIN;
    report(&cluster, &m.id, |s| *s = MoveState::default());
    loop {
        let begun = Instant::now();
        let outcome = session(&cluster, &m, &slots, &to, &mut commands).await;
        let (phase, why) = match outcome {
            Ok(()) => (
                MovePhase::Waiting,
                "the destination owns the slots already".to_owned(),
            ),
            Err(Broken::Stream(e)) => (MovePhase::Waiting, e.to_string()),
            Err(Broken::GaveUp(why)) => (MovePhase::Failed, why),
        };
        tracing::info!(
            id = m.id,
            to = to.name,
            why,
            "the move's stream ended; copying anew"
        );
        report(&cluster, &m.id, |s| {
            s.state = phase;
            s.error = why.clone();
        });
        cluster.note_change();
        if begun.elapsed() > RETRY_MAX {
            wait = RETRY_MIN;
        }
        refuse_for(wait, &mut commands, &why).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

fn report(cluster: &Cluster, id: &str, change: impl FnOnce(&mut MoveState)) {
    let mut inner = cluster.inner.lock();
    let state = inner.moves.entry(id.to_owned()).or_default();
    change(state);
    state.id = id.to_owned();
}

/// Answers commands while there is no stream.
async fn refuse_for(time: Duration, commands: &mut mpsc::Receiver<Command>, why: &str) {
    let until = sleep(time);
    tokio::pin!(until);
    loop {
        tokio::select! {
            () = &mut until => return,
            Some(command) = commands.recv() => match command {
                // Whoever asked may be gone.
                Command::Seal(_, reply) => drop(reply.send(Err(format!("the copy is not complete: {why}")))),
                Command::Unseal(reply) => drop(reply.send(Err(format!("the destination is not connected: {why}")))),
            },
        }
    }
}

enum Broken {
    Stream(io::Error),
    GaveUp(String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Stream(error)
    }
}

/// One connection: from nothing to the switch. Returns when the destination owns the slots.
async fn session(
    cluster: &Arc<Cluster>,
    m: &Move,
    slots: &SlotSet,
    to: &Member,
    commands: &mut mpsc::Receiver<Command>,
) -> Result<(), Broken> {
    let mut peer = Peer::reach(to, &cluster.password()?).await?;
    let request = ImportRequest {
        protocol: PROTOCOL,
        id: m.id.clone(),
        slots: m.slots.clone(),
        cluster_id: cluster
            .known()
            .map_or(String::new(), |k| k.topology.cluster_id.clone()),
        epoch: cluster.known().map_or(0, |k| k.topology.epoch),
        from: cluster.member.clone(),
    };
    let request = serde_json::to_vec(&request).map_err(io::Error::other)?;
    // The destination drops what it has in the slots before it answers.
    let answer = peer
        .ask_within(
            &[b"CACHE.NODE", b"IMPORT", &request],
            Duration::from_secs(60),
        )
        .await?;
    let _old = (protocol_of(&answer) < EFFECTS_PROTOCOL)
        .then(|| cluster.log.admit_old_follower(&cluster.store));
    let (stream, buffer) = peer.into_parts();
    let (input, output) = stream.into_split();
    let mut input = FrameReader::new(input, buffer);
    let mut out = FrameWriter::new(output);
    // Its first answer tells whether it owns the slots.
    out.send(kind::ASK, &[]).await?;
    let first = input.next_within(SILENCE).await?;
    match first.kind {
        kind::OWNED => {
            adopt(cluster, &first);
            return Ok(());
        }
        kind::ACK => {}
        GIVES_UP => return Err(gave_up(&first)),
        _ => return Err(unexpected(&first).into()),
    }
    // It does not own them and begins anew: a seal of before holds nothing any more.
    unpause(cluster, &m.id);
    let keys_total = count(cluster, slots).0;
    let begin = Begin {
        log_epoch: cluster.log.position().epoch,
        keys_total,
    };
    let begin = serde_json::to_vec(&begin).map_err(io::Error::other)?;
    out.send(kind::BEGIN, &[&begin]).await?;
    report(cluster, &m.id, |s| {
        *s = MoveState {
            state: MovePhase::Copying,
            keys_total,
            ..MoveState::default()
        };
    });
    cluster.note_change();
    let walk = cluster.attach_walk(slots.clone());
    let mut export = Export {
        cluster,
        id: &m.id,
        slots,
        out,
        walk: &walk,
        sent: 0,
        acked: 0,
        complete_at: None,
        stage: Stage::Open,
        owned: None,
        heard: Instant::now(),
    };
    let copy = walk.copy(&cluster.store, now_ms, |items| {
        report(cluster, &m.id, |s| s.keys_done += items as u64);
    });
    let copy = async {
        copy.await;
        std::future::pending().await
    };
    tokio::select! {
        outcome = export.run(input, commands) => outcome,
        never = copy => never,
    }
}

/// The protocol that a destination speaks: it follows the `OK`, from protocol 2 on.
fn protocol_of(answer: &Reply) -> u32 {
    match answer {
        Reply::Simple(text) => text.strip_prefix("OK ").and_then(|n| n.parse().ok()),
        _ => None,
    }
    .unwrap_or(1)
}

/// Takes the topology by which the destination owns the slots. That ends this task, so it is done in another.
fn adopt(cluster: &Arc<Cluster>, frame: &Frame) {
    let (cluster, json) = (cluster.clone(), frame.payload.clone());
    tokio::spawn(async move {
        if let Err(error) = cluster.set_topology(&json).await {
            tracing::warn!(%error, "the destination of a move owns the slots by a topology that is not taken here");
        }
    });
}

fn gave_up(frame: &Frame) -> Broken {
    Broken::GaveUp(String::from_utf8_lossy(&frame.payload).into_owned())
}

fn pause(cluster: &Cluster, id: &str, slots: &SlotSet) {
    cluster
        .inner
        .lock()
        .sealed
        .insert(id.to_owned(), slots.clone());
    cluster.refresh_slots();
}

fn unpause(cluster: &Cluster, id: &str) {
    let was = cluster.inner.lock().sealed.remove(id);
    if was.is_some() {
        cluster.refresh_slots();
    }
}

/// Keys and bytes of the slots.
fn count(cluster: &Cluster, slots: &SlotSet) -> (u64, u64) {
    slots.iter().fold((0, 0), |(keys, bytes), slot| {
        let guard = cluster.store.lock(slot);
        (
            keys + guard.slot_len(slot) as u64,
            bytes + guard.slot_bytes(slot),
        )
    })
}

enum Stage {
    /// Writes go on.
    Open,
    /// Writes are paused; the rest is on its way to the destination.
    Sealing {
        mark: u64,
        time: Duration,
        give_up: Instant,
        reply: Option<oneshot::Sender<Sealed>>,
    },
    /// The destination holds everything; writes wait for the switch.
    Sealed { until: Instant },
    /// The destination is asked to forget the seal.
    Unsealing {
        replies: Vec<oneshot::Sender<Result<(), String>>>,
    },
}

struct Export<'a, W> {
    cluster: &'a Arc<Cluster>,
    id: &'a str,
    slots: &'a SlotSet,
    out: FrameWriter<W>,
    walk: &'a WalkConsumer,
    /// Bytes of effects, as the destination counts them.
    sent: u64,
    acked: u64,
    /// What was sent when the copy was complete.
    complete_at: Option<u64>,
    stage: Stage,
    /// The destination owns the slots by this frame's topology, and waits for our last writes.
    owned: Option<Frame>,
    heard: Instant,
}

impl<W: AsyncWrite + Unpin> Export<'_, W> {
    async fn run<R: AsyncRead + Unpin>(
        &mut self,
        mut input: FrameReader<R>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<(), Broken> {
        let mut beat = tokio::time::interval(HEARTBEAT);
        loop {
            let deadline = self.deadline();
            tokio::select! {
                event = self.walk.next() => self.send_event(event).await?,
                frame = input.next() => {
                    self.heard = Instant::now();
                    if self.take(frame?).await? {
                        return Ok(());
                    }
                }
                Some(command) = commands.recv() => self.command(command).await?,
                () = sleep_until(deadline) => self.late().await?,
                _ = beat.tick() => {
                    if self.heard.elapsed() > SILENCE {
                        return Err(silent(SILENCE).into());
                    }
                    self.out.send(kind::HEARTBEAT, &[]).await?;
                    self.out.send(kind::ASK, &[]).await?;
                }
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.complete_at.is_some_and(|at| self.acked >= at)
    }

    fn deadline(&self) -> Instant {
        match &self.stage {
            Stage::Sealing { give_up, .. } => *give_up,
            Stage::Sealed { until } => *until,
            _ => Instant::now() + Duration::from_secs(3600),
        }
    }

    async fn send_event(&mut self, event: Option<WalkEvent>) -> io::Result<()> {
        match event {
            None => Err(io::Error::other(
                "the destination is slower than the writes",
            )),
            Some(WalkEvent::Commands(commands)) => {
                self.out.send(kind::EFFECTS, &[&commands]).await?;
                self.sent += commands.len() as u64;
                Ok(())
            }
            Some(WalkEvent::Mark { mark, .. }) if WalkConsumer::is_copy_end(mark) => {
                self.complete_at = Some(self.sent);
                self.out.send(kind::COMPLETE, &[]).await?;
                self.out.send(kind::ASK, &[]).await
            }
            Some(WalkEvent::Mark { mark, .. }) => match &self.stage {
                Stage::Sealing { mark: wanted, .. } if *wanted == mark => {
                    self.out.send(kind::SEAL, &[]).await
                }
                _ => Ok(()),
            },
        }
    }

    /// Gives whether the move is over.
    async fn take(&mut self, frame: Frame) -> Result<bool, Broken> {
        match frame.kind {
            kind::ACK => {
                self.acked = frame.number()?;
                let streams = self.is_complete();
                let turned = {
                    let mut turned = false;
                    report(self.cluster, self.id, |s| {
                        s.bytes_done = self.acked;
                        if streams && s.state == MovePhase::Copying {
                            s.state = MovePhase::Streaming;
                            turned = true;
                        }
                    });
                    turned
                };
                if turned {
                    self.cluster.note_change();
                }
                if self.owned.is_some() && self.is_complete() && matches!(self.stage, Stage::Open) {
                    self.begin_seal(SILENCE, None);
                }
            }
            kind::SEALED => return Ok(self.sealed()),
            kind::UNSEALED => {
                if let Stage::Unsealing { replies } =
                    std::mem::replace(&mut self.stage, Stage::Open)
                {
                    unpause(self.cluster, self.id);
                    report(self.cluster, self.id, |s| s.state = MovePhase::Streaming);
                    self.cluster.note_change();
                    for reply in replies {
                        // Whoever asked may be gone.
                        let _ = reply.send(Ok(()));
                    }
                }
            }
            kind::OWNED => {
                if matches!(self.stage, Stage::Open) {
                    // It waits for what was written here since; `ACK` goes on with it.
                    self.owned = Some(frame);
                    if self.is_complete() {
                        self.begin_seal(SILENCE, None);
                    }
                } else if matches!(self.stage, Stage::Sealing { .. }) {
                    self.owned = Some(frame);
                } else {
                    adopt(self.cluster, &frame);
                    return Ok(true);
                }
            }
            GIVES_UP => return Err(gave_up(&frame)),
            _ => return Err(unexpected(&frame).into()),
        }
        Ok(false)
    }

    /// The destination holds everything. Gives whether it is the owner too.
    fn sealed(&mut self) -> bool {
        let Stage::Sealing { time, reply, .. } = std::mem::replace(&mut self.stage, Stage::Open)
        else {
            return false;
        };
        self.stage = Stage::Sealed {
            until: Instant::now() + time,
        };
        report(self.cluster, self.id, |s| s.state = MovePhase::Sealed);
        self.cluster.note_change();
        if let Some(reply) = reply {
            // Whoever asked may be gone; then the time limit unseals.
            let _ = reply.send(Ok(count(self.cluster, self.slots)));
        }
        match self.owned.take() {
            Some(frame) => {
                adopt(self.cluster, &frame);
                true
            }
            None => false,
        }
    }

    async fn command(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::Seal(time, reply) => {
                let is_complete = self.is_complete();
                let why = match &mut self.stage {
                    // An operator that comes after one that was killed here goes on with it.
                    Stage::Sealed { until } => {
                        *until = Instant::now() + time;
                        let _ = reply.send(Ok(count(self.cluster, self.slots)));
                        return Ok(());
                    }
                    Stage::Open if is_complete => {
                        self.begin_seal(time, Some(reply));
                        return Ok(());
                    }
                    Stage::Open => "its copy is not complete yet: wait for Streaming",
                    Stage::Unsealing { .. } => "it is being unsealed: try again",
                    Stage::Sealing { .. } => "it is being sealed: UNSEAL cancels that",
                };
                let _ = reply.send(Err(format!("move {:?}: {why}", self.id)));
                Ok(())
            }
            Command::Unseal(reply) => match &mut self.stage {
                Stage::Open => {
                    let _ = reply.send(Ok(()));
                    Ok(())
                }
                Stage::Unsealing { replies } => {
                    replies.push(reply);
                    Ok(())
                }
                _ => self.begin_unseal(vec![reply]).await,
            },
        }
    }

    /// From here on no write to the slots comes before the mark's place in the stream.
    fn begin_seal(&mut self, time: Duration, reply: Option<oneshot::Sender<Sealed>>) {
        pause(self.cluster, self.id, self.slots);
        self.stage = Stage::Sealing {
            mark: self.walk.mark(),
            time,
            give_up: Instant::now() + time,
            reply,
        };
    }

    async fn begin_unseal(
        &mut self,
        replies: Vec<oneshot::Sender<Result<(), String>>>,
    ) -> io::Result<()> {
        let stage = std::mem::replace(&mut self.stage, Stage::Unsealing { replies });
        if let Stage::Sealing {
            reply: Some(reply), ..
        } = stage
        {
            let _ = reply.send(Err(format!(
                "move {:?}: the destination did not acknowledge the seal in time",
                self.id
            )));
        }
        self.out.send(kind::UNSEAL, &[]).await
    }

    /// The seal took too long, or nobody switched.
    async fn late(&mut self) -> io::Result<()> {
        tracing::warn!(
            id = self.id,
            "no switch came in time after the seal: unsealing"
        );
        timeout(SILENCE, self.begin_unseal(Vec::new()))
            .await
            .map_err(|_| silent(SILENCE))?
    }
}
