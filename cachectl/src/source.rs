//! Where Caches and their events are read: a Kubernetes cluster, or a state directory of local mode.

use anyhow::{Context, bail};
use cache_operator::api::{Cache, CacheBackup, CacheRegion};
use cache_operator::local::{StateFolder, read_backup, read_cache, read_events, read_region};
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use kube::config::KubeConfigOptions;
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::From;

pub enum Source {
    Cluster { client: Client, namespace: String },
    Local(StateFolder),
}

/// An object that is there and cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub name: String,
    pub error: String,
}

pub type Found<K> = Result<K, Unreadable>;

/// Something that happened to a Cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    pub time: jiff::Timestamp,
    pub reason: String,
    pub message: String,
    pub warning: bool,
}

impl Source {
    pub async fn open(from: &From) -> anyhow::Result<Self> {
        if let Some(root) = &from.local {
            if !root.join("caches").is_dir() {
                bail!(
                    "{} is no state directory with a Cache: start one with `cachectl local up -f examples/quickstart.yaml`",
                    root.display()
                );
            }
            return Ok(Source::Local(StateFolder::new(root)));
        }
        let config = match &from.context {
            Some(context) => {
                let options = KubeConfigOptions {
                    context: Some(context.clone()),
                    ..KubeConfigOptions::default()
                };
                Config::from_kubeconfig(&options)
                    .await
                    .context("reading the kubeconfig")?
            }
            None => Config::infer().await.context("reading the kubeconfig")?,
        };
        let namespace = from
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        Ok(Source::Cluster {
            client: Client::try_from(config)?,
            namespace,
        })
    }

    /// The named Cache, or all of the namespace; none is an error, and so is a named one that cannot be read.
    pub async fn caches(&self, name: Option<&str>) -> anyhow::Result<Vec<Found<Cache>>> {
        let Some(name) = name else {
            let all = self.all_caches().await?;
            if all.is_empty() {
                bail!(
                    "there is no Cache {}: apply one, for example examples/quickstart.yaml",
                    self.place()
                );
            }
            return Ok(all);
        };
        if let Some(found) = self.cache(name).await? {
            return Ok(vec![Ok(found)]);
        }
        let known: Vec<String> = self.all_caches().await?.iter().map(name_of).collect();
        if known.is_empty() {
            bail!(
                "there is no Cache {name:?} {}, nor any other: look in other namespaces with -n",
                self.place()
            )
        }
        bail!(
            "there is no Cache {name:?} {}; there is {}",
            self.place(),
            known.join(", ")
        )
    }

    async fn cache(&self, name: &str) -> anyhow::Result<Option<Cache>> {
        match self {
            Source::Cluster { client, namespace } => {
                let api: Api<Cache> = Api::namespaced(client.clone(), namespace);
                let found = api.get_opt(name).await;
                found.with_context(|| format!("reading Cache {name} in namespace {namespace}"))
            }
            Source::Local(folder) => {
                match folder.cache_names()?.iter().any(|known| known == name) {
                    true => read_cache(&folder.cache(name)).map(Some),
                    false => Ok(None),
                }
            }
        }
    }

    async fn all_caches(&self) -> anyhow::Result<Vec<Found<Cache>>> {
        match self {
            Source::Cluster { client, namespace } => guarded(client, namespace, "Caches").await,
            Source::Local(folder) => {
                let read = |name: &String| {
                    read_cache(&folder.cache(name)).map_err(|error| Unreadable {
                        name: name.clone(),
                        error: format!("{error:#}"),
                    })
                };
                Ok(folder.cache_names()?.iter().map(read).collect())
            }
        }
    }

    /// All CacheBackups, of whichever Cache.
    pub async fn backups(&self) -> anyhow::Result<Vec<Found<CacheBackup>>> {
        match self {
            Source::Cluster { client, namespace } => {
                guarded(client, namespace, "CacheBackups").await
            }
            Source::Local(folder) => {
                let read = |name: &String| {
                    read_backup(folder, name).map_err(|error| Unreadable {
                        name: name.clone(),
                        error: format!("{error:#}"),
                    })
                };
                Ok(folder.backup_names()?.iter().map(read).collect())
            }
        }
    }

    /// All CacheRegions, of whichever Cache.
    pub async fn regions(&self) -> anyhow::Result<Vec<Found<CacheRegion>>> {
        match self {
            Source::Cluster { client, namespace } => {
                guarded(client, namespace, "CacheRegions").await
            }
            Source::Local(folder) => {
                let read = |name: &String| {
                    read_region(folder, name).map_err(|error| Unreadable {
                        name: name.clone(),
                        error: format!("{error:#}"),
                    })
                };
                Ok(folder.region_names()?.iter().map(read).collect())
            }
        }
    }

    fn place(&self) -> String {
        match self {
            Source::Cluster { namespace, .. } => format!("in namespace {namespace}"),
            Source::Local(folder) => format!("in {}", folder.root().display()),
        }
    }

    /// What happened to the Cache, oldest first.
    pub async fn events(&self, cache: &Cache) -> anyhow::Result<Vec<Happened>> {
        let name = cache.name_any();
        let mut events = match self {
            Source::Local(folder) => {
                let read = read_events(&folder.cache(&name))?;
                read.into_iter()
                    .map(|e| Happened {
                        time: e.time,
                        reason: e.reason,
                        message: e.message,
                        warning: e.warning,
                    })
                    .collect()
            }
            Source::Cluster { client, namespace } => {
                let api: Api<Event> = Api::namespaced(client.clone(), namespace);
                let fields = format!("involvedObject.kind=Cache,involvedObject.name={name}");
                let found = api.list(&ListParams::default().fields(&fields)).await;
                found
                    .context("reading events")?
                    .items
                    .into_iter()
                    .filter_map(happened)
                    .collect::<Vec<_>>()
            }
        };
        events.sort_by_key(|event| event.time);
        Ok(events)
    }
}

fn name_of(found: &Found<Cache>) -> String {
    match found {
        Ok(cache) => cache.name_any(),
        Err(unreadable) => unreadable.name.clone(),
    }
}

/// Lists a kind so that an object which cannot be decoded keeps no other from being shown.
async fn guarded<K>(client: &Client, namespace: &str, what: &str) -> anyhow::Result<Vec<Found<K>>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<DeserializeGuard<K>> = Api::namespaced(client.clone(), namespace);
    let found = api.list(&ListParams::default()).await;
    let found = found.with_context(|| format!("reading {what} in namespace {namespace}"))?;
    let each = |guard: DeserializeGuard<K>| {
        guard.0.map_err(|invalid| Unreadable {
            name: invalid.metadata.name.unwrap_or_default(),
            error: invalid.error,
        })
    };
    Ok(found.items.into_iter().map(each).collect())
}

fn happened(event: Event) -> Option<Happened> {
    let series = event
        .series
        .as_ref()
        .and_then(|s| s.last_observed_time.as_ref())
        .map(|t| t.0);
    let time = series
        .or(event.last_timestamp.map(|t| t.0))
        .or(event.event_time.map(|t| t.0))
        .or(event.first_timestamp.map(|t| t.0))?;
    Some(Happened {
        time,
        reason: event.reason.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
        warning: event.type_.as_deref() == Some("Warning"),
    })
}
