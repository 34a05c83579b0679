//! `cache-node`: the server's process.

use std::process::ExitCode;

use cache_node::config::{Config, LogFormat};
use cache_node::{allocator, run};
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Exit code for flags that cannot be, as clap has it.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let config = Config::parse();
    if let Err(invalid) = config.validate() {
        eprintln!("cache-node: {invalid}\nTry cache-node --help.");
        return ExitCode::from(USAGE);
    }
    allocator::configure();
    log_to_stderr(&config);
    match run::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr(config: &Config) {
    // Validated before.
    let filter = EnvFilter::try_new(&config.log_level).unwrap_or_default();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
}
