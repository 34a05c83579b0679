//! The program of a backup's Job: settings in, result out.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::config::client;
use super::run::{Backup, Cancel, Progress, run};
use super::{BackupArgs, Failure, NodeSource, Reason, Report};

/// Runs `cache-operator backup-job`. Exit code 0: complete; 1: failed, another run may do better; 2: failed until
/// someone changes what the report's `mend` says.
pub async fn main(args: BackupArgs) -> ExitCode {
    let (report, code) = match attempt(&args).await {
        Ok(report) => (report, ExitCode::SUCCESS),
        Err(failure) => {
            tracing::error!(reason = ?failure.reason, "{failure}");
            let code = if failure.reason.is_transient() { 1 } else { 2 };
            (
                Report::failed(&args.snapshot, &failure),
                ExitCode::from(code),
            )
        }
    };
    match tell(&args, &report) {
        Ok(()) => code,
        Err(error) => {
            tracing::error!("the result cannot be told: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tell(args: &BackupArgs, report: &Report) -> std::io::Result<()> {
    let line = serde_json::to_string(report)?;
    println!("{line}");
    std::fs::write(&args.termination_file, line)
}

async fn attempt(args: &BackupArgs) -> Result<Report, Failure> {
    let target = args.target()?;
    let source = NodeSource::new(args.topology()?, args.control_password()?);
    let (stop, cancel) = Cancel::channel();
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|e| Failure::new(Reason::BadConfiguration, format!("no signal handler: {e}")))?;
    tokio::spawn(async move {
        if terminate.recv().await.is_some() {
            // Fails only if the run has ended already.
            let _ = stop.send(true);
        }
        // Keeps the sender: dropping it would not cancel, but it has nothing else to do.
    });
    let backup = Backup {
        source: &source,
        client: &client(&target).await,
        bucket: &target.bucket,
        prefix: &target.prefix,
        cache: args.identity(),
        snapshot: args.snapshot.clone(),
        progress: &|progress| log(&progress),
    };
    let ran = run(&backup, &cancel).await;
    let (manifest, location) = ran.map_err(|failure| failure.at(target.endpoint.as_deref()))?;
    Ok(Report::completed(&manifest, location.url()))
}

fn log(progress: &Progress) {
    match progress {
        Progress::ShardBegun { shard, member } => {
            tracing::info!(shard, member, "taking the snapshot");
        }
        Progress::ShardStored { shard, keys, bytes } => {
            tracing::info!(shard, keys, bytes, "stored");
        }
        Progress::ShardAgain { shard } => {
            tracing::info!(shard, "its slots changed meanwhile: taking it again");
        }
    }
}
