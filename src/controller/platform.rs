//! [`Platform`] on Kubernetes: one Cache, its objects and pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self as core, Secret};
use kube::core::DeserializeGuard;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::context::Context;
use crate::api::cache::{Cache, CacheStatus, MaintenanceStatus};
use crate::api::names;
use crate::api::topology::{Role, Topology};
use crate::apply::kube::Writer;
use crate::build::{self, MemberIdentity, diff};
use crate::node::Hub;
use crate::observe::members;
use crate::plan::steps::Told;
use crate::plan::{Desired, MemberObserved, Observed, Step, WaitReason, Waiting};
use crate::platform::{CacheKey, Error, Platform, Stored};
use crate::status::same_but_counters;

pub struct KubePlatform {
    pub context: Arc<Context>,
    pub key: CacheKey,
}

impl KubePlatform {
    fn writer(&self) -> &Writer {
        &self.context.writer
    }

    /// The newest version that is known.
    fn cache(&self) -> Result<Cache, Error> {
        let stores = &self.context.stores;
        let cache = stores.caches.get(&self.key.namespace, &self.key.name);
        match cache.as_deref() {
            Some(DeserializeGuard(Ok(cache))) => Ok(cache.clone()),
            _ => Err(Error::Other(format!("Cache {} is gone", self.key))),
        }
    }

    fn leading(&self) -> Result<(), Error> {
        match self.context.leadership.may_write() {
            true => Ok(()),
            false => Err(Error::NotLeading),
        }
    }

    async fn swap(&self, cache: &Cache, status: Value) -> Result<Stored, Error> {
        self.leading()?;
        let (stored, written) = self.writer().swap_status(cache, status).await?;
        if let Some(written) = written {
            self.context
                .stores
                .caches
                .put(DeserializeGuard(Ok(written)));
        }
        Ok(stored)
    }

    /// The members' pods; not those of a Cache of this name that was there before.
    fn pods(&self, desired: &Desired) -> BTreeMap<String, Arc<core::Pod>> {
        let pods = self.context.stores.pods.group(&self.key);
        let named = |pod: Arc<core::Pod>| {
            let member = pod.labels().get(names::LABEL_MEMBER)?.clone();
            let is_own = pod.annotations().get(build::ANNOTATION_CACHE_UID) == Some(&desired.uid);
            (is_own && pod.name_any() == names::pod(&member)).then_some((member, pod))
        };
        pods.into_iter().filter_map(named).collect()
    }

    /// Everything beside the members and their Secrets.
    async fn ensure_objects(
        &self,
        desired: &Desired,
        topology: Option<&Topology>,
    ) -> Result<(), Error> {
        let (writer, stores) = (self.writer(), &self.context.stores);
        // One that cannot be made keeps no other from being made; the first failure is told.
        let mut failed = Ok(());
        let mut note = |result: Result<(), Error>| match result {
            Err(error) if error.ends_the_round() => Err(error),
            Err(error) if failed.is_ok() => {
                failed = Err(error);
                Ok(())
            }
            _ => Ok(()),
        };
        let account = build::service_account(desired);
        note(writer.ensure(&stores.service_accounts, &account).await)?;
        let services = build::services(desired);
        for service in &services.wanted {
            note(writer.ensure(&stores.services, service).await)?;
        }
        for name in &services.unwanted {
            let Some(service) = stores.services.get(&self.key.namespace, name) else {
                continue;
            };
            let owned = service
                .owner_references()
                .iter()
                .any(|o| o.uid == desired.uid);
            if owned && service.metadata.deletion_timestamp.is_none() {
                note(writer.delete(service.as_ref()).await)?;
            }
        }
        let budget = build::disruption_budget(desired);
        note(writer.ensure(&stores.budgets, &budget).await)?;
        if let Some(topology) = topology {
            let map = build::topology_config_map(desired, topology);
            note(writer.ensure(&stores.config_maps, &map).await)?;
        }
        failed
    }

