//! `cachectl local`: caches as processes on this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use cache_operator::api::CacheBackup;
use cache_operator::backup::{Cancel, Progress};
use cache_operator::local::{
    Fuse, Local, LocalS3, Manifests, Operator, StateFolder, edit_spec, find_node_program,
    is_settled, read_cache, read_events, read_manifests, take_snapshot, unused_fields,
    write_backup_spec, write_region_specs, write_spec,
};
use cache_operator::plan::Limits;
use cache_operator::plan::cron::Schedule;
use clap::Subcommand;
use kube::ResourceExt;

use crate::{From, render, style};

/// Where local mode keeps its state unless told.
pub const STATE_DIR: &str = ".cachectl";
/// Members listen from here on unless told.
pub const FIRST_PORT: u16 = 7000;
const POLL: Duration = Duration::from_millis(100);

#[derive(Subcommand)]
pub enum Command {
    /// Run the Caches of a file until Ctrl-C; their data is in memory and ends with it
    Up {
        /// A file with Caches and CacheBackups
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        place: Place,
        /// The server program; found beside this one when absent
        #[arg(long, value_name = "FILE", env = "CACHE_NODE_BIN")]
        node_binary: Option<PathBuf>,
        /// The first port that members listen on
        #[arg(long, default_value_t = FIRST_PORT)]
        port: u16,
    },
    /// Change the number of shards of a running Cache
    Scale {
        name: String,
        #[arg(long, value_parser = clap::value_parser!(i32).range(1..=128))]
        shards: i32,
        #[command(flatten)]
        place: Place,
        /// Return when it is done, not when it is begun
        #[arg(long)]
        wait: bool,
    },
    /// Show the Caches, as `cachectl status --local`
    Status {
        name: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Take a snapshot now
    Backup {
        /// The CacheBackup; may be left out if there is one only
        name: Option<String>,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(clap::Args)]
pub struct Place {
    /// Where the state is kept
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up {
            file,
            place,
            node_binary,
            port,
        } => up(&file, &place.state_dir, node_binary.as_deref(), port).await,
        Command::Scale {
            name,
            shards,
            place,
            wait,
        } => scale(&running(&place)?, &name, shards, wait).await,
        Command::Status { name, place } => {
            let from = From {
                namespace: None,
                context: None,
                local: Some(place.state_dir),
            };
            crate::status::run(name.as_deref(), &from, None).await
        }
        Command::Backup { name, place } => backup(&running(&place)?, name).await,
    }
}

/// The state directory, of which a `local up` must be looking after.
fn running(place: &Place) -> anyhow::Result<StateFolder> {
    let folder = StateFolder::new(&place.state_dir);
    if !folder.is_in_use() {
        bail!(
            "nothing runs on {}: start it in another terminal with `cachectl local up -f examples/quickstart.yaml`, or name its directory with --state-dir",
            place.state_dir.display()
        );
    }
    Ok(folder)
}

/// What runs while `up` or the demo does.
pub struct Running {
    // Dropped in this order: the loops before the processes.
    _operators: Vec<Operator>,
    _schedules: Vec<tokio::task::JoinHandle<()>>,
    _s3: Option<LocalS3>,
    pub local: Local,
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self._schedules {
            task.abort();
        }
    }
}

/// Starts the Caches of a file, and the S3 server if there are CacheBackups.
pub async fn start(
    manifests: &Manifests,
    root: &Path,
    node_binary: Option<&Path>,
    port: u16,
    schedules: bool,
) -> anyhow::Result<Running> {
    let program = find_node_program(node_binary)?;
    let local = Local::start(root, program, port, Limits::default())?;
    let folder = local.folder().clone();
    let mut s3 = None;
    if !manifests.backups.is_empty() {
        let server = LocalS3::start(&folder.s3_folder()).await?;
        server.file().write(&folder)?;
        s3 = Some(server);
    }
    write_region_specs(&folder, &manifests.regions)?;
    let mut operators = Vec::new();
    for cache in &manifests.caches {
        let name = cache.name_any();
        write_spec(&folder.cache(&name), cache)?;
        operators.push(local.operate(&name, Fuse::default())?);
    }
    let mut tasks = Vec::new();
    for backup in &manifests.backups {
        write_backup_spec(&folder, backup)?;
        if schedules {
            tasks.push(tokio::spawn(run_backup(folder.clone(), backup.clone())));
        }
    }
    Ok(Running {
        _operators: operators,
        _schedules: tasks,
        _s3: s3,
        local,
    })
}

async fn up(file: &Path, root: &Path, node_binary: Option<&Path>, port: u16) -> anyhow::Result<()> {
    // Ctrl-C from here on ends what is started.
    let stop = stop_signal()?;
    let manifests = read_manifests(file)?;
    let running = start(&manifests, root, node_binary, port, true).await?;
    let folder = running.local.folder().clone();
    for cache in &manifests.caches {
        for field in unused_fields(cache) {
            anstream::println!(
                "  {} {}: {field} has no meaning without Kubernetes",
                style::warn("!"),
                cache.name_any()
            );
        }
    }
    for backup in &manifests.backups {
        anstream::println!(
            "  {} {}: snapshots go to the S3 server of local mode, below {}, not to the store that the spec names",
            style::warn("!"),
            backup.name_any(),
            folder.s3_folder().display()
        );
    }
    anstream::println!(
        "{} runs in {}; Ctrl-C ends it, and its data with it",
        manifests
            .caches
            .iter()
            .map(|c| style::bold(c.name_any()))
            .collect::<Vec<_>>()
            .join(", "),
        folder.root().display()
    );
    tokio::select! {
        told = follow(&folder, &manifests) => told?,
        () = stop => anstream::println!("\n  stopped"),
    }
    Ok(())
}

