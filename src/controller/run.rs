//! The operator's process: watches at once, work while it leads, an orderly end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};

use super::{Context, backup, cache, queue, region};
use crate::apply::kube::Writer;
use crate::config::RunArgs;
use crate::events::Events;
use crate::health::{self, Health};
use crate::leader::{self, Settings, Timing, leadership};
use crate::metrics::Metrics;
use crate::node::Hub;
use crate::observe::Stores;
use crate::observe::stores::{Triggers, Watches};
use crate::observe::watch::{Readiness, WATCH_MAX};

/// Backups that are looked at at the same time.
const BACKUP_CONCURRENCY: usize = 4;
/// CacheRegions likewise.
const REGION_CONCURRENCY: usize = 4;

/// Runs until SIGTERM or SIGINT, or until the lease is lost.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::new()?);
    let health = Arc::new(Health::default());
    let listener = health::bind(args.listen).await?;
    tokio::spawn(health::serve(listener, health.clone(), metrics.clone()));

    let client = client(&args).await?;
    let identity = args.identity();
    let (announcer, leading) = leadership();
    let (hub, changed) = Hub::new();
    let (caches, asked_caches) = mpsc::unbounded_channel();
    let (backups, asked_backups) = mpsc::unbounded_channel();
    let (regions, asked_regions) = mpsc::unbounded_channel();
    let triggers = Triggers {
        caches,
        backups,
        regions,
    };
    let stores = Stores::default();
    tokio::spawn(forward(changed, triggers.clone(), stores.clone()));
    let readiness = Readiness::default();
    Watches {
        client: &client,
        namespaces: &args.namespaces(),
        stores: &stores,
        triggers: &triggers,
        readiness: &readiness,
        metrics: &metrics,
    }
    .begin();
    let context = Arc::new(Context {
        writer: Writer {
            client: client.clone(),
            timeout: args.api_timeout(),
        },
        events: Events::start(
            client.clone(),
            &identity,
            leading.clone(),
            args.api_timeout(),
        ),
        stores,
        hub,
        metrics: metrics.clone(),
        leadership: leading.clone(),
        cache_image: args.cache_image.clone(),
        self_image: args.self_image.clone(),
        memories: Mutex::new(BTreeMap::new()),
        region_figures: Mutex::default(),
    });

    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        terminated().await;
        tracing::info!("stopping");
        stop.send_replace(true);
    });
    let begin = || {
        let (readiness, health, mut leading) = (readiness.clone(), health.clone(), leading.clone());
        let metrics = metrics.clone();
        async move {
            readiness.all_delivered().await;
            health.set_synced();
            leading.acquired().await;
            metrics.leader.set(1);
        }
    };
    let (cache_context, backup_context) = (context.clone(), context.clone());
    let work = futures::future::join3(
        queue::run(
            asked_caches,
            usize::from(args.concurrency),
            begin(),
            stopped(stopping.clone()),
            move |key| cache::turn(cache_context.clone(), key),
        ),
        queue::run(
            asked_backups,
            BACKUP_CONCURRENCY,
            begin(),
            stopped(stopping.clone()),
            move |key| backup::turn(backup_context.clone(), key),
        ),
        queue::run(
            asked_regions,
            REGION_CONCURRENCY,
            begin(),
            stopped(stopping),
            move |key| region::turn(context.clone(), key),
        ),
    );
    // The lease is given up only when nothing is being written any more.
    let settings = Settings {
        namespace: args.lease_namespace.clone(),
        name: args.lease_name.clone(),
        identity,
        timing: Timing::default(),
    };
    let worked = async move {
        work.await;
    };
    leader::run(client, settings, announcer, worked).await?;
    Ok(())
}

async fn client(args: &RunArgs) -> anyhow::Result<kube::Client> {
    let mut config = kube::Config::infer()
        .await
        .context("no Kubernetes: run inside a pod, or set KUBECONFIG")?;
    config.connect_timeout = Some(args.api_timeout());
    config.write_timeout = Some(args.api_timeout());
    // Answers are waited for by each call itself. Only a watch is open this long, and the API server ends it sooner: where not, the peer is gone.
    config.read_timeout = Some(WATCH_MAX + args.api_timeout());
    kube::Client::try_from(config).context("the Kubernetes client cannot be made")
}

/// News of nodes concern their Cache and its regions.
async fn forward(
    mut from: mpsc::UnboundedReceiver<crate::platform::CacheKey>,
    to: Triggers,
    stores: Stores,
) {
    while let Some(key) = from.recv().await {
        to.regions_of(&stores, &key);
        if to.caches.send(key).is_err() {
            return;
        }
    }
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // The sender's end means the same.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!("no signal handlers: this process can only be killed");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
