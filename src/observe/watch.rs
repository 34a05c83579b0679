//! Keeps an [`Index`] up to date by a watch.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::index::Index;
use crate::metrics::Metrics;

/// A watch is asked to end, and is begun anew, after this long at most. kube allows no more than 294 seconds.
pub const WATCH_MAX: Duration = Duration::from_secs(290);

/// Which watches have delivered once.
#[derive(Clone, Debug)]
pub struct Readiness {
    missing: Arc<watch::Sender<usize>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Readiness {
            missing: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl Readiness {
    fn one_more(&self) {
        self.missing.send_modify(|missing| *missing += 1);
    }

    fn delivered(&self) {
        self.missing.send_modify(|missing| *missing -= 1);
    }

    /// Resolves when every watch that was begun has delivered once.
    pub async fn all_delivered(&self) {
        let mut missing = self.missing.subscribe();
        // The sender is in `self`.
        let _ = missing.wait_for(|missing| *missing == 0).await;
    }
}

/// The API server does not know the kind.
fn is_unknown_kind(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

/// What is watched, and what for.
pub struct Watch<K> {
    pub kind: &'static str,
    pub api: Api<K>,
    /// None: all namespaces.
    pub namespace: Option<String>,
    pub config: watcher::Config,
    pub index: Index<K>,
    pub metrics: Arc<Metrics>,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Runs for ever; `changed` hears of each object that came, changed or went, and of its former self.
    pub fn spawn(self, readiness: &Readiness, changed: impl Fn(Option<&K>, &K) + Send + 'static) {
        readiness.one_more();
        tokio::spawn(self.run(readiness.clone(), changed));
    }

    async fn run(self, readiness: Readiness, changed: impl Fn(Option<&K>, &K)) {
        let seconds = u32::try_from(WATCH_MAX.as_secs()).unwrap_or(u32::MAX);
        let mut events = watcher(self.api.clone(), self.config.clone().timeout(seconds))
            .default_backoff()
            .boxed();
        let mut listed: BTreeSet<String> = BTreeSet::new();
        let mut delivered = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => {
                    listed.extend(object.uid());
                    self.put(object, &changed);
                }
                Ok(Event::InitDone) => {
                    for object in self.index.within(self.namespace.as_deref()) {
                        if object.uid().is_none_or(|uid| !listed.contains(&uid)) {
                            self.index.remove(&object);
                            changed(None, &object);
                        }
                    }
                    if !delivered {
                        delivered = true;
                        readiness.delivered();
                    }
                }
                Ok(Event::Apply(object)) => self.put(object, &changed),
                Ok(Event::Delete(object)) => {
                    self.index.remove(&object);
                    changed(None, &object);
                }
                Err(error) => {
                    if is_unknown_kind(&error) && !delivered {
                        // Its CRD is not installed: there is nothing of it, and what is there must not wait for it.
                        delivered = true;
                        readiness.delivered();
                    }
                    self.metrics
                        .watch_failures
                        .with_label_values(&[self.kind])
                        .inc();
                    tracing::warn!(kind = self.kind, %error, "the watch broke; it is taken up again");
                }
            }
        }
    }

    fn put(&self, object: K, changed: &impl Fn(Option<&K>, &K)) {
        let namespace = object.namespace().unwrap_or_default();
        let before = self.index.get(&namespace, &object.name_any());
        if self.index.put(object.clone()) {
            changed(before.as_deref(), &object);
        }
    }
}
