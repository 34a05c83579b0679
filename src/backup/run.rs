//! One backup run: every shard, then the manifest.

use std::collections::BTreeMap;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use jiff::Timestamp;
use tokio::sync::watch;

use super::manifest::{MANIFEST_FORMAT, shard_object};
use super::source::{SnapshotSource, SnapshotStream};
use super::upload::{Chunks, Stored, Upload, check_size, part_bytes};
use super::{CacheIdentity, Failure, Location, Manifest, Reason, ShardRecord};
use crate::api::names::SLOTS;
use crate::api::topology::{SlotRange, WireShard, WireTopology};

/// How often shards whose slots changed under the snapshot are taken again.
const ROUNDS_MAX: usize = 5;
/// Tries of one shard, each on another member where there is one.
const ATTEMPTS_MAX: usize = 3;

/// Ends a run early: the upload in hand is aborted and the run fails as `Interrupted`.
#[derive(Debug, Clone)]
pub struct Cancel(watch::Receiver<bool>);

impl Cancel {
    /// Sending `true`, or dropping the sender after that, cancels.
    pub fn channel() -> (watch::Sender<bool>, Cancel) {
        let (sender, receiver) = watch::channel(false);
        (sender, Cancel(receiver))
    }

    /// Returns once cancelled; never if the sender went away without cancelling.
    pub async fn cancelled(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Progress of a run, for a person to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    ShardBegun {
        shard: String,
        member: String,
    },
    ShardStored {
        shard: String,
        keys: u64,
        bytes: u64,
    },
    /// The shard's slots changed meanwhile; it is taken again.
    ShardAgain {
        shard: String,
    },
}

/// What to back up and where to.
pub struct Backup<'a> {
    pub source: &'a dyn SnapshotSource,
    pub client: &'a Client,
    pub bucket: &'a str,
    pub prefix: &'a str,
    pub cache: CacheIdentity,
    pub snapshot: String,
    pub progress: &'a (dyn Fn(Progress) + Send + Sync),
}

/// Runs to the manifest, which is returned with its place; or removes what it stored and says why.
pub async fn run(backup: &Backup<'_>, cancel: &Cancel) -> Result<(Manifest, Location), Failure> {
    let location = Location::new(
        backup.bucket,
        backup.prefix,
        &backup.cache,
        &backup.snapshot,
    );
    let mut stored = BTreeMap::new();
    match shards_then_manifest(backup, &location, cancel, &mut stored).await {
        Ok(manifest) => Ok((manifest, location)),
        Err(failure) => {
            forget(backup, &location, stored.keys()).await;
            Err(failure)
        }
    }
}

async fn shards_then_manifest(
    backup: &Backup<'_>,
    location: &Location,
    cancel: &Cancel,
    stored: &mut BTreeMap<String, ShardRecord>,
) -> Result<Manifest, Failure> {
    let started_at = Timestamp::now();
    let mut topology = backup.source.topology().await?;
    check_coverage(&topology)?;
    for _ in 0..ROUNDS_MAX {
        for shard in due(&topology, stored) {
            if stored.remove(&shard.name).is_some() {
                (backup.progress)(Progress::ShardAgain {
                    shard: shard.name.clone(),
                });
            }
            let record = store_shard(backup, location, shard, cancel).await?;
            stored.insert(shard.name.clone(), record);
        }
        // The files cover each slot once only if no slot changed its shard meanwhile.
        let now = backup.source.topology().await?;
        check_coverage(&now)?;
        let settled = due(&now, stored).is_empty();
        topology = now;
        if settled {
            drop_shards_without_slots(backup, location, &topology, stored).await;
            let manifest = manifest(backup, &topology, started_at, stored);
            return write_manifest(backup, location, cancel, manifest).await;
        }
    }
    Err(Failure::new(
        Reason::TopologyChanged,
        format!("slots changed their shard during each of {ROUNDS_MAX} rounds"),
    ))
}

/// The shards whose slots are not, or no longer, those of the stored file.
fn due<'t>(
    topology: &'t WireTopology,
    stored: &BTreeMap<String, ShardRecord>,
) -> Vec<&'t WireShard> {
    topology
        .shards
        .iter()
        .filter(|s| !s.slots.is_empty())
        .filter(|s| {
            stored
                .get(&s.name)
                .is_none_or(|record| record.slots != s.slots)
        })
        .collect()
}

/// A snapshot of part of the slots would look complete and not be.
fn check_coverage(topology: &WireTopology) -> Result<(), Failure> {
    let mut ranges: Vec<_> = topology
        .shards
        .iter()
        .flat_map(|s| s.slots.iter().copied())
        .collect();
    ranges.sort_unstable();
    let mut next = 0u32;
    for SlotRange(first, last) in ranges {
        if u32::from(first) != next || last < first {
            return Err(Failure::new(
                Reason::TopologyChanged,
                format!(
                    "the topology of epoch {} gives slot {next} to no shard or to two",
                    topology.epoch
                ),
            ));
        }
        next = u32::from(last) + 1;
    }
    if next != u32::from(SLOTS) {
        return Err(Failure::new(
            Reason::TopologyChanged,
            format!(
                "the topology of epoch {} gives slot {next} to no shard",
                topology.epoch
            ),
        ));
    }
    Ok(())
}

