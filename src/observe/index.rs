//! Objects of one kind as last seen, found by namespace and name or by the Cache they belong to.
//!
//! What this process writes is put in at once from the API server's answer, so that a plan never comes from before its own last write; the watch's
//! older news of the same object is then passed over.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kube::{Resource, ResourceExt};

use crate::platform::CacheKey;

/// Deleted objects that are remembered, so that a late answer does not bring one back.
const GONE_MAX: usize = 1024;

type GroupOf<K> = fn(&K) -> Option<String>;

#[derive(Debug)]
struct Inner<K> {
    objects: BTreeMap<CacheKey, Arc<K>>,
    /// Names by namespace and group.
    groups: BTreeMap<CacheKey, Vec<String>>,
    gone: VecDeque<String>,
}

/// Cheap to clone; all clones are one.
#[derive(Debug)]
pub struct Index<K> {
    inner: Arc<RwLock<Inner<K>>>,
    group_of: GroupOf<K>,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Index {
            inner: self.inner.clone(),
            group_of: self.group_of,
        }
    }
}

impl<K: Resource + ResourceExt> Index<K> {
    /// `group_of` names the Cache that an object belongs to.
    pub fn new(group_of: GroupOf<K>) -> Self {
        let inner = Inner {
            objects: BTreeMap::new(),
            groups: BTreeMap::new(),
            gone: VecDeque::new(),
        };
        Index {
            inner: Arc::new(RwLock::new(inner)),
            group_of,
        }
    }

    // Each change below is whole before anything in it can panic.
    fn read(&self) -> RwLockReadGuard<'_, Inner<K>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<K>> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(object: &K) -> CacheKey {
        CacheKey::new(object.namespace().unwrap_or_default(), object.name_any())
    }

    /// Takes in what a watch or a write told. False: something newer is known already.
    pub fn put(&self, mut object: K) -> bool {
        object.managed_fields_mut().clear();
        let key = Self::key(&object);
        let mut inner = self.write();
        if let Some(uid) = object.uid()
            && inner.gone.contains(&uid)
        {
            return false;
        }
        if let Some(known) = inner.objects.get(&key) {
            let older = version(&object) < version(known.as_ref());
            if known.uid() == object.uid() && older {
                return false;
            }
        }
        self.take_out(&mut inner, &key);
        if let Some(group) = (self.group_of)(&object) {
            let group = CacheKey::new(key.namespace.clone(), group);
            inner
                .groups
                .entry(group)
                .or_default()
                .push(key.name.clone());
        }
        inner.objects.insert(key, Arc::new(object));
        true
    }

    /// Takes note of a deletion.
    pub fn remove(&self, object: &K) {
        let key = Self::key(object);
        let mut inner = self.write();
        if let Some(uid) = object.uid() {
            if inner.gone.len() == GONE_MAX {
                inner.gone.pop_front();
            }
            inner.gone.push_back(uid);
        }
        let same = inner
            .objects
            .get(&key)
            .is_some_and(|known| known.uid() == object.uid());
        if same {
            self.take_out(&mut inner, &key);
        }
    }

    fn take_out(&self, inner: &mut Inner<K>, key: &CacheKey) {
        let Some(object) = inner.objects.remove(key) else {
            return;
        };
        let Some(group) = (self.group_of)(&object) else {
            return;
        };
        let group = CacheKey::new(key.namespace.clone(), group);
        if let Some(names) = inner.groups.get_mut(&group) {
            names.retain(|name| *name != key.name);
            if names.is_empty() {
                inner.groups.remove(&group);
            }
        }
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let key = CacheKey::new(namespace, name);
        self.read().objects.get(&key).cloned()
    }

    /// All of a Cache's.
    pub fn group(&self, cache: &CacheKey) -> Vec<Arc<K>> {
        let inner = self.read();
        let names = inner.groups.get(cache).into_iter().flatten();
        let object = |name: &String| {
            let key = CacheKey::new(cache.namespace.clone(), name.clone());
            inner.objects.get(&key).cloned()
        };
        let mut objects: Vec<Arc<K>> = names.filter_map(object).collect();
        objects.sort_by_key(|object| object.name_any());
        objects
    }

    /// How many are so.
    pub fn count(&self, is: impl Fn(&K) -> bool) -> usize {
        let inner = self.read();
        inner.objects.values().filter(|object| is(object)).count()
    }

    pub fn all(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// Those in a namespace, or all.
    pub fn within(&self, namespace: Option<&str>) -> Vec<Arc<K>> {
        let inner = self.read();
        let within = |key: &CacheKey| namespace.is_none_or(|namespace| key.namespace == namespace);
        let objects = inner.objects.iter();
        objects
            .filter(|(key, _)| within(key))
            .map(|(_, object)| object.clone())
            .collect()
    }
}

/// Resource versions are documented to be opaque, but etcd's are integers that grow, and nothing else is served by Kubernetes.
fn version<K: ResourceExt>(object: &K) -> u64 {
    let text = object.resource_version().unwrap_or_default();
    text.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str, uid: &str, version: u64, cache: &str) -> ConfigMap {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "namespace": "n", "uid": uid, "resourceVersion": version.to_string(), "labels": {"cache": cache}},
        }))
        .unwrap()
    }

    fn index() -> Index<ConfigMap> {
        Index::new(|object| object.labels().get("cache").cloned())
    }

    fn versions(index: &Index<ConfigMap>, cache: &str) -> Vec<String> {
        let objects = index.group(&CacheKey::new("n", cache));
        objects
            .iter()
            .filter_map(|object| object.resource_version())
            .collect()
    }

    #[test]
    fn older_news_of_what_was_written_is_passed_over() {
        let index = index();
        assert!(index.put(object("a", "1", 5, "x")));
        assert!(!index.put(object("a", "1", 4, "x")));
        assert_eq!(versions(&index, "x"), ["5"]);
        assert!(index.put(object("a", "1", 5, "x")));
        assert!(index.put(object("a", "1", 6, "y")));
        assert_eq!(
            (versions(&index, "x"), versions(&index, "y")),
            (vec![], vec!["6".to_string()])
        );
    }

    #[test]
    fn a_deleted_object_stays_deleted_and_its_successor_counts() {
        let index = index();
        index.put(object("a", "1", 5, "x"));
        index.remove(&object("a", "1", 6, "x"));
        assert!(!index.put(object("a", "1", 5, "x")));
        assert!(index.put(object("a", "2", 7, "x")));
        // Late news of the first one's end.
        index.remove(&object("a", "1", 6, "x"));
        assert_eq!(versions(&index, "x"), ["7"]);
    }
}
