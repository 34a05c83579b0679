//! CacheBackups of local mode: the same run as on Kubernetes, into the S3 server of the state directory.

use std::fs::File;

use anyhow::Context;
use aws_sdk_s3::error::ProvideErrorMetadata;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

use super::folder::{StateFolder, write_whole};
use super::members::{addressing, read_members};
use super::store::{LOCAL_NAMESPACE, read_cache};
use crate::api::CacheBackup;
use crate::api::backup::{
    BackupPhase, BackupRun, CacheBackupStatus, RunResult, SNAPSHOTS_MAX, Snapshot,
};
use crate::api::common::Condition;
use crate::backup::{
    Backup, CacheIdentity, Cancel, Credentials, Failure, Location, Manifest, NodeSource, Progress,
    Reason, StaticKeys, StorageTarget, client, run,
};

/// `s3.yaml`: how other processes of this user reach the S3 server of a running `local up`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct S3File {
    pub endpoint: String,
    #[serde(rename = "accessKeyID")]
    pub access_key_id: String,
    pub secret_access_key: String,
}

impl S3File {
    pub fn write(&self, folder: &StateFolder) -> anyhow::Result<()> {
        write_whole(
            &folder.s3_file(),
            serde_yaml::to_string(self)?.as_bytes(),
            true,
        )
    }

    pub fn read(folder: &StateFolder) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(folder.s3_file()).context(
            "no S3 server runs for this state directory: start it with `cachectl local up`",
        )?;
        serde_yaml::from_str(&text).context("s3.yaml is not what this program wrote")
    }

    /// A bucket of that server.
    pub fn target(&self, bucket: &str, prefix: &str) -> StorageTarget {
        StorageTarget {
            bucket: bucket.to_string(),
            prefix: prefix.to_string(),
            region: "us-east-1".to_string(),
            endpoint: Some(self.endpoint.clone()),
            path_style: true,
            credentials: Credentials::Static(StaticKeys {
                access_key_id: self.access_key_id.clone(),
                secret_access_key: self.secret_access_key.clone(),
                session_token: None,
            }),
        }
    }
}

/// Writes a CacheBackup's `spec.yaml`.
pub fn write_backup_spec(folder: &StateFolder, backup: &CacheBackup) -> anyhow::Result<()> {
    let name = backup.metadata.name.clone().unwrap_or_default();
    let path = folder.backup(&name);
    std::fs::create_dir_all(&path)?;
    let plain = CacheBackup::new(&name, backup.spec.clone());
    write_whole(
        &path.join("spec.yaml"),
        serde_yaml::to_string(&plain)?.as_bytes(),
        false,
    )
}

/// The CacheBackup with its status, if it has run.
pub fn read_backup(folder: &StateFolder, name: &str) -> anyhow::Result<CacheBackup> {
    let path = folder.backup(name);
    let text = std::fs::read_to_string(path.join("spec.yaml")).with_context(|| {
        format!(
            "there is no CacheBackup {name:?} in {}",
            folder.root().display()
        )
    })?;
    let mut backup: CacheBackup =
        serde_yaml::from_str(&text).with_context(|| format!("{name}: spec.yaml"))?;
    if let Ok(text) = std::fs::read_to_string(path.join("status.yaml")) {
        backup.status =
            Some(serde_yaml::from_str(&text).with_context(|| format!("{name}: status.yaml"))?);
    }
    Ok(backup)
}

