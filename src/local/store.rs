//! The Caches of a state directory as objects: the user's spec, and the status with compare-and-swap, as the API server
//! keeps them on a cluster.

use std::sync::Mutex;

use anyhow::{Context, bail};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::folder::{CacheFolder, write_whole};
use crate::api::cache::{Cache, CacheSpec, CacheStatus, Phase};

/// Beyond this the events' file is begun anew, one old one kept.
const EVENTS_BYTES_MAX: u64 = 1 << 20;
/// The namespace that local mode's objects are said to be in.
pub const LOCAL_NAMESPACE: &str = "local";

/// `status.yaml`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatusFile {
    uid: String,
    /// Counts writes of this file: what a swap compares.
    resource_version: u64,
    /// Counts changes of the spec.
    generation: i64,
    created_at: Timestamp,
    /// The spec that `generation` counts.
    spec: serde_json::Value,
    status: CacheStatus,
}

/// A write that came too late.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the status is at version {is}, the change was made for {expected}: look again and plan anew"
)]
pub struct Conflict {
    pub expected: u64,
    pub is: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    #[error(transparent)]
    Conflict(#[from] Conflict),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Something that was done, as told to a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalEvent {
    pub time: Timestamp,
    pub reason: String,
    pub message: String,
    #[serde(default)]
    pub warning: bool,
}

/// One Cache's files. All writers of a process share one value: its lock makes the swap atomic; the state directory's
/// lock keeps other processes from writing.
#[derive(Debug)]
pub struct CacheStore {
    folder: CacheFolder,
    write: Mutex<()>,
}

impl CacheStore {
    pub fn new(folder: CacheFolder) -> Self {
        CacheStore {
            folder,
            write: Mutex::default(),
        }
    }

    pub fn folder(&self) -> &CacheFolder {
        &self.folder
    }

    /// The Cache as it is: `spec.yaml` with what `status.yaml` knows of it. A changed spec counts up the generation.
    pub fn load(&self) -> anyhow::Result<Cache> {
        let mut cache = read_spec(&self.folder)?;
        let _writing = self.write.lock().unwrap_or_else(|e| e.into_inner());
        let spec = serde_json::to_value(&cache.spec)?;
        let file = match read_status(&self.folder)? {
            Some(file) if file.spec == spec => file,
            Some(mut file) => {
                file.generation += 1;
                file.resource_version += 1;
                file.spec = spec;
                self.put(&file)?;
                file
            }
            None => {
                let file = StatusFile {
                    uid: uuid::Uuid::new_v4().to_string(),
                    resource_version: 1,
                    generation: 1,
                    created_at: Timestamp::now(),
                    spec,
                    status: CacheStatus::default(),
                };
                self.put(&file)?;
                file
            }
        };
        attach(&mut cache, file);
        Ok(cache)
    }

    /// Replaces the status if nobody wrote since `expected` was read; gives the new version.
    pub fn swap_status(&self, expected: u64, status: CacheStatus) -> Result<u64, SwapError> {
        let _writing = self.write.lock().unwrap_or_else(|e| e.into_inner());
        let Some(mut file) = read_status(&self.folder)? else {
            return Err(anyhow::anyhow!("{} is gone", self.folder.status().display()).into());
        };
        if file.resource_version != expected {
            return Err(Conflict {
                expected,
                is: file.resource_version,
            }
            .into());
        }
        if file.status != status {
            file.resource_version += 1;
            file.status = status;
            self.put(&file)?;
        }
        Ok(file.resource_version)
    }

    fn put(&self, file: &StatusFile) -> anyhow::Result<()> {
        let text = serde_yaml::to_string(file).context("writing the status as YAML")?;
        write_whole(&self.folder.status(), text.as_bytes(), false)
    }

    pub fn record(&self, event: &LocalEvent) -> anyhow::Result<()> {
        use std::io::Write;

        let path = self.folder.events();
        if std::fs::metadata(&path).is_ok_and(|m| m.len() > EVENTS_BYTES_MAX) {
            std::fs::rename(&path, path.with_extension("old.jsonl"))?;
        }
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        let mut line = serde_json::to_string(event)?;
        line.push('\n');
        file.write_all(line.as_bytes())?;
        Ok(())
    }
}

/// The Cache with its status as last written; for readers beside the running loop.
pub fn read_cache(folder: &CacheFolder) -> anyhow::Result<Cache> {
    let mut cache = read_spec(folder)?;
    if let Some(mut file) = read_status(folder)? {
        // A change that the loop has not taken up yet must not look carried out.
        if file.spec != serde_json::to_value(&cache.spec)? {
            file.generation += 1;
        }
        attach(&mut cache, file);
    }
    Ok(cache)
}

/// What was done to the Cache, oldest first.
pub fn read_events(folder: &CacheFolder) -> anyhow::Result<Vec<LocalEvent>> {
    let text = match std::fs::read_to_string(folder.events()) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("reading the events"),
    };
    // A last line that is being written is not an event yet.
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

/// Writes `spec.yaml`, by which a running loop carries it out.
pub fn write_spec(folder: &CacheFolder, cache: &Cache) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder.path())
        .with_context(|| format!("making {}", folder.path().display()))?;
    let mut plain = Cache::new(
        &cache.metadata.name.clone().unwrap_or_default(),
        cache.spec.clone(),
    );
    plain.metadata.annotations = cache.metadata.annotations.clone();
    let text = serde_yaml::to_string(&plain).context("writing the spec as YAML")?;
    write_whole(&folder.spec(), text.as_bytes(), false)
}