async fn store_shard(
    backup: &Backup<'_>,
    location: &Location,
    shard: &WireShard,
    cancel: &Cancel,
) -> Result<ShardRecord, Failure> {
    let mut attempt = 0;
    loop {
        match store_shard_once(backup, location, shard, attempt, cancel).await {
            Ok(record) => return Ok(record),
            Err(failure) => {
                attempt += 1;
                let of_node = matches!(
                    failure.reason,
                    Reason::NodeUnreachable | Reason::SnapshotFailed | Reason::NodeBusy
                );
                if !of_node || attempt == ATTEMPTS_MAX {
                    return Err(failure);
                }
                tracing::warn!(shard = shard.name, attempt, %failure, "taking the shard's snapshot again");
            }
        }
    }
}

struct Bytes<'a>(&'a mut dyn SnapshotStream);

impl Chunks for Bytes<'_> {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        self.0.next().await
    }
}

async fn store_shard_once(
    backup: &Backup<'_>,
    location: &Location,
    shard: &WireShard,
    attempt: usize,
    cancel: &Cancel,
) -> Result<ShardRecord, Failure> {
    let key = location.shard_key(&shard.name);
    // The upload first: wrong credentials then cost the node no snapshot.
    let upload = Upload::begin(backup.client, backup.bucket, &key).await?;
    let opened = tokio::select! {
        opened = backup.source.open(shard, attempt) => opened,
        () = cancel.cancelled() => Err(Failure::new(Reason::Interrupted, "stopped before the snapshot")),
    };
    let mut snapshot = match opened {
        Ok(snapshot) => snapshot,
        Err(failure) => {
            upload.abort().await;
            return Err(failure);
        }
    };
    let start = snapshot.start().clone();
    (backup.progress)(Progress::ShardBegun {
        shard: shard.name.clone(),
        member: start.member.clone(),
    });
    let Stored { bytes, sha256 } = upload
        .stream(
            &mut Bytes(snapshot.as_mut()),
            part_bytes(start.bytes_guess),
            cancel,
        )
        .await?;
    let checked = async {
        check_size(backup.client, backup.bucket, &key, bytes).await?;
        snapshot.finish().await
    };
    let end = match checked.await {
        Ok(end) => end,
        Err(failure) => {
            forget(backup, location, std::iter::once(&shard.name)).await;
            return Err(failure);
        }
    };
    (backup.progress)(Progress::ShardStored {
        shard: shard.name.clone(),
        keys: end.keys,
        bytes,
    });
    Ok(ShardRecord {
        name: shard.name.clone(),
        object: shard_object(&shard.name),
        slots: shard.slots.clone(),
        member: start.member,
        log_epoch: start.log_epoch,
        offset: start.offset,
        keys: end.keys,
        bytes,
        sha256,
    })
}

/// A shard that gave its last slot away while the others were stored has no part in the manifest.
async fn drop_shards_without_slots(
    backup: &Backup<'_>,
    location: &Location,
    topology: &WireTopology,
    stored: &mut BTreeMap<String, ShardRecord>,
) {
    let gone: Vec<String> = stored
        .keys()
        .filter(|name| {
            !topology
                .shards
                .iter()
                .any(|s| &s.name == *name && !s.slots.is_empty())
        })
        .cloned()
        .collect();
    forget(backup, location, gone.iter()).await;
    stored.retain(|name, _| !gone.contains(name));
}

fn manifest(
    backup: &Backup<'_>,
    topology: &WireTopology,
    started_at: Timestamp,
    stored: &BTreeMap<String, ShardRecord>,
) -> Manifest {
    Manifest {
        format: MANIFEST_FORMAT,
        version: env!("CARGO_PKG_VERSION").to_string(),
        snapshot: backup.snapshot.clone(),
        cache: backup.cache.clone(),
        cluster_id: topology.cluster_id.clone(),
        epoch: topology.epoch,
        started_at,
        finished_at: Timestamp::now(),
        keys: stored.values().map(|s| s.keys).sum(),
        bytes: stored.values().map(|s| s.bytes).sum(),
        shards: stored.values().cloned().collect(),
    }
}

async fn write_manifest(
    backup: &Backup<'_>,
    location: &Location,
    cancel: &Cancel,
    manifest: Manifest,
) -> Result<Manifest, Failure> {
    let key = location.manifest_key();
    let body = serde_json::to_vec_pretty(&manifest).map_err(|e| {
        Failure::new(
            Reason::BadConfiguration,
            format!("the manifest cannot be written as JSON: {e}"),
        )
    })?;
    let put = backup
        .client
        .put_object()
        .bucket(backup.bucket)
        .key(&key)
        .content_type("application/json")
        .body(ByteStream::from(body))
        .send();
    tokio::select! {
        written = put => written.map_err(|e| Failure::storage(&format!("writing {key:?}"), &e))?,
        () = cancel.cancelled() => return Err(Failure::new(Reason::Interrupted, "stopped before the manifest")),
    };
    Ok(manifest)
}

/// Removes objects of a snapshot that will never be complete. What cannot be removed stays, and is said.
async fn forget(backup: &Backup<'_>, location: &Location, shards: impl Iterator<Item = &String>) {
    for shard in shards {
        let key = location.shard_key(shard);
        let removed = backup
            .client
            .delete_object()
            .bucket(backup.bucket)
            .key(&key)
            .send()
            .await;
        if let Err(error) = removed {
            let failure = Failure::storage("removing", &error);
            tracing::warn!(key, %failure, "an object of an incomplete snapshot stays in the bucket");
        }
    }
}
