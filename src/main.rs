//! The operator's program.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use cache_operator::config::{Cli, Command, LogArgs, LogFormat};
use cache_operator::{api, backup, controller};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cache-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Crds => {
            print!("{}", api::crds::stream()?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Version => {
            println!("cache-operator {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Run(args) => {
            start_logging(&cli.log)?;
            use_crypto();
            runtime()?.block_on(controller::run(args))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::BackupJob(args) => {
            start_logging(&cli.log)?;
            use_crypto();
            Ok(runtime()?.block_on(backup::job_main(*args)))
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}

/// One provider for every TLS connection.
fn use_crypto() {
    // An error means that one is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// To standard error; standard output is for results.
fn start_logging(args: &LogArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log_level)
        .map_err(|error| anyhow::anyhow!("--log-level {:?}: {error}: write a level or filters, for example info,cache_operator=debug", args.log_level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match args.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
