//! The seam between the driver and what members run on: pods on Kubernetes, processes in local mode.
//!
//! A [`Platform`] stands for one Cache on one substrate. The driver (`controller::driver`) and the carrying out of steps (`apply::steps`) are the same for both.

use std::fmt;

use async_trait::async_trait;

use crate::api::cache::{CacheStatus, MaintenanceStatus};
use crate::api::topology::Topology;
use crate::node::Hub;
use crate::plan::steps::Told;
use crate::plan::{Desired, Observed, Step, Waiting};

/// A Cache's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey {
    pub namespace: String,
    pub name: String,
}

impl CacheKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        CacheKey {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What came of a compare-and-swap of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    Yes,
    /// Something else is stored than was read: observe and plan again.
    Conflict,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Everything goes away with the namespace; nothing is left to do.
    #[error("namespace {0} is being deleted")]
    NamespaceTerminating(String),
    #[error("{what}: {}", said(source))]
    Api { what: String, source: kube::Error },
    /// The write may have happened or not.
    #[error("{what}: no answer within {seconds} s; whether it happened is unknown")]
    Timeout { what: String, seconds: u64 },
    /// What is seen is older than what was written: look again soon.
    #[error("{0} is not seen yet")]
    Stale(String),
    #[error("not the leader any more")]
    NotLeading,
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// Whether nothing more can be done now; all else is one object's trouble.
    pub fn ends_the_round(&self) -> bool {
        matches!(
            self,
            Error::NamespaceTerminating(_) | Error::Stale(_) | Error::NotLeading
        )
    }
}

/// Without the status object that `kube` appends.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

impl Error {
    /// A write that failed with this certainly did not happen.
    pub fn surely_not_done(&self) -> bool {
        match self {
            Error::Api { source, .. } => matches!(source, kube::Error::Api(_)),
            Error::Timeout { .. } => false,
            Error::NamespaceTerminating(_)
            | Error::Stale(_)
            | Error::NotLeading
            | Error::Other(_) => true,
        }
    }
}

#[async_trait]
pub trait Platform: Send + Sync {
    fn key(&self) -> &CacheKey;

    /// The control connections of all Caches.
    fn hub(&self) -> &Hub;

    /// Whether this process may still write; asked before every step.
    fn may_act(&self) -> bool {
        true
    }

    /// Makes everything that a Cache has beside its members, and tells [`Hub::follow`] whom to connect to.
    /// Answers what has to be waited for. If the Cache is paused, only connects.
    async fn ensure(
        &self,
        desired: &Desired,
        topology: Option<&Topology>,
    ) -> Result<Vec<Waiting>, Error>;

    /// Stored state, workloads, pods and nodes. What the [`Hub`] knows is added by the driver.
    async fn observe(&self, desired: &Desired) -> Result<Observed, Error>;

    async fn create_member(
        &self,
        desired: &Desired,
        member: &str,
        shard: &str,
        index: u8,
    ) -> Result<(), Error>;

    async fn update_member(&self, desired: &Desired, member: &str) -> Result<(), Error>;

    async fn delete_member(&self, desired: &Desired, member: &str) -> Result<(), Error>;

    /// Stores the topology if the stored epoch still is `replaces` and nothing else has written meanwhile.
    async fn store_topology(
        &self,
        topology: &Topology,
        replaces: Option<u64>,
    ) -> Result<Stored, Error>;

    /// Puts the stored topology where starting nodes find it.
    async fn publish_topology(&self, desired: &Desired, topology: &Topology) -> Result<(), Error>;

    /// Puts the wanted list of regions where starting nodes find it.
    async fn publish_regions(&self, desired: &Desired) -> Result<(), Error>;

    async fn record_maintenance(&self, status: &MaintenanceStatus) -> Result<(), Error>;

    /// Writes all of the status but the topology, if it differs from what is stored.
    async fn write_status(&self, status: &CacheStatus) -> Result<(), Error>;

    /// Tells the user what happened.
    fn tell(&self, told: Vec<Told>);

    /// Counts a step, by whether it was carried out.
    fn noted(&self, _step: &Step, _done: bool) {}
}
