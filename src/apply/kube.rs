//! Writes to the API server: each with a time limit, nothing that is there already, nothing that belongs to someone else.

use std::fmt::Debug;
use std::time::Duration;

use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::names::MANAGER;
use crate::build::diff::{covers, stamped};
use crate::observe::Index;
use crate::platform::{Error, Stored};

/// A kind in a namespace that the operator writes.
pub trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + Send
        + Sync
        + 'static
{
}

#[derive(Clone)]
pub struct Writer {
    pub client: Client,
    pub timeout: Duration,
}

impl Writer {
    fn api<K: Kind>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Waits for an answer so long and no longer.
    pub async fn timed<T>(
        &self,
        what: impl FnOnce() -> String,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(classify(what(), source)),
            Err(_) => Err(Error::Timeout {
                what: what(),
                seconds: self.timeout.as_secs(),
            }),
        }
    }

    /// Makes `wanted` be there as built. Writes only if it is not; refuses if an object of that name belongs to someone else.
    pub async fn ensure<K: Kind>(&self, index: &Index<K>, wanted: &K) -> Result<(), Error> {
        let namespace = wanted.namespace().unwrap_or_default();
        let value = stamped(wanted).map_err(|error| Error::Other(error.to_string()))?;
        let known = match index.get(&namespace, &wanted.name_any()) {
            Some(known) => Some(known),
            None => self.look(wanted).await?.map(std::sync::Arc::new),
        };
        if let Some(known) = known {
            own(known.as_ref(), wanted)?;
            let stored = serde_json::to_value(known.as_ref())
                .map_err(|error| Error::Other(error.to_string()))?;
            if covers(&stored, &value) {
                return Ok(());
            }
        }
        self.apply(index, wanted, &value).await
    }

    /// As [`Writer::ensure`], but what is there stays as it is, whatever it holds.
    pub async fn ensure_once<K: Kind>(&self, index: &Index<K>, wanted: &K) -> Result<(), Error> {
        let namespace = wanted.namespace().unwrap_or_default();
        if index.get(&namespace, &wanted.name_any()).is_some() {
            return Ok(());
        }
        if let Some(known) = self.look(wanted).await? {
            // Without its label it would not be watched.
            let labels = json!({"metadata": {"labels": wanted.labels()}});
            return self.merge(index, &known, labels).await.map(|_| ());
        }
        let params = kube::api::PostParams {
            field_manager: Some(MANAGER.into()),
            ..Default::default()
        };
        let api = self.api::<K>(&namespace);
        let created = self
            .timed(|| told("create", wanted), api.create(&params, wanted))
            .await?;
        index.put(created);
        Ok(())
    }

    /// Reads an object that is not watched, or not seen yet.
    pub async fn look<K: Kind>(&self, like: &K) -> Result<Option<K>, Error> {
        let api = self.api::<K>(&like.namespace().unwrap_or_default());
        self.timed(|| told("read", like), api.get_opt(&like.name_any()))
            .await
    }

    /// Server-side apply of a built object as [`stamped`] made it.
    pub async fn apply<K: Kind>(
        &self,
        index: &Index<K>,
        object: &K,
        value: &Value,
    ) -> Result<(), Error> {
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        let params = PatchParams::apply(MANAGER).force();
        let name = object.name_any();
        let patch = Patch::Apply(value);
        let written = self
            .timed(|| told("apply", object), api.patch(&name, &params, &patch))
            .await?;
        tracing::debug!(kind = %K::kind(&()), name, "applied");
        index.put(written);
        Ok(())
    }

    /// A merge patch of metadata or spec.
    pub async fn merge<K: Kind>(
        &self,
        index: &Index<K>,
        object: &K,
        change: Value,
    ) -> Result<K, Error> {
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        let params = PatchParams {
            field_manager: Some(MANAGER.into()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(change);
        let name = object.name_any();
        let written = self
            .timed(|| told("patch", object), api.patch(&name, &params, &patch))
            .await?;
        index.put(written.clone());
        Ok(written)
    }

    /// Swaps parts of a status: fails with [`Stored::Conflict`] if `object` is not the newest version.
    pub async fn swap_status<K: Kind>(
        &self,
        object: &K,
        mut status: Value,
    ) -> Result<(Stored, Option<K>), Error> {
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        status =
            json!({"metadata": {"resourceVersion": object.resource_version()}, "status": status});
        let params = PatchParams {
            field_manager: Some(MANAGER.into()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(status);
        let name = object.name_any();
        let call = api.patch_status(&name, &params, &patch);
        match self
            .timed(|| told("write the status of", object), call)
            .await
        {
            Ok(written) => Ok((Stored::Yes, Some(written))),
            Err(Error::Api {
                source: kube::Error::Api(status),
                ..
            }) if status.code == 409 => Ok((Stored::Conflict, None)),
            Err(error) => Err(error),
        }
    }

    /// Deletes it, and what it owns first; never by force. It is no error if it is gone.
    pub async fn delete<K: Kind>(&self, object: &K) -> Result<(), Error> {
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            preconditions: Some(Preconditions {
                uid: object.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let name = object.name_any();
        let deleted = self
            .timed(|| told("delete", object), api.delete(&name, &params))
            .await;
        match deleted {
            Ok(_) => Ok(()),
            Err(Error::Api {
                source: kube::Error::Api(status),
                ..
            }) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn told<K: Kind>(verb: &str, object: &K) -> String {
    format!("{verb} {} {}", K::kind(&()), object.name_any())
}

/// Refuses an object whose controller is another than `wanted`'s.
fn own<K: Kind>(known: &K, wanted: &K) -> Result<(), Error> {
    let controller = |object: &K| {
        let references = object.owner_references().iter();
        let mut controllers = references.filter(|owner| owner.controller == Some(true));
        controllers.next().map(|owner| owner.uid.clone())
    };
    if known.meta().deletion_timestamp.is_some() {
        let what = format!(
            "{} {} is still being deleted",
            K::kind(&()),
            known.name_any()
        );
        return Err(Error::Other(what));
    }
    if controller(known) == controller(wanted) {
        return Ok(());
    }
    Err(Error::Other(format!(
        "{} {} exists and is not this Cache's: rename or delete it, or choose another name for the Cache",
        K::kind(&()),
        known.name_any()
    )))
}

fn classify(what: String, source: kube::Error) -> Error {
    if let kube::Error::Api(status) = &source
        && status.code == 403
        && status.message.contains("because it is being terminated")
    {
        let namespace = status
            .message
            .rsplit("namespace ")
            .next()
            .unwrap_or_default();
        let namespace = namespace.split_whitespace().next().unwrap_or_default();
        return Error::NamespaceTerminating(namespace.into());
    }
    Error::Api { what, source }
}

#[cfg(test)]
mod tests;
