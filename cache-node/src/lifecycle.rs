//! A member's beginning and end: learning the topology at the start, handing over before the stop.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::cluster::Cluster;
use crate::cluster::regions::KnownRegions;
use crate::cluster::role::Role;
use crate::cluster::state::SyncPhase;
use crate::cluster::topology::{Known, Member, with_new_primary};
use crate::control::client::Peer;
use crate::persist::datadir::{REGIONS, read_regions, read_topology};

/// The longest that a stopping primary waits for the operator to hand over.
const OPERATOR: Duration = Duration::from_secs(6);
/// The longest that an heir may take for the rest of the log.
const DRAIN: Duration = Duration::from_secs(5);
/// Then a stopping primary's writes stay paused until the heir has answered, or the process ends.
const HOLD: Duration = Duration::from_secs(600);
/// The longest that a stopping primary asks others for a newer topology.
const PEERS: Duration = Duration::from_secs(1);
/// Between looks at peers and the topology file.
const LOOK: Duration = Duration::from_secs(2);

/// Learns the topology: from the data directory and the topology file at once, then from peers and the file, as long as the node has no part
/// or cannot follow its primary. Runs until the runtime ends.
pub async fn join(cluster: Arc<Cluster>, topology_file: Option<PathBuf>) {
    if cluster.is_standalone() {
        return;
    }
    // What is mounted is the operator's last word, or little older; what was kept is for those without a mount.
    let mounted = topology_file.as_deref().and_then(regions_beside);
    if let Some(known) = mounted.or_else(|| cluster.kept_regions()) {
        cluster.offer_regions(known).await;
    }
    tokio::spawn(crate::cluster::bus::run(cluster.clone()));
    let kept = cluster.kept_topology();
    let mut from_file = read_file(topology_file.as_deref());
    if let (Some(kept), Some(file)) = (&kept, &from_file)
        && kept.topology.cluster_id != file.topology.cluster_id
    {
        tracing::error!(
            kept = kept.topology.cluster_id,
            file = file.topology.cluster_id,
            "--data-dir holds another cluster's topology than --topology-file; keeping to --data-dir. Empty it if this node changes its cluster"
        );
    }
    for known in [kept, from_file.clone()].into_iter().flatten() {
        offer(&cluster, &known).await;
    }
    loop {
        sleep(LOOK).await;
        let now = read_file(topology_file.as_deref());
        if now != from_file {
            from_file = now;
            if let Some(known) = &from_file {
                offer(&cluster, known).await;
            }
        }
        if is_lost(&cluster) {
            ask_peers(&cluster).await;
        }
    }
}

/// The list of regions in the folder of the topology file.
fn regions_beside(topology_file: &Path) -> Option<KnownRegions> {
    let path = topology_file.with_file_name(REGIONS);
    read_regions(&path).unwrap_or_else(|error| {
        tracing::warn!(%error, "the list of regions beside --topology-file is not readable; going on without");
        None
    })
}

fn read_file(path: Option<&Path>) -> Option<Known> {
    read_topology(path?).unwrap_or_else(|error| {
        tracing::warn!(%error, "--topology-file is not readable; going on without");
        None
    })
}

/// Takes a topology if it is newer.
async fn offer(cluster: &Arc<Cluster>, known: &Known) {
    let held = cluster.known();
    if held.is_some_and(|h| h.topology.epoch >= known.topology.epoch) {
        return;
    }
    if let Err(error) = cluster.set_topology(known.json.as_bytes()).await {
        tracing::warn!(%error, "a topology that was found is not taken");
    }
}

/// Whether a newer topology would help.
fn is_lost(cluster: &Cluster) -> bool {
    let state = cluster.state();
    match state.role {
        Role::None => true,
        Role::Primary => false,
        _ => state.sync.state != SyncPhase::Streaming && !state.sync.error.is_empty(),
    }
}

