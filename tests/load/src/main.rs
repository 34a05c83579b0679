//! Writes, reads and verifies keys through redis-rs's cluster client while a cache is being changed.
//!
//! Reports are one JSON object on standard output; the exit code is 0 only if nothing is missing, wrong or refused.

mod fill;
mod mix;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;

/// Load and verification for a Redis-protocol cluster.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Target {
    /// A cluster's seed, as host:port
    #[arg(long, env = "CACHE_LOAD_SEED")]
    seed: String,
    /// The password, if the cluster asks for one
    #[arg(long, env = "CACHE_LOAD_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// How long one reply may take, in milliseconds
    #[arg(long, default_value_t = 5_000)]
    timeout_ms: u64,
}

#[derive(Subcommand)]
enum Command {
    /// Write keys, each with a value that can be told from its name
    Write {
        #[command(flatten)]
        keys: fill::Keys,
    },
    /// Read those keys again: each value, and with --total the count over all primaries
    Verify {
        #[command(flatten)]
        keys: fill::Keys,
        /// What DBSIZE summed over the primaries must be
        #[arg(long)]
        total: Option<u64>,
    },
    /// Write and read until told to stop, and account for each acknowledged write
    Run {
        /// Stop after this many seconds
        #[arg(long, required_unless_present = "until_file")]
        seconds: Option<u64>,
        /// Stop once this file exists
        #[arg(long)]
        until_file: Option<PathBuf>,
        #[command(flatten)]
        mix: mix::Mix,
    },
}

impl Target {
    async fn connect(&self) -> Result<ClusterConnection> {
        let url = format!("redis://{}", self.seed);
        let mut builder = ClusterClient::builder(vec![url])
            .connection_timeout(Duration::from_secs(5))
            .response_timeout(Duration::from_millis(self.timeout_ms));
        if let Some(password) = &self.password {
            builder = builder.password(password);
        }
        builder
            .build()?
            .get_async_connection()
            .await
            .with_context(|| format!("cannot connect to the cluster at {}", self.seed))
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let connection = cli.target.connect().await?;
    let (report, good) = match cli.command {
        Command::Write { keys } => fill::write(connection, keys).await?,
        Command::Verify { keys, total } => fill::verify(connection, keys, total).await?,
        Command::Run {
            seconds,
            until_file,
            mix,
        } => mix::run(connection, mix, mix::stop_signal(seconds, until_file)).await?,
    };
    println!("{report}");
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
