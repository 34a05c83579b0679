//! The public API: custom resources, topology and node states, and the names that tie objects together. Imports nothing of ours.

pub mod backup;
pub mod cache;
pub mod common;
pub mod compression;
pub mod crds;
pub mod duration;
pub mod names;
pub mod node_state;
pub mod quantity;
pub mod region;
pub mod region_list;
pub mod schema;
pub mod topology;

pub use backup::{CacheBackup, CacheBackupSpec, CacheBackupStatus};
pub use cache::{Cache, CacheSpec, CacheStatus};
pub use node_state::NodeState;
pub use region::{CacheRegion, CacheRegionSpec, CacheRegionStatus};
pub use topology::{Role, SlotRange, Topology};
