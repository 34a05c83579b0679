//! `cachectl`, also `kubectl cache`: the command line of ClusterDB Cache.

mod demo;
mod hints;
mod local;
mod progress;
mod render;
mod source;
mod status;
mod style;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

const ABOUT: &str = "\
Shows what caches do and why, and runs them on this machine without Kubernetes.

As a plugin of kubectl: ln -s \"$(command -v cachectl)\" ~/bin/kubectl-cache, then `kubectl cache status`.";

#[derive(Parser)]
#[command(name = "cachectl", version, about = "The command line of ClusterDB Cache", long_about = ABOUT)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show Caches: shards, members, conditions, what is pending
    Status {
        /// The Cache; all of the namespace when absent
        name: Option<String>,
        #[command(flatten)]
        from: From,
        /// As data instead of for the eye
        #[arg(short, long, value_enum)]
        output: Option<Output>,
    },
    /// Say what a Cache waits for, since when, why, and what to do
    Why {
        /// The Cache; all of the namespace when absent
        name: Option<String>,
        #[command(flatten)]
        from: From,
    },
    /// Run caches as processes on this machine
    Local {
        #[command(subcommand)]
        command: local::Command,
    },
    /// Show all that a cache does, on this machine, in about a minute
    Demo(demo::Args),
}

/// Where the objects are.
#[derive(clap::Args, Clone)]
pub struct From {
    /// The namespace; that of the kubeconfig's context when absent
    #[arg(short, long, conflicts_with = "local")]
    namespace: Option<String>,
    /// The kubeconfig's context
    #[arg(long, conflicts_with = "local")]
    context: Option<String>,
    /// A state directory of local mode instead of Kubernetes
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = local::STATE_DIR)]
    local: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Json,
    Yaml,
}

fn main() -> ExitCode {
    // Once for the process; a second provider would make rustls refuse to choose.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        anstream::eprintln!("cachectl: no TLS provider could be installed");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            anstream::eprintln!("cachectl: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(Cli::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("{} {}", style::error("error:"), hints::explain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Status { name, from, output } => status::run(name.as_deref(), &from, output).await,
        Command::Why { name, from } => why::run(name.as_deref(), &from).await,
        Command::Local { command } => local::run(command).await,
        Command::Demo(args) => demo::run(args).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