async fn ask_peers(cluster: &Arc<Cluster>) {
    let Some(held) = cluster.known() else {
        return;
    };
    let mut answers = JoinSet::new();
    for member in others(cluster, &held) {
        let cluster = cluster.clone();
        answers.spawn(async move {
            let mut peer = Peer::reach(&member, &cluster.password()?).await?;
            let json = peer.ask_text(&[b"CACHE.NODE", b"TOPOLOGY", b"GET"]).await?;
            Ok::<_, io::Error>(json)
        });
    }
    while let Some(answer) = answers.join_next().await {
        // Peers that do not answer, or talk nonsense, are as good as absent.
        let Ok(Ok(Some(json))) = answer else { continue };
        if let Ok(known) = Known::parse(json.as_bytes())
            && known.topology.cluster_id == held.topology.cluster_id
        {
            offer(cluster, &known).await;
        }
    }
}

fn others(cluster: &Cluster, known: &Known) -> Vec<Member> {
    let all = known.topology.members().map(|(_, m)| m);
    all.filter(|m| m.name != cluster.member && m.control_port != 0)
        .cloned()
        .collect()
}

/// Hands over what this node is primary of, before the process stops: gives the operator time to do it, else does it itself. Takes no longer
/// than `grace`.
pub async fn shutdown(cluster: &Arc<Cluster>, grace: Duration) {
    if cluster.is_standalone() {
        return;
    }
    let deadline = Instant::now() + grace;
    cluster.set_stopping();
    if cluster.role() != Role::Primary || candidates(cluster).is_empty() {
        return;
    }
    let handed_over = |c: &Cluster| c.role() != Role::Primary;
    if cluster.is_watched() {
        let until = (Instant::now() + OPERATOR).min(Instant::now() + grace / 2);
        let waited = timeout_at(until, wait_for(cluster, handed_over)).await;
        if waited.is_err() && cluster.state().writes_paused {
            // It has begun: its topology may be on the way.
            let over = |c: &Cluster| handed_over(c) || !c.state().writes_paused;
            if timeout_at(deadline, wait_for(cluster, over)).await.is_err() {
                tracing::error!("the operator's handover is not complete in time; stopping");
                return;
            }
        }
        if handed_over(cluster) {
            return;
        }
        tracing::warn!("the operator did not hand over; doing it without");
    }
    // Another shard may have handed over by itself too: ours is to come on top of its topology.
    let _ = timeout(PEERS, ask_peers(cluster)).await;
    if timeout_at(deadline, hand_over(cluster)).await.is_err() {
        tracing::error!("could not hand over in time; stopping without");
    }
}

async fn wait_for(cluster: &Cluster, done: impl Fn(&Cluster) -> bool) {
    let mut changes = cluster.changes();
    loop {
        changes.borrow_and_update();
        if done(cluster) || changes.changed().await.is_err() {
            return;
        }
    }
}

/// Synced replicas, the most advanced first.
fn candidates(cluster: &Cluster) -> Vec<String> {
    let mut replicas = cluster.state().replicas;
    replicas.retain(|r| r.synced);
    replicas.sort_by(|a, b| {
        (b.log_epoch, b.offset, &a.member).cmp(&(a.log_epoch, a.offset, &b.member))
    });
    replicas.into_iter().map(|r| r.member).collect()
}

/// Makes a synced replica primary without an operator.
async fn hand_over(cluster: &Arc<Cluster>) {
    for heir in candidates(cluster) {
        match hand_over_to(cluster, &heir).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(heir, error, "could not hand over to it"),
        }
        if cluster.role() != Role::Primary {
            return;
        }
    }
}

async fn hand_over_to(cluster: &Arc<Cluster>, heir: &str) -> Result<(), String> {
    let known = cluster.known().ok_or("no topology")?;
    let next = next_topology(cluster, &known, heir)?;
    if is_stopping(cluster, &next, heir).await {
        return Err("it is stopping too".into());
    }
    // Not in place of the operator's, whose topology may be stored by now. Writes that went on while the heir is told would be lost.
    cluster.handover(heir, DRAIN, HOLD, false).await?;
    let told = tell_all(cluster, &next, heir).await;
    if told.is_err() {
        cluster.resume();
    }
    told
}