    async fn ensure_secrets(&self, desired: &Desired) -> Result<Vec<Waiting>, Error> {
        let secrets = &self.context.stores.secrets;
        let control = build::control_secret_name(&desired.name);
        let mut generated = vec![control];
        let mut waiting = Vec::new();
        if desired.auth.generated {
            generated.push(desired.auth.name.clone());
        } else {
            waiting.extend(self.missing_secret(desired).await?);
        }
        for name in generated {
            let secret = build::password_secret(desired, name, &random_password());
            self.writer().ensure_once(secrets, &secret).await?;
        }
        Ok(waiting)
    }

    /// What is wrong with the user's own Secret, if anything.
    async fn missing_secret(&self, desired: &Desired) -> Result<Option<Waiting>, Error> {
        let auth = &desired.auth;
        let seen = format!("{}/{}", auth.name, auth.key);
        if self
            .context
            .memory(&self.key, |memory| memory.secret_is_fresh(&seen))
        {
            return Ok(None);
        }
        let mut like = Secret::default();
        like.metadata.namespace = Some(desired.namespace.clone());
        like.metadata.name = Some(auth.name.clone());
        let found = self.writer().look(&like).await?;
        let problem = match found {
            None => format!("Secret {} is not there: create it", auth.name),
            Some(secret) => {
                let has_key = secret.data.is_some_and(|data| data.contains_key(&auth.key));
                if has_key {
                    self.context
                        .memory(&self.key, |memory| memory.saw_secret(seen));
                    return Ok(None);
                }
                format!(
                    "Secret {} has no key {:?}: add it, or correct spec.auth.secret.key",
                    auth.name, auth.key
                )
            }
        };
        Ok(Some(Waiting {
            reason: WaitReason::SecretMissing,
            message: problem,
        }))
    }

    fn control_password(&self, desired: &Desired) -> Option<String> {
        let name = build::control_secret_name(&desired.name);
        let secret = self
            .context
            .stores
            .secrets
            .get(&self.key.namespace, &name)?;
        let password = secret.data.as_ref()?.get(build::PASSWORD_KEY)?;
        let password = String::from_utf8(password.0.clone()).ok()?;
        // A rotated Secret may hold several, a line each; the first is the newest.
        Some(password.lines().next().unwrap_or_default().to_string())
    }

    /// Holds control connections to all members that have a pod.
    fn follow(&self, desired: &Desired) {
        let Some(password) = self.control_password(desired) else {
            return;
        };
        let pods = self.pods(desired);
        let stores = &self.context.stores;
        let sets = stores.stateful_sets.group(&self.key);
        let mut following: BTreeSet<String> = sets.iter().map(|set| set.name_any()).collect();
        following.extend(pods.keys().cloned());
        let target = |member: String| {
            let target = members::target(pods.get(&member).map(|pod| pod.as_ref()));
            (member, target)
        };
        let targets = following.into_iter().map(target).collect();
        self.context.hub.follow(&self.key, &password, targets);
    }

    /// Role labels, for the Services of a Cache with one shard and for people.
    async fn label_roles(&self, desired: &Desired, topology: &Topology) -> Result<(), Error> {
        let views = self.context.hub.view(&self.key);
        for (member, pod) in self.pods(desired) {
            let Some((_, entry)) = topology.find(&member) else {
                continue;
            };
            let state = views.get(&member).and_then(|view| view.state.as_ref());
            let is_it = state.is_some_and(|state| state.data_id == entry.data_id);
            let role = match entry.role {
                Role::Primary if is_it => "primary",
                Role::Replica if is_it => "replica",
                _ => "learner",
            };
            let labelled = pod.labels().get(names::LABEL_ROLE).map(String::as_str);
            if labelled == Some(role) || pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let change = json!({"metadata": {"labels": {names::LABEL_ROLE: role}}});
            let pods = &self.context.stores.pods;
            self.writer().merge(pods, pod.as_ref(), change).await?;
        }
        Ok(())
    }

    /// The annotation that allowed one update has done its work.
    async fn take_back_update(&self) -> Result<(), Error> {
        let cache = self.cache()?;
        let change = json!({"metadata": {"annotations": {names::ANNOTATION_UPDATE: null}}});
        let api = kube::Api::<Cache>::namespaced(self.writer().client.clone(), &self.key.namespace);
        let params = kube::api::PatchParams::default();
        let patch = kube::api::Patch::Merge(change);
        let name = cache.name_any();
        let call = api.patch(&name, &params, &patch);
        let what = || "take back the update annotation".to_string();
        let written = self.writer().timed(what, call).await?;
        self.context
            .stores
            .caches
            .put(DeserializeGuard(Ok(written)));
        Ok(())
    }

