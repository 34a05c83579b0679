//! Local mode: Caches whose members are child processes on loopback.

mod backups;
mod die_with_parent;
mod folder;
mod fuse;
mod leftovers;
mod manifest;
mod members;
mod operate;
mod platform;
mod regions;
mod s3;
mod store;
mod supervisor;

pub use backups::{S3File, read_backup, take_snapshot, write_backup_spec};
pub use folder::{CacheFolder, OwnedFolder, StateFolder};
pub use fuse::Fuse;
pub use manifest::{Manifests, read_manifests, unused_fields};
pub use members::{MemberFile, Ports, find_node_program, read_members};
pub use operate::{Local, Operator};
pub use platform::{LocalPlatform, Shared};
pub use regions::{read_region, write_region_specs};
pub use s3::LocalS3;
pub use store::{
    CacheStore, Conflict, LOCAL_NAMESPACE, LocalEvent, SwapError, edit_spec, is_settled,
    read_cache, read_events, resource_version, write_spec,
};
pub use supervisor::{ProcessSpec, ProcessState, Processes, Supervisor};