/// Changes the spec of a Cache that is there.
pub fn edit_spec(folder: &CacheFolder, edit: impl FnOnce(&mut CacheSpec)) -> anyhow::Result<()> {
    let mut cache = read_spec(folder)?;
    edit(&mut cache.spec);
    write_spec(folder, &cache)
}

fn read_spec(folder: &CacheFolder) -> anyhow::Result<Cache> {
    let path = folder.spec();
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("there is no Cache here: {} cannot be read", path.display()))?;
    let cache: Cache = serde_yaml::from_str(&text)
        .with_context(|| format!("{} is not a Cache", path.display()))?;
    let name = cache.metadata.name.as_deref().unwrap_or_default();
    let folder_name = folder
        .path()
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    if name != folder_name {
        bail!(
            "{}: metadata.name is {name:?} but its folder is {folder_name:?}: make them equal",
            path.display()
        );
    }
    Ok(cache)
}

fn read_status(folder: &CacheFolder) -> anyhow::Result<Option<StatusFile>> {
    let path = folder.status();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    serde_yaml::from_str(&text)
        .map(Some)
        .with_context(|| format!("{} is not a status that this program wrote", path.display()))
}

fn attach(cache: &mut Cache, file: StatusFile) {
    cache.metadata = ObjectMeta {
        namespace: Some(LOCAL_NAMESPACE.to_string()),
        uid: Some(file.uid),
        generation: Some(file.generation),
        resource_version: Some(file.resource_version.to_string()),
        creation_timestamp: Some(Time(file.created_at)),
        ..cache.metadata.clone()
    };
    cache.status = Some(file.status);
}

/// Whether the spec as it is now has been carried out and the Cache serves.
pub fn is_settled(cache: &Cache) -> bool {
    let Some(status) = &cache.status else {
        return false;
    };
    let moves = status.topology.as_ref().is_none_or(|t| !t.moves.is_empty());
    status.observed_generation == cache.metadata.generation
        && status.phase == Some(Phase::Ready)
        && status.shards == cache.spec.shards
        && i32::try_from(status.members.len())
            == Ok(cache.spec.shards * (cache.spec.replicas_per_shard + 1))
        && status
            .conditions
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True")
        && !moves
}

/// The version that a loaded Cache had.
pub fn resource_version(cache: &Cache) -> u64 {
    let version = cache.metadata.resource_version.as_deref();
    version.and_then(|v| v.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::folder::StateFolder;

    fn store(root: &std::path::Path) -> CacheStore {
        let folder = StateFolder::new(root).cache("main");
        let cache: Cache = serde_yaml::from_str(
            "apiVersion: cache.clusterdb.io/v1alpha1\nkind: Cache\nmetadata: {name: main}\nspec: {shards: 3}",
        )
        .expect("a Cache");
        write_spec(&folder, &cache).expect("written");
        CacheStore::new(folder)
    }

    #[test]
    fn of_two_swaps_from_one_version_only_the_first_is_taken() {
        let temp = tempfile::tempdir().expect("a folder");
        let store = store(temp.path());
        let cache = store.load().expect("a Cache");
        let version = resource_version(&cache);
        let with = |endpoint: &str| CacheStatus {
            endpoint: Some(endpoint.into()),
            ..CacheStatus::default()
        };
        let next = store.swap_status(version, with("first")).expect("taken");
        let late = store
            .swap_status(version, with("second"))
            .expect_err("too late");
        assert!(matches!(late, SwapError::Conflict(Conflict { is, .. }) if is == next));
        let read = read_cache(store.folder()).expect("a Cache");
        assert_eq!(
            read.status.expect("a status").endpoint.as_deref(),
            Some("first")
        );
        // The same status again is no write.
        assert_eq!(store.swap_status(next, with("first")).expect("taken"), next);
    }

    #[test]
    fn a_changed_spec_counts_up_the_generation_and_keeps_the_uid() {
        let temp = tempfile::tempdir().expect("a folder");
        let store = store(temp.path());
        let before = store.load().expect("a Cache");
        assert_eq!(store.load().expect("a Cache").metadata, before.metadata);
        edit_spec(store.folder(), |spec| spec.shards = 5).expect("edited");
        let after = store.load().expect("a Cache");
        assert_eq!(after.spec.shards, 5);
        assert_eq!(after.metadata.generation, Some(2));
        assert_eq!(after.metadata.uid, before.metadata.uid);
        let late = store.swap_status(resource_version(&before), CacheStatus::default());
        assert!(
            matches!(late, Err(SwapError::Conflict(_))),
            "a status for the old spec is refused"
        );
    }

    #[test]
    fn events_read_back_in_order() {
        let temp = tempfile::tempdir().expect("a folder");
        let store = store(temp.path());
        let event = |reason: &str| LocalEvent {
            time: Timestamp::UNIX_EPOCH,
            reason: reason.into(),
            message: "m".into(),
            warning: false,
        };
        for reason in ["Bootstrapped", "MoveStarted"] {
            store.record(&event(reason)).expect("recorded");
        }
        assert_eq!(
            read_events(store.folder()).expect("events"),
            [event("Bootstrapped"), event("MoveStarted")]
        );
    }
}