    async fn write_set(&self, desired: &Desired, member: &MemberIdentity) -> Result<(), Error> {
        self.leading()?;
        let set = build::stateful_set(desired, member, &Timestamp::now().to_string());
        let stores = &self.context.stores;
        self.writer().ensure(&stores.stateful_sets, &set).await
    }

    fn identity(&self, desired: &Desired, member: &str) -> Result<MemberIdentity, Error> {
        let (shard, index) = names::parse_member(&desired.name, member)
            .ok_or_else(|| Error::Other(format!("{member} is no member of {}", desired.name)))?;
        Ok(MemberIdentity {
            name: member.into(),
            shard: shard.into(),
            index,
        })
    }
}

fn random_password() -> String {
    let id = || uuid::Uuid::new_v4().simple().to_string();
    format!("{}{}", id(), id())
}

#[async_trait]
impl Platform for KubePlatform {
    fn key(&self) -> &CacheKey {
        &self.key
    }

    fn hub(&self) -> &Hub {
        &self.context.hub
    }

    fn may_act(&self) -> bool {
        self.context.leadership.may_write()
    }

    async fn ensure(
        &self,
        desired: &Desired,
        topology: Option<&Topology>,
    ) -> Result<Vec<Waiting>, Error> {
        if desired.paused || desired.deleting {
            self.follow(desired);
            return Ok(Vec::new());
        }
        self.leading()?;
        if desired.held {
            self.follow(desired);
            if let Some(topology) = topology {
                self.label_roles(desired, topology).await?;
            }
            return Ok(Vec::new());
        }
        let secrets = self.ensure_secrets(desired).await;
        // Whatever else cannot be made: a lost primary can only be replaced by who speaks to the members.
        self.follow(desired);
        let waiting = secrets?;
        self.ensure_objects(desired, topology).await?;
        if let Some(topology) = topology {
            self.label_roles(desired, topology).await?;
        }
        if desired.update_taken {
            self.take_back_update().await?;
        }
        Ok(waiting)
    }

    async fn observe(&self, desired: &Desired) -> Result<Observed, Error> {
        let status = self.cache()?.status.unwrap_or_default();
        let pods = self.pods(desired);
        let mut seen: BTreeMap<String, MemberObserved> = BTreeMap::new();
        let entry = |member: &str| {
            let (shard, index) = names::parse_member(&desired.name, member)?;
            Some(MemberObserved {
                shard: shard.into(),
                index,
                pod: pods.get(member).map(|pod| members::pod(pod)),
                ..MemberObserved::default()
            })
        };
        for set in self.context.stores.stateful_sets.group(&self.key) {
            let name = set.name_any();
            let (Ok(identity), Some(mut member)) = (self.identity(desired, &name), entry(&name))
            else {
                continue;
            };
            if set
                .owner_references()
                .iter()
                .any(|owner| owner.uid == desired.uid)
            {
                member.workload = Some(members::workload(desired, &identity, &set));
                seen.insert(name, member);
            }
        }
        let listed = status.topology.iter().flat_map(Topology::members);
        for (_, member) in listed {
            if !seen.contains_key(&member.name)
                && let Some(observed) = entry(&member.name)
            {
                seen.insert(member.name.clone(), observed);
            }
        }
        let nodes = self.context.stores.nodes.all();
        Ok(Observed {
            topology: status.topology,
            members: seen,
            maintenance: status.maintenance.unwrap_or_default(),
            kube_nodes: nodes
                .iter()
                .map(|node| (node.name_any(), members::kube_node(node)))
                .collect(),
            ..Observed::default()
        })
    }

    async fn create_member(
        &self,
        desired: &Desired,
        member: &str,
        shard: &str,
        index: u8,
    ) -> Result<(), Error> {
        let identity = MemberIdentity {
            name: member.into(),
            shard: shard.into(),
            index,
        };
        self.write_set(desired, &identity).await
    }

