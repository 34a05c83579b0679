//! All indexes, and the watches that fill them.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::Api;
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::runtime::watcher::Config;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;

use super::index::Index;
use super::members;
use super::watch::{Readiness, Watch};
use crate::api::names::{LABEL_CACHE, LABEL_MANAGED_BY, MANAGER};
use crate::api::{Cache, CacheBackup, CacheRegion};
use crate::build::LABEL_BACKUP;
use crate::metrics::Metrics;
use crate::platform::CacheKey;

/// Everything that is watched. Of built-in kinds only what carries the operator's label.
#[derive(Clone)]
pub struct Stores {
    pub caches: Index<DeserializeGuard<Cache>>,
    pub backups: Index<DeserializeGuard<CacheBackup>>,
    pub regions: Index<DeserializeGuard<CacheRegion>>,
    pub stateful_sets: Index<StatefulSet>,
    pub pods: Index<Pod>,
    pub services: Index<Service>,
    pub config_maps: Index<ConfigMap>,
    pub secrets: Index<Secret>,
    pub service_accounts: Index<ServiceAccount>,
    pub budgets: Index<PodDisruptionBudget>,
    pub jobs: Index<Job>,
    pub nodes: Index<Node>,
}

fn cache_of<K: ResourceExt>(object: &K) -> Option<String> {
    object.labels().get(LABEL_CACHE).cloned()
}

fn none<K>(_: &K) -> Option<String> {
    None
}

fn cache_of_backup(backup: &DeserializeGuard<CacheBackup>) -> Option<String> {
    let backup = backup.0.as_ref().ok()?;
    Some(backup.spec.cache_ref.name.clone())
}

fn cache_of_region(region: &DeserializeGuard<CacheRegion>) -> Option<String> {
    let region = region.0.as_ref().ok()?;
    Some(region.spec.cache_ref.name.clone())
}

impl Default for Stores {
    fn default() -> Self {
        Stores {
            caches: Index::new(none),
            backups: Index::new(cache_of_backup),
            regions: Index::new(cache_of_region),
            stateful_sets: Index::new(cache_of),
            pods: Index::new(cache_of),
            services: Index::new(cache_of),
            config_maps: Index::new(cache_of),
            secrets: Index::new(cache_of),
            service_accounts: Index::new(cache_of),
            budgets: Index::new(cache_of),
            jobs: Index::new(cache_of),
            nodes: Index::new(none),
        }
    }
}

/// Where the watches tell of changes.
#[derive(Clone)]
pub struct Triggers {
    pub caches: UnboundedSender<CacheKey>,
    pub backups: UnboundedSender<CacheKey>,
    pub regions: UnboundedSender<CacheKey>,
}

impl Triggers {
    // Sending fails only when the controllers have ended.
    fn cache(&self, key: CacheKey) {
        let _ = self.caches.send(key);
    }

    fn region(&self, key: CacheKey) {
        let _ = self.regions.send(key);
    }

    /// Of a Cache; its regions tell of it too.
    pub fn regions_of(&self, stores: &Stores, cache: &CacheKey) {
        for region in stores.regions.group(cache) {
            self.region(key_of(region.as_ref()));
        }
    }

    fn backup(&self, key: CacheKey) {
        let _ = self.backups.send(key);
    }
}

/// Begins all watches.
pub struct Watches<'a> {
    pub client: &'a Client,
    /// Empty: all.
    pub namespaces: &'a [String],
    pub stores: &'a Stores,
    pub triggers: &'a Triggers,
    pub readiness: &'a Readiness,
    pub metrics: &'a Arc<Metrics>,
}

