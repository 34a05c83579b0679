//! The Kubernetes objects of a Cache, built from plain data. Pure: no client, no clock. One file an object.

mod backup_job;
mod config_map;
pub mod diff;
mod disruption_budget;
mod labels;
mod placement;
mod secrets;
mod service_account;
mod services;
mod stateful_set;

#[cfg(test)]
mod tests;

pub use backup_job::{BackupRunSpec, backup_job};
pub use config_map::{TOPOLOGY_KEY, topology_config_map};
pub use disruption_budget::disruption_budget;
pub use labels::{
    COMPONENT_BACKUP, COMPONENT_NODE, LABEL_BACKUP, LABEL_COMPONENT, Owner, backup_labels,
    cache_labels,
};
pub use secrets::{PASSWORD_KEY, password_secret};
pub use service_account::service_account;
pub use services::{Services, services};
pub use stateful_set::{
    ANNOTATION_CACHE_UID, ANNOTATION_CHANGED_AT, CONTAINER, MemberIdentity, stateful_set,
};

/// The ConfigMap in which starting nodes find the topology.
pub fn topology_config_map_name(cache: &str) -> String {
    format!("{cache}-topology")
}

/// The Secret with the credential of the control ports.
pub fn control_secret_name(cache: &str) -> String {
    format!("{cache}-control")
}