/// Resolves at the first Ctrl-C or SIGTERM. The handlers are in place when this returns.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Tells events and changes of phase as they come; does not end by itself.
async fn follow(folder: &StateFolder, manifests: &Manifests) -> anyhow::Result<()> {
    let names: Vec<String> = manifests.caches.iter().map(|c| c.name_any()).collect();
    let mut told: Vec<(usize, Option<String>)> = vec![(0, None); names.len()];
    for (name, (events, _)) in names.iter().zip(&mut told) {
        // Those of earlier runs are not news.
        *events = read_events(&folder.cache(name))?.len();
    }
    loop {
        for (name, (seen, line)) in names.iter().zip(&mut told) {
            let events = read_events(&folder.cache(name))?;
            for event in events.iter().skip(*seen) {
                let mark = if event.warning {
                    style::error("!")
                } else {
                    style::dim("•")
                };
                anstream::println!("  {mark} {name}: {}", event.message);
            }
            *seen = events.len();
            let now = phase_line(&read_cache(&folder.cache(name))?);
            if now != *line {
                if let Some(now) = &now {
                    anstream::println!("  {now}");
                }
                *line = now;
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

fn phase_line(cache: &cache_operator::api::Cache) -> Option<String> {
    let status = cache.status.as_ref()?;
    let name = cache.name_any();
    let phase = format!("{:?}", status.phase?);
    Some(if is_settled(cache) {
        let endpoint = status.endpoint.clone().unwrap_or_default();
        let (host, port) = endpoint.split_once(':').unwrap_or((&endpoint, "6379"));
        format!(
            "{} {name} is Ready: redis-cli -c -h {host} -p {port}",
            style::good("✓")
        )
    } else {
        format!("{} {name} is {phase}", style::warn("…"))
    })
}

async fn scale(folder: &StateFolder, name: &str, shards: i32, wait: bool) -> anyhow::Result<()> {
    let of_cache = folder.cache(name);
    let before = read_cache(&of_cache)?.spec.shards;
    edit_spec(&of_cache, |spec| spec.shards = shards)?;
    anstream::println!("{name}: {before} → {shards} shards; see `cachectl local status`");
    while wait && !is_settled(&read_cache(&of_cache)?) {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn backup(folder: &StateFolder, name: Option<String>) -> anyhow::Result<()> {
    let names = folder.backup_names()?;
    let name = match (name, names.as_slice()) {
        (Some(name), _) => name,
        (None, [one]) => one.clone(),
        (None, []) => {
            bail!("there is no CacheBackup: add one to the file given to `cachectl local up`")
        }
        (None, _) => bail!("name one of the CacheBackups: {}", names.join(", ")),
    };
    let (stop, cancel) = Cancel::channel();
    let signal = stop_signal()?;
    tokio::spawn(async move {
        signal.await;
        // Fails only if the run has ended already.
        let _ = stop.send(true);
        std::future::pending::<()>().await;
    });
    let (manifest, location) = take_snapshot(folder, &name, &cancel, &tell).await?;
    anstream::println!(
        "{} {}: {} keys, {} of {} shards in {}",
        style::good("✓"),
        manifest.snapshot,
        render::count(i64::try_from(manifest.keys).unwrap_or(i64::MAX)),
        render::bytes(i64::try_from(manifest.bytes).unwrap_or(i64::MAX)),
        manifest.shards.len(),
        location.url()
    );
    Ok(())
}

fn tell(progress: Progress) {
    match progress {
        Progress::ShardBegun { .. } => {}
        Progress::ShardStored { shard, keys, bytes } => anstream::println!(
            "  {} shard {shard}: {} keys, {}",
            style::dim("•"),
            render::count(i64::try_from(keys).unwrap_or(i64::MAX)),
            render::bytes(i64::try_from(bytes).unwrap_or(i64::MAX))
        ),
        Progress::ShardAgain { shard } => {
            anstream::println!(
                "  {} shard {shard} changed its slots meanwhile: again",
                style::warn("•")
            );
        }
    }
}

/// Takes a CacheBackup's snapshots at their times; the one of a CacheBackup without schedule once the Cache is Ready.
async fn run_backup(folder: StateFolder, backup: CacheBackup) {
    let name = backup.name_any();
    if let Err(error) = snapshots(&folder, &backup, &name).await {
        anstream::eprintln!("  {} CacheBackup {name}: {error:#}", style::error("!"));
    }
}

async fn snapshots(folder: &StateFolder, backup: &CacheBackup, name: &str) -> anyhow::Result<()> {
    // Held, so that nothing cancels.
    let (_stop, cancel) = Cancel::channel();
    let of_cache = folder.cache(&backup.spec.cache_ref.name);
    let Some(text) = &backup.spec.schedule else {
        while !is_settled(&read_cache(&of_cache)?) {
            tokio::time::sleep(POLL).await;
        }
        take_snapshot(folder, name, &cancel, &tell).await?;
        return Ok(());
    };
    if backup.spec.suspend {
        return Ok(());
    }
    let schedule = Schedule::parse(text, backup.spec.time_zone.as_deref())
        .map_err(|e| anyhow::anyhow!("spec.schedule {text:?}: {e}"))?;
    loop {
        let now = cache_operator::node::now_ms();
        let next = schedule
            .next_after_ms(now)
            .context("the schedule has no next time")?;
        tokio::time::sleep(Duration::from_millis(next - now)).await;
        // The status says why one failed; the next time comes nevertheless.
        if let Err(failure) = take_snapshot(folder, name, &cancel, &tell).await {
            anstream::eprintln!("  {} CacheBackup {name}: {failure}", style::error("!"));
        }
    }
}
