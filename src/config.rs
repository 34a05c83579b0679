//! The command line: flags, each also an environment variable.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::backup::BackupArgs;

/// Runs sharded, replicated, Redis-protocol caches on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "cache-operator", version)]
pub struct Cli {
    #[command(flatten)]
    pub log: LogArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look after Caches and CacheBackups in a cluster; several may run, one leads
    Run(RunArgs),
    /// Print the CustomResourceDefinitions as YAML
    Crds,
    /// Take one snapshot into S3: the program of a CacheBackup's Job
    BackupJob(Box<BackupArgs>),
    /// Print the version
    Version,
}

#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// What to log: a level, or filters such as info,cache_operator=debug
    #[arg(long, env = "LOG_LEVEL", default_value = "info", global = true)]
    pub log_level: String,
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_enum,
        default_value = "text",
        global = true
    )]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The namespaces to look after, separated by commas; all unless set
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// The image of cache-node for Caches that name none
    #[arg(long = "cache-image", env = "CACHE_OPERATOR_IMAGE", value_parser = image)]
    pub cache_image: String,
    /// The image of this program, which backups run
    #[arg(long, env = "CACHE_OPERATOR_SELF_IMAGE", value_parser = image)]
    pub self_image: String,
    /// Where the Lease is
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub lease_namespace: String,
    #[arg(
        long,
        env = "CACHE_OPERATOR_LEASE_NAME",
        default_value = "cache-operator"
    )]
    pub lease_name: String,
    /// Who this process is among the operators; a name made up at the start unless set
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
    /// Where /livez, /readyz and /metrics are served
    #[arg(long, env = "CACHE_OPERATOR_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Caches that are reconciled at the same time
    #[arg(long, env = "CACHE_OPERATOR_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// Seconds that a call of the API server may take
    #[arg(long, env = "CACHE_OPERATOR_API_TIMEOUT", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=120))]
    pub api_timeout: u64,
}

impl RunArgs {
    pub fn api_timeout(&self) -> Duration {
        Duration::from_secs(self.api_timeout)
    }

    pub fn identity(&self) -> String {
        self.identity
            .clone()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| format!("cache-operator-{}", uuid::Uuid::new_v4()))
    }

    /// Without the empty name that an empty variable makes.
    pub fn namespaces(&self) -> Vec<String> {
        let given = self.namespaces.iter().map(|name| name.trim());
        let mut names: Vec<String> = given
            .filter(|name| !name.is_empty())
            .map(String::from)
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

fn image(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(char::is_whitespace) {
        return Err(
            "write one image reference, for example registry.example/cache-node:1.2.3".into(),
        );
    }
    Ok(text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_empty_namespace_list_means_all() {
        let parse = |namespaces: &str| {
            let words = [
                "cache-operator",
                "run",
                "--cache-image=a:1",
                "--self-image=b:1",
                "--namespaces",
                namespaces,
            ];
            match Cli::try_parse_from(words).unwrap().command {
                Command::Run(run) => run.namespaces(),
                other => panic!("{other:?}"),
            }
        };
        assert!(parse("").is_empty());
        assert_eq!(parse("team-b, team-a,team-b"), ["team-a", "team-b"]);
    }
}
