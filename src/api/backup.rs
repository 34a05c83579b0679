//! The `CacheBackup` resource.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{CacheRef, Condition, SecretRef, Time};

/// Snapshots of a Cache in an S3 bucket, once or on a schedule.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "cache.clusterdb.io",
    version = "v1alpha1",
    kind = "CacheBackup",
    plural = "cachebackups",
    singular = "cachebackup",
    shortname = "cb",
    category = "all",
    namespaced,
    status = "CacheBackupStatus",
    derive = "PartialEq",
    doc = "Snapshots of a Cache in an S3 bucket, once or on a schedule.",
    printcolumn(name = "Cache", type_ = "string", json_path = ".spec.cacheRef.name"),
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Snapshots", type_ = "integer", json_path = ".status.snapshotCount"),
    printcolumn(name = "Last", type_ = "date", json_path = ".status.lastSuccessTime", description = "When the last snapshot was complete"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 40").message("metadata.name may have 40 characters at most, as Jobs are named <name>-<time>: choose a shorter name"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name becomes a Job's name: use lower-case letters, digits and '-', without dots"),
    cel
)]
#[x_kube(
    validation = Rule::new("has(self.schedule) == has(oldSelf.schedule)").message("whether a CacheBackup has a schedule cannot be changed: create another CacheBackup"),
    validation = Rule::new("has(self.schedule) || !has(self.timeZone)").message("timeZone needs a schedule: remove timeZone, or set schedule"),
    validation = Rule::new("has(self.schedule) || !self.suspend").message("suspend needs a schedule: remove suspend, or delete this CacheBackup"),
)]
#[serde(rename_all = "camelCase")]
pub struct CacheBackupSpec {
    #[x_kube(validation = Rule::new("self == oldSelf").message("cacheRef cannot be changed: create another CacheBackup"))]
    pub cache_ref: CacheRef,
    /// Cron: minute, hour, day of month, month, day of week. Without it, one snapshot is taken at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[^ ]+( +[^ ]+){4}$')").message("schedule has five fields: minute hour day-of-month month day-of-week, for example \"0 3 * * *\""))]
    pub schedule: Option<String>,
    /// An IANA time zone, for example Europe/Berlin; UTC unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z][A-Za-z0-9_+/-]*$')").message("timeZone is an IANA name, for example Europe/Berlin or UTC"))]
    pub time_zone: Option<String>,
    /// While true no snapshot is begun.
    #[serde(default)]
    pub suspend: bool,
    pub storage: Storage,
}

/// Where snapshots go: exactly one of its fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.s3)").message("storage names where to: {s3: {bucket: ..., credentialsSecret: {name: ...}}}"))]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3 {
    #[schemars(length(min = 3, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9][a-z0-9.-]*[a-z0-9]$')").message("bucket is a bucket's name, not a URL: lower-case letters, digits, '.' and '-'"))]
    pub bucket: String,
    /// Objects are named <prefix><namespace>/<Cache UID>/<snapshot>/…
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('/')").message("prefix does not begin with '/': objects' names have no leading slash"))]
    pub prefix: String,
    /// us-east-1 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub region: Option<String>,
    /// The URL of an S3 server that is not Amazon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^ /]+')").message("endpoint is a URL, for example http://s3.storage.svc:7070"))]
    pub endpoint: Option<String>,
    /// Address the bucket in the path instead of the host's name; most servers but Amazon's need it.
    #[serde(default)]
    pub force_path_style: bool,
    /// Holds `accessKeyID` and `secretAccessKey` (and `sessionToken`). Without it, what the pod's ServiceAccount and environment give.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<SecretRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheBackupStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<BackupPhase>,
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Complete snapshots, the newest first; the bucket may hold more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub snapshots: Vec<Snapshot>,
    /// Complete snapshots that this CacheBackup has taken.
    #[serde(default)]
    pub snapshot_count: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<BackupRun>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_time: Option<Time>,
    /// The scheduled time up to which runs are done or skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_schedule_time: Option<Time>,
}

/// Snapshots kept in the status.
pub const SNAPSHOTS_MAX: usize = 50;

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum BackupPhase {
    /// Waits for its first run, or for the Cache.
    Pending,
    Running,
    /// Waits for its next scheduled run.
    Scheduled,
    /// The one snapshot is there.
    Complete,
    /// The last run failed and will be tried again.
    Failing,
    Suspended,
    /// The spec cannot be carried out.
    Invalid,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    #[schemars(length(max = 63))]
    pub name: String,
    pub started_at: Time,
    pub completed_at: Time,
    pub bytes: i64,
    pub keys: i64,
    pub shards: i32,
    /// The URL of its folder: s3://bucket/prefix…/
    #[schemars(length(max = 2048))]
    pub location: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupRun {
    /// Also the Job's name, and its snapshot's.
    #[schemars(length(max = 63))]
    pub name: String,
    pub started_at: Time,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    pub result: RunResult,
    /// Why it failed, and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub message: String,
    /// Failures since the last success.
    #[serde(default)]
    pub failures: i32,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum RunResult {
    Running,
    Succeeded,
    Failed,
}
