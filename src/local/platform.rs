//! [`Platform`] over child processes: what StatefulSets and pods are on Kubernetes are entries of the state directory and
//! processes of the supervisor here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;

use super::fuse::Fuse;
use super::members::{self, LOOPBACK, MemberFile, Ports, STOP_GRACE, process_name, read_members};
use super::store::{CacheStore, LOCAL_NAMESPACE, LocalEvent, SwapError, resource_version};
use super::supervisor::{ProcessState, Supervisor};
use crate::api::cache::{Cache, CacheStatus, MaintenanceStatus};
use crate::api::names;
use crate::api::topology::{Addressing, Topology};
use crate::node::{Hub, Target, now_ms};
use crate::plan::steps::Told;
use crate::plan::{Desired, Limits, MemberObserved, Observed, Pod, Waiting, Workload};
use crate::platform::{CacheKey, Error, Platform, Stored};

/// One Cache of local mode.
pub struct LocalPlatform {
    key: CacheKey,
    hub: Hub,
    store: CacheStore,
    supervisor: Arc<Supervisor>,
    program: PathBuf,
    control_password: String,
    ports: Arc<Mutex<Ports>>,
    /// The version at which the status was last read, for its swap.
    seen_version: Mutex<u64>,
    limits: Limits,
    fuse: Fuse,
}

/// What the Caches of a state directory share.
pub struct Shared {
    pub hub: Hub,
    pub supervisor: Arc<Supervisor>,
    /// `cache-node`
    pub program: PathBuf,
    pub ports: Arc<Mutex<Ports>>,
    pub limits: Limits,
}

fn other(error: impl std::fmt::Display) -> Error {
    Error::Other(format!("{error:#}"))
}

