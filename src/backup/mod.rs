//! The work of one backup run, as the `backup-job` of a `CacheBackup` and as local mode's backup.
//!
//! It pulls each shard's snapshot over the control port and streams it to S3 part by part, so memory stays bounded however
//! big the shard. The manifest is written last: a snapshot without one is incomplete.

mod config;
mod failure;
mod manifest;
mod nodes;
mod report;
mod run;
mod source;
mod upload;

pub use config::{BackupArgs, Credentials, StaticKeys, StorageTarget, client};
pub use failure::{Failure, Reason};
pub use manifest::{CacheIdentity, Location, MANIFEST_FORMAT, Manifest, ShardRecord};
pub use nodes::NodeSource;
pub use report::{Outcome, Report, TERMINATION_MESSAGE_BYTES_MAX};
pub use run::{Backup, Cancel, Progress, run};
pub use source::{SnapshotEnd, SnapshotSource, SnapshotStart, SnapshotStream};

mod job;
pub use job::main as job_main;

#[cfg(all(test, feature = "local"))]
mod tests;
