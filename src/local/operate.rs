//! The loop of local mode: what the controllers are on Kubernetes. Each Cache's loop is one task, and ending it at any
//! point is the same as killing an operator there.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::folder::{OwnedFolder, StateFolder};
use super::fuse::Fuse;
use super::members::Ports;
use super::platform::{LocalPlatform, Shared};
use super::regions;
use super::store::CacheStore;
use super::supervisor::Supervisor;
use crate::controller::driver;
use crate::node::Hub;
use crate::plan::Limits;
use crate::platform::Platform;
use crate::validate;

/// Numbers in the status are at most this old.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(1);
/// After a round that failed.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// Between rounds: news of several members then make one round.
const BREATH: Duration = Duration::from_millis(20);
/// How soon a changed `spec.yaml` is seen.
const SPEC_POLL: Duration = Duration::from_millis(100);

/// A state directory in use: its processes run until this value is dropped.
pub struct Local {
    owned: OwnedFolder,
    shared: Shared,
    /// Counts news from nodes.
    news: watch::Receiver<u64>,
    router: JoinHandle<()>,
}

impl Drop for Local {
    fn drop(&mut self) {
        self.router.abort();
    }
}

impl Local {
    /// Takes the state directory. Members listen on ports from `first_port` on.
    pub fn start(
        root: &Path,
        program: PathBuf,
        first_port: u16,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        let owned = OwnedFolder::open(root)?;
        let (hub, mut changed) = Hub::new();
        let (count, news) = watch::channel(0);
        let router = tokio::spawn(async move {
            while changed.recv().await.is_some() {
                count.send_modify(|n| *n += 1);
            }
        });
        let shared = Shared {
            hub,
            supervisor: Arc::new(Supervisor::start()?),
            program,
            ports: Arc::new(Mutex::new(Ports::from(first_port))),
            limits,
        };
        Ok(Local {
            owned,
            shared,
            news,
            router,
        })
    }

    pub fn folder(&self) -> &StateFolder {
        self.owned.folder()
    }

    pub fn supervisor(&self) -> &Supervisor {
        &self.shared.supervisor
    }

    /// Looks after a Cache that has a `spec.yaml`, until the result is dropped; its members run on then.
    /// There must be one a Cache at most.
    pub fn operate(&self, cache: &str, fuse: Fuse) -> anyhow::Result<Operator> {
        let store = CacheStore::new(self.folder().cache(cache));
        let platform = LocalPlatform::open(store, &self.shared, fuse)
            .with_context(|| format!("Cache {cache}"))?;
        // What an earlier loop knew died with it.
        self.shared.hub.forget(platform.key());
        let fuse = platform.fuse().clone();
        let task = tokio::spawn(look_after(
            platform,
            self.folder().clone(),
            self.news.clone(),
            self.shared.supervisor.states(),
        ));
        Ok(Operator { task, fuse })
    }
}

/// A running loop; dropping it ends it wherever it is.
pub struct Operator {
    task: JoinHandle<()>,
    fuse: Fuse,
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Operator {
    /// Returns once the loop stands still because its fuse is burnt.
    pub async fn burnt(&self) {
        self.fuse.burnt().await;
    }

    /// Ends the loop, and returns when it has ended.
    pub async fn kill(mut self) {
        self.task.abort();
        // An error says that it was aborted, which is what was asked.
        let _ = (&mut self.task).await;
    }
}

async fn look_after(
    platform: LocalPlatform,
    folder: StateFolder,
    mut news: watch::Receiver<u64>,
    mut processes: watch::Receiver<super::Processes>,
) {
    let spec = platform.store().folder().spec();
    loop {
        let stamp = stamp(&spec);
        news.mark_unchanged();
        processes.mark_unchanged();
        let pause = match round(&platform, &folder).await {
            Ok(round) if round.failed.is_some() => TRY_AGAIN,
            Ok(round) => round.again.min(LOOK_AGAIN_MAX),
            Err(error) => {
                tracing::warn!("{error:#}");
                TRY_AGAIN
            }
        };
        tokio::time::sleep(BREATH).await;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // An error means that the state directory is being let go, which ends this task too.
            _ = news.changed() => {}
            _ = processes.changed() => {}
            () = changed(&spec, stamp) => {}
        }
    }
}

async fn round(platform: &LocalPlatform, folder: &StateFolder) -> anyhow::Result<driver::Round> {
    let cache = platform.load()?;
    let context = validate::Context {
        default_image: "cache-node".to_string(),
        addressing: platform.addressing(&cache)?,
        limits: platform.limits(),
        regions: regions::regions_of(folder, &platform.key().name)?,
    };
    let round = driver::reconcile(platform, &cache, &context).await?;
    regions::write_statuses(folder, platform.hub(), platform.key(), &cache, &context)?;
    Ok(round)
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

async fn changed(path: &Path, since: Option<(SystemTime, u64)>) {
    while stamp(path) == since {
        tokio::time::sleep(SPEC_POLL).await;
    }
}