    async fn update_member(&self, desired: &Desired, member: &str) -> Result<(), Error> {
        let identity = self.identity(desired, member)?;
        self.write_set(desired, &identity).await
    }

    async fn delete_member(&self, desired: &Desired, member: &str) -> Result<(), Error> {
        self.leading()?;
        let stores = &self.context.stores;
        let Some(set) = stores.stateful_sets.get(&self.key.namespace, member) else {
            return Ok(());
        };
        if set
            .owner_references()
            .iter()
            .all(|owner| owner.uid != desired.uid)
        {
            return Err(Error::Other(format!(
                "StatefulSet {member} is not this Cache's"
            )));
        }
        self.writer().delete(set.as_ref()).await
    }

    async fn store_topology(
        &self,
        topology: &Topology,
        replaces: Option<u64>,
    ) -> Result<Stored, Error> {
        let cache = self.cache()?;
        let stored = cache
            .status
            .as_ref()
            .and_then(|status| status.topology.as_ref());
        if stored.map(|topology| topology.epoch) != replaces {
            return Ok(Stored::Conflict);
        }
        let value = serde_json::to_value(topology).map_err(|e| Error::Other(e.to_string()))?;
        self.swap(&cache, json!({"topology": value})).await
    }

    async fn publish_topology(&self, desired: &Desired, topology: &Topology) -> Result<(), Error> {
        self.leading()?;
        let map = build::topology_config_map(desired, topology);
        self.writer()
            .ensure(&self.context.stores.config_maps, &map)
            .await
    }

    async fn publish_regions(&self, desired: &Desired) -> Result<(), Error> {
        let stored = self.cache()?.status.and_then(|status| status.topology);
        match stored {
            Some(topology) => self.publish_topology(desired, &topology).await,
            // There is no ConfigMap before there is a topology.
            None => Ok(()),
        }
    }

    async fn record_maintenance(&self, status: &MaintenanceStatus) -> Result<(), Error> {
        let cache = self.cache()?;
        let old = cache
            .status
            .as_ref()
            .and_then(|status| status.maintenance.clone());
        let (old, new) = (json!({"maintenance": old}), json!({"maintenance": status}));
        let Some(change) = diff::merge_patch(&old, &new) else {
            return Ok(());
        };
        match self.swap(&cache, change).await? {
            Stored::Yes => Ok(()),
            Stored::Conflict => Err(Error::Stale(format!("the newest version of {}", self.key))),
        }
    }

    async fn write_status(&self, status: &CacheStatus) -> Result<(), Error> {
        let cache = self.cache()?;
        let old = cache.status.clone().unwrap_or_default();
        // These two are written by steps only; what was observed may be older.
        let mut new = status.clone();
        new.topology = old.topology.clone();
        new.maintenance = old.maintenance.clone();
        let quiet = same_but_counters(&old, &new);
        if quiet
            && self
                .context
                .memory(&self.key, |memory| memory.counters_are_fresh())
        {
            return Ok(());
        }
        let value = |status| serde_json::to_value(status).map_err(|e| Error::Other(e.to_string()));
        // A new Cache has no status at all: defaults must be written too.
        let old = match cache.status {
            Some(_) => value(&old)?,
            None => json!({}),
        };
        let Some(change) = diff::merge_patch(&old, &value(&new)?) else {
            return Ok(());
        };
        match self.swap(&cache, change).await? {
            Stored::Yes => {
                self.context
                    .memory(&self.key, |memory| memory.wrote_counters());
                Ok(())
            }
            Stored::Conflict => Err(Error::Stale(format!("the newest version of {}", self.key))),
        }
    }

    fn tell(&self, told: Vec<Told>) {
        let Ok(cache) = self.cache() else { return };
        let about = cache.object_ref(&());
        for told in told {
            self.context.events.tell(&about, told);
        }
    }

    fn noted(&self, step: &Step, done: bool) {
        let result = if done { "done" } else { "failed" };
        self.context
            .metrics
            .steps
            .with_label_values(&[step.kind(), result])
            .inc();
    }
}
