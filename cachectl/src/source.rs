//! Where Caches and their events are read: a Kubernetes cluster, or a state directory of local mode.

use anyhow::{Context, bail};
use cache_operator::api::Cache;
use cache_operator::local::{StateFolder, read_cache, read_events};
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config, ResourceExt};

use crate::From;

pub enum Source {
    Cluster { client: Client, namespace: String },
    Local(StateFolder),
}

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

    /// The named Cache, or all of the namespace; none is an error.
    pub async fn caches(&self, name: Option<&str>) -> anyhow::Result<Vec<Cache>> {
        let all = match self {
            Source::Cluster { client, namespace } => {
                let api: Api<Cache> = Api::namespaced(client.clone(), namespace);
                let found = api.list(&ListParams::default()).await;
                found
                    .with_context(|| format!("reading Caches in namespace {namespace}"))?
                    .items
            }
            Source::Local(folder) => {
                let names = folder.cache_names()?;
                names
                    .iter()
                    .map(|name| read_cache(&folder.cache(name)))
                    .collect::<Result<_, _>>()?
            }
        };
        let Some(name) = name else {
            if all.is_empty() {
                bail!(
                    "there is no Cache {}: apply one, for example examples/quickstart.yaml",
                    self.place()
                );
            }
            return Ok(all);
        };
        let known: Vec<String> = all.iter().map(ResourceExt::name_any).collect();
        match all.into_iter().find(|cache| cache.name_any() == name) {
            Some(cache) => Ok(vec![cache]),
            None if known.is_empty() => bail!(
                "there is no Cache {name:?} {}, nor any other: look in other namespaces with -n",
                self.place()
            ),
            None => bail!(
                "there is no Cache {name:?} {}; there is {}",
                self.place(),
                known.join(", ")
            ),
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
