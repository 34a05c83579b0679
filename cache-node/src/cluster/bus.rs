//! Messages on their way to the subscribers of other nodes, over the control ports. Each member has a queue of bounded size and one
//! connection. A message that finds a queue full, or whose connection breaks, is lost for that member: nobody waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::Cluster;
use super::topology::Member;
use crate::control::client::Peer;
use crate::limits::{BUS_BATCH, BUS_QUEUE_MAX};
use crate::pubsub::Kind;
use crate::store::effect::write_command;

/// Between attempts to reach a member.
const RETRY: Duration = Duration::from_millis(200);

/// A message as it is sent.
#[derive(Debug, Clone)]
struct Sent {
    bytes: Bytes,
    /// To the members of this node's shard alone.
    own_shard: bool,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Bus {
    queue: OnceLock<mpsc::UnboundedSender<Sent>>,
    /// Bytes in the queue to all.
    waiting: AtomicUsize,
    /// Messages that were lost on the way to a member.
    pub lost: AtomicU64,
}

struct Link {
    queue: mpsc::UnboundedSender<Bytes>,
    waiting: Arc<AtomicUsize>,
}

impl Bus {
    fn push(&self, sent: Sent) {
        let Some(queue) = self.queue.get() else {
            return;
        };
        let bytes = sent.bytes.len();
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        // The receiver lives as long as the runtime.
        if before > BUS_QUEUE_MAX || queue.send(sent).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Cluster {
    /// Sends a message to the other nodes: of a sharded channel to those of this shard, else to all.
    pub fn spread(&self, kind: Kind, channel: &[u8], message: &[u8]) {
        if self.is_standalone() {
            return;
        }
        let own_shard = kind == Kind::Shard;
        let word: &[u8] = if own_shard { b"SPUBLISH" } else { b"PUBLISH" };
        let mut bytes = Vec::new();
        write_command(&mut bytes, &[b"CACHE.NODE", word, channel, message]);
        self.bus.push(Sent {
            bytes: bytes.into(),
            own_shard,
        });
    }

    /// The other members that a message goes to.
    fn addressees(&self, own_shard: bool) -> Vec<Member> {
        let Some(known) = self.known() else {
            return Vec::new();
        };
        let shards = known.topology.shards.iter();
        let is_ours = |member: &Member| member.name == self.member;
        shards
            .filter(|shard| !own_shard || shard.members.iter().any(is_ours))
            .flat_map(|shard| &shard.members)
            .filter(|member| !is_ours(member) && !member.host.is_empty())
            .cloned()
            .collect()
    }
}

/// Sends what [`Cluster::spread`] is given, as long as the runtime lives.
pub async fn run(cluster: Arc<Cluster>) {
    let (queue, mut messages) = mpsc::unbounded_channel::<Sent>();
    if cluster.bus.queue.set(queue).is_err() {
        return;
    }
    let mut links: HashMap<String, Link> = HashMap::new();
    while let Some(sent) = messages.recv().await {
        let bytes = sent.bytes.len();
        cluster.bus.waiting.fetch_sub(bytes, Ordering::Relaxed);
        for member in cluster.addressees(sent.own_shard) {
            let link = links
                .entry(member.name.clone())
                .or_insert_with(|| open(&cluster, member.name.clone()));
            let before = link.waiting.fetch_add(bytes, Ordering::Relaxed);
            if before > BUS_QUEUE_MAX || link.queue.send(sent.bytes.clone()).is_err() {
                link.waiting.fetch_sub(bytes, Ordering::Relaxed);
                cluster.bus.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        // Who is in the topology no more needs no connection.
        if links.len() > cluster.addressees(false).len() {
            let names: Vec<String> = cluster
                .addressees(false)
                .into_iter()
                .map(|m| m.name)
                .collect();
            links.retain(|name, _| names.contains(name));
        }
    }
}

fn open(cluster: &Arc<Cluster>, member: String) -> Link {
    let (queue, messages) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    tokio::spawn(carry(cluster.clone(), member, messages, waiting.clone()));
    Link { queue, waiting }
}

/// Carries messages to one member until nobody sends any more.
async fn carry(
    cluster: Arc<Cluster>,
    member: String,
    mut messages: mpsc::UnboundedReceiver<Bytes>,
    waiting: Arc<AtomicUsize>,
) {
    let mut stream: Option<TcpStream> = None;
    while let Some(first) = messages.recv().await {
        let mut batch = first.to_vec();
        let mut count = 1;
        while batch.len() < BUS_BATCH
            && let Ok(next) = messages.try_recv()
        {
            batch.extend_from_slice(&next);
            count += 1;
        }
        waiting.fetch_sub(batch.len(), Ordering::Relaxed);
        if stream.is_none() {
            stream = reach(&cluster, &member).await;
        }
        let sent = match &mut stream {
            Some(stream) => exchange(stream, &batch, count).await,
            None => Err(std::io::ErrorKind::NotConnected.into()),
        };
        if let Err(error) = sent {
            tracing::debug!(member, %error, count, "messages to another node's subscribers are lost");
            cluster.bus.lost.fetch_add(count as u64, Ordering::Relaxed);
            if stream.take().is_none() {
                sleep(RETRY).await;
            }
        }
    }
}

async fn reach(cluster: &Cluster, member: &str) -> Option<TcpStream> {
    let password = cluster.password().ok()?;
    let members = cluster.addressees(false);
    let member = members.iter().find(|m| m.name == member)?;
    let peer = Peer::reach(member, &password).await.ok()?;
    Some(peer.into_parts().0)
}

/// Sends a batch and takes its replies: as many lines, as each is a number or an error.
async fn exchange(stream: &mut TcpStream, batch: &[u8], count: usize) -> std::io::Result<()> {
    const ANSWER: Duration = Duration::from_secs(5);
    let (mut input, mut output) = stream.split();
    let replies = async {
        let (mut lines, mut piece) = (0, vec![0; 4096]);
        while lines < count {
            let read = input.read(&mut piece).await?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            lines += piece[..read].iter().filter(|&&b| b == b'\n').count();
        }
        Ok(())
    };
    let both = async { tokio::try_join!(output.write_all(batch), replies) };
    tokio::time::timeout(ANSWER, both)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    Ok(())
}