impl LocalPlatform {
    /// Makes the control password unless there is one.
    pub fn open(store: CacheStore, shared: &Shared, fuse: Fuse) -> anyhow::Result<Self> {
        let name = store.load()?.metadata.name.unwrap_or_default();
        let path = store.folder().control_password();
        let control_password = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().to_string(),
            Err(_) => {
                let made = format!(
                    "{}{}",
                    uuid::Uuid::new_v4().simple(),
                    uuid::Uuid::new_v4().simple()
                );
                super::folder::write_whole(&path, made.as_bytes(), true)?;
                made
            }
        };
        Ok(LocalPlatform {
            key: CacheKey::new(LOCAL_NAMESPACE, name),
            hub: shared.hub.clone(),
            store,
            supervisor: shared.supervisor.clone(),
            program: shared.program.clone(),
            control_password,
            ports: shared.ports.clone(),
            seen_version: Mutex::new(0),
            limits: shared.limits,
            fuse,
        })
    }

    pub fn store(&self) -> &CacheStore {
        &self.store
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    pub fn fuse(&self) -> &Fuse {
        &self.fuse
    }

    /// Reads the Cache; swaps of the status from now on are against this version.
    pub fn load(&self) -> anyhow::Result<Cache> {
        let cache = self.store.load()?;
        *self
            .seen_version
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = resource_version(&cache);
        Ok(cache)
    }

    /// Keeps ports for the members that the spec asks for, and says where each is. Comes before validation, whose result
    /// carries the addressing.
    pub fn addressing(&self, cache: &Cache) -> anyhow::Result<Addressing> {
        let folder = self.store.folder();
        let mut kept = read_members(folder)?;
        // Beyond the bounds validation refuses the spec.
        let shards = cache.spec.shards.clamp(0, i32::from(names::SHARDS_MAX));
        let indices = cache
            .spec
            .replicas_per_shard
            .clamp(-1, i32::from(names::REPLICAS_PER_SHARD_MAX))
            + 1;
        let wanted = (0..shards).flat_map(|shard| {
            (0..indices)
                .filter_map(|i| u8::try_from(i).ok())
                .map(move |i| names::member(&self.key.name, &shard.to_string(), i))
        });
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        members::keep_ports(folder, &mut kept, wanted, &mut ports)?;
        Ok(members::addressing(&kept))
    }

    fn process(&self, member: &str) -> Option<ProcessState> {
        let name = process_name(&self.key.name, member);
        self.supervisor.states().borrow().get(&name).cloned()
    }

    /// Swaps the status; a conflict is the caller's to see.
    fn swap(&self, change: impl FnOnce(&mut CacheStatus)) -> Result<Stored, Error> {
        let cache = self.store.load().map_err(other)?;
        let mut seen = self
            .seen_version
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut status = cache.status.unwrap_or_default();
        change(&mut status);
        match self.store.swap_status(*seen, status) {
            Ok(version) => {
                *seen = version;
                Ok(Stored::Yes)
            }
            Err(SwapError::Conflict(_)) => Ok(Stored::Conflict),
            Err(SwapError::Other(error)) => Err(other(error)),
        }
    }

    fn write_member(&self, member: &str, file: &MemberFile) -> Result<(), Error> {
        members::write_member(self.store.folder(), member, file).map_err(other)
    }

    fn member_file(&self, member: &str) -> Result<MemberFile, Error> {
        read_members(self.store.folder())
            .map_err(other)?
            .remove(member)
            .ok_or_else(|| {
                Error::Other(format!(
                    "{member} has no entry in {}",
                    self.store.folder().members().display()
                ))
            })
    }

    /// Whom to hold a control connection to: everyone whose process may still run.
    fn follow(&self, files: &BTreeMap<String, MemberFile>) {
        let target = |(member, file): (&String, &MemberFile)| {
            let process = self.process(member).filter(|p| p.pid.is_some());
            let target = Target {
                address: process.is_some().then(|| LOOPBACK.to_string()),
                control_port: file.control_port,
                process: process.map(|p| p.incarnation.to_string()),
            };
            (member.clone(), target)
        };
        let targets = files
            .iter()
            .filter(|(_, file)| file.created)
            .map(target)
            .collect();
        self.hub.follow(&self.key, &self.control_password, targets);
    }

    fn publish(&self, desired: &Desired, topology: &Topology) -> Result<(), Error> {
        let json = topology.to_wire(&desired.addressing).json();
        let path = self.store.folder().topology();
        if std::fs::read_to_string(&path).is_ok_and(|there| there == json) {
            return Ok(());
        }
        super::folder::write_whole(&path, json.as_bytes(), false).map_err(other)
    }

    fn write_regions(&self, desired: &Desired) -> Result<(), Error> {
        let json = match desired.regions.says_nothing() {
            true => String::new(),
            false => desired.regions.json(),
        };
        let path = self.store.folder().regions();
        if std::fs::read_to_string(&path).unwrap_or_default() == json {
            return Ok(());
        }
        super::folder::write_whole(&path, json.as_bytes(), false).map_err(other)
    }

    fn observe_member(&self, name: &str, file: Option<&MemberFile>) -> Option<MemberObserved> {
        let (shard, index) = names::parse_member(&self.key.name, name)?;
        let mut observed = MemberObserved {
            shard: shard.to_string(),
            index,
            ..MemberObserved::default()
        };
        let Some(file) = file.filter(|file| file.created) else {
            return Some(observed);
        };
        observed.workload = Some(Workload {
            template_hash: file.template_hash.clone(),
            deleting: file.deleting,
            changed_at_ms: file.changed_at_ms,
        });
        if let Some(process) = self.process(name) {
            let running = process.pid.is_some();
            observed.pod = Some(Pod {
                uid: process.incarnation.to_string(),
                template_hash: process.label.clone(),
                running,
                ready: running,
                deleting: file.deleting,
                node: None,
                address: Some(LOOPBACK.to_string()),
                problem: (!running).then(|| {
                    let why = process
                        .last_exit
                        .unwrap_or_else(|| "it was not started yet".into());
                    format!(
                        "{why}; see {}",
                        self.store.folder().member(name).join("log").display()
                    )
                }),
            });
        }
        Some(observed)
    }
}

#[async_trait]
impl Platform for LocalPlatform {
    fn key(&self) -> &CacheKey {
        &self.key
    }

    fn hub(&self) -> &Hub {
        &self.hub
    }

    async fn ensure(
        &self,
        desired: &Desired,
        topology: Option<&Topology>,
    ) -> Result<Vec<Waiting>, Error> {
        let folder = self.store.folder();
        let mut files = read_members(folder).map_err(other)?;
        for (member, file) in files.clone() {
            // Those of a Cache with an invalid spec run on as they are.
            if !file.created || desired.held {
                continue;
            }
            if file.deleting {
                if self.process(&member).is_none() {
                    members::forget_member(folder, &member).map_err(other)?;
                    files.remove(&member);
                } else {
                    // Does nothing if it is stopping already.
                    self.supervisor
                        .remove(&process_name(&self.key.name, &member), STOP_GRACE);
                }
                continue;
            }
            // Does nothing for those that run, whatever their template.
            let process =
                members::process(folder, desired, &member, &file, &self.program).map_err(other)?;
            self.supervisor.ensure(process);
        }
        self.follow(&files);
        if let Some(topology) = topology {
            self.publish(desired, topology)?;
            self.write_regions(desired)?;
        }
        Ok(Vec::new())
    }