/// Takes one snapshot, and notes in the CacheBackup's status how it went.
pub async fn take_snapshot(
    folder: &StateFolder,
    name: &str,
    cancel: &Cancel,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(Manifest, Location), Failure> {
    let failed = |e: anyhow::Error| Failure::new(Reason::BadConfiguration, format!("{e:#}"));
    let backup = read_backup(folder, name).map_err(failed)?;
    // One run at a time, whichever process does it.
    let lock = File::create(folder.backup(name).join("lock")).map_err(|e| failed(e.into()))?;
    if lock.try_lock().is_err() {
        return Err(Failure::new(
            Reason::NodeBusy,
            format!("another snapshot of {name} is being taken"),
        ));
    }
    let started_at = Timestamp::now();
    let snapshot = format!("{name}-{}", started_at.strftime("%Y%m%dt%H%M%Sz"));
    let result = match store_snapshot(folder, &backup, &snapshot, cancel, progress).await {
        Ok(stored) => Ok(stored),
        Err(SnapshotError::Failed(failure)) => Err(failure),
        Err(SnapshotError::Local(error)) => Err(failed(error)),
    };
    let status = after_run(
        backup.status.unwrap_or_default(),
        &snapshot,
        started_at,
        &result,
    );
    let text = serde_yaml::to_string(&status).map_err(|e| failed(e.into()))?;
    write_whole(
        &folder.backup(name).join("status.yaml"),
        text.as_bytes(),
        false,
    )
    .map_err(failed)?;
    result
}

enum SnapshotError {
    Failed(Failure),
    Local(anyhow::Error),
}

impl From<anyhow::Error> for SnapshotError {
    fn from(error: anyhow::Error) -> Self {
        SnapshotError::Local(error)
    }
}

async fn store_snapshot(
    folder: &StateFolder,
    backup: &CacheBackup,
    snapshot: &str,
    cancel: &Cancel,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(Manifest, Location), SnapshotError> {
    let s3 = backup
        .spec
        .storage
        .s3
        .as_ref()
        .context("spec.storage.s3 is not set")?;
    let target = S3File::read(folder)?.target(&s3.bucket, &s3.prefix);
    let client = client(&target).await;
    make_bucket(&client, &s3.bucket)
        .await
        .map_err(SnapshotError::Failed)?;
    let name = &backup.spec.cache_ref.name;
    let of_cache = folder.cache(name);
    let cache = read_cache(&of_cache)?;
    let topology = cache
        .status
        .and_then(|s| s.topology)
        .with_context(|| format!("Cache {name} has no topology yet: wait until it is Ready"))?;
    let wire = topology.to_wire(&addressing(&read_members(&of_cache)?));
    let password = std::fs::read_to_string(of_cache.control_password())
        .context("reading the control password")?;
    let source = NodeSource::new(wire, password.trim().to_string());
    let work = Backup {
        source: &source,
        client: &client,
        bucket: &target.bucket,
        prefix: &target.prefix,
        cache: CacheIdentity {
            namespace: LOCAL_NAMESPACE.to_string(),
            name: name.clone(),
            uid: cache.metadata.uid.unwrap_or_default(),
        },
        snapshot: snapshot.to_string(),
        progress,
    };
    run(&work, cancel).await.map_err(SnapshotError::Failed)
}

/// On Kubernetes the bucket is the user's to make; the server here is ours and begins empty.
async fn make_bucket(client: &aws_sdk_s3::Client, bucket: &str) -> Result<(), Failure> {
    match client.create_bucket().bucket(bucket).send().await {
        Ok(_) => Ok(()),
        Err(error)
            if matches!(
                error.code(),
                Some("BucketAlreadyOwnedByYou" | "BucketAlreadyExists")
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(Failure::new(
            Reason::StorageRefused,
            format!(
                "making bucket {bucket:?}: {}",
                aws_sdk_s3::error::DisplayErrorContext(error)
            ),
        )),
    }
}

/// The status once a run has ended.
fn after_run(
    mut status: CacheBackupStatus,
    snapshot: &str,
    started_at: Timestamp,
    result: &Result<(Manifest, Location), Failure>,
) -> CacheBackupStatus {
    let failures = status.last_run.as_ref().map_or(0, |run| run.failures);
    let now = Timestamp::now();
    let mut run = BackupRun {
        name: snapshot.to_string(),
        started_at: Time(started_at),
        completed_at: Some(Time(now)),
        result: RunResult::Succeeded,
        message: String::new(),
        failures: 0,
    };
    match result {
        Ok((manifest, location)) => {
            let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            status.snapshots.insert(
                0,
                Snapshot {
                    name: snapshot.to_string(),
                    started_at: Time(manifest.started_at),
                    completed_at: Time(manifest.finished_at),
                    bytes: whole(manifest.bytes),
                    keys: whole(manifest.keys),
                    shards: i32::try_from(manifest.shards.len()).unwrap_or(i32::MAX),
                    location: location.url(),
                },
            );
            status.snapshots.truncate(SNAPSHOTS_MAX);
            status.snapshot_count += 1;
            status.last_success_time = Some(Time(now));
            status.phase = Some(BackupPhase::Complete);
        }
        Err(failure) => {
            run.result = RunResult::Failed;
            run.message = failure.to_string();
            run.failures = failures + 1;
            status.phase = Some(BackupPhase::Failing);
        }
    }
    status.conditions = vec![ready(&status, result)];
    status.last_run = Some(run);
    status
}

/// The condition as on Kubernetes.
fn ready(before: &CacheBackupStatus, result: &Result<(Manifest, Location), Failure>) -> Condition {
    let (status, reason, message) = match result {
        Ok(_) => (
            "True",
            "SnapshotComplete".into(),
            "the last snapshot is complete".into(),
        ),
        Err(failure) => (
            "False",
            format!("{:?}", failure.reason),
            failure.message.clone(),
        ),
    };
    let unchanged = before.conditions.iter().find(|c| c.status == status);
    Condition {
        type_: "Ready".into(),
        status: status.into(),
        reason,
        message,
        observed_generation: None,
        last_transition_time: unchanged.map_or_else(
            || Time(Timestamp::now()),
            |condition| condition.last_transition_time.clone(),
        ),
    }
}