impl Watches<'_> {
    pub fn begin(&self) {
        let stores = self.stores;
        self.each("Cache", Config::default(), &stores.caches, {
            let (triggers, stores) = (self.triggers.clone(), stores.clone());
            move |_, cache| {
                let key = key_of(cache);
                // A backup may wait for its Cache.
                for backup in stores.backups.group(&key) {
                    triggers.backup(key_of(backup.as_ref()));
                }
                triggers.regions_of(&stores, &key);
                triggers.cache(key);
            }
        });
        self.each("CacheRegion", Config::default(), &stores.regions, {
            let (triggers, stores) = (self.triggers.clone(), stores.clone());
            move |before, region| {
                if before.is_some_and(|before| same_region(before, region)) {
                    return;
                }
                triggers.region(key_of(region));
                let Some(cache) = cache_of_region(region) else {
                    return;
                };
                let key = CacheKey::new(region.namespace().unwrap_or_default(), cache);
                // Of two with one prefix the other may be accepted now.
                triggers.regions_of(&stores, &key);
                triggers.cache(key);
            }
        });
        self.each("CacheBackup", Config::default(), &stores.backups, {
            let triggers = self.triggers.clone();
            move |_, backup| triggers.backup(key_of(backup))
        });
        self.owned("StatefulSet", &stores.stateful_sets);
        self.owned("Pod", &stores.pods);
        self.owned("Service", &stores.services);
        self.owned("ConfigMap", &stores.config_maps);
        self.owned("Secret", &stores.secrets);
        self.owned("ServiceAccount", &stores.service_accounts);
        self.owned("PodDisruptionBudget", &stores.budgets);
        self.owned("Job", &stores.jobs);
        self.nodes();
    }

    /// Objects that the operator makes: a change concerns their Cache, and their CacheBackup if they have one.
    fn owned<K>(&self, kind: &'static str, index: &Index<K>)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let triggers = self.triggers.clone();
        let config = Config::default().labels(&format!("{LABEL_MANAGED_BY}={MANAGER}"));
        self.each(kind, config, index, move |before, now| {
            // Someone may have taken the label away: then its former self says whose it was.
            for object in before.into_iter().chain([now]) {
                let namespace = object.namespace().unwrap_or_default();
                if let Some(backup) = object.labels().get(LABEL_BACKUP) {
                    triggers.backup(CacheKey::new(&namespace, backup));
                } else if let Some(cache) = cache_of(object) {
                    triggers.cache(CacheKey::new(&namespace, cache));
                }
            }
        });
    }

    fn each<K>(
        &self,
        kind: &'static str,
        config: Config,
        index: &Index<K>,
        changed: impl Fn(Option<&K>, &K) + Clone + Send + 'static,
    ) where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let watch = |namespace: Option<String>, api| Watch {
            kind,
            api,
            namespace,
            config: config.clone(),
            index: index.clone(),
            metrics: self.metrics.clone(),
        };
        if self.namespaces.is_empty() {
            let api = Api::all(self.client.clone());
            watch(None, api).spawn(self.readiness, changed);
            return;
        }
        for namespace in self.namespaces {
            let api = Api::namespaced(self.client.clone(), namespace);
            watch(Some(namespace.clone()), api).spawn(self.readiness, changed.clone());
        }
    }

    /// Nodes tell their kubelet's news all the time; only readiness and cordons matter, to the Caches with members there.
    fn nodes(&self) {
        let (triggers, pods) = (self.triggers.clone(), self.stores.pods.clone());
        let watch = Watch {
            kind: "Node",
            api: Api::all(self.client.clone()),
            namespace: None,
            config: Config::default(),
            index: self.stores.nodes.clone(),
            metrics: self.metrics.clone(),
        };
        watch.spawn(self.readiness, move |before, now| {
            if before.is_some_and(|before| members::kube_node(before) == members::kube_node(now)) {
                return;
            }
            let name = now.name_any();
            let on_it = |pod: &Arc<Pod>| {
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
                (node == Some(&name))
                    .then(|| Some(CacheKey::new(pod.namespace()?, cache_of(pod.as_ref())?)))?
            };
            let caches: BTreeSet<CacheKey> = pods.all().iter().filter_map(on_it).collect();
            for cache in caches {
                triggers.cache(cache);
            }
        });
    }
}

/// Whether nothing but the status differs.
fn same_region(a: &DeserializeGuard<CacheRegion>, b: &DeserializeGuard<CacheRegion>) -> bool {
    let (Ok(x), Ok(y)) = (&a.0, &b.0) else {
        return false;
    };
    x.spec == y.spec
        && x.metadata.uid == y.metadata.uid
        && x.metadata.deletion_timestamp == y.metadata.deletion_timestamp
}

pub fn key_of<K: ResourceExt>(object: &K) -> CacheKey {
    CacheKey::new(object.namespace().unwrap_or_default(), object.name_any())
}