    async fn observe(&self, _: &Desired) -> Result<Observed, Error> {
        let cache = self.store.load().map_err(other)?;
        let status = cache.status.unwrap_or_default();
        let files = read_members(self.store.folder()).map_err(other)?;
        let mut names: Vec<String> = files
            .iter()
            .filter(|(_, f)| f.created)
            .map(|(name, _)| name.clone())
            .collect();
        if let Some(topology) = &status.topology {
            names.extend(topology.members().map(|(_, member)| member.name.clone()));
        }
        let observed = names
            .into_iter()
            .filter_map(|name| Some((name.clone(), self.observe_member(&name, files.get(&name))?)));
        Ok(Observed {
            members: observed.collect(),
            topology: status.topology,
            maintenance: status.maintenance.unwrap_or_default(),
            ..Observed::default()
        })
    }

    async fn create_member(
        &self,
        desired: &Desired,
        member: &str,
        _: &str,
        _: u8,
    ) -> Result<(), Error> {
        self.fuse.burn().await;
        let mut file = self.member_file(member)?;
        file.created = true;
        file.template_hash = desired.template_hash.clone();
        file.changed_at_ms = now_ms();
        self.write_member(member, &file)?;
        self.fuse.burn().await;
        let process = members::process(self.store.folder(), desired, member, &file, &self.program)
            .map_err(other)?;
        self.supervisor.ensure(process);
        Ok(())
    }

    async fn update_member(&self, desired: &Desired, member: &str) -> Result<(), Error> {
        self.fuse.burn().await;
        let mut file = self.member_file(member)?;
        file.template_hash = desired.template_hash.clone();
        file.changed_at_ms = now_ms();
        self.write_member(member, &file)?;
        let process = members::process(self.store.folder(), desired, member, &file, &self.program)
            .map_err(other)?;
        self.supervisor.replace(process, STOP_GRACE);
        Ok(())
    }

    async fn delete_member(&self, _: &Desired, member: &str) -> Result<(), Error> {
        self.fuse.burn().await;
        let mut file = self.member_file(member)?;
        file.deleting = true;
        file.changed_at_ms = now_ms();
        self.write_member(member, &file)?;
        self.fuse.burn().await;
        self.supervisor
            .remove(&process_name(&self.key.name, member), STOP_GRACE);
        Ok(())
    }

    async fn store_topology(
        &self,
        topology: &Topology,
        replaces: Option<u64>,
    ) -> Result<Stored, Error> {
        self.fuse.burn().await;
        let stored_epoch = self
            .store
            .load()
            .map_err(other)?
            .status
            .unwrap_or_default()
            .topology
            .map(|t| t.epoch);
        if stored_epoch != replaces {
            return Ok(Stored::Conflict);
        }
        let stored = self.swap(|status| status.topology = Some(topology.clone()))?;
        self.fuse.burn().await;
        Ok(stored)
    }

    async fn publish_topology(&self, desired: &Desired, topology: &Topology) -> Result<(), Error> {
        self.publish(desired, topology)?;
        self.fuse.burn().await;
        Ok(())
    }

    async fn publish_regions(&self, desired: &Desired) -> Result<(), Error> {
        self.write_regions(desired)?;
        self.fuse.burn().await;
        Ok(())
    }

    async fn record_maintenance(&self, maintenance: &MaintenanceStatus) -> Result<(), Error> {
        self.fuse.burn().await;
        match self.swap(|status| status.maintenance = Some(maintenance.clone()))? {
            Stored::Yes => Ok(()),
            Stored::Conflict => Err(Error::Stale("the status".into())),
        }
    }

    async fn write_status(&self, wanted: &CacheStatus) -> Result<(), Error> {
        let written = self.swap(|status| {
            *status = CacheStatus {
                topology: status.topology.clone(),
                maintenance: status.maintenance.clone(),
                ..wanted.clone()
            };
        })?;
        match written {
            Stored::Yes => Ok(()),
            Stored::Conflict => Err(Error::Stale("the status".into())),
        }
    }

    fn tell(&self, told: Vec<Told>) {
        for Told {
            reason,
            message,
            warning,
        } in told
        {
            tracing::info!(cache = self.key.name, reason, warning, "{message}");
            let event = LocalEvent {
                time: Timestamp::now(),
                reason: reason.to_string(),
                message,
                warning,
            };
            if let Err(error) = self.store.record(&event) {
                tracing::error!("an event is lost: {error:#}");
            }
        }
    }
}
