//! `cachectl demo`: everything once, on this machine: create, use, scale, back up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use cache_operator::api::{Cache, Role};
use cache_operator::backup::{Cancel, Manifest, Progress};
use cache_operator::local::{
    Manifests, S3File, StateFolder, edit_spec, is_settled, read_backup, read_cache, read_manifests,
    take_snapshot,
};
use futures::stream::TryStreamExt;
use kube::ResourceExt;
use redis::AsyncCommands;
use redis::cluster_async::ClusterConnection;

use crate::local::{FIRST_PORT, Running, start, stop_signal};
use crate::progress::Stage;
use crate::{render, style};

const KEYS: u64 = 10_000;
const IN_FLIGHT: usize = 64;
const POLL: Duration = Duration::from_millis(50);
/// Beyond this something is wrong even on a slow machine.
const STAGE_TIMEOUT: Duration = Duration::from_secs(180);

#[derive(clap::Args)]
pub struct Args {
    /// A file with a Cache and a CacheBackup
    #[arg(default_value = "examples/quickstart.yaml")]
    file: PathBuf,
    /// Run through and exit: 0 if all went well
    #[arg(long)]
    once: bool,
    /// The server program; found beside this one when absent
    #[arg(long, value_name = "FILE", env = "CACHE_NODE_BIN")]
    node_binary: Option<PathBuf>,
    /// The first port that members listen on
    #[arg(long, default_value_t = FIRST_PORT)]
    port: u16,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    // Removed at the end, whichever way it ends.
    let root = tempfile::Builder::new()
        .prefix("cachectl-demo-")
        .tempdir()?;
    tokio::select! {
        shown = show(&args, root.path()) => shown,
        () = stop => {
            anstream::println!("\n  stopped; nothing is left");
            Ok(())
        }
    }
}

