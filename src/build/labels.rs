//! Labels and owners: by them objects are found again, and go with what owns them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::api::names::{
    APP_NAME, GROUP, LABEL_CACHE, LABEL_INSTANCE, LABEL_MANAGED_BY, LABEL_NAME, MANAGER, VERSION,
};
use crate::plan::Desired;

pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// A cache server and what belongs to it.
pub const COMPONENT_NODE: &str = "node";
pub const COMPONENT_BACKUP: &str = "backup";
/// The CacheBackup that a Job belongs to.
pub const LABEL_BACKUP: &str = "cache.clusterdb.io/backup";

/// Whose objects are built: a Cache or a CacheBackup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl Owner {
    pub fn cache(desired: &Desired) -> Owner {
        Owner {
            kind: "Cache",
            namespace: desired.namespace.clone(),
            name: desired.name.clone(),
            uid: desired.uid.clone(),
        }
    }

    pub fn reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: format!("{GROUP}/{VERSION}"),
            kind: self.kind.into(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    pub fn metadata(&self, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(labels),
            owner_references: Some(vec![self.reference()]),
            ..ObjectMeta::default()
        }
    }
}

fn labels(instance: &str, cache: &str, component: &str) -> BTreeMap<String, String> {
    [
        (LABEL_NAME, APP_NAME),
        (LABEL_INSTANCE, instance),
        (LABEL_MANAGED_BY, MANAGER),
        (LABEL_COMPONENT, component),
        (LABEL_CACHE, cache),
    ]
    .map(|(key, value)| (key.to_string(), value.to_string()))
    .into()
}

/// Of every object of a Cache.
pub fn cache_labels(cache: &str) -> BTreeMap<String, String> {
    labels(cache, cache, COMPONENT_NODE)
}

/// Of a backup's Job and pod.
pub fn backup_labels(backup: &str, cache: &str) -> BTreeMap<String, String> {
    let mut labels = labels(backup, cache, COMPONENT_BACKUP);
    labels.insert(LABEL_BACKUP.into(), backup.into());
    labels
}

/// Selects the pods of a Cache's members.
pub fn member_selector(cache: &str) -> BTreeMap<String, String> {
    [(LABEL_CACHE, cache), (LABEL_COMPONENT, COMPONENT_NODE)]
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .into()
}