/// Whether a member says that its process is about to end. One that says nothing may be reached yet.
async fn is_stopping(cluster: &Cluster, next: &Known, heir: &str) -> bool {
    let asked = async {
        let (_, member) = next.topology.find(heir)?;
        let password = cluster.password().ok()?;
        Peer::reach_and_hear(member, &password).await.ok()
    };
    asked.await.is_some_and(|(_, state)| state.stopping)
}

/// The topology that makes a synced replica primary.
fn next_topology(cluster: &Cluster, known: &Known, heir: &str) -> Result<Known, String> {
    let (present, shard) = {
        let inner = cluster.inner.lock();
        (inner.present(), inner.part.shard.clone())
    };
    if !present.contains_key(heir) {
        return Err("its connection broke".into());
    }
    with_new_primary(known, &shard, heir, &present).map_err(|e| e.to_string())
}

/// Writes are paused and the heir holds the whole log: makes it primary by a topology of our own. An error: it certainly is not.
async fn tell_all(cluster: &Arc<Cluster>, next: &Known, heir: &str) -> Result<(), String> {
    let members = others(cluster, next);
    let to = members
        .iter()
        .find(|m| m.name == heir)
        .ok_or("it is not listed")?;
    push_until_taken(cluster, to, next).await?;
    tracing::info!(heir, epoch = next.topology.epoch, "handed over");
    // From here on it is the primary; all others learn it from us or from each other.
    if let Err(error) = cluster.set_topology(next.json.as_bytes()).await {
        tracing::warn!(%error, "the topology of the handover is not taken here");
    }
    let mut pushes = JoinSet::new();
    for member in members.into_iter().filter(|m| m.name != heir) {
        let (cluster, json) = (cluster.clone(), next.json.clone());
        pushes.spawn(async move {
            if let Err(error) = push(&cluster, &member, &json).await {
                tracing::warn!(member = member.name, %error, "did not take the topology of the handover");
            }
        });
    }
    pushes.join_all().await;
    Ok(())
}

/// Gives a member a topology.
pub(crate) async fn push(cluster: &Cluster, to: &Member, json: &str) -> io::Result<()> {
    let mut peer = Peer::reach(to, &cluster.password()?).await?;
    set_topology(&mut peer, json).await
}

async fn set_topology(peer: &mut Peer, json: &str) -> io::Result<()> {
    peer.ask(&[b"CACHE.NODE", b"TOPOLOGY", b"SET", json.as_bytes()])
        .await
        .map(drop)
}

/// A push whose answer is lost may have been taken, so it is repeated until there is an answer. One that never left here was not.
async fn push_until_taken(cluster: &Cluster, to: &Member, known: &Known) -> Result<(), String> {
    let mut sent = false;
    loop {
        match Peer::reach(to, &cluster.password().map_err(|e| e.to_string())?).await {
            Ok(mut peer) => {
                sent = true;
                match set_topology(&mut peer, &known.json).await {
                    Ok(()) => return Ok(()),
                    Err(e) if e.kind() == io::ErrorKind::Other => return Err(e.to_string()),
                    Err(_) => {}
                }
            }
            Err(error) if !sent && !candidates(cluster).contains(&to.name) => {
                return Err(format!("it went away: {error}"));
            }
            Err(_) => {}
        }
        sleep(Duration::from_millis(200)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::topology::tests::TWO;

    #[test]
    fn others_are_all_but_oneself() {
        let known = Known::parse(TWO.as_bytes()).unwrap();
        let options = crate::cluster::ClusterOptions {
            member: "main-0-0".into(),
            passwords: None,
            data_dir: None,
        };
        let log = Arc::new(crate::log::Log::new(1 << 20));
        let store = crate::store::StoreOptions {
            max_memory: 0,
            hash_seed: 1,
        };
        let store = Arc::new(crate::store::Store::new(store, log.clone()).unwrap());
        let cluster = Cluster::new(options, store, log, Arc::default());
        let names: Vec<String> = others(&cluster, &known)
            .into_iter()
            .map(|m| m.name)
            .collect();
        assert_eq!(names, ["main-0-1", "main-1-0", "main-1-1"]);
    }
}