async fn show(args: &Args, root: &Path) -> anyhow::Result<()> {
    let manifests = read_manifests(&args.file)?;
    let cache = &manifests.caches[0];
    let name = cache.name_any();
    anstream::println!(
        "\n{} {}",
        style::bold("ClusterDB Cache"),
        style::dim(format!("on this machine, from {}", args.file.display()))
    );

    let running = create(args, &manifests, root).await?;
    let folder = running.local.folder().clone();
    let connection = connect(&folder, &name).await?;
    write_keys(&connection).await?;
    verify_keys(&connection, "read them back, each by its value").await?;
    counted(&folder, &name).await?;
    show_status(&folder, &name)?;
    scale(&folder, &name, &connection).await?;
    show_status(&folder, &name)?;
    if let Some(backup) = manifests.backups.first() {
        snapshot(&folder, &backup.name_any()).await?;
    }
    farewell(args, &running, &name)?;
    if !args.once {
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Runs one stage: its line ends with a tick and what it found, or with a cross.
async fn stage<T>(
    mut stage: Stage,
    work: impl AsyncFnOnce(&mut Stage) -> anyhow::Result<(T, String)>,
) -> anyhow::Result<T> {
    let done = tokio::time::timeout(STAGE_TIMEOUT, work(&mut stage)).await;
    match done {
        Ok(Ok((value, detail))) => {
            stage.done(&detail);
            Ok(value)
        }
        Ok(Err(error)) => {
            stage.failed();
            Err(error)
        }
        Err(_) => {
            let seconds = stage.elapsed().as_secs();
            stage.failed();
            bail!(
                "not done after {seconds} s; the members' logs end with the demo: run `cachectl local up` to keep them"
            )
        }
    }
}

async fn create(args: &Args, manifests: &Manifests, root: &Path) -> anyhow::Result<Running> {
    let cache = &manifests.caches[0];
    let name = cache.name_any();
    let shape = format!(
        "{} shards × {} members",
        cache.spec.shards,
        cache.spec.replicas_per_shard + 1
    );
    stage(
        Stage::begin(format!("create Cache {name}: {shape}")),
        async |stage| {
            let running = start(
                manifests,
                root,
                args.node_binary.as_deref(),
                args.port,
                false,
            )
            .await?;
            let cache = settle(running.local.folder(), &name, stage).await?;
            let members = cache.status.map_or(0, |s| s.members.len());
            Ok((running, format!("Ready, {members} processes")))
        },
    )
    .await
}

/// Waits until what the spec says is carried out.
async fn settle(folder: &StateFolder, name: &str, stage: &mut Stage) -> anyhow::Result<Cache> {
    loop {
        let cache = read_cache(&folder.cache(name))?;
        if is_settled(&cache) {
            return Ok(cache);
        }
        if let Some(status) = &cache.status {
            let ready = status.ready_shards.as_deref().unwrap_or("0");
            let doing = status
                .pending_actions
                .first()
                .map_or(String::new(), |a| format!("; {a}"));
            stage.detail(&format!("{ready} shards ready{doing}"));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn connect(folder: &StateFolder, name: &str) -> anyhow::Result<ClusterConnection> {
    stage(
        Stage::begin("connect an ordinary Redis cluster client (redis-rs)"),
        async |_| {
            let endpoint = endpoint(folder, name)?;
            let client =
                redis::cluster::ClusterClient::builder(vec![format!("redis://{endpoint}/")])
                    .connection_timeout(Duration::from_secs(2))
                    .response_timeout(Duration::from_secs(5))
                    .retries(32)
                    .build()?;
            let connection = client
                .get_async_connection()
                .await
                .with_context(|| format!("connecting to {endpoint}"))?;
            Ok((connection, endpoint))
        },
    )
    .await
}

fn endpoint(folder: &StateFolder, name: &str) -> anyhow::Result<String> {
    let status = read_cache(&folder.cache(name))?.status;
    status
        .and_then(|s| s.endpoint)
        .context("the Cache has no endpoint")
}

fn key(number: u64) -> String {
    format!("demo:{number}")
}

/// Differs for each key, so that a mixed-up answer shows.
fn value(number: u64) -> String {
    format!(
        "value {number} {:016x}",
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    )
}

async fn write_keys(connection: &ClusterConnection) -> anyhow::Result<()> {
    let count = render::count(KEYS.cast_signed());
    stage(Stage::begin(format!("write {count} keys")), async |_| {
        futures::stream::iter((0..KEYS).map(Ok))
            .try_for_each_concurrent(IN_FLIGHT, |number| {
                let mut connection = connection.clone();
                async move { connection.set::<_, _, ()>(key(number), value(number)).await }
            })
            .await?;
        Ok(((), String::new()))
    })
    .await
}

async fn verify_keys(connection: &ClusterConnection, what: &str) -> anyhow::Result<()> {
    stage(Stage::begin(what), async |_| {
        futures::stream::iter((0..KEYS).map(anyhow::Ok))
            .try_for_each_concurrent(IN_FLIGHT, |number| {
                let mut connection = connection.clone();
                async move { check(number, connection.get(key(number)).await?) }
            })
            .await?;
        Ok((
            (),
            format!(
                "{} of {}",
                render::count(KEYS.cast_signed()),
                render::count(KEYS.cast_signed())
            ),
        ))
    })
    .await
}

fn check(number: u64, found: Option<String>) -> anyhow::Result<()> {
    match found {
        Some(found) if found == value(number) => Ok(()),
        Some(found) => bail!(
            "{} has the value {found:?} instead of {:?}",
            key(number),
            value(number)
        ),
        None => bail!("{} is lost", key(number)),
    }
}

/// The status is brought up to date every second: waits until it knows of the keys.
async fn counted(folder: &StateFolder, name: &str) -> anyhow::Result<()> {
    let of_cache = folder.cache(name);
    let knows = |cache: &Cache| {
        let members = cache.status.iter().flat_map(|s| &s.members);
        let primaries = members.filter(|m| m.role == Some(Role::Primary));
        primaries.map(|m| m.keys).sum::<i64>() >= KEYS.cast_signed()
    };
    let wait = async {
        while !knows(&read_cache(&of_cache)?) {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    };
    tokio::time::timeout(STAGE_TIMEOUT, wait)
        .await
        .context("the status never counted the keys")?
}

fn show_status(folder: &StateFolder, name: &str) -> anyhow::Result<()> {
    let text = render::status(&read_cache(&folder.cache(name))?, jiff::Timestamp::now());
    let indented: String = text
        .lines()
        .map(|l| {
            if l.is_empty() {
                "\n".into()
            } else {
                format!("    {l}\n")
            }
        })
        .collect();
    anstream::println!("\n{indented}");
    Ok(())
}

/// One more shard, while keys are read and checked all the time.
async fn scale(
    folder: &StateFolder,
    name: &str,
    connection: &ClusterConnection,
) -> anyhow::Result<()> {
    let of_cache = folder.cache(name);
    let shards = read_cache(&of_cache)?.spec.shards + 1;
    let reads = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..8)
        .map(|n| {
            tokio::spawn(read_on(
                connection.clone(),
                n * 1_237,
                reads.clone(),
                stop.clone(),
            ))
        })
        .collect();
    let scaled = stage(
        Stage::begin(format!("scale to {shards} shards while keys are read")),
        async |stage| {
            edit_spec(&of_cache, |spec| spec.shards = shards)?;
            settle(folder, name, stage).await?;
            stop.store(true, Ordering::Relaxed);
            for reader in futures::future::join_all(readers).await {
                reader??;
            }
            let reads = reads.load(Ordering::Relaxed).cast_signed();
            Ok((
                (),
                format!("{} reads meanwhile, none wrong", render::count(reads)),
            ))
        },
    );
    let result = scaled.await;
    stop.store(true, Ordering::Relaxed);
    result?;
    verify_keys(connection, "read every key again").await
}

async fn read_on(
    mut connection: ClusterConnection,
    from: u64,
    reads: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let mut number = from;
    while !stop.load(Ordering::Relaxed) {
        number = (number + 7) % KEYS;
        check(
            number,
            connection
                .get(key(number))
                .await
                .context("reading while slots move")?,
        )?;
        reads.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn snapshot(folder: &StateFolder, backup: &str) -> anyhow::Result<()> {
    let spec = read_backup(folder, backup)?.spec;
    let s3 = spec
        .storage
        .s3
        .context("the CacheBackup has no spec.storage.s3")?;
    // Held, so that nothing cancels.
    let (_stop, cancel) = Cancel::channel();
    let manifest = stage(
        Stage::begin(format!("snapshot into S3 bucket {}", s3.bucket)),
        async |_| {
            let (manifest, location) =
                take_snapshot(folder, backup, &cancel, &|_: Progress| {}).await?;
            ensure!(
                manifest.keys >= KEYS,
                "the snapshot holds {} keys of {KEYS}",
                manifest.keys
            );
            Ok((manifest, location.url()))
        },
    )
    .await?;
    list(folder, &s3.bucket, &s3.prefix, &manifest).await
}

/// What the bucket holds, compared with the manifest.
async fn list(
    folder: &StateFolder,
    bucket: &str,
    prefix: &str,
    manifest: &Manifest,
) -> anyhow::Result<()> {
    let client =
        cache_operator::backup::client(&S3File::read(folder)?.target(bucket, prefix)).await;
    let listed = client
        .list_objects_v2()
        .bucket(bucket)
        .prefix(prefix)
        .send()
        .await
        .context("listing the bucket")?;
    let sizes: BTreeMap<String, i64> = listed
        .contents()
        .iter()
        .filter_map(|o| Some((o.key()?.to_string(), o.size()?)))
        .collect();
    let mut table = render::Table::new(&["OBJECT", ">SIZE", ">KEYS"]);
    for (key, size) in &sizes {
        let shard = manifest
            .shards
            .iter()
            .find(|s| key.ends_with(&format!("/{}", s.object)));
        if let Some(shard) = shard {
            ensure!(
                u64::try_from(*size) == Ok(shard.bytes),
                "{key} has {size} bytes, its manifest says {}",
                shard.bytes
            );
        }
        let keys = shard.map_or(String::new(), |s| render::count(s.keys.cast_signed()));
        table.row(vec![key.clone(), render::bytes(*size), keys]);
    }
    let stored = manifest
        .shards
        .iter()
        .filter(|s| sizes.keys().any(|k| k.ends_with(&format!("/{}", s.object))));
    ensure!(
        stored.count() == manifest.shards.len(),
        "the bucket lacks an object of the manifest"
    );
    let indented: String = table
        .lines()
        .lines()
        .map(|l| format!("    {l}\n"))
        .collect();
    anstream::println!("\n{indented}");
    Ok(())
}

fn farewell(args: &Args, running: &Running, name: &str) -> anyhow::Result<()> {
    if args.once {
        anstream::println!("  {} all of it worked\n", style::good("✓"));
        return Ok(());
    }
    let endpoint = endpoint(running.local.folder(), name)?;
    let (host, port) = endpoint
        .split_once(':')
        .context("the endpoint has no port")?;
    let root = running.local.folder().root().display().to_string();
    // Not installed as a rule: the commands work as they are printed.
    let program = std::env::current_exe()?.display().to_string();
    anstream::println!("  It stays up until Ctrl-C. Try, in another terminal:");
    for command in [
        format!("redis-cli -c -h {host} -p {port} get demo:1"),
        format!("{program} status --local {root}"),
        format!("{program} why --local {root}"),
        format!("{program} local scale {name} --shards 2 --state-dir {root}"),
    ] {
        anstream::println!("    {}", style::bold(command));
    }
    Ok(())
}
